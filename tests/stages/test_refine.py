"""Refinement to the original size: sizes and shapes, holes, IoU, and what the CRF is left out of."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from stages.crf import CrfConfig
from stages.refine import RefineConfig, RefinedMasks, refine_masks

SMALL = RefineConfig(size=96)
NO_CRF = RefineConfig(size=96, crf=None)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A dark square of the middle half of each side on a bright ground, with noise."""
    rng = np.random.default_rng(seed)
    rgb = np.full((height, width, 3), (210, 190, 160))
    rgb[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = (40, 60, 90)
    return (rgb + rng.integers(-3, 4, rgb.shape)).astype(np.uint8)


def square_mask(grid_height: int = 24, grid_width: int = 24) -> np.ndarray:
    mask = np.zeros((grid_height, grid_width), dtype=bool)
    mask[grid_height // 4 : 3 * grid_height // 4, grid_width // 4 : 3 * grid_width // 4] = True
    return mask


def true_mask(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    return mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def refine_one(image: np.ndarray, masks: np.ndarray, config: RefineConfig) -> RefinedMasks:
    (result,) = refine_masks([image], [masks], config)
    return result


@pytest.mark.parametrize("size", [128, 96, None])
@pytest.mark.parametrize(("height", "width"), [(96, 96), (60, 130), (211, 80)])
def test_finds_the_square_at_any_size_and_aspect(height: int, width: int, size: int | None) -> None:
    shifted = np.roll(square_mask(), (1, -1), axis=(0, 1))
    result = refine_one(photo(height, width), shifted[None], RefineConfig(size=size))
    assert result.masks.shape == (1, height, width)
    assert result.masks.dtype == np.bool_
    assert result.crf_iou.shape == result.keep.shape == (1,)
    assert result.crf_iou.dtype == np.float32
    assert result.keep.dtype == np.bool_
    coarse = refine_one(photo(height, width), shifted[None], RefineConfig(size=size, crf=None))
    assert iou(coarse.masks[0], true_mask(height, width)) < 0.76
    # One pixel of the working size around the square is 8 % at 96².
    assert iou(result.masks[0], true_mask(height, width)) > 0.9
    assert 0.6 < result.crf_iou[0] < 1
    assert result.keep[0]


def test_ragged_batch_equals_single_images() -> None:
    images = [photo(40, 70, 1), photo(90, 90, 2), photo(33, 20, 3)]
    masks = [
        np.stack([square_mask(), ~square_mask()]),
        np.zeros((0, 12, 12), dtype=bool),
        square_mask(10, 16)[None],
    ]
    batch = refine_masks(images, masks, SMALL)
    assert [r.masks.shape for r in batch] == [(2, 40, 70), (0, 90, 90), (1, 33, 20)]
    assert [len(r.crf_iou) for r in batch] == [len(r.keep) for r in batch] == [2, 0, 1]
    for image, own, result in zip(images, masks, batch, strict=True):
        single = refine_one(image, own, SMALL)
        np.testing.assert_array_equal(result.masks, single.masks)
        np.testing.assert_array_equal(result.crf_iou, single.crf_iou)


def test_no_images() -> None:
    assert refine_masks([], [], SMALL) == []


@pytest.mark.parametrize("config", [SMALL, NO_CRF, RefineConfig(size=None)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (5, 2)])
def test_tiny_images(height: int, width: int, config: RefineConfig) -> None:
    full = np.ones((1, 6, 6), dtype=bool)
    result = refine_one(np.full((height, width, 3), 90, dtype=np.uint8), full, config)
    assert result.masks.shape == (1, height, width)
    assert result.masks.all()
    assert result.crf_iou[0] == 1
    assert result.keep[0]


@pytest.mark.parametrize("config", [SMALL, NO_CRF])
def test_full_mask_stays_and_empty_mask_is_not_kept(config: RefineConfig) -> None:
    masks = np.stack([np.ones((8, 8), dtype=bool), np.zeros((8, 8), dtype=bool)])
    result = refine_one(photo(50, 40), masks, config)
    assert result.masks[0].all()
    assert not result.masks[1].any()
    assert result.crf_iou.tolist() == ([1, 1] if config.crf is None else [1, 0])
    assert result.keep.tolist() == [True, False]


@pytest.mark.parametrize("crf", [None, CrfConfig()])
def test_holes_are_filled_only_if_asked(crf: CrfConfig | None) -> None:
    image = photo(96, 96)
    image[40:52, 44:58] = (210, 190, 160)
    ring = square_mask(96, 96)
    ring[40:52, 44:58] = False
    filled = refine_one(image, ring[None], RefineConfig(size=96, crf=crf)).masks[0]
    hollow = refine_one(image, ring[None], RefineConfig(size=96, crf=crf, fill_holes=False)).masks[0]
    assert filled[40:52, 44:58].all()
    assert not hollow[43:49, 47:55].any()
    np.testing.assert_array_equal(filled, ndimage.binary_fill_holes(hollow))


@pytest.mark.parametrize("seed", range(4))
def test_holes_are_background_that_is_enclosed(seed: int) -> None:
    """Rough blobs with holes, islands in holes, and bays at the border and at corners."""
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(64, 64)), 1.5)
    masks = np.stack([rough > level for level in np.quantile(rough, [0.1, 0.3, 0.6])])
    filled = refine_one(photo(64, 64), masks, RefineConfig(size=64, crf=None)).masks
    np.testing.assert_array_equal(filled, [ndimage.binary_fill_holes(mask) for mask in masks])
    assert (filled != masks).any()


def test_without_crf_a_mask_is_only_scaled() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((2, 12, 12)) > 0.5
    config = RefineConfig(size=48, crf=None, fill_holes=False)
    same_size = refine_one(photo(48, 48), masks, config)
    np.testing.assert_array_equal(same_size.masks, masks.repeat(4, axis=1).repeat(4, axis=2))
    assert (same_size.crf_iou == 1).all()
    larger = refine_one(photo(96, 144), masks, config).masks
    # Bicubic cut at half moves edges of the blocks by less than a pixel of the working size; their centres stay.
    np.testing.assert_array_equal(larger[:, 4::8, 6::12], masks)


@pytest.mark.parametrize(("height", "width"), [(96, 144), (24, 36), (480, 60)])
def test_scaling_keeps_straight_edges_in_place(height: int, width: int) -> None:
    half = np.zeros((1, 12, 12), dtype=bool)
    half[0, :, :6] = True
    out = refine_one(photo(height, width), half, RefineConfig(size=48, crf=None)).masks[0]
    assert out[:, : width // 2].all()
    assert not out[:, width // 2 :].any()


def test_working_size_need_not_be_a_multiple_of_the_grid() -> None:
    config = RefineConfig(size=50, crf=None, fill_holes=False)
    masks = np.arange(7 * 9).reshape(1, 7, 9) % 2 == 0
    out = refine_one(photo(50, 50), masks, config).masks[0]
    for y in range(50):
        for x in range(50):
            assert out[y, x] == masks[0, y * 7 // 50, x * 9 // 50]


def test_iou_is_that_of_working_size_and_decides_keep() -> None:
    image, masks = photo(96, 96), np.roll(square_mask(), 3, axis=0)[None]
    result = refine_one(image, masks, SMALL)
    expected = iou(masks[0].repeat(4, axis=0).repeat(4, axis=1), result.masks[0])
    assert result.crf_iou[0] == pytest.approx(expected)
    for threshold, kept in ((expected - 0.01, True), (expected + 0.01, False)):
        assert refine_one(image, masks, RefineConfig(size=96, min_crf_iou=threshold)).keep[0] == kept


def test_a_mask_that_disagrees_with_the_photo_is_not_kept() -> None:
    stray = np.zeros((1, 24, 24), dtype=bool)
    stray[0, 2:5, 9:12] = True
    result = refine_one(photo(96, 96), stray, SMALL)
    assert result.crf_iou[0] < 0.5
    assert not result.keep[0]


def test_on_a_photo(assets: Path) -> None:
    path = sorted((assets / "coco" / "images").iterdir())[0]
    image = np.asarray(Image.open(path).convert("RGB"))
    masks = np.stack([square_mask(60, 60), np.roll(square_mask(60, 60), 10, axis=1)])
    result = refine_one(image, masks, RefineConfig())
    assert result.masks.shape == (2, *image.shape[:2])
    assert ((result.crf_iou > 0) & (result.crf_iou < 1)).all()


@pytest.mark.parametrize(
    ("image", "masks", "message"),
    [
        (np.zeros((4, 4, 3)), np.zeros((1, 2, 2), dtype=bool), r"images\[0\] must be uint8"),
        (np.zeros((4, 4), dtype=np.uint8), np.zeros((1, 2, 2), dtype=bool), r"images\[0\]"),
        (np.zeros((0, 4, 3), dtype=np.uint8), np.zeros((1, 2, 2), dtype=bool), r"images\[0\]"),
        (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((1, 2, 2)), r"masks\[0\] must be bool"),
        (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((2, 2), dtype=bool), r"masks\[0\]"),
        (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((1, 0, 2), dtype=bool), r"masks\[0\]"),
    ],
)
def test_refuses_bad_input(image: np.ndarray, masks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine_masks([image], [masks], SMALL)


def test_refuses_unequal_lists() -> None:
    with pytest.raises(ValueError, match="one entry per image"):
        refine_masks([photo(4, 4)], [], SMALL)


@pytest.mark.parametrize("settings", [{"size": 0}, {"min_crf_iou": 1.1}, {"min_crf_iou": -0.1}])
def test_config_names_the_bad_field(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RefineConfig(**settings)
