"""LocalCut of a group at all thresholds of Spatial Confidence at once: what it falls into, and how stable that is.

T thresholds · N = Gh·Gw patches · M masks

The sink lies outside of a group whose edges to the outside are severed, so a minimal min-cut is a connected component
of the truncated k-NN graph (`stages.local_cut`). The components of a truncated graph are those of its truncated minimum
spanning tree, which has a fraction of the edges.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from stages.local_cut import KnnGraph, component_labels


def threshold_labels(graph: KnnGraph, taus_T: np.ndarray) -> np.ndarray:
    """Connected components of the graph truncated at each threshold: (T, N) int32 labels from 0."""
    tree = scipy.sparse.csgraph.minimum_spanning_tree(graph.adjacency(graph.lengths_E)).tocoo()
    spanning = KnnGraph(graph.n, np.stack([tree.row, tree.col], axis=1).astype(np.int32), tree.data)
    return np.stack([component_labels(spanning.truncated(float(tau))) for tau in taus_T])


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
