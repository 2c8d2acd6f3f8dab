"""k-means of numbers, exactly: the k clusters with the least sum of squared distances to their means.

On a line the best clusters are intervals, and the best last interval of the first n numbers begins the further right
the larger n is: so dynamic programming finds them, whose minima are looked for by halves, in O(k·N·log N). VoteCut runs
scikit-learn's iteration from ten random starts, which ends in a worse clustering now and then.

Source: Wang, Song, "Ckmeans.1d.dp", The R Journal 2011; halving as in Grønlund et al., arXiv 1701.07204.

N numbers · U different ones
"""

from collections.abc import Callable

import numpy as np


def kmeans_1d(values_N: np.ndarray, k: int) -> np.ndarray:
    """Labels 0..k-1 of the numbers, int64 (N,), larger for larger numbers; fewer than k where there are fewer different
    numbers.

    values_N: finite, N >= 1. Raises ValueError for others, and for k below 1.
    """
    if k < 1:
        raise ValueError(f"k-means finds at least 1 cluster, not {k}")
    if not len(values_N) or not np.isfinite(values_N).all():
        raise ValueError("k-means needs numbers, all of them finite")
    values_U, place_N, weights_U = np.unique(values_N.astype(np.float64), return_inverse=True, return_counts=True)
    centred_U = values_U - np.average(values_U, weights=weights_U)  # or the differences of sums below lose digits
    sums = [np.concatenate([[0.0], np.cumsum(weights_U * centred_U**power)]) for power in range(3)]

    def cost(first: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Sum of squared distances of the numbers first..end-1 to their mean; infinite where there are none."""
        count, total, squares = (part[end] - part[first] for part in sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(count > 0, np.maximum(squares - total**2 / count, 0.0), np.inf)

    n = len(values_U)
    best = cost(np.zeros(n + 1, int), np.arange(n + 1))  # of the first 0..n numbers, in one cluster
    starts = []
    for _ in range(min(k, n) - 1):
        best, start = _one_more(best, cost)
        starts.append(start)
    edges, end = [], n
    for start in reversed(starts):
        end = int(start[end])
        edges.append(end)
    labels_U = np.searchsorted(np.array(edges[::-1], int), np.arange(n), side="right")
    labels_N: np.ndarray = labels_U[place_N.reshape(-1)]
    return labels_N


def _one_more(best_E: np.ndarray, cost: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """With one cluster more: the least cost of the first 0..n numbers, and where the last of the clusters begins.

    best_E: (n + 1,) the least cost with the clusters before.

    All that is asked on one level of the halving is asked at once. A level's ends are the middles of what the level
    above left between its own; the starts to look at lie between the best starts of the neighbours.
    """
    least_E, start_E = np.full(len(best_E), np.inf), np.zeros(len(best_E), int)
    first, last = np.array([1]), np.array([len(best_E) - 1])
    lowest, highest = np.array([0]), np.array([len(best_E) - 1])
    while len(first):
        end = (first + last) // 2
        lengths = np.minimum(highest, end) - lowest + 1
        begins = np.cumsum(lengths) - lengths
        start = np.arange(lengths.sum()) + np.repeat(lowest - begins, lengths)
        costs = best_E[start] + cost(start, np.repeat(end, lengths))
        least_E[end] = np.minimum.reduceat(costs, begins)
        at_least = np.flatnonzero(costs == np.repeat(least_E[end], lengths))
        start_E[end] = chosen = start[at_least[np.searchsorted(at_least, begins)]]
        left, right = first < end, end < last
        first, last, lowest, highest = (
            np.concatenate([below[left], above[right]])
            for below, above in ((first, end + 1), (end - 1, last), (lowest, chosen), (chosen, highest))
        )
    return least_E, start_E
