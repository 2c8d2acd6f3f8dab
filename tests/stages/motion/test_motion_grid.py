"""The coarse grid, and how far its points speak for their surroundings: against all points and pixels one by one."""

import numpy as np
import pytest
import scipy.stats

from stages.motion.camera import Camera
from stages.motion.grid import REACH, Grid, Surroundings, make_grid

CAMERA = Camera(150, 120, 60, 30, 0.5)
SIZE = (90, 150)
EXTENT = 0.05


@pytest.fixture(scope="module")
def grid() -> Grid:
    return make_grid(SIZE, 0.1)


def brute(grid: Grid, assigned_N: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """At one pixel: the largest log density and the largest probability of an assigned point in nine by nine cells."""
    log, share = -np.inf, 0.0
    own_row, own_column = row * grid.shape[0] // grid.size[0], column * grid.shape[1] // grid.size[1]
    for cell in np.flatnonzero(assigned_N):
        cell_row, cell_column = divmod(cell, grid.shape[1])
        if abs(cell_row - own_row) > REACH or abs(cell_column - own_column) > REACH:
            continue
        dx = (grid.columns[cell_column] - column) / CAMERA.fx / EXTENT
        dy = (grid.rows[cell_row] - row) / CAMERA.fy / EXTENT
        log = max(log, scipy.stats.norm.logpdf([dx, dy]).sum() - 2 * np.log(EXTENT))
        share = max(share, 4 * scipy.stats.norm.sf(abs(dx)) * scipy.stats.norm.sf(abs(dy)))
    return log, share


def test_points_are_the_centres_of_equal_cells(grid: Grid) -> None:
    assert (grid.shape, grid.count) == ((9, 15), 135)
    assert grid.rows.tolist() == list(range(5, 90, 10))
    assert grid.columns.tolist() == list(range(5, 150, 10))
    kitti, cityscapes = make_grid((375, 1242), 0.06), make_grid((640, 1280), 0.06)
    assert (kitti.shape, cityscapes.shape) == ((22, 74), (38, 76))
    assert make_grid((5, 7), 0.06).shape == (1, 1)
    for one in (kitti, cityscapes):
        cells = one.rows * one.shape[0] // one.size[0]
        np.testing.assert_array_equal(cells, np.arange(one.shape[0]))


def test_maps_are_sampled_and_points_found_again(grid: Grid) -> None:
    map_ = np.arange(SIZE[0] * SIZE[1] * 2).reshape(*SIZE, 2)
    sampled = grid.sampled(map_)
    assert sampled.shape == (135, 2)
    rows, columns = grid.pixels(np.arange(135))
    np.testing.assert_array_equal(sampled, map_[rows, columns])


def test_cells_hold_pixels(grid: Grid) -> None:
    for share in (0.06, 0.1, 0.13):
        one = make_grid(SIZE, share)
        for axis in (0, 1):
            cells = np.arange(SIZE[axis]) * one.shape[axis] // SIZE[axis]
            np.testing.assert_array_equal(
                np.flatnonzero((cells >= 2) & (cells < 4)), np.arange(SIZE[axis])[one.between(axis, 2, 4)]
            )
    assert grid.between(0, -4, 2) == slice(0, 20)
    assert grid.between(1, 13, 40) == slice(130, 150)


def test_the_best_assigned_point_speaks_for_a_place(grid: Grid) -> None:
    rng = np.random.default_rng(0)
    assigned_KN = np.stack([rng.random(135) < 0.03, rng.random(135) < 0.2, np.zeros(135, bool)])
    assert assigned_KN[0].any()
    surroundings = Surroundings(grid, CAMERA, EXTENT)
    shares = surroundings.shares(assigned_KN)
    rows_n, columns_n = rng.integers(0, SIZE[0], 200), rng.integers(0, SIZE[1], 200)
    logs = surroundings.log_density(assigned_KN, rows_n, columns_n)
    for k, assigned_N in enumerate(assigned_KN):
        for cell, (row, column) in enumerate(zip(*grid.pixels(np.arange(135)), strict=True)):
            assert shares[k, cell] == pytest.approx(brute(grid, assigned_N, row, column)[1], abs=1e-6)
        for place, (row, column) in enumerate(zip(rows_n, columns_n, strict=True)):
            assert logs[k, place] == pytest.approx(brute(grid, assigned_N, row, column)[0], rel=1e-4, abs=1e-4)
    assert np.isinf(logs[0]).any()
    assert not shares[2].any()
    assert np.isinf(logs[2]).all()
    np.testing.assert_allclose(shares[assigned_KN], 1, rtol=1e-6)
