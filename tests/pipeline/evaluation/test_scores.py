"""Scores against pycocotools' own, on cases made by hand, and their confidence intervals."""

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.average_precision import coco_values
from pipeline.evaluation.bootstrap import Ratio, interval, resamples
from pipeline.evaluation.matching import match
from pipeline.evaluation.scores import METRICS, compare, evaluate, score_detections
from pipeline.evaluation.truth.coco import TOUCH_REACH, Truth

SUMMARY = [
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
]


RECALLS = ["AR1000", "recall50", "recall50_small", "recall50_medium", "recall50_large"]


def reference(dataset: dict[str, Any], detections: list[dict[str, Any]], iou_type: str) -> np.ndarray:
    """COCOeval.summarize with all categories as one."""
    return np.array(accumulated(dataset, detections, iou_type).stats)


def reference_recalls(dataset: dict[str, Any], detections: list[dict[str, Any]], iou_type: str) -> np.ndarray:
    """RECALLS, which COCOeval accumulates and does not print: recall by IoU threshold, class, area and limit."""
    most = accumulated(dataset, detections, iou_type, limits=(1, 10, 1000)).eval["recall"][:, 0, :, 2]
    usual = accumulated(dataset, detections, iou_type).eval["recall"][0, 0, :, 2]
    return np.array([most[:, 0].mean(), *usual])


def accumulated(
    dataset: dict[str, Any], detections: list[dict[str, Any]], iou_type: str, limits: Sequence[int] = (1, 10, 100)
) -> COCOeval:
    dataset = copy.deepcopy(dataset)
    dataset["categories"] = [{"id": 1, "name": "object"}]
    for annotation in dataset["annotations"]:
        annotation["category_id"] = 1
    # Results with both are taken for boxes and lose the area of their masks, so each kind of results has one.
    other = "bbox" if iou_type == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        results = truth.loadRes([{key: value for key, value in d.items() if key != other} for d in detections])
        scored = COCOeval(truth, results, iou_type)
        scored.params.maxDets = list(limits)
        scored.evaluate()
        scored.accumulate()
        if limits[-1] == 100:
            scored.summarize()
    return scored


def detection(image_id: int, mask: np.ndarray, score: float = 1.0) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = coco_mask.toBbox(rle).tolist()
    return {"image_id": image_id, "category_id": 1, "segmentation": rle, "bbox": box, "score": score}


def imperfect(dataset: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """True masks: half of them dropped, the rest moved; some pairs merged; many rectangles in one image."""
    rng = np.random.default_rng(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    found = []
    for image_id, image in coco.imgs.items():
        masks = [coco.annToMask(annotation) for annotation in coco.imgToAnns[image_id]]
        for i, mask in enumerate(masks):
            if rng.random() < 0.5:
                continue
            if rng.random() < 0.2:
                mask = mask | masks[i - 1]
            moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
            if moved.any():
                found.append(detection(image_id, moved, float(rng.random())))
        for _ in range(130 if image_id == min(coco.imgs) else 1):
            top, left = rng.integers(0, image["height"] - 20), rng.integers(0, image["width"] - 20)
            mask = np.zeros((image["height"], image["width"]), bool)
            mask[top : top + rng.integers(5, 200), left : left + rng.integers(5, 200)] = True
            found.append(detection(image_id, mask, float(rng.random())))
    return [found[i] for i in rng.permutation(len(found))]


@pytest.fixture(scope="module")
def dataset(assets: Path) -> dict[str, Any]:
    return json.loads((assets / "coco" / "instances.json").read_text())


@pytest.fixture(scope="module")
def part(dataset: dict[str, Any]) -> dict[str, Any]:
    """Forty of the photos, all with crowds among them."""
    crowds = {annotation["image_id"] for annotation in dataset["annotations"] if annotation["iscrowd"]}
    images = sorted(dataset["images"], key=lambda image: image["id"] not in crowds)[:40]
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in dataset["annotations"] if annotation["image_id"] in ids]
    return {"images": images, "annotations": annotations, "categories": dataset["categories"]}


@pytest.fixture(scope="module")
def found(part: dict[str, Any]) -> list[dict[str, Any]]:
    return imperfect(part)


@pytest.mark.parametrize(("iou_type", "kind"), [("segm", "mask"), ("bbox", "box")])
@pytest.mark.parametrize("ties", ["none", "many", "constant"])
def test_pycocotools_gives_the_same(
    part: dict[str, Any], found: list[dict[str, Any]], iou_type: str, kind: str, ties: str
) -> None:
    if ties == "many":
        found = [{**d, "score": round(d["score"], 1)} for d in found]
    scores = "constant" if ties == "constant" else "own"
    ids = [image["id"] for image in part["images"]]
    ours = score_detections(Truth(part), found, ids, iou_types=[iou_type], scores=scores)
    theirs = reference(part, [{**d, "score": 1.0} for d in found] if scores == "constant" else found, iou_type)
    assert 0.02 < theirs[0] < 0.9, "the detections are neither all wrong nor all right"
    np.testing.assert_allclose([ours[f"{kind}_{name}"] for name in SUMMARY], theirs, rtol=0, atol=1e-9)
    recalls = reference_recalls(part, [{**d, "score": 1.0} for d in found] if scores == "constant" else found, iou_type)
    np.testing.assert_allclose([ours[f"{kind}_{name}"] for name in RECALLS], recalls, rtol=0, atol=1e-9)


def test_more_than_a_hundred_detections_count_for_ar1000_alone(part: dict[str, Any]) -> None:
    """The true masks, behind a hundred wrong ones that score more."""
    image = min(part["images"], key=lambda image: image["id"])
    alone = {**part, "images": [image], "annotations": [a for a in part["annotations"] if a["image_id"] == image["id"]]}
    truth = Truth(alone)
    right = [entry["segmentation"] for entry in truth.objects(image["id"]) if not entry["iscrowd"]]
    corner = np.zeros((image["height"], image["width"]), bool)
    corner[:3, :3] = True
    wrong = [detection(image["id"], corner, 1 - 0.001 * i) for i in range(100)]
    found = [*wrong, *({"image_id": image["id"], "category_id": 1, "segmentation": r, "score": 0.1} for r in right)]
    scores = score_detections(truth, found, [image["id"]])
    assert scores["mask_AP"] == scores["mask_AR100"] == scores["mask_recall50"] == scores["objects_found"] == 0
    assert scores["mask_AR1000"] == 1
    assert scores["masks_per_image"] == 100
    few = score_detections(truth, found[:104], [image["id"]])
    assert few["mask_AR1000"] == pytest.approx(min(4, len(right)) / len(right))


@pytest.mark.parametrize("seed", range(4))
def test_recall_by_size_is_that_of_brute_force(seed: int) -> None:
    """Objects and masks in a grid of cells, one each, so that no matching has to be thought of."""
    rng = np.random.default_rng(seed)
    sides = {"small": 20, "medium": 60, "large": 120}
    kinds = rng.choice(list(sides), 16)
    annotations, found, hit = [], [], []
    for cell, kind in enumerate(kinds):
        top, left, side = 150 * (cell // 4), 150 * (cell % 4), sides[kind]
        mask = np.zeros((600, 600), bool)
        mask[top : top + side, left : left + side] = True
        annotations.append({**detection(1, mask), "id": cell + 1, "iscrowd": 0, "area": float(side * side)})
        share = rng.uniform(0.2, 0.9)
        part = np.zeros_like(mask)
        part[top : top + max(1, round(share * side)), left : left + side] = True
        hit.append(part.sum() / mask.sum() >= 0.5)
        found.append(detection(1, part, float(rng.random())))
    for annotation in annotations:
        annotation["segmentation"] = {"size": [600, 600], "counts": annotation["segmentation"]["counts"].decode()}
    images = [{"id": 1, "file_name": "a.png", "height": 600, "width": 600}]
    truth = Truth({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]})
    scores = score_detections(truth, found, [1], iou_types=["segm", "bbox"])
    for kind in sides:
        own = [right for right, other in zip(hit, kinds, strict=True) if other == kind]
        for prefix in ("mask", "box"):
            value = scores[f"{prefix}_recall50_{kind}"]
            np.testing.assert_equal(value, np.mean(own) if own else np.nan)
    assert scores["mask_recall50"] == np.mean(hit)


@pytest.mark.slow
def test_pycocotools_gives_the_same_for_all_photos(dataset: dict[str, Any]) -> None:
    found = imperfect(dataset, seed=1)
    result = evaluate(Truth(dataset), found, [image["id"] for image in dataset["images"]], bootstrap=0)
    ours = [result.metrics[f"mask_{name}"].value for name in SUMMARY]
    np.testing.assert_allclose(ours, reference(dataset, found, "segm"), rtol=0, atol=1e-9)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_a_resample_is_the_data_set_with_images_repeated(
    part: dict[str, Any], found: list[dict[str, Any]], iou_type: str
) -> None:
    """pycocotools on copies of the images, as often as each was drawn."""
    ids = sorted(image["id"] for image in part["images"])[:25]
    times = np.random.default_rng(3).integers(0, 4, len(ids))
    repeated: dict[str, Any] = {"images": [], "annotations": []}
    results = []
    for image_id, n in zip(ids, times, strict=True):
        for copy_id in [image_id * 10 + i for i in range(n)]:
            repeated["images"] += [{**i, "id": copy_id} for i in part["images"] if i["id"] == image_id]
            for annotation in part["annotations"]:
                if annotation["image_id"] == image_id:
                    number = len(repeated["annotations"]) + 1
                    repeated["annotations"].append({**annotation, "id": number, "image_id": copy_id})
            results += [{**d, "image_id": copy_id} for d in found if d["image_id"] == image_id]
    truth = Truth(part)
    ranked = {i: sorted((d for d in found if d["image_id"] == i), key=lambda d: -d["score"])[:100] for i in ids}
    detections = [
        [
            {
                **d,
                "id": number,
                "area": float(coco_mask.area(d["segmentation"])) if iou_type == "segm" else d["bbox"][2] * d["bbox"][3],
            }
            for number, d in enumerate(ranked[i], start=1)
        ]
        for i in ids
    ]
    values = coco_values(match([truth.objects(i) for i in ids], detections, iou_type))
    others = np.random.default_rng(4).integers(0, 4, (len(ids), 2))
    ours = values(np.column_stack([others[:, :1], times, others[:, 1:]]).astype(float))
    np.testing.assert_allclose(
        [ours[name][1] for name in SUMMARY], reference(repeated, results, iou_type), rtol=0, atol=1e-9
    )


def scene(
    objects: list[tuple[np.ndarray, int]],
    crowds: Sequence[np.ndarray] = (),
    first_id: int = 1,
) -> dict[str, Any]:
    """One image with these masks, each with its category."""
    size = (objects[0][0] if objects else crowds[0]).shape
    annotations: list[dict[str, Any]] = []
    for mask, category, crowd in [(m, c, 0) for m, c in objects] + [(m, 1, 1) for m in crowds]:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": 1,
                "category_id": category,
                "iscrowd": crowd,
                "area": float(mask.sum()),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": {"size": list(size), "counts": rle["counts"].decode()},
            }
        )
    image = {"id": 1, "file_name": "scene.png", "height": size[0], "width": size[1]}
    return {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}


def block(left: int, width: int, top: int = 10, height: int = 20) -> np.ndarray:
    mask = np.zeros((60, 120), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def scored(dataset: dict[str, Any], masks: list[np.ndarray]) -> dict[str, float]:
    return score_detections(Truth(dataset), [detection(1, mask) for mask in masks], [1])


@pytest.mark.parametrize(
    ("gap", "touch"), [(-3, True), (0, True), (2 * TOUCH_REACH - 1, True), (2 * TOUCH_REACH, False)]
)
def test_neighbours_touch_across_a_small_gap(gap: int, touch: bool) -> None:
    a, b = block(0, 20), block(20 + gap, 20)
    assert Truth(scene([(a, 1), (b, 1)])).touching_pairs(1) == ([(0, 1)] if touch else [])
    turned = scene([(a.T, 1), (b.T, 1)])
    assert Truth(turned).touching_pairs(1) == ([(0, 1)] if touch else [])


def test_only_objects_of_one_class_are_a_pair() -> None:
    a, b, c = block(0, 20), block(20, 20), block(40, 20)
    assert Truth(scene([(a, 1), (b, 2), (c, 2)])).touching_pairs(1) == [(1, 2)]
    assert Truth(scene([(b, 1)], crowds=[a, c])).touching_pairs(1) == []


def test_touching_pairs_of_real_objects_are_those_of_whole_grown_masks(part: dict[str, Any]) -> None:
    truth = Truth(part)
    pairs = 0
    for image_id in list(truth.images)[:12]:
        single = [entry for entry in truth.objects(image_id) if not entry["iscrowd"]]
        grown = [
            scipy.ndimage.binary_dilation(coco_mask.decode(entry["segmentation"]), np.ones((3, 3)), TOUCH_REACH)
            for entry in single
        ]
        expected = [
            (i, j)
            for i in range(len(single))
            for j in range(i + 1, len(single))
            if single[i]["category"] == single[j]["category"] and (grown[i] & grown[j]).any()
        ]
        assert truth.touching_pairs(image_id) == expected
        pairs += len(expected)
    assert pairs > 20


A, B = block(0, 20), block(20, 20)


@pytest.mark.parametrize(
    ("masks", "merged", "apart", "separated"),
    [
        ([], 0, 0, 0),
        ([A], 0, 0, 0),
        ([A, B], 0, 1, 1),
        ([A | B], 1, 0, 0),
        ([A, A | B], 1, 0, 1),  # the union is half of it B, so there are different masks for both at IoU 0.5
        ([block(0, 11), block(29, 11)], 0, 1, 1),
        ([block(0, 9), block(31, 9)], 0, 0, 0),
        ([block(5, 20), block(25, 15)], 0, 1, 1),
        ([A | block(20, 9), B], 0, 1, 1),
        ([A | block(20, 11), B], 1, 0, 1),
        ([A | block(40, 60), B | block(40, 60, 30)], 0, 1, 0),
    ],
)
def test_pairs(masks: list[np.ndarray], merged: int, apart: int, separated: int) -> None:
    scores = scored(scene([(A, 1), (B, 1)]), masks)
    assert scores["pairs_merged"] == merged
    assert scores["pairs_not_merged"] == 1 - merged
    assert scores["pairs_apart"] == apart
    assert scores["pairs_separated"] == separated


def test_objects_and_masks_by_their_best_partner() -> None:
    far = block(80, 20)
    scores = scored(scene([(A, 1), (far, 1)]), [block(0, 16), block(0, 5), block(50, 10), block(88, 20)])
    assert scores["object_best_iou"] == pytest.approx((16 / 20 + 12 / 28) / 2)
    assert scores["objects_found"] == 1 / 2
    assert scores["mask_best_iou"] == pytest.approx((16 / 20 + 5 / 20 + 0 + 12 / 28) / 4)
    assert scores["mask_precision"] == 1 / 4
    assert scores["masks_per_image"] == 4


def test_over_segmentation_counts_masks_mostly_inside() -> None:
    far = block(80, 20)
    inside = [block(80, 5), block(85, 5), block(90, 5), block(95, 9)]  # the last one with 5 of 9 columns
    assert scored(scene([(A, 1), (far, 1)]), inside)["over_segmentation"] == 4, "the object without any is left out"
    assert scored(scene([(A, 1), (far, 1)]), [*inside, A, block(95, 10)])["over_segmentation"] == 2.5
    assert np.isnan(scored(scene([(A, 1)]), [block(30, 5)])["over_segmentation"])


def test_a_mask_in_a_crowd_is_neither_right_nor_wrong() -> None:
    crowd = block(60, 60, 0, 60)
    scores = scored(scene([(A, 1)], crowds=[crowd]), [A, block(80, 10), block(52, 10)])
    assert scores["mask_precision"] == 1 / 2, "one mask lies in the crowd, one mostly beside it"
    assert scores["objects_found"] == scores["mask_AR100"] == 1, "the crowd is no object"
    assert scores["masks_per_image"] == 3


def test_an_object_with_the_id_0_counts() -> None:
    """pycocotools takes a match with annotation 0 for no match."""
    assert scored(scene([(A, 1)], first_id=0), [A])["mask_AP"] == pytest.approx(1)


@pytest.mark.parametrize("box", [[0, 10, np.nan, 20], [0, 10, 20], [0, 10, np.inf, 20]])
def test_a_box_of_no_numbers_is_refused(box: list[float]) -> None:
    """pycocotools gives it the last object."""
    with pytest.raises(
        SourceError, match=r"a box of image 1 cannot be scored: \[0, 10, .*\] must be x, y, width, height"
    ):
        score_detections(Truth(scene([(A, 1)])), [{**detection(1, A), "bbox": box}], [1], iou_types=["bbox"])


def test_a_score_that_is_no_number_is_refused() -> None:
    found = [detection(1, A, float("nan"))]
    with pytest.raises(SourceError, match="a detection of image 1 has the score nan: it must be a number"):
        score_detections(Truth(scene([(A, 1)])), found, [1])
    assert score_detections(Truth(scene([(A, 1)])), found, [1], scores="constant")["mask_AP"] == pytest.approx(1)


def test_what_nothing_defines_is_nan() -> None:
    scores = scored(scene([(A, 1)]), [])
    assert scores["mask_AP"] == scores["objects_found"] == 0
    for name in ("mask_AP_large", "mask_AR_large", "mask_precision", "pairs_merged", "over_segmentation"):
        assert np.isnan(scores[name]), name
    empty = scene([(A, 1)])
    empty["annotations"] = []
    assert np.isnan(scored(empty, [A])["mask_AP"])
    assert scored(empty, [A])["mask_precision"] == 0


def test_categories_do_not_matter_and_other_images_are_left_out(
    part: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    ids = [image["id"] for image in part["images"]][:10]
    some = [{**d, "category_id": 7} for d in found if d["image_id"] in ids]
    assert score_detections(Truth(part), some, ids) == pytest.approx(
        score_detections(Truth(part), found, ids), rel=0, abs=0, nan_ok=True
    )


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    mean = Ratio(values, np.ones(400))
    samples = np.concatenate([mean(weights) for weights in resamples(400, 4000, seed=1)])
    low, high = interval(samples)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_resamples_draw_as_many_images_as_there_are() -> None:
    weights = np.concatenate(list(resamples(30, 450, seed=0)), axis=1)
    assert weights.shape == (30, 450)
    assert (weights.sum(axis=0) == 30).all()
    assert len(np.unique(weights, axis=1).T) == 450


@pytest.mark.slow
def test_intervals_cover_the_value_shrink_with_images_and_repeat_with_the_seed(
    dataset: dict[str, Any],
) -> None:
    truth, found = Truth(dataset), imperfect(dataset, seed=2)
    ids = sorted(image["id"] for image in dataset["images"])[1:]  # without the one image of 130 rectangles
    small, large = (evaluate(truth, found, ids[:n], bootstrap=400, seed=5) for n in (30, 200))
    assert list(large.metrics) == [metric.name for metric in METRICS]
    for name, estimate in large.metrics.items():
        assert estimate.low <= estimate.value <= estimate.high, name
        assert estimate.low < estimate.high, name
    for name in ("mask_AP50", "mask_AR100", "box_AP", "objects_found", "mask_precision", "masks_per_image"):
        widths = [result.metrics[name].high - result.metrics[name].low for result in (small, large)]
        assert widths[1] < 0.65 * widths[0], name
    assert evaluate(truth, found, ids[:30], bootstrap=400, seed=5) == small
    assert evaluate(truth, found, ids[:30], bootstrap=400, seed=6) != small
    without = evaluate(truth, found, ids[:30], bootstrap=0)
    assert {e.value for e in without.metrics.values()} == {e.value for e in small.metrics.values()}
    assert all(np.isnan([estimate.low, estimate.high]).all() for estimate in without.metrics.values())


def test_compared_with_itself_nothing_differs(part: dict[str, Any], found: list[dict[str, Any]]) -> None:
    result = compare(Truth(part), found, found, [image["id"] for image in part["images"]], bootstrap=50)
    assert result.first == result.second
    for name, estimate in result.difference.items():
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0), name
    assert result.ratio["mask_AP"].low == result.ratio["mask_AP"].high == 1


@pytest.mark.slow
def test_pairing_shows_what_single_intervals_hide(part: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """One in ten detections dropped: each interval alone is far wider than the difference."""
    ids = [image["id"] for image in part["images"]]
    result = compare(Truth(part), found, [d for i, d in enumerate(found) if i % 10], ids, bootstrap=300)
    first, second = (side.metrics["mask_AR100"] for side in (result.first, result.second))
    assert second.high > first.value, "the intervals overlap"
    assert result.difference["mask_AR100"].value == first.value - second.value
    assert result.difference["mask_AR100"].low > 0
    assert result.ratio["mask_AR100"].value == first.value / second.value
    assert result.ratio["mask_AR100"].low > 1


def broken(**changes: Any) -> dict[str, Any]:
    """A scene with a field of its annotation changed; None takes it out."""
    data = scene([(A, 1)])
    for field, value in changes.items():
        if value is None:
            del data["annotations"][0][field]
        else:
            data["annotations"][0][field] = value
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], 'no list "images"'),
        ({"images": []}, "lists no images"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}, '"height" of type int'),
        ({"images": scene([(A, 1)])["images"]}, 'no list "annotations"'),
        (broken(segmentation=None), "1 no_mask, such as annotation 1: it has no segmentation"),
        (broken(image_id="1"), 'one whose "image_id" is no whole number'),
        (broken(iscrowd="perhaps"), "annotation 1: iscrowd: 'perhaps' is neither yes nor no"),
        (broken(image_id=9), "annotation 1 is of image 9, which is not listed"),
        (broken(segmentation=[]), "annotation 1: it has no polygon"),
        (broken(segmentation=[[1, 1, 5, 5]]), "annotation 1: a polygon must have"),
        (broken(segmentation={"size": [3, 3], "counts": "abc"}), "annotation 1: .* of the image's size, 60 × 120"),
        (broken(segmentation={"size": [60, 120]}), "annotation 1: run-length codes must be"),
        # Codes that pycocotools would follow past their end, or past that of the image.
        (broken(segmentation={"size": [60, 120], "counts": "o" * 30}), "annotation 1: counts are no compressed"),
        (broken(segmentation={"size": [60, 120], "counts": "o" * 30 + "0"}), "annotation 1: .* a number is too long"),
        (broken(segmentation={"size": [60, 120], "counts": "é"}), "annotation 1: counts are no compressed"),
        (broken(segmentation={"size": [60, 120], "counts": [0, 1 << 30]}), "annotation 1: its runs do not add up"),
        (broken(segmentation=[[1, 1, 5, 1, 1e12, 5]]), "annotation 1: a polygon has a corner beyond"),
    ],
)
def test_a_bad_truth_is_refused(data: Any, says: str, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(data))
    with pytest.raises(SourceError, match=says) as caught:
        Truth.read(str(file))
    assert str(file) in str(caught.value)


def among_good_ones(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A scene of two objects, and the same with a third one, of which fields are changed; None takes one out."""
    good = scene([(A, 1), (B, 1)])
    odd = {**good["annotations"][0], "id": 9, **changes}
    odd = {field: value for field, value in odd.items() if value is not None}
    return good, {**good, "annotations": [*good["annotations"], odd]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segmentation": None}, "1 no_mask, such as annotation 9: it has no segmentation"),
        ({"segmentation": []}, "1 empty, such as annotation 9"),
        ({"segmentation": [[1, 1, 5, 5]]}, "1 malformed, such as annotation 9: a polygon must have"),
        ({"segmentation": {"size": [3, 3], "counts": "abc"}}, "1 other_size, such as annotation 9"),
        ({"segmentation": {"size": [60, 120], "counts": "o" * 30}}, "1 malformed, such as annotation 9: counts are no"),
        ({"image_id": 99}, "1 not_listed, such as annotation 9 is of image 99, which is not listed"),
        ({"image_id": "1"}, '1 without image_id, such as one whose "image_id" is no whole number'),
        ({"image_id": None}, "1 without image_id"),
    ],
)
def test_one_odd_annotation_does_not_cost_the_others(
    changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, odd = among_good_ones(**changes)
    assert Truth(odd).objects(1) == Truth(good).objects(1)
    assert f"the truth: 1 of 3 annotations left out: {reason}" in caplog.text


def test_an_entry_that_is_no_annotation(caplog: pytest.LogCaptureFixture) -> None:
    good = scene([(A, 1)])
    assert Truth({**good, "annotations": [None, *good["annotations"], 3]}).objects(1) == Truth(good).objects(1)
    assert "2 of 3 annotations left out" in caplog.text


def test_area_box_and_category_follow_from_the_mask(caplog: pytest.LogCaptureFixture) -> None:
    good = scene([(A, 1)])
    for bare in (
        {field: value for field, value in good["annotations"][0].items() if field not in ("area", "bbox")},
        {**good["annotations"][0], "area": "large", "bbox": [1, 2, 3]},
        {**good["annotations"][0], "area": float("nan"), "bbox": [0, 0, -3, 4]},
    ):
        (found,) = Truth({**good, "annotations": [bare]}).objects(1)
        (straight,) = Truth(good).objects(1)
        assert found == straight | {"area": A.sum()}
    del bare["category_id"]
    assert Truth({**good, "annotations": [bare]}).objects(1)[0]["category"] is None
    assert caplog.text == ""


def test_a_box_follows_from_the_mask_where_boxes_are_scored() -> None:
    good = scene([(A, 1)])
    bare = {field: value for field, value in good["annotations"][0].items() if field not in ("area", "bbox")}
    (found,) = Truth({**good, "annotations": [bare]}, masks=False).objects(1)
    rows, columns = np.nonzero(A)
    assert found["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert "segmentation" not in found


def test_bad_parts_of_a_mask_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    good, line = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0], [10.0, 10.0, 12.0, 10.0]
    (found,) = Truth(broken(segmentation=[line, good, "x"])).objects(1)
    assert found["segmentation"] == Truth(broken(segmentation=[good])).objects(1)[0]["segmentation"]
    assert "2 parts of masks left out: 2 bad_part, such as one of annotation 1: a polygon must have" in caplog.text


def test_codes_as_other_tools_write_them() -> None:
    rle = broken()["annotations"][0]["segmentation"]
    straight = Truth(broken()).objects(1)
    assert Truth(broken(segmentation=[rle])).objects(1) == straight
    assert Truth(broken(segmentation={**rle, "size": [60.0, 120.0]})).objects(1) == straight


def test_a_truth_with_nothing_to_find_says_so(caplog: pytest.LogCaptureFixture) -> None:
    Truth(broken(iscrowd=1))
    assert "the truth: all of its objects (1) are to be ignored: there is none to find" in caplog.text
    Truth({"images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}], "annotations": []})
    assert "the truth: it has no annotations: there is none to find" in caplog.text


def test_swapped_sizes_that_the_masks_give_away(caplog: pytest.LogCaptureFixture) -> None:
    swapped = scene([(A, 1)])
    swapped["images"][0] |= {"height": 120, "width": 60}
    truth = Truth(swapped)
    assert truth.size(1) == (60, 120)
    assert truth.objects(1) == Truth(scene([(A, 1)])).objects(1)
    assert "has height and width of images swapped, as CutLER writes them: 1 of 1" in caplog.text


@pytest.mark.parametrize("segmentation", [None, [[5, 5, 50, 5, 50, 30, 5, 30]]])
def test_one_code_of_swapped_size_is_a_fault_of_its_own(segmentation: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Beside a code of the right size, and beside a polygon, which has none."""
    odd = scene([(A, 1), (B, 1)])
    first, second = odd["annotations"]
    first["segmentation"] = {**first["segmentation"], "size": [120, 60]}
    second["segmentation"] = segmentation or second["segmentation"]
    truth = Truth(odd)
    assert truth.size(1) == (60, 120)
    assert len(truth.objects(1)) == 1
    assert "swapped" not in caplog.text


def test_swapped_sizes_that_the_photo_gives_away() -> None:
    polygon = [[50, 5, 110, 5, 110, 30, 50, 30]]  # beyond the width that is listed
    swapped = broken(segmentation=polygon)
    swapped["images"][0] |= {"height": 120, "width": 60}
    truth = Truth(swapped)
    assert not truth.is_of_size(1, (61, 120), lambda: False)
    assert not truth.is_of_size(1, (60, 120), lambda: True), "the photo lay on its side when it was drawn on"
    assert truth.size(1) == (120, 60)
    assert truth.objects(1)[0]["segmentation"]["size"] == [120, 60]
    assert truth.is_of_size(1, (60, 120), lambda: False)
    assert (truth.size(1), truth.swapped) == ((60, 120), {1})
    assert truth.objects(1) == Truth(broken(segmentation=polygon)).objects(1)
    sure = Truth(scene([(A, 1)]))
    assert not sure.is_of_size(1, (120, 60), lambda: False), "its codes say how large the image is"


def test_images_without_a_size(caplog: pytest.LogCaptureFixture) -> None:
    data = scene([(A, 1)])
    del data["images"][0]["height"], data["images"][0]["width"]
    data["images"].append({"id": 2, "file_name": "b.png"})
    truth = Truth(data)
    assert truth.objects(1) == Truth(scene([(A, 1)])).objects(1), "its codes have it"
    assert list(truth.images) == [1]
    assert "1 of 2 images left out: 1 without a size, such as b.png" in caplog.text


def test_a_truth_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.json cannot be read: No such file"):
        Truth.read(str(tmp_path / "none.json"))
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(SourceError, match=r"half\.json is not JSON"):
        Truth.read(str(tmp_path / "half.json"))


def test_what_cannot_be_scored_is_refused() -> None:
    truth = Truth(scene([(A, 1)]))
    with pytest.raises(SourceError, match="no images to score"):
        evaluate(truth, [], [])
    with pytest.raises(SourceError, match="has no image 2"):
        evaluate(truth, [], [1, 2])
    with pytest.raises(SourceError, match="image 1 is not of the size"):
        evaluate(truth, [detection(1, A.T)], [1])
    for counts in ("o" * 30, "o" * 30 + "0", "é", ""):  # what pycocotools would read past the end of
        text = detection(1, A) | {"segmentation": {"size": [60, 120], "counts": counts}}
        with pytest.raises(SourceError, match="a mask of image 1 cannot be scored: counts are no compressed"):
            evaluate(truth, [text], [1])
        with pytest.raises(SourceError, match="a mask of image 1 cannot be scored: counts are no compressed"):
            evaluate(truth, [{k: v for k, v in text.items() if k != "bbox"}], [1], iou_types=["bbox"])
    with pytest.raises(SourceError, match="image 1 is empty"):
        evaluate(truth, [detection(1, A & B)], [1])
    with pytest.raises(ConfigError, match="scores is 'best'"):
        evaluate(truth, [], [1], scores="best")
    with pytest.raises(ConfigError, match="iou_types"):
        evaluate(truth, [], [1], iou_types=["keypoints"])
    with pytest.raises(ConfigError, match="bootstrap is -1"):
        evaluate(truth, [], [1], bootstrap=-1)


def test_one_image_that_has_the_id_of_another_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    data = scene([(A, 1)])
    data["images"] += [data["images"][0] | {"file_name": "b.png"}, data["images"][0] | {"id": 2, "file_name": "c.png"}]
    truth = Truth(data)
    assert {id_: image["file_name"] for id_, image in truth.images.items()} == {1: "scene.png", 2: "c.png"}
    assert len(truth.objects(1)) == 1
    assert (
        '1 of 3 images left out: 1 odd, such as image b.png has the "id" 1, which scene.png has before it'
        in caplog.text
    )


def test_one_photo_of_two_sizes_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    data = scene([(A, 1)])
    data["images"].append(data["images"][0] | {"id": 2, "height": 90})
    data["annotations"].append(data["annotations"][0] | {"id": 7, "image_id": 2})
    truth = Truth(data)
    assert (list(truth.images), truth.size(1), len(truth.objects(1))) == ([1], (60, 120), 1)
    assert "images 1 and 2 are both scene.png, of different sizes: give each photo a name of its own" in caplog.text
    assert "annotation 7 is of image 2, which is not listed, or left out" in caplog.text


def test_one_photo_under_two_ids_is_one_image(caplog: pytest.LogCaptureFixture) -> None:
    """With the objects of both, each once."""
    one, other = scene([(A, 1)]), scene([(B, 1)])
    again = {**one["images"][0], "id": 2}
    moved = [{**annotation, "id": 5, "image_id": 2} for annotation in other["annotations"]]
    twice = [{**annotation, "id": 9, "image_id": 2} for annotation in one["annotations"]]
    truth = Truth({**one, "images": [*one["images"], again], "annotations": [*one["annotations"], *moved, *twice]})
    assert list(truth.images) == [1]
    assert len(truth.objects(1)) == len(one["annotations"]) + len(moved)
    assert "lists 1 photo again, such as scene.png" in caplog.text


def test_files_that_were_joined_hold_each_object_once() -> None:
    """And a photo that is listed once has all that it is given, as in the benchmark's own code."""
    one = scene([(A, 1), (B, 1)])
    joined = {**one, "images": one["images"] * 2, "annotations": one["annotations"] * 2}
    assert Truth(joined).objects(1) == Truth(one).objects(1)
    assert len(Truth({**one, "annotations": one["annotations"] * 2}).objects(1)) == 4
