"""Merging a round's predictions with the masks of the round before, held against masks as plain arrays."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detector.prediction.detections import Detections, PasteRule
from detector.prediction.merging import best_iou, merge, merged_record, on_grid
from pipeline.errors import ImageError
from pipeline.results.instances import ImageRecord, Instance
from pipeline.results.kinds import Failed
from stages.score import ScoreParts

SIZE, GRID = (24, 30), (4, 5)


def instance(mask: np.ndarray, score: float, confidence: np.ndarray | None = None) -> Instance:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = tuple(coco_mask.toBbox(rle).tolist())
    values = np.full(GRID, 200, np.uint8) if confidence is None else confidence
    return Instance(rle["counts"], box, int(mask.sum()), score, values, 2, ScoreParts(contrast=0.25), 0.75)  # type: ignore[arg-type]


def rectangle(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    top, left = rng.integers(0, SIZE[0] - 2), rng.integers(0, SIZE[1] - 2)
    mask[top : top + rng.integers(2, 20), left : left + rng.integers(2, 20)] = True
    return mask


def decoded(instances: Sequence[Instance]) -> list[np.ndarray]:
    return [coco_mask.decode({"size": list(SIZE), "counts": i.rle}).astype(bool) for i in instances]


@given(st.integers(0, 9999), st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.1, 0.5, 1.0]))
def test_old_masks_stay_where_nothing_new_is(seed: int, n_new: int, n_old: int, keep_below: float) -> None:
    rng = np.random.default_rng(seed)
    new = [instance(rectangle(rng), 0.9 - i / 100) for i in range(n_new)]
    old = [instance(rectangle(rng), 0.01 * i) for i in range(n_old)]
    merged, replaced = merge(new, old, SIZE, GRID, keep_below)
    assert merged[:n_new] == tuple(new), "predictions come first, as they are"
    expected = []
    for before, mask in zip(old, decoded(old), strict=True):
        ious = [(mask & other).sum() / (mask | other).sum() for other in decoded(new)]
        if max(ious, default=0.0) < keep_below:
            expected.append(before)
    assert merged[n_new:] == tuple(expected), "score, parts, place and confidence are kept"
    assert replaced == n_old - len(expected)


def test_without_predictions_everything_stays() -> None:
    old = [instance(rectangle(np.random.default_rng(i)), 0.3) for i in range(4)]
    assert merge([], old, SIZE, GRID) == (tuple(old), 0)
    assert merge(old, old, SIZE, GRID) == (tuple(old), 4), "a mask found again is there once"
    assert best_iou(old, [], SIZE).tolist() == [0.0] * 4
    assert merge([], [], SIZE, GRID) == ((), 0)


@given(st.integers(0, 9999), st.integers(1, 9), st.integers(1, 9))
def test_confidence_on_another_grid(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rectangle(rng)
    confidence = np.zeros(GRID, np.uint8)
    for y, x in np.argwhere(mask):
        confidence[y * GRID[0] // SIZE[0], x * GRID[1] // SIZE[1]] = rng.integers(100, 256)
    old = instance(mask, 0.5, confidence)
    found = on_grid(old, SIZE, (rows, columns)).confidence
    assert found.shape == (rows, columns)
    inside = np.zeros((rows, columns), bool)
    for y, x in np.argwhere(mask):
        # every patch that holds a part of the pixel
        down = slice(y * rows // SIZE[0], -(-(y + 1) * rows // SIZE[0]))
        inside[down, x * columns // SIZE[1] : -(-(x + 1) * columns // SIZE[1])] = True
    assert np.array_equal(found > 0, inside)
    values = confidence[confidence > 0].astype(int)
    assert found[inside].min() >= values.min() - 1
    assert found[inside].max() <= values.max() + 1, "no confidence comes from nowhere, none seeps in from outside"


def test_a_ramp_of_confidence_is_interpolated() -> None:
    ramp = np.tile(np.linspace(50, 250, GRID[1]).astype(np.uint8), (GRID[0], 1))
    whole = instance(np.ones(SIZE, bool), 0.5, ramp)
    finer = on_grid(whole, SIZE, (4, 10)).confidence
    centres = (np.arange(10) + 0.5) / 2 - 0.5
    expected = np.interp(centres, np.arange(5), ramp[0])
    assert np.abs(finer - expected).max() <= 1
    assert on_grid(whole, SIZE, GRID) is whole


def found(*boxes: tuple[float, ...]) -> Detections:
    n = len(boxes)
    scores = np.linspace(0.9, 0.8, n, dtype=np.float32)
    return Detections(np.array(boxes, np.float32).reshape(n, 4), scores, np.ones((n, 7, 7), np.float32))


def test_the_record_counts_what_is_gone() -> None:
    detections = found((2, 2, 12, 12), (20, 20, 20, 20), (15, 2, 29, 20))
    mask = np.zeros(SIZE, bool)
    mask[2:12, 2:12] = True
    before = ImageRecord("a", SIZE, "ok", (instance(mask, 0.02),), {"too_small": 3}, None)
    record = merged_record(("a", SIZE), detections, before, PasteRule(0.5, GRID))
    assert record.status == "ok"
    assert [i.score for i in record.instances] == pytest.approx([0.9, 0.8])
    assert [i.round for i in record.instances] == [0, 2]
    assert record.drops == {"empty_mask": 1, "replaced": 1}


def test_nothing_found_and_nothing_before() -> None:
    assert merged_record(("a", SIZE), found(), None, PasteRule(0.5, GRID)).status == "no_masks"
    set_aside = Failed("a", "truncated", "ends early")
    assert merged_record(("a", SIZE), found(), set_aside, PasteRule(0.5, GRID)).status == "no_masks"


def test_a_photo_that_has_changed_since_is_set_aside() -> None:
    before = ImageRecord("a", SIZE, "ok", (instance(np.ones(SIZE, bool), 0.5),), {}, None)
    with pytest.raises(ImageError, match="24 × 30"):
        merged_record(("a", (30, 24)), found(), before, PasteRule(0.5, GRID))
