"""Cluster probe, linear probe and k-means of directions, against brute force and planted clusters."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.semantics.clusters import ClusterProbe, LinearProbe, cosine_kmeans


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def planted(clusters: int, each: int, width: int = 16, noise: float = 0.05, seed: int = 0) -> torch.Tensor:
    """Vectors (clusters·each, width) around orthogonal directions, of any length."""
    rng = np.random.default_rng(seed)
    ideal = np.eye(width)[np.repeat(np.arange(clusters), each)]
    vectors = (ideal + noise * rng.standard_normal(ideal.shape)) * rng.uniform(0.1, 50, (len(ideal), 1))
    return torch.from_numpy(vectors).float()


# cluster probe


def probe_of(centroids: torch.Tensor) -> ClusterProbe:
    probe = ClusterProbe(centroids.shape[1], len(centroids))
    probe.load_state_dict({"centroids": centroids})
    return probe


def test_log_probabilities_equal_their_definition() -> None:
    probe, codes = probe_of(drawn(5, 4)), drawn(2, 4, 3, 6, seed=1)
    given_codes = codes.permute(0, 2, 3, 1).reshape(-1, 4)
    centroids = probe.centroids.detach()
    cosines = torch.tensor([[torch.dot(c, m) / c.norm() / m.norm() for m in centroids] for c in given_codes])
    expected = (2 * cosines) - (2 * cosines).exp().sum(dim=1, keepdim=True).log()
    found = probe.log_probabilities(codes).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(probe.log_probabilities(codes).exp().sum(dim=1), torch.ones(2, 3, 6))


def test_its_loss_is_minus_the_cosine_to_the_nearest_centroid() -> None:
    """Codes halfway between two of four orthogonal centroids: cosine 1/√2."""
    probe = probe_of(7 * torch.eye(4))
    codes = torch.tensor([1.0, 1.0, 0.0, 0.0])[None, :, None, None].expand(1, 4, 2, 2)
    assert probe.loss(codes).item() == pytest.approx(-1 / math.sqrt(2))


def test_gradients_of_the_probe_reach_nearest_centroids_alone_and_no_codes() -> None:
    probe = probe_of(torch.eye(3))
    codes = torch.tensor([[1.0, 0.2, 0.0], [0.0, 1.0, 0.3]]).T[None, :, :, None].requires_grad_()
    probe.loss(codes).backward()
    assert codes.grad is None
    assert (probe.centroids.grad.abs().sum(dim=1) > 0).tolist() == [True, True, False]
    double = ClusterProbe(3, 4).double()
    fixed = drawn(2, 3, 2, 2).double()
    assert torch.autograd.gradcheck(lambda _: double.loss(fixed), double.centroids)


def test_counts_say_which_clusters_are_dead() -> None:
    probe = probe_of(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    codes = torch.tensor([[2.0, 0.1], [3.0, -0.1], [0.1, 5.0]]).T[None, :, :, None]
    assert probe.counts(codes).tolist() == [2, 0, 1, 0]


def test_centroids_are_drawn_from_the_generator() -> None:
    first, second = (ClusterProbe(70, 27, torch.Generator().manual_seed(3)).centroids for _ in range(2))
    assert torch.equal(first, second)
    assert first.std().item() == pytest.approx(1, abs=0.05)


def test_the_probe_keeps_float32_cosines_under_autocast() -> None:
    probe, codes = probe_of(drawn(5, 64)), drawn(1, 64, 4, 4, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = probe.log_probabilities(codes)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, probe.log_probabilities(codes), atol=0.02, rtol=0)


# linear probe


def test_the_linear_probe_learns_what_is_linear_from_known_labels_alone() -> None:
    codes = drawn(2, 3, 4, 4)
    labels = codes[:, 0].gt(0).long()
    labels[:, 0] = 255
    labels[:, 1] = -1
    torch.manual_seed(0)
    probe = LinearProbe(3, 2)
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.1)
    first = probe.loss(codes, labels).item()
    for _ in range(200):
        optimizer.zero_grad()
        probe.loss(codes, labels).backward()
        optimizer.step()
    assert probe.loss(codes, labels).item() < 0.1 * first
    right = probe(codes, (4, 4)).argmax(dim=1) == labels
    assert right[:, 2:].all()


def test_the_linear_loss_equals_cross_entropy_over_what_is_known() -> None:
    probe, codes = LinearProbe(3, 4), drawn(1, 3, 2, 2).requires_grad_()
    labels = torch.tensor([[[0, 3, 255], [2, -1, 1]]])
    logits = torch.nn.functional.interpolate(probe.classifier(codes), (2, 3), mode="bilinear", align_corners=False)
    known = [(0, 0, 0), (0, 1, 3), (1, 0, 2), (1, 2, 1)]
    expected = -torch.stack([logits[0, :, r, c].log_softmax(dim=0)[k] for r, c, k in known]).mean()
    loss = probe.loss(codes, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert codes.grad is None
    assert probe.loss(codes, torch.full((1, 2, 3), 255)).item() == 0
    assert probe.loss(codes, torch.full((1, 2, 3), 255, dtype=torch.uint8)).item() == 0


# k-means


@pytest.mark.parametrize("seed", range(5))
def test_planted_directions_are_found_whatever_the_lengths(seed: int) -> None:
    found = cosine_kmeans(planted(6, 50, seed=seed), 6, seed)
    assert found.converged
    assert sorted(found.counts.tolist()) == [50] * 6
    assert found.mean_cosine > 0.95
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(6))
    assert (found.centroids[:, :6].amax(dim=1) > 0.95).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(6, 60))
def test_what_has_converged_is_a_fixed_point(seed: int, clusters: int, count: int) -> None:
    """Each vector belongs to its nearest centroid, and each centroid is the direction of the sum of its vectors."""
    vectors = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 4)))
    found = cosine_kmeans(vectors, clusters, seed % 1000)
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = directions @ found.centroids.double().T
    label = cosines.argmax(dim=1)
    assert found.converged
    assert found.counts.tolist() == torch.bincount(label, minlength=clusters).tolist()
    assert found.mean_cosine == pytest.approx(cosines.amax(dim=1).mean().item(), abs=1e-5)
    for cluster in label.unique():
        middle = directions[label == cluster].sum(dim=0)
        torch.testing.assert_close(middle / middle.norm(), found.centroids[cluster].double(), atol=1e-4, rtol=0)


def test_more_iterations_never_fit_worse() -> None:
    vectors = drawn(3000, 8)
    fits = [cosine_kmeans(vectors, 20, 1, iterations).mean_cosine for iterations in (1, 2, 5, 20)]
    assert fits == sorted(fits)


def test_what_is_stopped_early_says_how_many_vectors_still_moved() -> None:
    vectors = drawn(3000, 8)
    before, after = (cosine_kmeans(vectors, 20, 1, iterations) for iterations in (4, 5))
    labels = [(vectors @ found.centroids.T).argmax(dim=1) for found in (before, after)]
    assert not after.converged
    assert after.moved == (labels[0] != labels[1]).sum()


def test_equal_seeds_give_equal_clusters_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = drawn(2000, 8)
    once, again = (cosine_kmeans(vectors, 12, 5) for _ in range(2))
    assert torch.equal(once.centroids, again.centroids)
    assert not torch.equal(once.centroids, cosine_kmeans(vectors, 12, 6).centroids)
    monkeypatch.setattr("stages.semantics.clusters._BLOCK", 300)
    torch.testing.assert_close(cosine_kmeans(vectors, 12, 5).centroids, once.centroids)


def test_half_precision_vectors_give_nearly_the_clusters_of_float32() -> None:
    vectors = planted(5, 40)
    half, full = cosine_kmeans(vectors.half(), 5), cosine_kmeans(vectors, 5)
    torch.testing.assert_close(half.centroids, full.centroids, atol=1e-3, rtol=0)


def test_a_dead_cluster_begins_again_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the first centroids in one place: one gets nothing, and takes the direction that none serves."""
    vectors = planted(3, 30, noise=0.01)
    ideal = torch.eye(16)[[0, 0, 1]]
    monkeypatch.setattr("stages.semantics.clusters._first_centroids", lambda *_: ideal.clone())
    found = cosine_kmeans(vectors, 3)
    assert found.reseeded == 1
    assert sorted(found.counts.tolist()) == [30, 30, 30]


def test_fewer_directions_than_clusters_leave_dead_ones() -> None:
    vectors = torch.eye(4)[:2].repeat(10, 1)
    found = cosine_kmeans(vectors, 5)
    assert found.converged
    assert sorted(found.counts.tolist()) == [0, 0, 0, 10, 10]
    assert found.mean_cosine == pytest.approx(1)
    assert torch.isfinite(found.centroids).all()


def test_zero_vectors_do_no_harm() -> None:
    vectors = planted(3, 20)
    vectors[::7] = 0
    found = cosine_kmeans(vectors, 3)
    assert torch.isfinite(found.centroids).all()
    assert found.counts.sum() == 60


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(ValueError, match="5 clusters need as many vectors at least, and there are 4"):
        cosine_kmeans(drawn(4, 3), 5)
    vectors = drawn(4, 3)
    vectors[2, 1] = math.nan
    with pytest.raises(ValueError, match="finite"):
        cosine_kmeans(vectors, 2)
