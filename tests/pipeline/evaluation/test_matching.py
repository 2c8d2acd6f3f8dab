"""Matches and averages against pycocotools' own, detection by detection."""

from typing import Any

import numpy as np
import pytest
from support.reference_matches import LIMITS, random_images, reference

from pipeline.evaluation.average_precision import RECALLS, AveragePrecision, _reaching, recall
from pipeline.evaluation.bootstrap import resamples
from pipeline.evaluation.matching import AREAS, IGNORED, RIGHT, WRONG, match


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_every_detection_is_what_pycocotools_says(seed: int, iou_type: str, capsys: pytest.CaptureFixture[str]) -> None:
    objects, detections = random_images(seed)
    theirs, ours = reference(objects, detections, iou_type), match(objects, detections, iou_type)
    assert list(ours) == list(AREAS)
    for area, matches in ours.items():
        np.testing.assert_array_equal(matches.verdict_TD, theirs.verdict_TD[area])
        np.testing.assert_array_equal(matches.objects_I, theirs.objects_I[area])
        for n, limit in enumerate(LIMITS):
            expected = theirs.precision[area][:, n], theirs.recall[area][:, n]
            values = averages(matches.limited(limit))
            for value, their in zip(values, expected, strict=True):
                np.testing.assert_allclose(value, np.where(their < 0, np.nan, their), rtol=0, atol=1e-14)


def averages(matches: Any) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each IoU threshold."""
    once = np.ones((len(matches.objects_I), 1))
    slices = [slice(t, t + 1) for t in range(len(matches.verdict_TD))]
    recalls = [recall(matches, max(LIMITS), one)(once)[0] for one in slices]
    return AveragePrecision(matches)(once)[:, 0], np.array(recalls)


def test_the_random_images_hold_what_the_rules_tell_apart() -> None:
    """Else equal verdicts would say little."""
    objects, detections = random_images(0)
    pairs = list(zip(objects, detections, strict=True))
    assert any(not true and found for true, found in pairs)
    assert any(true and not found for true, found in pairs)
    true = [one for image in objects for one in image]
    assert any(one["iscrowd"] for one in true)
    assert any(one["ignore"] and not one["iscrowd"] for one in true)
    assert any(one["area"] == 32**2 for one in true)
    assert max(map(len, detections)) > 100
    scores = [one["score"] for one in detections[1]]
    assert any(len({one["score"] for one in found}) < len(found) for found in detections), scores
    for matches in match(objects, detections, "bbox").values():
        assert set(np.unique(matches.verdict_TD)) == {WRONG, RIGHT, IGNORED}


def test_of_equal_objects_the_last_and_before_an_ignored_one_another() -> None:
    """The first detection takes the second of two equal objects, which is no crowd; a crowd is found by many."""

    def entry(**more: Any) -> dict[str, Any]:
        return {"id": 1, "bbox": [0, 0, 40, 40], "area": 1600.0, "iscrowd": 0, "ignore": 0, **more}

    found = [entry(score=score) for score in (0.9, 0.8, 0.7, 0.6)]
    true = [entry(), entry(area=10.0), entry(iscrowd=1, ignore=1)]
    ours = match([true], [found], "bbox")
    assert ours["all"].verdict_TD[0].tolist() == [RIGHT, RIGHT, IGNORED, IGNORED]
    assert ours["small"].verdict_TD[0].tolist() == [RIGHT, IGNORED, IGNORED, IGNORED]
    assert ours["medium"].verdict_TD[0].tolist() == [RIGHT, IGNORED, IGNORED, IGNORED]


@pytest.mark.parametrize("images", [0, 2])
def test_images_without_anything_are_no_trouble(images: int) -> None:
    for matches in match([[]] * images, [[]] * images, "bbox").values():
        assert matches.verdict_TD.shape == (10, 0)
        assert np.isnan(AveragePrecision(matches)(np.ones((images, 3)))).all()


def test_resamples_are_the_same_however_many_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a large truth go one by one."""
    objects, detections = random_images(1)
    weights = next(resamples(len(objects), 9, seed=0))
    for matches in match(objects, detections, "bbox").values():
        together = AveragePrecision(matches)(weights)
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.evaluation.average_precision._AT_ONCE", 1)
            np.testing.assert_array_equal(AveragePrecision(matches)(weights), together)


def test_recalls_are_reached_where_quotients_say_so() -> None:
    """Rounding and all: 0.07 of 100 objects is a little more than 7 of them."""
    for objects in [*range(1, 400), 1_200_000]:
        quotients = np.arange(objects + 1) / objects
        np.testing.assert_array_equal(_reaching(np.array([objects]))[0], np.searchsorted(quotients, RECALLS))


@pytest.mark.parametrize("images", [3, 22_000])
def test_many_images_are_drawn_as_few_are(images: int) -> None:
    """However many resamples are taken at a time."""
    weights = np.concatenate(list(resamples(images, 220, seed=5)), axis=1)[:, [0, 150, 219]]
    drawn = np.random.default_rng(5).multinomial(images, np.full(images, 1 / images), size=220)
    np.testing.assert_array_equal(weights, drawn.T[:, [0, 150, 219]])
