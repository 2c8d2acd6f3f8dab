"""LocalCut of a group at all thresholds of Spatial Confidence at once: what it falls into, and how stable that is.

T thresholds · N = Gh·Gw patches · M masks

The sink lies outside of a group whose edges to the outside are severed, so a minimal min-cut is a connected component
of the truncated k-NN graph (`stages.local_cut`). The components of a truncated graph are those of its truncated minimum
spanning tree, which has a fraction of the edges.
"""

import numpy as np
import scipy

from stages.local_cut import KnnGraph, component_labels


def threshold_labels(graph: KnnGraph, taus_T: np.ndarray) -> np.ndarray:
    """Connected components of the graph truncated at each threshold: (T, N) int32 labels from 0."""
    n, edges = graph.n, (graph.lengths_E, tuple(graph.edges_E2.T))
    tree = scipy.sparse.csgraph.minimum_spanning_tree(scipy.sparse.csr_array(edges, (n, n))).tocoo()
    # The truncated trees, side by side, are one graph: its components are found in one go.
    t, kept = np.nonzero(tree.data < taus_T[:, None])
    edges_E2 = np.stack([tree.row[kept], tree.col[kept]], axis=1) + n * t[:, None]
    labels_TN = component_labels(KnnGraph(n * len(taus_T), edges_E2, tree.data[kept])).reshape(-1, n)
    return labels_TN - labels_TN[:, :1]


def pieces(labels_TN: np.ndarray, group_N: np.ndarray, least: int) -> np.ndarray:
    """All pieces of more than `least` patches that the group, (N,) bool, falls into at any threshold: (M, N) bool."""
    masks = [
        (labels_N == label) & group_N
        for labels_N in labels_TN
        for label in np.flatnonzero(np.bincount(labels_N[group_N]) > least)
    ]
    return np.array(masks, bool).reshape(-1, len(group_N))


def core(labels_TN: np.ndarray, mask_N: np.ndarray) -> np.ndarray:
    """The mask's largest piece at the smallest threshold, the first of `labels_TN`: (N,) bool. It takes the place of
    LocalCut's source: a peak of the eigenvector on an outline would be a piece of its own.
    """
    return (labels_TN[0] == np.bincount(labels_TN[0][mask_N]).argmax()) & mask_N


def stability(labels_TN: np.ndarray, mask_N: np.ndarray) -> float:
    """Mean over mask and thresholds of being in one piece with the mask's core, in 0..1: mean Spatial Confidence."""
    labels_Tm = labels_TN[:, mask_N]
    patch = int(np.flatnonzero(core(labels_TN, mask_N))[0])
    return float((labels_Tm == labels_TN[:, patch, None]).mean())
