"""Pieces at all thresholds against the components of each truncated graph, in loops, and against separate LocalCuts."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph

from stages.local_cut import KnnGraph, LocalCutConfig, group_graph, image_graph
from stages.spatial_confidence import SpatialConfidenceConfig, spatial_confidence, threshold_ladder
from stages.threshold_pieces import core, pieces, stability, threshold_labels

GRID = (14, 13)
CONFIG = LocalCutConfig(k=6, outside="sever", tau_knn=0.05)
LADDER = SpatialConfidenceConfig(thresholds=5, lowest=0.35)
TAUS = threshold_ladder(CONFIG.tau_on(GRID), LADDER)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth in terraces, smooth and rough, and a group over some of them, (Gh, Gw) each."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=GRID), 2.0)
    depth = np.digitize(smooth, np.quantile(smooth, [0.25, 0.5, 0.75])) * 0.25
    depth = depth + rng.normal(size=GRID) * scipy.ndimage.gaussian_filter(rng.random(GRID) * 0.08, 1.0)
    depth = (depth - depth.min()) / np.ptp(depth)
    return depth.astype(np.float32), scipy.ndimage.gaussian_filter(rng.normal(size=GRID), 2.5) > -0.05


def severed(seed: int) -> tuple[KnnGraph, np.ndarray]:
    depth, group = scene(seed)
    return group_graph(depth, group, CONFIG), group.ravel()


def same_partition(one_N: np.ndarray, other_N: np.ndarray) -> bool:
    """Whether two labellings differ in the names of the labels only."""
    pairs = set(zip(one_N.tolist(), other_N.tolist(), strict=True))
    return len(pairs) == len(set(one_N.tolist())) == len(set(other_N.tolist()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("whole", [False, True])
def test_labels_are_the_components_of_each_truncated_graph(seed: int, whole: bool) -> None:
    graph = image_graph(scene(seed)[0], CONFIG) if whole else severed(seed)[0]
    labels_TN = threshold_labels(graph, TAUS)
    assert labels_TN.shape == (5, graph.n)
    counts = []
    for labels_N, tau in zip(labels_TN, TAUS, strict=True):
        joined_NN = np.zeros((graph.n, graph.n))
        for (i, j), length in zip(graph.edges_E2, graph.lengths_E, strict=True):
            joined_NN[i, j] = length < tau
        count, expected_N = scipy.sparse.csgraph.connected_components(scipy.sparse.csr_array(joined_NN), directed=False)
        assert same_partition(labels_N, expected_N)
        counts.append(count)
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 2, "the thresholds matter"


def test_edges_as_long_as_the_threshold_are_cut() -> None:
    """A path of three edges with a chord, at thresholds that are the very lengths of edges."""
    graph = KnnGraph(4, np.array([[0, 1], [0, 2], [1, 2], [2, 3]], np.int32), np.array([0.1, 0.25, 0.2, 0.3]))
    labels_TN = threshold_labels(graph, np.array([0.1, 0.2, 0.3, 0.31]))
    for labels_N, expected in zip(labels_TN, [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 0, 0]], strict=True):
        assert same_partition(labels_N, np.array(expected))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("least", [0, 3, 20])
@pytest.mark.parametrize("whole", [False, True])
def test_pieces_are_all_the_components_within_the_group(seed: int, least: int, whole: bool) -> None:
    """Also where edges lead out of the group, as they may with points that are kept where they are."""
    graph, group_N = severed(seed)
    if whole:
        graph = image_graph(scene(seed)[0], CONFIG)
    labels_TN = threshold_labels(graph, TAUS)
    expected = []
    for labels_N in labels_TN:
        for label in range(labels_N.max() + 1):
            piece = [n for n in range(graph.n) if group_N[n] and labels_N[n] == label]
            if len(piece) > least:
                expected.append(tuple(piece))
    found = pieces(labels_TN, group_N, least)
    assert found.shape == (len(expected), graph.n)
    assert found.dtype == bool
    assert sorted(tuple(np.flatnonzero(piece_N).tolist()) for piece_N in found) == sorted(expected)
    assert not (found & ~group_N).any()


def test_where_every_piece_is_a_speck_there_is_none() -> None:
    graph, group_N = severed(0)
    assert pieces(threshold_labels(graph, TAUS), group_N, graph.n).shape == (0, graph.n)
    assert pieces(threshold_labels(graph, TAUS), np.zeros(graph.n, bool), 0).shape == (0, graph.n)


@pytest.mark.parametrize("seed", range(4))
def test_core_and_stability_are_their_definitions(seed: int) -> None:
    graph, group_N = severed(seed)
    labels_TN = threshold_labels(graph, TAUS)
    masks = [group_N, *pieces(labels_TN, group_N, 2)]
    stabilities = []
    for mask_N in masks:
        patches = np.flatnonzero(mask_N).tolist()
        by_label: dict[int, list[int]] = {}
        for patch in patches:
            by_label.setdefault(int(labels_TN[0, patch]), []).append(patch)
        largest = max(len(members) for members in by_label.values())
        core_N = core(labels_TN, mask_N)
        assert np.flatnonzero(core_N).tolist() in [m for m in by_label.values() if len(m) == largest]
        first = int(np.flatnonzero(core_N)[0])
        together = [labels_N[patch] == labels_N[first] for labels_N in labels_TN for patch in patches]
        assert stability(labels_TN, mask_N) == pytest.approx(sum(together) / len(together))
        stabilities.append(stability(labels_TN, mask_N))
    assert all(0 < value <= 1 for value in stabilities)
    assert min(stabilities) < 0.9
    for piece_N in pieces(labels_TN[:1], group_N, 0):
        assert stability(labels_TN, piece_N) == 1.0, "one piece at the lowest threshold, one at all of them"


@pytest.mark.parametrize("seed", range(4))
def test_stability_is_the_mean_spatial_confidence_from_the_core(seed: int) -> None:
    depth, group = scene(seed)
    graph, group_N = severed(seed)
    labels_TN = threshold_labels(graph, TAUS)
    for mask_N in (group_N, *pieces(labels_TN, group_N, 2)):
        mask = mask_N.reshape(GRID)
        source = int(np.flatnonzero(core(labels_TN, mask_N))[-1])
        sink = int(np.flatnonzero(~group_N)[0])
        confidence = spatial_confidence(depth, group, mask, source, sink, CONFIG, LADDER)
        assert confidence[mask].mean() == pytest.approx(stability(labels_TN, mask_N), abs=1e-6)


def test_a_graph_without_edges_falls_into_its_patches() -> None:
    graph = KnnGraph(5, np.zeros((0, 2), np.int32), np.zeros(0))
    labels_TN = threshold_labels(graph, np.array([0.1, 1.0]))
    assert [len(set(labels_N.tolist())) for labels_N in labels_TN] == [5, 5]
    assert stability(labels_TN, np.ones(5, bool)) == pytest.approx(1 / 5)
