"""Depth maps of sensors and programs: holes and outliers."""

from typing import Any

import numpy as np
import pytest

from stages.stored_depth import MOST_FILLED, relative_stored_depth

RAMP = np.tile(np.linspace(0, 1, 80), (60, 1))  # farther to the right
METRES = 1 + 9 * RAMP
BLOCK = np.zeros(RAMP.shape, bool)
BLOCK[20:40, 20:40] = True


def filled(raw: np.ndarray, kind: Any = "depth") -> np.ndarray:
    return np.ma.getmaskarray(relative_stored_depth(raw, kind))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param((1000 * METRES).astype(np.uint16), id="millimetres"),
        pytest.param((5000 * METRES).astype(np.uint16), id="TUM"),
        pytest.param((256 * METRES).astype(np.uint16), id="KITTI"),
        pytest.param((1000 * METRES).astype(np.int32), id="32-bit"),
        pytest.param(METRES.astype(np.float32), id="metres"),
        pytest.param((25 * METRES).astype(np.uint8), id="8-bit"),
    ],
)
def test_zeros_of_sensors_are_holes_and_filled_from_beside(raw: np.ndarray) -> None:
    holed = np.where(BLOCK, 0, raw).astype(raw.dtype)
    depth = relative_stored_depth(holed, "depth")
    np.testing.assert_array_equal(np.ma.getmaskarray(depth), BLOCK)
    np.testing.assert_allclose(np.asarray(depth)[~BLOCK], RAMP[~BLOCK], atol=0.01)
    np.testing.assert_allclose(np.asarray(depth)[BLOCK], RAMP[BLOCK], atol=10.5 / 79)
    assert np.asarray(depth)[BLOCK].min() > 0.2, "no hole is the nearest point"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_largest_number_of_a_type_is_a_hole(dtype: Any) -> None:
    raw = np.where(BLOCK, np.iinfo(dtype).max, 10 + 100 * RAMP).astype(dtype)
    np.testing.assert_array_equal(filled(raw), BLOCK)
    np.testing.assert_array_equal(filled(raw, "inverse_depth"), BLOCK)


def test_nan_and_infinity_are_holes() -> None:
    for mark in (np.nan, np.inf, -np.inf):
        np.testing.assert_array_equal(filled(np.where(BLOCK, mark, METRES)), BLOCK)


@pytest.mark.parametrize(("white", "dtype"), [(1, np.float32), (255, np.uint8), (65535, np.uint16)])
def test_ends_that_the_values_run_to_are_depths(white: float, dtype: Any) -> None:
    """As in maps that were stretched to 0..255: their nearest point is 0, and the sky, cut off, 255."""
    raw = np.round(np.clip(1.4 * RAMP - 0.2, 0, 1) * white, 3).astype(dtype)
    assert not filled(raw).any()
    np.testing.assert_allclose(relative_stored_depth(raw, "depth"), np.clip(1.4 * RAMP - 0.2, 0, 1), atol=0.005)


def test_the_nearest_pixel_of_a_stretched_map_is_no_hole() -> None:
    """Of float maps the ends are single pixels, some way from all others."""
    raw = np.random.default_rng(0).normal(size=(120, 160)).cumsum(axis=1)
    assert not filled((raw - raw.min()) / np.ptp(raw)).any()


def test_zero_of_inverse_depth_is_far_away() -> None:
    raw = np.where(BLOCK, 0, 1000 + 9000 * RAMP).astype(np.uint16)
    depth = relative_stored_depth(raw, "inverse_depth")
    assert not np.ma.getmaskarray(depth).any()
    assert np.asarray(depth)[BLOCK].min() == 1


@pytest.mark.parametrize("near", [500, 2000, 4000])
def test_few_values_with_holes(near: int) -> None:
    wall = np.where(BLOCK, near, 5000).astype(np.uint16)
    wall[:5, :] = 0
    np.testing.assert_array_equal(filled(wall)[:5], True)
    np.testing.assert_array_equal(filled((wall / 1000).astype(np.float32))[:5], True)


@pytest.mark.parametrize(
    "raw", [np.arange(12.0), np.arange(4), np.array([0, 0.5, 1, 1]), np.array([0, 30000, 65535, 0])]
)
def test_few_values_without_holes(raw: np.ndarray) -> None:
    assert not filled(raw.astype(np.uint16 if raw.max() > 20 else raw.dtype).reshape(2, -1)).any()


def test_a_hole_takes_the_nearest_value_so_that_edges_stay_sharp() -> None:
    wall = np.where(RAMP > 0.5, 5000, 2000 + np.arange(80) % 7).astype(np.uint16)
    wall[30:34, 36:44] = 0
    depth = np.asarray(relative_stored_depth(wall, "depth"))
    assert set(np.unique(depth.round(2))) <= {0.0, 1.0}


@pytest.mark.parametrize("mark", [0, np.nan, 65535])
def test_maps_with_too_many_holes_are_refused(mark: float) -> None:
    count = int(MOST_FILLED * RAMP.size)
    holes = np.zeros(RAMP.shape, bool)
    holes.flat[:count] = True
    raw = 1000 * METRES if np.isnan(mark) else (1000 * METRES).astype(np.uint16)
    assert filled(np.where(holes, mark, raw).astype(raw.dtype)).sum() == count
    holes.flat[count] = True
    with pytest.raises(ValueError, match=rf"depth: {count + 1} of {RAMP.size} depth values are .*; fill them before"):
        relative_stored_depth(np.where(holes, mark, raw).astype(raw.dtype), "depth")


@pytest.mark.parametrize("outlier", [1e4, -1e4])
def test_an_outlier_does_not_flatten_the_rest(outlier: float) -> None:
    raw = METRES.copy()
    raw[0, 0] = outlier
    depth = relative_stored_depth(raw, "depth")
    np.testing.assert_allclose(np.asarray(depth).ravel()[1:], RAMP.ravel()[1:], atol=1e-6)
    assert depth[0, 0] == (1 if outlier > 0 else 0)


def test_a_window_is_no_outlier() -> None:
    raw = np.where(BLOCK, 12 + 3 * RAMP, 1 + 2 * RAMP)
    np.testing.assert_allclose(relative_stored_depth(raw, "depth"), (raw - raw.min()) / np.ptp(raw), atol=1e-6)


def test_constant_maps_stay_constant() -> None:
    for raw in (np.full((5, 6), 7, np.uint16), np.ones((5, 6)), np.full((5, 6), 254, np.uint8)):
        assert not np.asarray(relative_stored_depth(raw, "depth")).any()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((2, 3, 4)), r"shape \(height, width\), not \(2, 3, 4\)"),
        (np.zeros((0, 3)), "shape"),
        (np.array([["near", "far"]]), "real numbers, not <U4"),
        (np.array([[1 + 2j, 3j]]), "real numbers, not complex"),
        (np.array([[False, True]]), "two values only, 0 and 1"),
        (np.array([[3.5, 7, 3.5]]), "two values only, 3.5 and 7"),
    ],
)
def test_what_is_no_depth_is_refused(raw: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"map: .*{message}"):
        relative_stored_depth(raw, "depth", "map")


@pytest.mark.parametrize("mark", [0, 65535])
def test_a_map_in_which_nothing_was_measured(mark: int) -> None:
    with pytest.raises(ValueError, match=rf"^a: 20 of 20 depth values are {mark}, which stands for not measured"):
        relative_stored_depth(np.full((4, 5), mark, np.uint16), "depth", "a")
    assert not relative_stored_depth(np.full((4, 5), 7, np.uint16), "depth", "a").any(), "flat"
