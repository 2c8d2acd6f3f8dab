"""NCut against dense float64 eigensolvers, on random, planted and degenerate graphs."""

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.linalg
import torch

from stages import ncut as module
from stages.ncut import CACHED, CHECK_EVERY, NCutConfig, NormalisedAffinity, ncut, symmetric_eigenvectors

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


def padded(graphs: Sequence[torch.Tensor], n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Graphs of at most `n` patches as one batch, and which patches are present: a random few, in order. The padding
    holds ones, which must not count.
    """
    rng = np.random.default_rng(seed)
    edges_BNN = torch.ones(len(graphs), n, n)
    present_BN = torch.zeros(len(graphs), n, dtype=torch.bool)
    for image, graph_nn in enumerate(graphs):
        places_n = torch.from_numpy(np.sort(rng.choice(n, len(graph_nn), replace=False)))
        present_BN[image, places_n] = True
        edges_BNN[image, places_n[:, None], places_n] = graph_nn
    return edges_BNN, present_BN


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


def test_the_host_looks_every_few_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU waits whenever a number is copied to the host."""
    monkeypatch.setattr(module, "_lanczos_one_by_one", module._lanczos)
    copies = []
    copied = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or copied(tensor))
    edges_BNN = torch.cat([planted_edges(seed, (50, 30, 20), outside=0.05 * seed) for seed in (1, 2, 3)])
    result = ncut(edges_BNN, torch.ones(3, 100, dtype=torch.bool), EPSILON, NCutConfig())
    steps = int(result.steps_B.max())
    assert steps > CHECK_EVERY
    assert copies == [(2, 3, looked) for looked in range(CHECK_EVERY, steps + 1, CHECK_EVERY)]


def test_batches_as_on_a_gpu_find_what_images_one_by_one_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of planted graphs of many sizes, and of graphs whose Krylov spaces are complete within a step or two."""
    graphs = [planted_edges(seed, (40, 30, 20), outside=0.04 * seed)[0] for seed in range(1, 5)]
    graphs += [graphs[0][:12, :12], torch.ones(30, 30), torch.eye(25), torch.block_diag(torch.ones(9, 9), torch.eye(9))]
    edges_BNN, present_BN = padded(graphs, 95)
    results = []
    for lanczos in (module._lanczos_one_by_one, module._lanczos):
        monkeypatch.setattr(module, "_lanczos_one_by_one", lanczos)
        results.append(ncut(edges_BNN, present_BN, EPSILON, NCutConfig(), present_BN))
    singly, together = results
    planted = slice(0, 4)  # the others have many eigenvectors of one eigenvalue: which is found hangs on the rounding
    for x_N, other_N in zip(singly.eigenvector_BN[planted], together.eigenvector_BN[planted], strict=True):
        assert sine(x_N, other_N.double().numpy()) < 1e-4
    torch.testing.assert_close(singly.eigenvalue_B, together.eigenvalue_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(singly.gap_B, together.gap_B, atol=1e-4, rtol=1e-3)
    assert not singly.dense_B.any()
    assert not together.dense_B.any()


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


def test_a_padded_batch_equals_each_graph_alone() -> None:
    graphs = [planted_edges(seed, sizes)[0] for seed, sizes in enumerate([(60, 40), (30, 20, 13), (9, 8), (2, 1)])]
    edges_BNN, present_BN = padded(graphs, 110)
    together = ncut(edges_BNN, present_BN, EPSILON, NCutConfig(tolerance=1e-5), present_BN)
    assert not together.dense_B.any()
    assert (together.eigenvector_BN[~present_BN] == 0).all()
    for image, graph_nn in enumerate(graphs):
        all_n = torch.ones(len(graph_nn), dtype=torch.bool)
        alone = ncut(graph_nn[None], all_n[None], EPSILON, NCutConfig(tolerance=1e-5))
        values, vectors = reference(dense_affinity(graph_nn, all_n))
        x_n = together.eigenvector_BN[image, present_BN[image]]
        assert sine(x_n, alone.eigenvector_BN[0].double().numpy()) < 1e-4
        assert sine(x_n, vectors[:, 1]) < 1e-4
        assert together.eigenvalue_B[image].item() == pytest.approx(values[1], abs=2e-6)
        assert together.gap_B[image].item() == pytest.approx(values[2] - values[1], rel=0.1, abs=1e-6)
        assert together.residual_B[image].item() < 1e-5


def test_taken_patches_of_a_padded_graph() -> None:
    """Taken patches keep ε edges to all present ones, padding none: two masks that must not be mixed up."""
    graphs = [planted_edges(seed, (30, 25))[0] for seed in range(2)]
    edges_BNN, present_BN = padded(graphs, 70)
    alive_BN = present_BN.clone()
    for image in range(2):
        alive_BN[image, torch.nonzero(present_BN[image])[:6, 0]] = False
    result = ncut(edges_BNN, alive_BN, EPSILON, NCutConfig(tolerance=1e-5), present_BN)
    for image, graph_nn in enumerate(graphs):
        values, vectors = reference(dense_affinity(graph_nn, alive_BN[image, present_BN[image]]))
        assert result.eigenvalue_B[image].item() == pytest.approx(values[1], abs=2e-6)
        assert sine(result.eigenvector_BN[image, present_BN[image]], vectors[:, 1]) < 1e-3
    assert (result.eigenvector_BN[~present_BN] == 0).all()


def test_the_operator_of_a_padded_graph_is_its_dense_matrix() -> None:
    graphs = [planted_edges(3, (20, 20))[0], planted_edges(4, (12, 5))[0]]
    edges_BNN, present_BN = padded(graphs, 50)
    operator = NormalisedAffinity(edges_BNN, present_BN, EPSILON, present_BN)
    vector_BN = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    product_BN = operator(vector_BN)
    assert (product_BN[~present_BN] == 0).all()
    assert (operator.trivial_BN[~present_BN] == 0).all()
    for image, graph_nn in enumerate(graphs):
        present_N = present_BN[image]
        m_nn = operator.dense(image)
        a_nn = dense_affinity(graph_nn, torch.ones(len(graph_nn)))
        scale_n = a_nn.sum(axis=1) ** -0.5
        np.testing.assert_allclose(m_nn.numpy(), scale_n[:, None] * a_nn * scale_n, rtol=1e-9)
        torch.testing.assert_close(
            product_BN[image, present_N].double(), m_nn @ vector_BN[image, present_N].double(), atol=1e-5, rtol=1e-5
        )
        top_n = np.linalg.eigh(m_nn.numpy())[1][:, -1]
        assert abs(top_n @ operator.trivial_BN[image, present_N].double().numpy()) == pytest.approx(1.0, abs=1e-6)


def test_the_dense_solver_takes_over_on_padded_graphs() -> None:
    graphs = [planted_edges(seed, (n, n, n), inside=0.5, outside=0.3)[0] for seed, n in ((5, 60), (6, 40))]
    edges_BNN, present_BN = padded(graphs, 200)
    result = ncut(edges_BNN, present_BN, EPSILON, NCutConfig(tolerance=1e-6, max_steps=8), present_BN)
    assert result.dense_B.all()
    assert (result.eigenvector_BN[~present_BN] == 0).all()
    for image, graph_nn in enumerate(graphs):
        values, vectors = reference(dense_affinity(graph_nn, torch.ones(len(graph_nn))))
        assert result.eigenvalue_B[image].item() == pytest.approx(values[1], abs=2e-6)
        assert result.gap_B[image].item() == pytest.approx(values[2] - values[1], abs=2e-6)
        assert sine(result.eigenvector_BN[image, present_BN[image]], vectors[:, 1]) < 1e-4


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
    few_BN = torch.ones(2, 9, dtype=torch.bool)
    few_BN[1, 2:] = False
    with pytest.raises(ValueError, match="at least 3 patches, got 2"):
        ncut(torch.ones(2, 9, 9), few_BN, EPSILON, NCutConfig(), few_BN)


@pytest.mark.parametrize("n", [200, CACHED + 100])
def test_bool_edges_are_the_same_graph(n: int) -> None:
    """Large graphs are multiplied by bytes, small ones as floats: with patches taken and padding, too."""
    edges_BNN = planted_edges(11, (n // 2, n // 4, n - n // 2 - n // 4))
    alive_BN, present_BN = torch.ones(1, n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool)
    alive_BN[0, ::7], present_BN[0, -n // 10 :] = False, False
    config = NCutConfig(tolerance=1e-5)
    floats, bools = (ncut(edges, alive_BN, EPSILON, config, present_BN) for edges in (edges_BNN, edges_BNN.bool()))
    assert not bools.dense_B.any()
    torch.testing.assert_close(bools.eigenvalue_B, floats.eigenvalue_B, atol=1e-5, rtol=1e-4)
    assert sine(bools.eigenvector_BN[0], floats.eigenvector_BN[0].double().numpy()) < 1e-4
    assert (bools.eigenvector_BN[~present_BN] == 0).all()


def dense_symmetric(edges_NN: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors (rows) of I - D^-½ A D^-½, ascending."""
    a_NN = dense_affinity(edges_NN, torch.ones(len(edges_NN), dtype=torch.bool))
    root_N = np.sqrt(a_NN.sum(axis=1))
    values, vectors = scipy.linalg.eigh(np.eye(len(a_NN)) - a_NN / root_N[:, None] / root_N)
    return values, vectors.T


def test_unscaled_eigenvectors_are_those_of_the_symmetric_laplacian() -> None:
    graphs = [planted_edges(seed, (30, 22, 14, 9))[0] for seed in range(3)]
    found_BkN = symmetric_eigenvectors(torch.stack(graphs), EPSILON, NCutConfig(tolerance=1e-5), 3)
    for found_kN, graph in zip(found_BkN.double().numpy(), graphs, strict=True):
        _, expected_kN = dense_symmetric(graph)
        np.testing.assert_allclose(np.abs((found_kN * expected_kN[1:4]).sum(axis=1)), 1.0, atol=1e-5)
    scaled_N = ncut(graphs[0][None], torch.ones(1, 75, dtype=torch.bool), EPSILON, NCutConfig()).eigenvector_BN[0]
    a_NN = dense_affinity(graphs[0], torch.ones(75, dtype=torch.bool))
    back_N = found_BkN[0, 0].double().numpy() / np.sqrt(a_NN.sum(axis=1))
    assert abs(float(back_N @ scaled_N.double().numpy()) / np.linalg.norm(back_N)) > 1 - 1e-5


@pytest.mark.parametrize("config", [NCutConfig(), NCutConfig(tolerance=1e-6, max_steps=8)])
def test_equal_eigenvalues_have_different_eigenvectors(config: NCutConfig) -> None:
    """Four equal communities without an edge between them: λ₂ = λ₃ = λ₄. By Lanczos, and where the dense solver has to
    take over.
    """
    edges_BNN = torch.block_diag(*[torch.ones(10, 10)] * 4)[None]
    found_kN = symmetric_eigenvectors(edges_BNN, EPSILON, config, 3)[0].double().numpy()
    np.testing.assert_allclose(found_kN @ found_kN.T, np.eye(3), atol=1e-4)
    for vector_N in found_kN:
        np.testing.assert_allclose(vector_N.reshape(4, 10).std(axis=1), 0.0, atol=1e-4)


def test_more_eigenvectors_than_there_are() -> None:
    with pytest.raises(ValueError, match="4 patches have 2 eigenvectors to look at, not 3"):
        symmetric_eigenvectors(torch.ones(1, 4, 4), EPSILON, NCutConfig(), 3)
