"""Pasted masks are MMDetection's, run-length codes pycocotools', confidences what a plain loop gives."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from pycocotools import mask as coco_mask

from detector.prediction.detections import PasteRule, Window, encode, instance_of, paste, patch_confidence

RULE = PasteRule(0.5, (5, 7))


def whole(window: Window, size: tuple[int, int]) -> np.ndarray:
    """The window in a photo that is 0 elsewhere."""
    photo = np.zeros(size, window.values.dtype)
    rows, columns = window.values.shape
    photo[window.top : window.top + rows, window.left : window.left + columns] = window.values
    return photo


sides = st.integers(1, 12)


@given(st.data(), sides, sides)
def test_codes_are_pycocotools(data: st.DataObject, height: int, width: int) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    shape = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    share = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) < share
    window = Window(top, left, values)
    expected = coco_mask.encode(np.asfortranarray(whole(window, (height, width)).astype(np.uint8)))
    assert encode(window, (height, width)) == expected["counts"]


@given(st.integers(0, 9999))
@settings(max_examples=60)
def test_pasting_is_mmdetections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(8, 60, 2).tolist())
    corners = rng.uniform(-10, 70, (2, 2))
    box = np.concatenate([corners.min(0), corners.max(0) + rng.choice([0.2, 5.0])]).astype(np.float32)
    cells = tuple(rng.integers(1, 29, 2).tolist())
    mask = rng.random(cells).astype(np.float32)
    stock, _ = _do_paste_mask(torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], *size, skip_empty=False)
    ours = paste(mask, box, size)
    assert np.abs(whole(ours, size) - stock[0].numpy()).max() < 2e-4
    assert ours.values.size <= (np.ptp(box[1::2]) * 2 + 4) * (np.ptp(box[0::2]) * 2 + 4), "the window is the box's"


@given(st.integers(0, 9999))
def test_confidence_is_the_mean_over_the_mask_in_each_patch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(3, 40, 2).tolist())
    grid = tuple(rng.integers(1, 12, 2).tolist())
    top, left = int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))
    shape = int(rng.integers(1, size[0] - top + 1)), int(rng.integers(1, size[1] - left + 1))
    window = Window(top, left, rng.random(shape).astype(np.float32))
    mask = window.values >= 0.5
    found = patch_confidence(window, mask, size, grid)
    probability, inside = whole(window, size), whole(Window(top, left, mask), size)
    for patch in np.ndindex(*grid):
        pixels = [
            float(probability[y, x])
            for y, x in np.argwhere(inside)
            if (int(y) * grid[0] // size[0], int(x) * grid[1] // size[1]) == patch
        ]
        assert found[patch] == pytest.approx(255 * np.mean(pixels) if pixels else 0, abs=0.51)
        assert (found[patch] > 0) == bool(pixels)


def test_an_instance_is_consistent() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((28, 28)).astype(np.float32)
    box = np.array([10.3, 5.1, 52.7, 33.0], np.float32)
    instance = instance_of(mask, box, 0.75, 3, (48, 64), RULE)
    assert instance is not None
    pixels = coco_mask.decode({"size": [48, 64], "counts": instance.rle})
    expected = whole(paste(mask, box, (48, 64)), (48, 64)) >= 0.5
    assert np.array_equal(pixels.astype(bool), expected)
    assert instance.area == expected.sum()
    rows, columns = np.nonzero(expected)
    assert instance.box == (
        *(columns.min(), rows.min()),
        *(columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()),
    )
    assert (instance.score, instance.round) == (0.75, 3)
    inside = instance.confidence[instance.confidence > 0]
    assert inside.min() >= 127, "a pixel of the mask has at least the threshold's probability"
    loose = instance_of(mask, box, 0.75, 300, (48, 64), PasteRule(0.5, (5, 7), tight_boxes=False))
    assert loose is not None
    assert loose.box == pytest.approx((10.3, 5.1, 42.4, 27.9))
    assert loose.round == 255


@given(st.integers(0, 9999))
def test_the_detectors_box_holds_its_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(8, 50, 2).tolist())
    corners = np.sort(rng.uniform(0, 1, (2, 2)) * (size[1], size[0]), axis=0)
    rule = PasteRule(0.5, (3, 3), tight_boxes=False)
    instance = instance_of(rng.random((7, 7)).astype(np.float32), corners.ravel(), 1.0, 0, size, rule)
    if instance is not None:
        x, y, width, height = instance.box
        left, top, columns, rows = coco_mask.toBbox({"size": list(size), "counts": instance.rle})
        assert left > x - 1
        assert top > y - 1
        assert left + columns < x + width + 1
        assert top + rows < y + height + 1


def test_masks_without_pixels_are_none() -> None:
    box = np.array([2.0, 2.0, 20.0, 20.0])
    assert instance_of(np.full((28, 28), 0.4, np.float32), box, 1.0, 0, (30, 30), RULE) is None
    flat = np.array([5.0, 5.0, 5.0, 9.0])
    assert instance_of(np.ones((28, 28), np.float32), flat, 1.0, 0, (30, 30), RULE) is None
    outside = np.array([40.0, 40.0, 50.0, 50.0])
    assert instance_of(np.ones((28, 28), np.float32), outside, 1.0, 0, (30, 30), RULE) is None


def test_memory_is_that_of_one_window() -> None:
    size = (3000, 4000)
    rng = np.random.default_rng(0)
    masks = rng.random((20, 28, 28)).astype(np.float32)
    corners = rng.uniform(0, 0.7, (20, 2)) * (size[1], size[0])
    boxes = np.hstack([corners, corners + np.array([900, 800])])
    tracemalloc.start()
    kept = [instance_of(masks[i], boxes[i], 0.5, i, size, PasteRule(0.5, (60, 60))) for i in range(20)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(kept)
    assert peak < 50 << 20, "twenty masks of the photo's size would be 240 MB"
