"""Boundaries of masks: against plain loops, and what they must and must not do."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from stages.boundary import RING, BoundaryConfig, settle_boundaries

GRID = (24, 24)


def features_of(labels_GhGw: np.ndarray, noise: float, seed: int) -> torch.Tensor:
    """Features that tell the labels apart, (N, 16) float32."""
    rng = np.random.default_rng(seed)
    classes = rng.normal(size=(int(labels_GhGw.max()) + 1, 16))
    return torch.from_numpy(classes[labels_GhGw.ravel()] + noise * rng.normal(size=(labels_GhGw.size, 16))).float()


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    return np.hypot(rows - row, columns - column) <= radius


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def by_loops(features_ND: torch.Tensor, mask: np.ndarray, config: BoundaryConfig) -> np.ndarray:
    """One mask, the way the docstring says it."""
    x = features_ND.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    height, width = mask.shape
    reach = max(1, round(RING * max(mask.shape)))

    def near(row: int, column: int, wanted: bool, distance: int) -> bool:
        return any(
            mask[r, c] == wanted
            for r in range(max(0, row - distance), min(height, row + distance + 1))
            for c in range(max(0, column - distance), min(width, column + distance + 1))
        )

    patches = [(row, column) for row in range(height) for column in range(width)]
    inside = np.sum([x[r * width + c] for r, c in patches if mask[r, c]], axis=0)
    ring = [x[r * width + c] for r, c in patches if not mask[r, c] and near(r, c, True, reach)]
    if not ring:
        return mask
    around = np.sum(ring, axis=0)
    margin = x @ (inside / np.linalg.norm(inside)) - x @ (around / np.linalg.norm(around))
    margin = scipy.ndimage.gaussian_filter(margin.reshape(mask.shape), config.smoothing)
    settled = mask.copy()
    for row, column in patches:
        if near(row, column, not mask[row, column], config.band):
            settled[row, column] = margin[row, column] > 0
    labels, count = scipy.ndimage.label(settled)
    if count == 0:
        return mask
    return np.asarray(labels == 1 + np.argmax([(labels == k).sum() for k in range(1, count + 1)]))


@pytest.mark.parametrize("config", [BoundaryConfig(), BoundaryConfig(band=1, smoothing=0.5), BoundaryConfig(band=3)])
def test_against_plain_loops(config: BoundaryConfig) -> None:
    rng = np.random.default_rng(3)
    labels = disc(11, 11, 6).astype(int) + 2 * disc(4, 19, 4)
    features_ND = features_of(labels, 0.6, seed=1)
    ragged = disc(11, 11, 6) ^ (rng.random(GRID) < 0.1)
    masks = np.array([ragged, disc(13, 9, 5), disc(4, 19, 3), np.ones(GRID, bool), rng.random(GRID) < 0.4])
    settled = settle_boundaries(features_ND, masks, config)
    for mask, got in zip(masks, settled, strict=True):
        np.testing.assert_array_equal(got, by_loops(features_ND, mask, config))


def test_a_ragged_mask_becomes_the_thing_it_is_of() -> None:
    thing = disc(12, 12, 7)
    rng = np.random.default_rng(0)
    ragged = np.where(scipy.ndimage.binary_dilation(thing), thing ^ (rng.random(GRID) < 0.12), False)
    (settled,) = settle_boundaries(features_of(thing.astype(int), 0.3, 2), ragged[None], BoundaryConfig())
    assert iou(ragged, thing) < 0.9
    assert iou(settled, thing) > 0.93


def test_a_right_mask_stays_but_for_its_corners() -> None:
    thing = disc(12, 12, 7)
    (settled,) = settle_boundaries(features_of(thing.astype(int), 0.0, 2), thing[None], BoundaryConfig())
    assert iou(settled, thing) > 0.97


def test_only_the_band_may_change() -> None:
    """A mask of a tenth of a thing does not run away with the whole of it."""
    thing, seed = disc(12, 12, 10), disc(12, 12, 3)
    (settled,) = settle_boundaries(features_of(thing.astype(int), 0.0, 4), seed[None], BoundaryConfig(band=2))
    reach = scipy.ndimage.binary_dilation(seed, np.ones((3, 3)), iterations=2)
    assert not (settled & ~reach).any()


def test_masks_do_not_influence_each_other_and_the_input_is_left_alone() -> None:
    masks = np.array([disc(8, 8, 4), disc(15, 15, 6)])
    before, features_ND = masks.copy(), features_of(disc(8, 8, 5).astype(int), 0.5, 5)
    both = settle_boundaries(features_ND, masks, BoundaryConfig())
    for k in range(2):
        np.testing.assert_array_equal(both[k], settle_boundaries(features_ND, masks[k : k + 1], BoundaryConfig())[0])
    np.testing.assert_array_equal(masks, before)
    assert settle_boundaries(features_ND, masks[:0], BoundaryConfig()).shape == (0, *GRID)


def test_a_mask_without_surroundings_stays_and_features_that_are_all_alike_add_nothing() -> None:
    whole, some = np.ones((1, *GRID), bool), disc(9, 9, 4)[None]
    noisy = features_of(disc(8, 8, 5).astype(int), 0.5, 5)
    np.testing.assert_array_equal(settle_boundaries(noisy, whole, BoundaryConfig()), whole)
    blank = settle_boundaries(torch.ones(GRID[0] * GRID[1], 4), some, BoundaryConfig())
    assert blank.any()
    assert not (blank & ~some).any()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"boundary\.band must be at least 1, got 0"):
        BoundaryConfig(band=0)
    with pytest.raises(ValueError, match=r"boundary\.smoothing must be > 0, got 0"):
        BoundaryConfig(smoothing=0.0)
