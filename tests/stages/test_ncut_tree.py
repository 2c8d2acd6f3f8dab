"""The tree of cuts against dense double-precision eigensolvers and a recursion that is written out in loops."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch

from stages import ncut_tree as module
from stages.affinity import AffinityConfig, similarities
from stages.ncut import NCutConfig
from stages.ncut_tree import Part, TreeConfig, first_cuts, ncut_tree, part_edges

GRID = (12, 11)
N = GRID[0] * GRID[1]
TAU = 0.2
EPSILON = 0.02  # large, so that parts of three clusters and more have a second eigenvector that is well defined
AFFINITY = AffinityConfig(tau=TAU, epsilon=EPSILON)
EXACT = NCutConfig(tolerance=1e-5)
Node = tuple[int, np.ndarray, np.ndarray, float, float]  # depth, mask (Gh, Gw), eigenvector (Gh, Gw), λ₂, λ₃ - λ₂


def nested(seed: int) -> torch.Tensor:
    """Similarities, (1, N, N), of things on a background whose halves are less alike than the patches of a half."""
    rng = np.random.default_rng(seed)
    thing, half = np.zeros(GRID, int), np.zeros(GRID, int)
    for label, (top, left) in enumerate([(1, 1), (6, 4), (2, 7)], start=1):
        rows, columns = rng.integers(3, 6), rng.integers(3, 5)
        thing[top : top + rows, left : left + columns] = label
        half[top : top + rows // 2, left : left + columns] = label
    things, halves = rng.normal(size=(4, 24)), rng.normal(size=(4, 24))
    features = things[thing] + 0.7 * halves[half] + 0.35 * rng.normal(size=(*GRID, 24))
    return similarities(torch.from_numpy(features.reshape(1, N, 24)))


def search(
    similarity_BNN: torch.Tensor, config: TreeConfig, affinity: AffinityConfig = AFFINITY, solver: NCutConfig = EXACT
) -> list[list[Part]]:
    return ncut_tree(similarity_BNN, first_cuts(similarity_BNN, affinity, solver), GRID, config, affinity, solver)


def dense_second(similarity_nn: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Second eigenvector of (D - A) x = λ D x of the graph joined at its mean and no lower than τ, its λ, and the gap
    to the next."""
    a_nn = np.where(similarity_nn > max(TAU, similarity_nn.mean()), 1.0, EPSILON)
    d_nn = np.diag(a_nn.sum(axis=1))
    values, vectors = scipy.linalg.eigh(d_nn - a_nn, d_nn)
    return vectors[:, 1], float(values[1]), float(values[2] - values[1])


def flooded(side: set[int]) -> list[set[int]]:
    """4-connected components of a set of flat patch indices, by flooding."""
    left, components = set(side), []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            patch = edge.pop()
            component.add(patch)
            row, column = divmod(patch, GRID[1])
            for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= y < GRID[0] and 0 <= x < GRID[1] and y * GRID[1] + x in left:
                    left.remove(y * GRID[1] + x)
                    edge.append(y * GRID[1] + x)
        components.append(component)
    return components


def naive_tree(similarity_NN: np.ndarray, config: TreeConfig) -> Iterator[Node]:
    """Every part of the tree, by recursion."""
    least = int(config.min_area * N)

    def cut(patches: list[int], depth: int) -> Iterator[Node]:
        x_n, eigenvalue, gap = dense_second(similarity_NN[np.ix_(patches, patches)])
        for sign in (1.0, -1.0):
            turned = dict(zip(patches, sign * x_n, strict=True))
            mean = sum(turned.values()) / len(turned)
            for component in flooded({patch for patch in patches if turned[patch] > mean}):
                if len(component) <= least:
                    continue
                if len(component) <= config.max_area * N:
                    mask_N, whole_N = np.zeros(N, bool), np.zeros(N)
                    mask_N[list(component)], whole_N[patches] = True, sign * x_n
                    yield depth, mask_N.reshape(GRID), whole_N.reshape(GRID), eigenvalue, gap
                if depth < config.depth and len(component) > max(2 * least, 2):
                    yield from cut(sorted(component), depth + 1)

    yield from cut(list(range(N)), 1)


def by_mask(nodes: Iterator[Node]) -> dict[tuple[int, bytes], Node]:
    """No two parts of one depth have the same patches."""
    return {(node[0], node[1].tobytes()): node for node in nodes}


def of_parts(parts: list[Part]) -> Iterator[Node]:
    return ((part.depth, part.mask, part.eigenvector, part.eigenvalue, part.gap) for part in parts)


def same_parts(one: list[Part], other: list[Part]) -> None:
    """To the last bit, and in the same order."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
        np.testing.assert_array_equal(a.eigenvector, b.eigenvector)
        assert (a.eigenvalue, a.gap, a.depth) == (b.eigenvalue, b.gap, b.depth)


@pytest.mark.parametrize("seed", range(6))
def test_the_first_cut_equals_dense_eigh_and_scipy_label(seed: int) -> None:
    similarity_BNN = nested(seed)
    config = TreeConfig(depth=1, min_area=0.02, max_area=0.95)
    (parts,) = search(similarity_BNN, config)
    x_N, eigenvalue, _ = dense_second(similarity_BNN[0].double().numpy())
    expected = []
    for side_N in (x_N > x_N.mean(), x_N <= x_N.mean()):
        labels, count = scipy.ndimage.label(side_N.reshape(GRID))
        masks = [labels == k for k in range(1, count + 1)]
        expected += [mask for mask in masks if int(0.02 * N) < mask.sum() <= 0.95 * N]
    assert len(expected) >= 2
    assert {part.mask.tobytes() for part in parts} == {mask.tobytes() for mask in expected}
    assert len(parts) == len(expected)
    for part in parts:
        assert part.depth == 1
        assert part.mask.shape == part.eigenvector.shape == GRID
        assert part.mask.dtype == bool
        assert part.eigenvector.dtype == np.float32
        assert part.eigenvalue == pytest.approx(eigenvalue, abs=2e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "config", [TreeConfig(depth=3, min_area=0.02), TreeConfig(depth=4, min_area=0.03, max_area=0.3)]
)
def test_the_tree_equals_a_naive_recursion(seed: int, config: TreeConfig) -> None:
    similarity_BNN = nested(seed)
    (parts,) = search(similarity_BNN, config)
    expected = by_mask(naive_tree(similarity_BNN[0].double().numpy(), config))
    found = by_mask(of_parts(parts))
    assert len(found) == len(parts)
    assert found.keys() == expected.keys()
    assert max(part.depth for part in parts) == config.depth
    assert [part.depth for part in parts] == sorted(part.depth for part in parts)
    for key, (_, _, x, eigenvalue, gap) in found.items():
        _, _, dense, dense_eigenvalue, dense_gap = expected[key]
        assert dense_gap > 1e-3, "the reference's cut is defined"
        assert eigenvalue == pytest.approx(dense_eigenvalue, abs=1e-5)
        assert gap == pytest.approx(dense_gap, rel=0.1, abs=1e-3)
        np.testing.assert_array_equal(x != 0, dense != 0)
        cosine = (x * dense).sum() / np.linalg.norm(x) / np.linalg.norm(dense)
        assert cosine > 1 - 1e-6, "turned the same way, too"


@pytest.mark.parametrize("seed", range(4))
def test_parts_lie_above_the_mean_of_what_was_cut(seed: int) -> None:
    (parts,) = search(nested(seed), TreeConfig(depth=4, max_area=0.99))
    masks = {(part.depth, part.mask.tobytes()) for part in parts}
    for part in parts:
        cut = part.eigenvector != 0
        assert cut.all() if part.depth == 1 else (part.depth - 1, cut.tobytes()) in masks
        assert not (part.mask & ~cut).any()
        mean = part.eigenvector[cut].mean()
        assert (part.eigenvector[part.mask] >= mean).all()
        assert part.eigenvector[part.mask].mean() > mean
        # the lowest patch, LocalCut's sink, is one of those that were cut off
        assert not part.mask.flat[part.eigenvector.argmin()]
        assert scipy.ndimage.label(part.mask)[1] == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_solvers_sign_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity_BNN, config = nested(seed), TreeConfig(depth=3)
    (parts,) = search(similarity_BNN, config)
    solve = module.ncut

    def negated(*arguments: object) -> object:
        result = solve(*arguments)  # type: ignore[arg-type]
        return dataclasses.replace(result, eigenvector_BN=-result.eigenvector_BN)

    monkeypatch.setattr(module, "ncut", negated)
    (turned,) = search(similarity_BNN, config)
    same_parts(parts, turned)


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    similarity_BNN, config = torch.cat([nested(seed) for seed in range(4)]), TreeConfig(depth=3)
    together = search(similarity_BNN, config)
    for image in range(4):
        (alone,) = search(similarity_BNN[image : image + 1], config)
        same_parts(together[image], alone)
    same_parts(together[0], search(similarity_BNN, config)[0])


def test_graphs_of_many_sizes_solved_together_as_on_a_gpu() -> None:
    """Padded to one batch they have the eigenvectors that they have alone."""
    whole_NN = nested(0)[0]
    parts = [module._Open(0, patches_n, whole_NN) for patches_n in (np.r_[:N], np.r_[:80], np.r_[40:60], np.r_[:3])]
    result = module._ncut_padded(parts, AFFINITY, EXACT)
    for k, part in enumerate(parts):
        n = len(part.patches_n)
        ((x_n, eigenvalue, gap),) = first_cuts(whole_NN[part.patches_n][None, :, part.patches_n], AFFINITY, EXACT)
        padded_N = result.eigenvector_BN[k].numpy()
        assert (padded_N[n:] == 0).all()
        assert abs(padded_N[:n] @ x_n) == pytest.approx(1.0, abs=1e-6)
        assert float(result.eigenvalue_B[k]) == pytest.approx(eigenvalue, abs=2e-6)
        assert float(result.gap_B[k]) == pytest.approx(gap, rel=0.1, abs=1e-3)


def test_parts_are_of_the_sizes_asked_for() -> None:
    """A background over the greatest area is no candidate, but what it falls into may be; specks are neither."""
    similarity_BNN = nested(1)
    (everything,) = search(similarity_BNN, TreeConfig(depth=3, min_area=0.0, max_area=1.0))
    areas = [int(part.mask.sum()) for part in everything]
    assert min(areas) == 1
    large = max(areas)
    assert large > N / 2
    (smaller,) = search(similarity_BNN, TreeConfig(depth=3, min_area=0.0, max_area=(large - 0.5) / N))
    assert max(part.mask.sum() for part in smaller) < large
    assert len(smaller) == sum(area < large for area in areas)
    (larger,) = search(similarity_BNN, TreeConfig(depth=3, min_area=5.5 / N, max_area=1.0))
    assert 5 < min(part.mask.sum() for part in larger) < 10
    assert 0 < min(areas) < 5
    # every part of all is found again, but for specks and what comes of parts of at most twice the least area
    cuts = [(part.eigenvector != 0).sum() for part in everything]
    kept = [part for part, cut in zip(everything, cuts, strict=True) if part.mask.sum() > 5 and cut > 10]
    same_parts(larger, kept)


@pytest.mark.parametrize("weights", ["binary", "soft"])
def test_edges_of_a_part_are_those_above_its_mean_and_above_tau(weights: str) -> None:
    similarity_nn = nested(2)[0, :30, :30]
    mean = sum(float(value) for row in similarity_nn for value in row) / 900
    for tau in (mean - 0.1, mean + 0.1):
        edges_nn = part_edges(similarity_nn, AffinityConfig(tau=tau, weights=weights))  # type: ignore[arg-type]
        for i in range(30):
            for j in range(30):
                w = float(similarity_nn[i, j])
                joined = w > max(mean, tau)
                assert float(edges_nn[i, j]) == pytest.approx((min(max(w, 0), 1) if weights == "soft" else 1) * joined)
        assert edges_nn.dtype == (torch.float32 if weights == "soft" else torch.bool)


@pytest.mark.parametrize("weights", ["binary", "soft"])
@pytest.mark.parametrize("patches", [[0, 1, 2, 40, 41, 100], [*range(3, 40), *range(50, 90)], [7], [*range(N)]])
def test_edges_of_a_part_are_picked_from_those_of_the_image(weights: Literal["binary", "soft"], patches: list) -> None:
    similarity_NN, affinity = nested(2)[0], AffinityConfig(tau=TAU, weights=weights)
    expected_nn = part_edges(similarity_NN[patches][:, patches].contiguous(), affinity)
    edges_nn = part_edges(similarity_NN, affinity, np.array(patches))
    torch.testing.assert_close(edges_nn, expected_nn, rtol=0, atol=0)


@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_an_image_without_structure_gives_no_error(alike: float) -> None:
    """All patches alike, or all unlike: any cut is as good as any other, and its parts are still parts."""
    (parts,) = search(torch.full((1, N, N), alike), TreeConfig(depth=3))
    for part in parts:
        assert np.isfinite(part.eigenvector).all()
        assert scipy.ndimage.label(part.mask)[1] == 1


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"tree\.depth must be at least 1, got 0"):
        TreeConfig(depth=0)
    for area in ({"min_area": -0.1}, {"min_area": 0.5, "max_area": 0.5}, {"max_area": 1.1}, {"min_area": float("nan")}):
        with pytest.raises(ValueError, match=r"tree\.min_area and max_area must lie in 0\.\.1"):
            TreeConfig(**area)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"affinity\.tau is not set"):
        first_cuts(nested(0), AffinityConfig(), EXACT)
