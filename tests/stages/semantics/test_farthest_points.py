"""Farthest points, against a plain transcription of a description of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference_depthg as reference
from support.rendered_scenes import SceneConfig, majority_depth, render

from stages.semantics.farthest_points import farthest_coordinates, farthest_points, unproject
from stages.semantics.sampling import MapRows


def depths(count: int, *grid: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, *grid)))


# clouds


def test_paper_view_is_90_degrees_wide_and_high() -> None:
    """At depth d the view is 2·d wide: the outer edges of the patches are at x, y = ±d."""
    cloud_HW3 = unproject(torch.full((1, 4, 8), 0.5)).reshape(4, 8, 3)
    half_patch = 0.5 * 2 / 8 / 2
    assert cloud_HW3[0, 0, 0].item() == pytest.approx(-0.5 + half_patch)
    assert cloud_HW3[0, -1, 0].item() == pytest.approx(0.5 - half_patch)
    torch.testing.assert_close(cloud_HW3.flip(0)[..., 1], -cloud_HW3[..., 1])
    torch.testing.assert_close(cloud_HW3.flip(1)[..., 0], -cloud_HW3[..., 0])
    assert (cloud_HW3[..., 2] == 2.5).all()


def test_released_cloud_equals_the_transcription() -> None:
    depth = depths(2, 5, 6)
    expected = np.stack([reference.released_cloud(d) for d in depth.numpy()])
    np.testing.assert_allclose(unproject(depth, "released").numpy(), expected, atol=1e-12)
    assert 2 * math.tan(90 / 2) == pytest.approx(3.24, abs=0.01)


# indices


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_farthest_points_equal_the_transcription(images: int, n: int, seed: int, coarse: bool) -> None:
    """Coarse coordinates make many distances equal: the first of the points is taken, as in NumPy."""
    rng = np.random.default_rng(seed)
    cloud = rng.integers(0, 3, (images, n, 3)).astype(float) if coarse else rng.random((images, n, 3))
    count = int(rng.integers(1, n + 1))
    chosen = farthest_points(torch.from_numpy(cloud), count)
    assert chosen.tolist() == [reference.farthest(each, count) for each in cloud]


def test_the_first_points_are_those_of_a_smaller_count() -> None:
    cloud = unproject(depths(3, 14, 14))
    assert torch.equal(farthest_points(cloud, 60)[:, :25], farthest_points(cloud, 25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cloud_in_one_place_gives_its_first_points(dtype: torch.dtype) -> None:
    cloud = torch.zeros((2, 9, 3), dtype=dtype)
    assert farthest_points(cloud, 9).tolist() == [list(range(9))] * 2


def test_all_points_are_chosen_once() -> None:
    cloud = unproject(torch.full((1, 6, 7), 0.3))
    assert sorted(farthest_points(cloud, 42)[0].tolist()) == list(range(42))


@pytest.mark.parametrize("count", [0, -1, 10])
def test_a_count_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 9 of 9 points"):
        farthest_points(torch.zeros((1, 9, 3)), count)


def test_scale_does_not_matter() -> None:
    """8-bit depth maps, 0 to 255, give the points of maps from 0 to 1."""
    depth = depths(2, 12, 12)
    for reading in ("paper", "released"):
        assert torch.equal(
            farthest_points(unproject(depth, reading), 36), farthest_points(unproject(255 * depth, reading), 36)
        )


# coordinates


@pytest.mark.parametrize("grid", [(9, 9), (7, 12)])
def test_released_coordinates_equal_the_transcription(grid: tuple[int, int]) -> None:
    depth = depths(3, *grid, seed=5)
    points = farthest_coordinates(depth, 4, grid, "released")
    expected = np.stack([reference.released_points(d, 4) for d in depth.numpy()])
    np.testing.assert_allclose(points.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(9, 9), (7, 12), (1, 9)])
def test_paper_coordinates_read_the_very_patches(grid: tuple[int, int]) -> None:
    depth = depths(2, *grid, seed=6)
    side = 3
    points = farthest_coordinates(depth, side, grid)
    numbers_BHW = torch.arange(grid[0] * grid[1], dtype=torch.float64).reshape(1, *grid).expand(2, *grid)
    read = MapRows.of(numbers_BHW[:, None]).at(points.double())[..., 0]
    expected = farthest_points(unproject(depth), side * side).sort(dim=1).values
    torch.testing.assert_close(read, expected.double(), atol=1e-4, rtol=0)


def test_released_samples_lie_at_the_transposed_place() -> None:
    """A view into the distance at the upper right, where most of the space is: `paper` samples it, `released` the
    lower left of the image instead.
    """
    depth = torch.full((1, 28, 28), 0.2)
    depth[:, :8, 20:] = 1.0
    upper_right = (depth == 1).float()
    shares = {}
    for reading in ("paper", "released"):
        points = farthest_coordinates(depth, 6, (28, 28), reading)
        shares[reading] = [
            MapRows.of(corner[:, None]).at(points).mean().item() for corner in (upper_right, upper_right.mT)
        ]
    assert shares["paper"][0] > 0.5 > 0.1 > shares["paper"][1]
    assert shares["released"][1] > 0.5 > 0.1 > shares["released"][0]


def test_zero_depth_spreads_over_the_image_in_paper_and_not_in_released() -> None:
    zeros = torch.zeros((1, 28, 28))
    paper, released = (farthest_coordinates(zeros, 11, (28, 28), reading) for reading in ("paper", "released"))
    for axis in (0, 1):  # evenly over the width and over the height
        counts = torch.histc(paper[..., axis], bins=4, min=-1, max=1)
        assert counts.min() > 0.6 * 121 / 4
    first = torch.tensor([(index // 28 / 28, index % 28 / 28) for index in range(121)]) * 2 - 1
    torch.testing.assert_close(released.reshape(-1, 2), first)


def test_finer_depth_is_averaged_over_the_patches() -> None:
    fine = depths(2, 24, 36)
    coarse = fine.reshape(2, 8, 3, 12, 3).mean(dim=(2, 4))
    torch.testing.assert_close(farthest_coordinates(fine, 5, (8, 12)), farthest_coordinates(coarse, 5, (8, 12)))


def test_more_points_than_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"11·11 farthest points cannot be chosen from 10×12 patches"):
        farthest_coordinates(torch.zeros((1, 10, 12)), 11, (10, 12))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_rendered_scene_is_covered_better_than_by_chance(seed: int) -> None:
    """No patch is as far, in space, from the nearest point as with as many random patches."""
    scene = render(SceneConfig(n_objects=2, depth_gap=0.3, thickness=0.2, seed=seed))
    cloud_N3 = unproject(torch.from_numpy(majority_depth(scene, (24, 24)))[None])[0]

    def farthest_from(chosen: torch.Tensor) -> float:
        return torch.cdist(cloud_N3, cloud_N3[chosen]).amin(dim=1).max().item()

    covered = farthest_from(farthest_points(cloud_N3[None], 49)[0])
    generator = torch.Generator().manual_seed(seed)
    by_chance = [farthest_from(torch.randperm(24 * 24, generator=generator)[:49]) for _ in range(100)]
    assert covered < min(by_chance)
