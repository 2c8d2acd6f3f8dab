"""NCut against dense float64 eigensolvers, on random, planted and degenerate graphs."""

import numpy as np
import pytest
import scipy.linalg
import torch

from stages.ncut import NCutConfig, NormalisedAffinity, ncut

EPSILON = 1e-5


def planted_edges(seed: int, sizes: tuple[int, ...], inside: float = 0.9, outside: float = 0.1) -> torch.Tensor:
    """A random 0/1 graph of communities of these sizes, (1, N, N)."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(label[:, None] == label, inside, outside)
    upper = np.triu(rng.random(chance.shape) < chance, 1)
    return torch.from_numpy((upper | upper.T | np.eye(len(label), dtype=bool)).astype(np.float32))[None]


def dense_affinity(edges_NN: torch.Tensor, alive_N: torch.Tensor) -> np.ndarray:
    """CutLER's matrix written out: edges of taken patches are ε, like all absent ones."""
    kept = edges_NN.double().numpy() * alive_N.double().numpy()[:, None] * alive_N.double().numpy()
    return EPSILON + (1 - EPSILON) * kept


def reference(a_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All eigenpairs of (D - A) x = λ D x, ascending, by scipy's generalised dense solver."""
    d_NN = np.diag(a_NN.sum(axis=1))
    return scipy.linalg.eigh(d_NN - a_NN, d_NN)


def sine(x_N: torch.Tensor, reference_N: np.ndarray) -> float:
    x, y = x_N.double().numpy(), reference_N
    cosine = abs(x @ y) / np.linalg.norm(x) / np.linalg.norm(y)
    return float(np.sqrt(max(0.0, 1 - cosine**2)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("taken", [0, 30])
def test_equals_dense_generalised_eigh(seed: int, taken: int) -> None:
    edges_BNN = planted_edges(seed, (90, 60, 50))
    alive_BN = torch.ones(1, 200, dtype=torch.bool)
    alive_BN[0, :taken] = False
    values, vectors = reference(dense_affinity(edges_BNN[0], alive_BN[0]))
    result = ncut(edges_BNN, alive_BN, EPSILON, NCutConfig())
    assert not result.dense_B[0]
    assert result.eigenvalue_B[0].item() == pytest.approx(values[1], abs=2e-6)
    assert result.gap_B[0].item() == pytest.approx(values[2] - values[1], rel=0.05)
    assert sine(result.eigenvector_BN[0], vectors[:, 1]) < 2e-3
    same = (result.eigenvector_BN[0] > result.eigenvector_BN[0].mean()).numpy() == (
        vectors[:, 1] > vectors[:, 1].mean()
    )
    assert max(same.mean(), 1 - same.mean()) == 1.0


def test_rayleigh_quotient_and_cut_value_of_the_bipartition() -> None:
    edges_BNN = planted_edges(7, (80, 40), outside=0.05)
    alive_BN = torch.ones(1, 120, dtype=torch.bool)
    result = ncut(edges_BNN, alive_BN, EPSILON, NCutConfig())
    a_NN = dense_affinity(edges_BNN[0], alive_BN[0])
    degree_N = a_NN.sum(axis=1)
    x_N = result.eigenvector_BN[0].double().numpy()
    quotient = (x_N @ (np.diag(degree_N) - a_NN) @ x_N) / (x_N @ (degree_N * x_N))
    assert quotient == pytest.approx(result.eigenvalue_B[0].item(), abs=2e-6)
    group = x_N > x_N.mean()
    cut = a_NN[group][:, ~group].sum()
    ncut_value = cut / degree_N[group].sum() + cut / degree_N[~group].sum()
    planted = np.arange(120) < 80
    planted_cut = a_NN[planted][:, ~planted].sum()
    planted_value = planted_cut / degree_N[planted].sum() + planted_cut / degree_N[~planted].sum()
    assert ncut_value == pytest.approx(planted_value, rel=1e-9), "the planted communities are the cut"
    assert result.eigenvalue_B[0].item() <= ncut_value, "the relaxation bounds the discrete cut from below"


def test_operator_equals_its_dense_matrix() -> None:
    edges_BNN = planted_edges(3, (20, 20))
    alive_BN = torch.ones(1, 40, dtype=torch.bool)
    alive_BN[0, 5:9] = False
    operator = NormalisedAffinity(edges_BNN, alive_BN, EPSILON)
    vector_BN = torch.randn(1, 40, generator=torch.Generator().manual_seed(1))
    expected = operator.dense(0) @ vector_BN[0].double()
    torch.testing.assert_close(operator(vector_BN)[0].double(), expected, atol=1e-5, rtol=1e-5)
    top = np.linalg.eigh(operator.dense(0).numpy())[1][:, -1]
    assert abs(top @ operator.trivial_BN[0].double().numpy()) == pytest.approx(1.0, abs=1e-6)


def test_a_batch_equals_its_images_alone() -> None:
    edges_BNN = torch.cat([planted_edges(seed, (50, 30, 20), outside=0.05 * seed) for seed in (1, 2, 3)])
    alive_BN = torch.ones(3, 100, dtype=torch.bool)
    together = ncut(edges_BNN, alive_BN, EPSILON, NCutConfig())
    for image in range(3):
        alone = ncut(edges_BNN[image : image + 1], alive_BN[image : image + 1], EPSILON, NCutConfig())
        assert together.steps_B[image] == alone.steps_B[0]
        assert sine(together.eigenvector_BN[image], alone.eigenvector_BN[0].double().numpy()) < 1e-5


def test_a_small_gap_falls_back_to_the_dense_solver() -> None:
    """Three communities of one size: λ₂ and λ₃ nearly coincide, and eight steps do not tell them apart."""
    edges_BNN = planted_edges(5, (60, 60, 60), inside=0.5, outside=0.3)
    alive_BN = torch.ones(1, 180, dtype=torch.bool)
    result = ncut(edges_BNN, alive_BN, EPSILON, NCutConfig(tolerance=1e-6, max_steps=8))
    values, vectors = reference(dense_affinity(edges_BNN[0], alive_BN[0]))
    assert result.dense_B[0]
    assert result.residual_B[0].item() < 1e-5
    assert result.eigenvalue_B[0].item() == pytest.approx(values[1], abs=2e-6)
    assert result.gap_B[0].item() == pytest.approx(values[2] - values[1], abs=2e-6)
    assert sine(result.eigenvector_BN[0], vectors[:, 1]) < 1e-4


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_graphs_without_structure_give_a_finite_vector(fill: float) -> None:
    """A blank image: all patches alike (1) or all unlike (0). Every vector is an eigenvector; none must be NaN."""
    result = ncut(torch.full((2, 64, 64), fill), torch.ones(2, 64, dtype=torch.bool), EPSILON, NCutConfig())
    assert torch.isfinite(result.eigenvector_BN).all()
    assert (result.residual_B < 1e-5).all()


def test_all_patches_taken_gives_a_finite_vector() -> None:
    result = ncut(torch.ones(1, 64, 64), torch.zeros(1, 64, dtype=torch.bool), EPSILON, NCutConfig())
    assert torch.isfinite(result.eigenvector_BN).all()


def test_soft_weights_equal_dense() -> None:
    rng = np.random.default_rng(0)
    f = np.concatenate([rng.normal(size=(60, 16)) * 0.7 + 1, rng.normal(size=(60, 16)) * 0.7 - 1]).astype(np.float32)
    unit = torch.nn.functional.normalize(torch.from_numpy(f), dim=1)
    edges_BNN = (unit @ unit.T).clamp(0, 1)[None]
    alive_BN = torch.ones(1, 120, dtype=torch.bool)
    _, vectors = reference(dense_affinity(edges_BNN[0], alive_BN[0]))
    assert sine(ncut(edges_BNN, alive_BN, EPSILON, NCutConfig()).eigenvector_BN[0], vectors[:, 1]) < 2e-3


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"ncut\.tolerance"):
        NCutConfig(tolerance=0)
    with pytest.raises(ValueError, match=r"ncut\.max_steps"):
        NCutConfig(max_steps=3)
    with pytest.raises(ValueError, match="at least 3 patches"):
        ncut(torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), EPSILON, NCutConfig())
