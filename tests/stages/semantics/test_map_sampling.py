"""Maps at points, against torch's own sampling and a plain reference."""

import numpy as np
import pytest
import torch
from support import reference_depthg as reference

from stages.semantics.sampling import MapRows, kept_channels, sample, uniform_points


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("grid", [(5, 7), (28, 28), (1, 6), (1, 1)])
def test_sampling_equals_torch_and_the_reference_also_outside(grid: tuple[int, int]) -> None:
    map_BCHW = maps(3, 4, *grid)
    points = uniform_points(3, 5, generator=torch.Generator().manual_seed(1)).double() * 1.4
    sampled = sample(map_BCHW, points)
    torch.testing.assert_close(
        sampled,
        torch.nn.functional.grid_sample(map_BCHW, points, padding_mode="border", align_corners=True),
    )
    plain = [reference.at_points(m, p).T for m, p in zip(map_BCHW.numpy(), points.numpy(), strict=True)]
    np.testing.assert_allclose(sampled.flatten(2).numpy(), np.stack(plain), atol=1e-12)


def test_corners_are_the_corner_cells() -> None:
    map_BCHW = maps(1, 2, 4, 3)
    corners = torch.tensor([[[[-1.0, -1.0], [1.0, -1.0]], [[-1.0, 1.0], [1.0, 1.0]]]])
    torch.testing.assert_close(sample(map_BCHW, corners), map_BCHW[:, :, ::3, ::2])


def test_points_of_an_image_can_be_looked_up_in_another() -> None:
    map_BCHW, points, others = maps(4, 3, 6, 6), uniform_points(4, 3).double(), torch.tensor([2, 0, 0, 1])
    found = MapRows.of(map_BCHW).at(points, others)
    torch.testing.assert_close(found, MapRows.of(map_BCHW[others]).at(points))


def test_gradients_of_sampling_are_right() -> None:
    points, others = uniform_points(2, 3, generator=torch.Generator().manual_seed(2)).double(), torch.tensor([1, 1])
    map_BCHW = maps(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: MapRows.of(m).at(points), map_BCHW)
    assert torch.autograd.gradcheck(lambda m: MapRows.of(m).at(points, others), map_BCHW)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_interpolated_in_float32(dtype: torch.dtype) -> None:
    map_BCHW, points = maps(2, 3, 6, 6).to(dtype), uniform_points(2, 4)
    sampled = sample(map_BCHW, points)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled, sample(map_BCHW.float(), points))


def test_uniform_points_are_uniform_and_depend_on_the_generator_alone() -> None:
    points = uniform_points(50, 20, generator=torch.Generator().manual_seed(3))
    assert points.shape == (50, 20, 20, 2)
    assert points.min() >= -1
    assert points.max() < 1
    counts = torch.histc(points, bins=10, min=-1, max=1)
    assert (counts / counts.mean() - 1).abs().max() < 0.05
    torch.manual_seed(99)
    torch.testing.assert_close(points, uniform_points(50, 20, generator=torch.Generator().manual_seed(3)))


def test_dropout_keeps_the_mean_and_drops_whole_channels() -> None:
    kept = kept_channels(400, 50, 0.1, "cpu", torch.Generator().manual_seed(4))
    assert set(kept.unique().tolist()) == {0.0, kept.max().item()}
    assert kept.max().item() == pytest.approx(1 / 0.9)
    assert kept.mean().item() == pytest.approx(1, abs=0.01)
    assert (kept_channels(4, 5, 0.0, "cpu") == 1).all()
