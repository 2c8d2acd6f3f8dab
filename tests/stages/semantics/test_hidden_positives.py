"""Local hidden positives by depth: against loops over patches, and in cases with a known answer."""

import numpy as np
import pytest
import torch
from support import reference_depthg as reference

from stages.semantics.hidden_positives import mixed_by_depth


def case(*grid: int, images: int = 2, codes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(sum(grid))
    return torch.from_numpy(rng.standard_normal((images, codes, *grid))), torch.from_numpy(rng.random((images, *grid)))


@pytest.mark.parametrize("grid", [(5, 7), (12, 11), (1, 6)])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_mixed_codes_equal_loops_over_patches(reading: str, grid: tuple[int, int]) -> None:
    codes, depth = case(*grid)
    mix = reference.paper_mix if reading == "paper" else reference.released_mix
    expected = np.stack([mix(c, d) for c, d in zip(codes.numpy(), depth.numpy(), strict=True)])
    np.testing.assert_allclose(mixed_by_depth(codes, depth, reading).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_gradients_of_mixing_are_right(reading: str) -> None:
    codes, depth = case(4, 5)
    assert torch.autograd.gradcheck(lambda c: mixed_by_depth(c, depth, reading), codes.requires_grad_())


def test_codes_do_not_cross_a_step_in_depth() -> None:
    """Left half near, right half far: at the step, codes of the other side count nothing."""
    codes = torch.zeros(1, 1, 10, 10)
    codes[..., 5:] = 1
    depth = torch.full((1, 10, 10), 0.2)
    depth[..., 5:] = 1.0
    mixed = mixed_by_depth(codes, depth)[0, 0]
    assert (mixed[:, :5] == 0).all()
    assert (mixed[:, 5:] > 0.3).all()
    flat = mixed_by_depth(codes, torch.ones(1, 10, 10))[0, 0]
    assert (flat[:, 4] > 0.1).all()


def test_what_a_patch_learns_reaches_its_neighbours_in_space() -> None:
    codes = torch.zeros(1, 2, 8, 8, requires_grad=True)
    depth = torch.full((1, 8, 8), 0.3)
    depth[..., 4:] = 1.0
    mixed_by_depth(codes, depth)[0, :, 4, 3].sum().backward()
    reached = (codes.grad[0, 0] > 0).nonzero().tolist()
    assert reached == [[row, column] for row in (3, 4, 5) for column in (2, 3)]


def test_zero_depth_is_a_plane_in_paper_and_nan_in_released() -> None:
    codes, _ = case(6, 6)
    zeros = torch.zeros(2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(mixed_by_depth(codes, zeros), mixed_by_depth(codes, torch.ones_like(zeros)))
    assert torch.isfinite(mixed_by_depth(codes, zeros)).all()
    assert torch.isnan(mixed_by_depth(codes, zeros, "released")).any()


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_scale_of_depth_does_not_matter_and_finer_depth_is_averaged(reading: str) -> None:
    codes, _ = case(4, 6)
    fine = torch.from_numpy(np.random.default_rng(0).random((2, 8, 18)))
    coarse = fine.reshape(2, 4, 2, 6, 3).mean(dim=(2, 4))
    torch.testing.assert_close(mixed_by_depth(codes, 255 * fine, reading), mixed_by_depth(codes, coarse, reading))


def test_one_patch_is_itself() -> None:
    codes = torch.ones(1, 3, 1, 1)
    assert torch.equal(mixed_by_depth(codes, torch.full((1, 1, 1), 0.5)), codes)
