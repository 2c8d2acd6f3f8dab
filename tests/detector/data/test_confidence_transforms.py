"""Stock transforms on masks with confidence: every pixel of the test images says whose it is (channel 0) and how sure
(channel 1), so that after any pipeline image and masks can be held against one another.
"""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmdet.datasets import transforms as stock  # registers them
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import TRANSFORMS as REGISTRY
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

from detector.data.confidence_masks import ConfidenceMasks

SIDE = 48
MORE = {"interpolation": "nearest", "img_border_value": 0}
TRANSFORMS: list[dict[str, Any]] = [
    {"type": "Resize", "scale": (90, 60), "keep_ratio": True, "interpolation": "nearest"},
    {"type": "Resize", "scale": (41, 33), "keep_ratio": False, "interpolation": "nearest"},
    {"type": "FixShapeResize", "width": 50, "height": 40, "interpolation": "nearest"},
    {"type": "RandomResize", "scale": [(30, 30), (80, 80)], "keep_ratio": True, "interpolation": "nearest"},
    {
        "type": "RandomChoiceResize",
        "scales": [(90, 20), (90, 31), (90, 64)],
        "keep_ratio": True,
        "interpolation": "nearest",
    },
    {"type": "RandomFlip", "prob": 0.7},
    {"type": "RandomFlip", "prob": [0.3, 0.3, 0.3], "direction": ["horizontal", "vertical", "diagonal"]},
    {"type": "RandomCrop", "crop_size": (30, 25), "allow_negative_crop": True},
    {"type": "RandomCrop", "crop_size": (0.5, 0.5), "crop_type": "relative_range", "recompute_bbox": True},
    {"type": "MinIoURandomCrop", "min_crop_size": 0.4},
    {"type": "Expand", "mean": (0, 0, 0), "ratio_range": (1, 2), "prob": 0.7},
    {"type": "Pad", "size_divisor": 32},
    {"type": "Pad", "pad_to_square": True, "pad_val": {"img": 0, "masks": 0, "seg": 255}},
    {"type": "ShearX", "level": 5, **MORE},
    {"type": "ShearY", "level": 5, **MORE},
    {"type": "Rotate", "level": 7, **MORE},
    {"type": "TranslateX", "level": 6, **MORE},
    {"type": "TranslateY", "level": 6, **MORE},
    {"type": "RandomErasing", "n_patches": (1, 3), "ratio": (0.1, 0.4), "img_border_value": 0},
    {"type": "FilterAnnotations", "min_gt_bbox_wh": (3, 3), "by_mask": True, "min_gt_mask_area": 9},
]


@pytest.fixture(autouse=True, scope="module")
def _scope() -> Any:
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def sample(seed: int, first: int = 1, shape: tuple[int, int] = (SIDE, SIDE)) -> dict[str, Any]:
    """Four random rectangles that do not overlap, as a transform gets them; labels are the numbers in channel 0."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*shape, 3), np.uint8)
    ids = np.arange(first, first + 4)
    for id_ in ids:
        top, left = rng.integers(0, SIDE - 4, 2)
        height, width = rng.integers(4, 24, 2)
        part = image[top : top + height, left : left + width]
        part[..., 0], part[..., 1] = id_, rng.integers(2, 256, part.shape[:2])
    values_MHW = np.where(image[..., 0] == ids[:, None, None], image[..., 1], np.uint8(0))
    masks = ConfidenceMasks(values_MHW, *shape)
    return {
        "img": image,
        "img_id": seed,
        "img_path": "",
        "img_shape": shape,
        "ori_shape": shape,
        "gt_masks": masks,
        "gt_bboxes": masks.get_bboxes(HorizontalBoxes),
        "gt_bboxes_labels": ids.astype(np.int64),
        "gt_ignore_flags": np.zeros(4, bool),
    }


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what stock transforms draw from


def check_aligned(results: dict[str, Any]) -> None:
    image, masks, ids = results["img"], results["gt_masks"], results["gt_bboxes_labels"]
    assert type(masks) is ConfidenceMasks
    assert len(masks) == len(ids) == len(results["gt_bboxes"])
    expected_MHW = np.where(image[..., 0] == ids[:, None, None], image[..., 1], 0)
    np.testing.assert_array_equal(masks.values, expected_MHW)
    np.testing.assert_array_equal(masks.masks, expected_MHW > 0)
    tight_M4 = masks.get_bboxes(HorizontalBoxes).tensor
    boxes_M4 = results["gt_bboxes"].tensor
    seen_M = torch.from_numpy(masks.areas > 0)
    # A pixel more, as nearest neighbours and edges of boxes round differently.
    assert (boxes_M4[seen_M, :2] <= tight_M4[seen_M, :2] + 1.5).all()
    assert (boxes_M4[seen_M, 2:] >= tight_M4[seen_M, 2:] - 1.5).all()


@settings(max_examples=150)
@given(st.lists(st.integers(0, len(TRANSFORMS) - 1), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_image_masks_and_confidence_stay_together(chosen: list[int], seed: int) -> None:
    seed_all(seed)
    results = sample(seed, shape=(SIDE, 61))
    for i in chosen:
        transform = REGISTRY.build(TRANSFORMS[i])
        results = transform(results)
        if results is None:  # a crop or a filter that leaves nothing
            return
        check_aligned(results)
        # Roundings of one transform are not the next one's fault.
        seen_M = torch.from_numpy(results["gt_masks"].areas > 0)
        results["gt_bboxes"].tensor[seen_M] = results["gt_masks"].get_bboxes(HorizontalBoxes).tensor[seen_M]


@pytest.mark.parametrize("config", TRANSFORMS, ids=lambda config: config["type"])
def test_each_transform_does_something(config: dict[str, Any]) -> None:
    """That what the property test draws from is not the identity."""
    transform = REGISTRY.build(config)
    changed = []
    for seed in range(8):
        seed_all(seed)
        before, results = sample(seed, shape=(SIDE, 61)), transform(sample(seed, shape=(SIDE, 61)))
        changed.append(results is None or not np.array_equal(results["gt_masks"].values, before["gt_masks"].values))
    assert any(changed) or config["type"] == "FilterAnnotations"


def test_cached_mosaic() -> None:
    seed_all(0)
    mosaic = stock.CachedMosaic(img_scale=(SIDE, SIDE), pad_val=0.0, max_cached_images=8)
    mixed = [mosaic(sample(seed, first=1 + 5 * seed)) for seed in range(12)]
    assert sum(len(results["gt_masks"]) > 4 for results in mixed) >= 8
    for results in mixed[4:]:
        ids = results["gt_bboxes_labels"]
        results["gt_bboxes_labels"] = ids = np.asarray(ids)
        # The same image may come twice: every mask then shows one of the places.
        expected_MHW = np.where(results["img"][..., 0] == ids[:, None, None], results["img"][..., 1], 0)
        values_MHW = results["gt_masks"].values
        assert type(results["gt_masks"]) is ConfidenceMasks
        assert ((values_MHW == expected_MHW) | (values_MHW == 0)).all()
        for id_ in ids:
            np.testing.assert_array_equal(
                values_MHW[ids == id_].max(axis=0), np.where(results["img"][..., 0] == id_, results["img"][..., 1], 0)
            )


def test_cached_mixup_keeps_confidence() -> None:
    seed_all(1)
    mixup = stock.CachedMixUp(img_scale=(SIDE, SIDE), ratio_range=(1.0, 1.0), flip_ratio=0.0, max_cached_images=4)
    inputs = [sample(seed, first=1 + 5 * seed) for seed in range(6)]
    known: dict[int, np.ndarray] = {}
    for given_ in inputs:
        known.update(zip(given_["gt_bboxes_labels"].tolist(), given_["gt_masks"].values, strict=True))
    joined = 0
    for results in map(mixup, inputs):
        for id_, value_HW in zip(results["gt_bboxes_labels"], results["gt_masks"].values, strict=True):
            assert np.array_equal(value_HW, known[id_]) or np.array_equal(value_HW, known[id_][:, ::-1])
        joined += len(results["gt_masks"]) > 4
    assert joined >= 2


def test_stock_copy_paste_returns_ordinary_masks() -> None:
    """It builds stock masks: their confidence is lost, but they are zeros and ones, as stock heads need them."""
    seed_all(2)
    target, source = sample(3), sample(4, first=9)
    inside = target["gt_masks"].masks.copy(), source["gt_masks"].masks.copy()
    paste = stock.CopyPaste(selected=False, mask_occluded_thr=0, bbox_occluded_thr=0)
    results = paste({**target, "mix_results": [source]})
    assert type(results["gt_masks"]) is BitmapMasks
    carved_MHW = inside[0] & ~inside[1].any(axis=0)
    kept_M = carved_MHW.any(axis=(1, 2))
    np.testing.assert_array_equal(results["gt_masks"].masks, np.concatenate([carved_MHW[kept_M], inside[1]]))
    np.testing.assert_array_equal(
        ConfidenceMasks.certain(results["gt_masks"]).values, results["gt_masks"].masks * np.uint8(255)
    )


def test_random_erasing_may_fill_masks() -> None:
    seed_all(5)
    erase = stock.RandomErasing(n_patches=1, ratio=0.5, bbox_erased_thr=2.0, mask_border_value=1)
    before = sample(6)["gt_masks"].values
    after = erase(sample(6))["gt_masks"].values
    assert (after[before != after] == 255).all()
    assert (before != after).any()


def test_packed_and_batched() -> None:
    """Through packing, collating and the padding of batches, as the trainer sees them."""
    pipeline = Compose([{"type": "Resize", "scale": (40, 30), "keep_ratio": False}, {"type": "PackDetInputs"}])
    small, large = pipeline(sample(7)), Compose([{"type": "PackDetInputs"}])(sample(8))
    before = [sample_["data_samples"].gt_instances.masks for sample_ in (small, large)]
    batch = DetDataPreprocessor(pad_mask=True, pad_size_divisor=32)(pseudo_collate([small, large]), training=True)
    after = [data_sample.gt_instances.masks for data_sample in batch["data_samples"]]
    for masks, padded in zip(before, after, strict=True):
        assert type(padded) is ConfidenceMasks
        assert padded.values.shape[1:] == batch["inputs"].shape[2:] == (64, 64)
        np.testing.assert_array_equal(padded.values[:, : masks.height, : masks.width], masks.values)
        assert padded.areas.sum() == masks.areas.sum()
