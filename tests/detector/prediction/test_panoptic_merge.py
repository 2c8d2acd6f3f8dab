"""Instances and stuff become one map, against a reference that looks at one pixel at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.prediction.detections import Detections
from detector.prediction.panoptic import PanopticDetections, PanopticMap, PanopticRule, merged
from pipeline.errors import ConfigError

SIZE = (48, 64)


def detections(boxes: list[tuple[int, int, int, int]], scores: list[float]) -> Detections:
    """Instances that fill their boxes, whose sides are pixels."""
    masks_Mhw = np.ones((len(boxes), 28, 28), np.float32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), masks_Mhw)


def found(
    boxes: list[tuple[int, int, int, int]], scores: list[float], labels: list[int], semantic: np.ndarray | None = None
) -> PanopticDetections:
    semantic = np.zeros(SIZE, np.uint8) if semantic is None else semantic
    return PanopticDetections(detections(boxes, scores), np.array(labels), semantic, np.ones((6, 8), np.float32))


def reference(given_: PanopticDetections, boxes: list[tuple[int, int, int, int]], rule: PanopticRule) -> np.ndarray:
    """(H, W, 2): number of the instance, by rank among those that stay; stuff."""
    height, width = given_.semantic_HW.shape
    out = np.zeros((height, width, 2), int)
    ranked = sorted(range(len(boxes)), key=lambda k: (-given_.things.scores[k], k))
    number = 0
    for k in ranked:
        if given_.things.scores[k] < rule.min_score:
            break
        x1, y1, x2, y2 = boxes[k]
        pixels = [(y, x) for y in range(y1, y2) for x in range(x1, x2)]
        covered = sum(out[p][0] > 0 for p in pixels)
        if covered == len(pixels) or covered / len(pixels) > rule.max_cover:
            continue
        number += 1
        for p in pixels:
            if out[p][0] == 0:
                out[p] = number, 0
    for c in range(1, 4):
        pixels = [p for p in np.ndindex(height, width) if out[p][0] == 0 and given_.semantic_HW[p] == c]
        if len(pixels) >= rule.least_stuff((height, width)):
            for p in pixels:
                out[p][1] = c
    return out


@st.composite
def boxes(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    made = []
    for _ in range(draw(st.integers(0, 6))):
        left, top = draw(st.integers(0, SIZE[1] - 8)), draw(st.integers(0, SIZE[0] - 8))
        wide, high = draw(st.integers(6, SIZE[1] - left)), draw(st.integers(6, SIZE[0] - top))
        made.append((left, top, left + wide, top + high))
    return made


@settings(max_examples=40, deadline=None)
@given(boxes=boxes(), seed=st.integers(0, 1000), cover=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_it_is_the_reference(boxes: list[tuple[int, int, int, int]], seed: int, cover: float) -> None:
    rng = np.random.default_rng(seed)
    semantic_HW = rng.integers(0, 4, (6, 8)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    scores = np.round(rng.uniform(0.3, 1, len(boxes)), 1).tolist()  # some alike
    labels = rng.integers(0, 2, len(boxes)).tolist()
    given_ = found(boxes, scores, labels, semantic_HW)
    rule = PanopticRule(max_cover=cover, stuff_area=400, stuff_at="released")
    made, wanted_HW2 = merged(given_, rule), reference(given_, boxes, rule)
    assert np.array_equal(made.instance_ids_HW, wanted_HW2[..., 0])
    assert np.array_equal(made.stuff_HW, wanted_HW2[..., 1])
    assert len(made.labels) == len(made.scores) == wanted_HW2[..., 0].max()
    assert (np.diff(made.scores) <= 0).all()


def test_labels_stay_with_their_instances() -> None:
    made = merged(found([(0, 0, 20, 20), (30, 0, 60, 20), (0, 30, 20, 48)], [0.6, 0.9, 0.4], [5, 2, 1]), PanopticRule())
    assert (made.labels.tolist(), made.scores.tolist()) == ([2, 5], pytest.approx([0.9, 0.6]))
    assert made.instance_ids_HW[10, 40] == 1
    assert made.instance_ids_HW[10, 10] == 2
    assert made.instance_ids_HW.dtype == np.uint16


def cut(kept: int, rule: PanopticRule) -> PanopticMap:
    """Two boxes 20 pixels wide and 10 high, of which the worse keeps so many of its columns."""
    return merged(found([(0, 0, 20, 10), (kept, 0, 20 + kept, 10)], [0.9, 0.8], [0, 0]), rule)


def test_half_covered_is_not_yet_too_much() -> None:
    assert len(cut(10, PanopticRule()).labels) == 2
    assert len(cut(9, PanopticRule()).labels) == 1


@pytest.mark.parametrize("size", [(1024, 2048), (512, 1024), (375, 1242)])
def test_the_least_area_of_stuff_grows_with_the_photo(size: tuple[int, int]) -> None:
    scaled, released = PanopticRule(), PanopticRule(stuff_at="released")
    assert scaled.least_stuff(size) / (size[0] * size[1]) == pytest.approx(4096 / (1024 * 2048))
    assert released.least_stuff(size) == 4096


def test_small_stuff_is_void_and_so_is_a_thing_without_an_instance() -> None:
    semantic_HW = np.ones(SIZE, np.uint8)
    semantic_HW[:, :20] = 0
    semantic_HW[:2, 20:22] = 2  # four pixels
    semantic_HW[:2, 30:34] = 3  # eight
    rule = PanopticRule(stuff_area=6, stuff_at="released")
    made = merged(found([(24, 10, 40, 20)], [0.9], [0], semantic_HW), rule)
    assert not made.stuff_HW[:, :20].any()
    assert not made.stuff_HW[:2, 20:22].any()
    assert (made.stuff_HW[:2, 30:34] == 3).all()
    assert not (made.stuff_HW[made.instance_ids_HW > 0]).any()
    assert (made.stuff_HW[30:] == np.where(np.arange(SIZE[1]) < 20, 0, 1)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_score": 1.2}, "min_score is 1.2"),
        ({"max_cover": -0.1}, "max_cover is -0.1"),
        ({"stuff_area": -1}, "stuff_area is -1"),
        ({"stuff_at": "half"}, "stuff_at is 'half': it must be one of scaled, released"),
    ],
)
def test_out_of_range(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PanopticRule(**wrong)
