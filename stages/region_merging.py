"""Adjacent regions of the patch grid merged bottom-up, the most similar two first: HASSOD's clustering of patches.

N = Gh·Gw patches · D feature width · R regions · T thresholds · E pairs of adjacent regions

Source: Cao et al., "HASSOD: Hierarchical Adaptive Self-Supervised Object Detection", NeurIPS 2023.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import repeat

import numpy as np

# Cosines are compared to this many decimals, far below what float16 features tell apart, so that pairs which are alike
# are ties wherever they are computed: a product's last bits depend on its shape and on the processor.
_DECIMALS = 9
_GONE = math.inf
_Pair = tuple[float, int, int, int]  # minus the cosine, the two regions, the merge that the pair is from


def merge_regions(
    features_ND: np.ndarray, grid: tuple[int, int], thresholds: Sequence[float], start_N: np.ndarray | None = None
) -> np.ndarray:
    """Merge the two adjacent regions whose mean features have the largest cosine, again and again, until the largest
    is below the threshold; then go on to the next threshold.

    Regions are adjacent where a patch of one lies right of or below one of the other. A region is named by its first
    patch, row by row. Of pairs with one cosine, to nine decimals, that with the first region of the smaller name comes
    first, then that with the second region of the smaller name. A feature of zeros has the cosine 0 with everything.

    features_ND: any float dtype, finite.
    grid: (Gh, Gw).
    thresholds: T of them, falling.
    start_N: int, the region of each patch to start from, not necessarily connected; patches below 0 take no part.
        None starts from single patches.

    Returns (T, N) int32: at each threshold the region of each patch, numbered from 0 by first patches, -1 for patches
    that take no part. Regions of a threshold are unions of those of the one before. Raises ValueError for shapes that
    do not fit each other, features that are not finite, and thresholds that do not fall.
    """
    taus = list(thresholds)
    if taus != sorted(set(taus), reverse=True):
        raise ValueError(f"thresholds must fall, got {', '.join(map(str, taus))}")
    if features_ND.ndim != 2 or len(features_ND) != grid[0] * grid[1]:
        raise ValueError(f"features_ND must be ({grid[0] * grid[1]}, D) for the grid {grid}, got {features_ND.shape}")
    if not np.isfinite(features_ND).all():
        raise ValueError("features_ND must be finite")
    regions = _Regions(features_ND, grid, _first_patches(start_N, len(features_ND)), min(taus, default=0.0))
    levels = [regions.merged_down_to(tau) for tau in taus]
    return np.array([_numbered(names_N) for names_N in levels], np.int32).reshape(-1, len(features_ND))


def _first_patches(start_N: np.ndarray | None, n_patches: int) -> np.ndarray:
    """(N,) int64: the name of each patch's region, -1 outside of all."""
    if start_N is None:
        return np.arange(n_patches)
    if start_N.shape != (n_patches,):
        raise ValueError(f"start_N must have one region for each of {n_patches} patches, got {start_N.shape}")
    _, first, inverse_N = np.unique(start_N, return_index=True, return_inverse=True)
    return np.where(start_N < 0, -1, first[inverse_N])


def _numbered(names_N: np.ndarray) -> np.ndarray:
    """Names as numbers from 0, in their order; -1 stays."""
    names, numbers_N = np.unique(names_N, return_inverse=True)
    return numbers_N - int(names[0] < 0)


def neighbours(names_N: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(E, 2): every two regions, by name, of which a patch of one lies right of or below one of the other, once, the
    smaller name first, in order. Names below 0 are no regions.
    """
    names_GG = names_N.reshape(grid)
    right = np.stack([names_GG[:, :-1].ravel(), names_GG[:, 1:].ravel()], axis=1)
    down = np.stack([names_GG[:-1].ravel(), names_GG[1:].ravel()], axis=1)
    pairs_E2 = np.sort(np.concatenate([right, down]), axis=1)
    apart = (pairs_E2[:, 0] != pairs_E2[:, 1]) & (pairs_E2[:, 0] >= 0)
    return np.unique(pairs_E2[apart], axis=0)


class _Regions:
    """The regions of an image as they merge.

    A merged region keeps the smaller name. When it is made, it weighs the pairs with all its neighbours in one product
    and offers only the best one; the next follows when that has come to nothing. A pair counts as long as neither of
    its regions has changed since.
    """

    def __init__(self, features_ND: np.ndarray, grid: tuple[int, int], names_N: np.ndarray, lowest: float) -> None:
        """lowest: pairs with a smaller cosine will never be wanted."""
        n_patches = len(features_ND)
        self._lowest = lowest
        self._sums_ND = np.zeros(features_ND.shape)
        np.add.at(self._sums_ND, names_N[names_N >= 0], features_ND[names_N >= 0])
        self._norms_N = np.linalg.norm(self._sums_ND, axis=1)
        self._near: list[set[int]] = [set() for _ in range(n_patches)]
        self._changed: list[float] = [0] * n_patches  # the merge that made the region; _GONE when it went into another
        self._owners = [-1]  # of each merge the region that it made
        self._offers: dict[int, Iterator[_Pair]] = {}  # by region, the rest of its pairs
        self._into = np.arange(n_patches)  # what each name has become
        self._names_N = names_N
        pairs_E2 = neighbours(names_N, grid)
        for low, high in pairs_E2.tolist():
            self._near[low].add(high)
            self._near[high].add(low)
        self._heap = list(self._pairs(pairs_E2[:, 0], pairs_E2[:, 1], 0))
        heapq.heapify(self._heap)

    def merged_down_to(self, tau: float) -> np.ndarray:
        """(N,) the name of each patch's region when no two adjacent ones have a cosine of `tau` or more."""
        while self._heap and -self._heap[0][0] >= tau:
            _, low, high, merge = heapq.heappop(self._heap)
            if self._changed[low] <= merge and self._changed[high] <= merge:
                self._merge(low, high)
            elif merge and self._changed[owner := self._owners[merge]] == merge:
                self._offer(owner)
        while not np.array_equal(further := self._into[self._into], self._into):
            self._into = further
        return np.where(self._names_N < 0, -1, self._into[self._names_N])

    def _merge(self, low: int, high: int) -> None:
        self._into[high] = low
        self._sums_ND[low] += self._sums_ND[high]
        self._norms_N[low] = math.sqrt(self._sums_ND[low] @ self._sums_ND[low])
        self._changed[low], self._changed[high] = len(self._owners), _GONE
        near = self._near[low] | self._near[high]
        near -= {low, high}
        for other in self._near[high]:
            self._near[other].discard(high)
            self._near[other].add(low)
        self._near[low], self._near[high] = near, set()
        others = np.fromiter(near, np.int64, len(near))
        self._offers[low] = self._pairs(np.minimum(low, others), np.maximum(low, others), len(self._owners))
        self._owners.append(low)
        self._offer(low)

    def _offer(self, region: int) -> None:
        if (pair := next(self._offers[region], None)) is not None:
            heapq.heappush(self._heap, pair)

    def _pairs(self, low_E: np.ndarray, high_E: np.ndarray, merge: int) -> Iterator[_Pair]:
        """Pairs of regions, the first to merge first, without those that never will."""
        products_E = np.einsum("ed,ed->e", self._sums_ND[low_E], self._sums_ND[high_E])
        cosines_E = products_E / np.maximum(self._norms_N[low_E] * self._norms_N[high_E], np.finfo(float).tiny)
        cosines_E = cosines_E.round(_DECIMALS)
        order = np.lexsort((high_E, low_E, -cosines_E))
        order = order[cosines_E[order] >= self._lowest]
        columns = (-cosines_E[order], low_E[order], high_E[order])
        return zip(*(column.tolist() for column in columns), repeat(merge))
