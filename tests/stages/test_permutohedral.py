"""The lattice against a plain dictionary implementation, against the dense Gaussian, and by its exact properties."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch

from stages import permutohedral as module
from stages.permutohedral import PermutohedralLattice


def random_features(n_images: int, n_points: int, d: int, spread: float, seed: int = 0) -> torch.Tensor:
    return (torch.rand(n_images, n_points, d, generator=torch.Generator().manual_seed(seed)) - 0.3) * spread


def plain_filter(features_Pd: np.ndarray, values_PC: np.ndarray) -> tuple[np.ndarray, int]:
    """One image, in float64: nearest remainder-0 point by enumeration, vertices in a dictionary; also counts them."""
    d = features_Pd.shape[1]
    size = d + 1
    elevation = np.zeros((size, d))
    for j in range(1, size):
        elevation[:j, j - 1] = 1
        elevation[j, j - 1] = -j
        elevation[:, j - 1] *= np.sqrt(2 / 3) * size / np.sqrt(j * (j + 1))
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=size))) * size
    entries = []
    vertices: dict[tuple[int, ...], np.ndarray] = defaultdict(lambda: np.zeros(values_PC.shape[1]))
    for feature, value in zip(features_Pd, values_PC, strict=True):
        point = elevation @ feature
        near = np.round(point / size) * size + steps
        near = near[np.abs(near.sum(axis=1)) < 0.5]
        corner = near[np.argmin(((near - point) ** 2).sum(axis=1))]
        order = np.argsort(-(point - corner))
        offset = (point - corner)[order]
        for remainder in range(size):
            vertex = corner.copy()
            vertex[order[: size - remainder]] += remainder
            vertex[order[size - remainder :]] += remainder - size
            if remainder:
                weight = (offset[size - 1 - remainder] - offset[size - remainder]) / size
            else:
                weight = 1 - (offset[0] - offset[-1]) / size
            key = tuple(int(c) for c in np.round(vertex))
            entries.append((key, weight))
            vertices[key] += weight * value
    values = dict(vertices)
    for axis in range(size):
        step = np.ones(size, dtype=int)
        step[axis] = -d
        blurred = {}
        for key, value in values.items():
            before, after = tuple(np.array(key) - step), tuple(np.array(key) + step)
            blurred[key] = value + 0.5 * (values.get(before, 0) + values.get(after, 0))
        values = blurred
    out = np.zeros_like(values_PC)
    for index, (key, weight) in enumerate(entries):
        out[index // size] += weight * values[key] / (1 + 2.0**-d)
    return out, len(values)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
def test_equals_plain_implementation(d: int) -> None:
    features_BPd = random_features(2, 150, d, spread=3.0)
    values_BPC = torch.randn(2, 150, 3, generator=torch.Generator().manual_seed(1))
    lattice = PermutohedralLattice.build(features_BPd)
    got_BPC = lattice.filter(values_BPC)
    n_vertices = 0
    for got, features, values in zip(got_BPC, features_BPd, values_BPC, strict=True):
        expected, count = plain_filter(features.double().numpy(), values.double().numpy())
        np.testing.assert_allclose(got.numpy(), expected, atol=2e-4)
        n_vertices += count
    assert lattice.n_vertices == n_vertices


@pytest.mark.parametrize(("d", "pitch", "mass"), [(1, 0.1, 0.92), (2, 0.15, 0.88), (3, 0.3, 0.83), (4, 0.55, 0.77)])
def test_impulse_response_is_a_unit_gaussian(d: int, pitch: float, mass: float) -> None:
    """Mean 0, variance 1 along every axis and the documented sum, over a dense grid that holds the whole kernel."""
    grid_Pd = torch.cartesian_prod(*[torch.arange(-4.5, 4.51, pitch)] * d).view(-1, d)
    centre = int(grid_Pd.square().sum(1).argmin())
    impulse_BPC = torch.zeros(1, len(grid_Pd), 1)
    impulse_BPC[0, centre] = 1
    generator = torch.Generator().manual_seed(0)
    # The kernel depends on where in its simplex a point lies: the mean over some places counts.
    kernel_P = torch.zeros(len(grid_Pd), dtype=torch.float64)
    for _ in range(12):
        shifted_BPd = (grid_Pd + 10 * torch.rand(d, generator=generator))[None]
        kernel_P += PermutohedralLattice.build(shifted_BPd).filter(impulse_BPC)[0, :, 0].double() / 12
    offsets_Pd = (grid_Pd - grid_Pd[centre]).double()
    exact_P = torch.exp(-0.5 * offsets_Pd.square().sum(1))
    total = kernel_P.sum()
    assert (total / exact_P.sum()).item() == pytest.approx(mass, abs=0.01)
    torch.testing.assert_close(kernel_P @ offsets_Pd / total, torch.zeros(d).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(kernel_P @ offsets_Pd.square() / total, torch.ones(d).double(), atol=0.05, rtol=0)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_normalised_filter_approximates_the_dense_gaussian(d: int) -> None:
    features_BPd = random_features(1, 1500, d, spread=4.0)
    signal_BPC = torch.sin(features_BPd[:, :, :1])
    lattice = PermutohedralLattice.build(features_BPd)
    got_P = (lattice.filter(signal_BPC) / lattice.filter(torch.ones_like(signal_BPC))).flatten()
    kernel_PP = torch.exp(-0.5 * torch.cdist(features_BPd[0], features_BPd[0]).square())
    exact_P = (kernel_PP @ signal_BPC[0] / kernel_PP.sum(1, keepdim=True)).flatten()
    assert (got_P - exact_P).square().mean().sqrt() < 0.12 * exact_P.std()
    assert torch.corrcoef(torch.stack([got_P, exact_P]))[0, 1] > 0.99


def test_is_linear_and_positive() -> None:
    lattice = PermutohedralLattice.build(random_features(1, 400, 5, spread=4.0))
    x, y = torch.rand(2, 1, 400, 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        lattice.filter(2 * x - 3 * y), 2 * lattice.filter(x) - 3 * lattice.filter(y), atol=1e-3, rtol=1e-4
    )
    assert (lattice.filter(x) > 0).all()


def test_normalised_filter_keeps_constants_and_bounds() -> None:
    lattice = PermutohedralLattice.build(random_features(2, 400, 4, spread=6.0))
    ones = lattice.filter(torch.ones(2, 400, 1))
    torch.testing.assert_close(lattice.filter(torch.full((2, 400, 1), 7.5)) / ones, torch.full((2, 400, 1), 7.5))
    values = torch.rand(2, 400, 3, generator=torch.Generator().manual_seed(3))
    smooth = lattice.filter(values) / ones
    assert smooth.min() >= values.min()
    assert smooth.max() <= values.max()


@pytest.mark.parametrize("n_keys", [1000, 1 << 61])
def test_keys_are_sorted_and_found_whatever_they_may_grow_to(n_keys: int) -> None:
    """Up to some size by packing and by pages, beyond it by torch's sort and search."""
    keys_P = torch.from_numpy(np.random.default_rng(0).integers(0, 1000, 700))
    sorted_P, order_P = module._stable_sort(keys_P, n_keys)
    np.testing.assert_array_equal(order_P.numpy(), np.argsort(keys_P.numpy(), kind="stable"))
    np.testing.assert_array_equal(sorted_P.numpy(), keys_P.numpy()[order_P.numpy()])
    distinct = np.unique(keys_P.numpy())
    wanted = np.arange(1000).reshape(2, 500)
    index = module._Index(n_keys, torch.device("cpu"))
    found = index.places(torch.from_numpy(distinct), torch.from_numpy(wanted)).numpy()
    assert torch.equal(index.places(torch.tensor([7]), torch.from_numpy(wanted)) >= 0, torch.from_numpy(wanted) == 7)
    assert found.dtype == np.int32
    there = np.isin(wanted, distinct)
    assert 0.2 < there.mean() < 0.8
    assert (found[~there] == -1).all()
    np.testing.assert_array_equal(distinct[found[there]], wanted[there])


def test_batch_equals_single_bit_for_bit() -> None:
    features_BPd = random_features(3, 300, 5, spread=3.0)
    values_BPC = torch.randn(3, 300, 4, generator=torch.Generator().manual_seed(4))
    batched = PermutohedralLattice.build(features_BPd).filter(values_BPC)
    for b in range(3):
        single = PermutohedralLattice.build(features_BPd[b : b + 1])
        assert torch.equal(batched[b], single.filter(values_BPC[b : b + 1])[0])
        assert torch.equal(batched[b, :, :1], single.filter(values_BPC[b : b + 1, :, :1])[0])


def test_images_of_a_batch_do_not_mix() -> None:
    features_BPd = random_features(1, 200, 3, spread=2.0).repeat(2, 1, 1)
    values_BPC = torch.stack([torch.ones(200, 1), torch.zeros(200, 1)])
    out_BPC = PermutohedralLattice.build(features_BPd).filter(values_BPC)
    assert (out_BPC[0] > 0).all()
    assert (out_BPC[1] == 0).all()


def test_far_points_do_not_see_each_other() -> None:
    features_BPd = torch.tensor([[[0.0, 0.0], [30.0, 0.0], [0.0, -30.0]]])
    out_BPC = PermutohedralLattice.build(features_BPd).filter(torch.eye(3)[None])
    assert torch.equal(out_BPC[0] > 0, torch.eye(3, dtype=torch.bool))


def test_scaled_is_diag_kernel_diag() -> None:
    lattice = PermutohedralLattice.build(random_features(2, 100, 3, spread=2.0))
    scale_BP1, values_BPC = torch.rand(2, 100, 1), torch.rand(2, 100, 2)
    expected = scale_BP1 * lattice.filter(scale_BP1 * values_BPC)
    torch.testing.assert_close(lattice.scaled(scale_BP1).filter(values_BPC), expected)


def test_one_point() -> None:
    lattice = PermutohedralLattice.build(torch.tensor([[[1.2, -3.4]]]))
    assert lattice.n_vertices == 3
    assert lattice.filter(torch.ones(1, 1, 1)).item() > 0


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(5, 2), "float32 tensor"),
        (torch.zeros(1, 5, 2, dtype=torch.float64), "float32 tensor"),
        (torch.zeros(1, 0, 2), "without an empty axis"),
        (torch.tensor([[[0.0, float("nan")]]]), "finite"),
        (torch.tensor([[[0.0, float("inf")]]]), "finite"),
        (torch.tensor([[[0.0, 1e7]]]), "larger standard deviation"),
        (torch.eye(5)[None] * 6e4, "64-bit keys"),
        (torch.zeros(1, 1, 1).expand(1, 1 << 30, 1), "32-bit indices"),
    ],
)
def test_refuses_bad_features(features: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PermutohedralLattice.build(features)


def test_refuses_values_of_other_points() -> None:
    lattice = PermutohedralLattice.build(torch.zeros(2, 5, 2))
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        lattice.filter(torch.zeros(2, 4, 1))
