"""VoteCut: every eigenvector proposes masks, masks that agree form a cluster, and a cluster's members vote on each
patch.

N = Gh·Gw patches · Gh, Gw patch grid · M masks · G side of the common grid

Source: Arica et al., "CuVLER: Enhanced Unsupervised Object Discoveries through Exhaustive Self-Supervised
Transformers", CVPR 2024, section 3.1, and its code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from stages.kmeans_1d import kmeans_1d
from stages.refine import sampled


@dataclass(frozen=True)
class CandidateConfig:
    """eigenvectors: of each voter, from the second of its graph on, >= 1.
    clusters: numbers of k-means clusters, each 2..16, rising; an eigenvector is split once for each of them.
    background_corners: a cluster that holds so many of the four corner patches is background, 1..4.
    max_components: a cluster that falls into more connected components is left out, >= 1.
    min_side: components that are narrower and lower are left out, in patches of their voter, >= 0.
    """

    eigenvectors: int = 1
    clusters: str = "2,3"
    background_corners: int = 2
    max_components: int = 30
    min_side: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.eigenvectors <= 64:
            raise ValueError(f"candidates.eigenvectors must be 1..64, got {self.eigenvectors}")
        ks = [int(k) if k.isdecimal() else 0 for k in self.clusters.split(",")]
        if any(not 2 <= k <= 16 for k in ks) or ks != sorted(set(ks)):
            raise ValueError(f"candidates.clusters are rising numbers from 2 to 16, as 2,3, got {self.clusters!r}")
        if not 1 <= self.background_corners <= 4:
            raise ValueError(f"candidates.background_corners must be 1..4, got {self.background_corners}")
        if self.max_components < 1:
            raise ValueError(f"candidates.max_components must be at least 1, got {self.max_components}")
        if self.min_side < 0:
            raise ValueError(f"candidates.min_side must be at least 0, got {self.min_side}")

    @property
    def ks(self) -> list[int]:
        """`clusters` as numbers."""
        return [int(k) for k in self.clusters.split(",")]


@dataclass(frozen=True)
class VoteConfig:
    """grid: side of the patch grid on which masks of all voters are compared, 2..256.
    same_iou: masks that overlap more belong together, IoU in [0, 1).
    pivot_moves: times that a cluster may grow around a new pivot, >= 1.
    pixel_share: share of a cluster's masks that a patch must exceed to be in its mask, in [0, 1).
    masks: clusters per image, the first that are found, 1..256.
    """

    grid: int = 60
    same_iou: float = 0.6
    pivot_moves: int = 5
    pixel_share: float = 0.2
    masks: int = 10

    def __post_init__(self) -> None:
        if not 2 <= self.grid <= 256:
            raise ValueError(f"votes.grid must be 2..256, got {self.grid}")
        for name in ("same_iou", "pixel_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"votes.{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.pivot_moves < 1:
            raise ValueError(f"votes.pivot_moves must be at least 1, got {self.pivot_moves}")
        if not 1 <= self.masks <= 256:
            raise ValueError(f"votes.masks must be 1..256, got {self.masks}")


@dataclass(frozen=True)
class VotedMask:
    """mask: (G, G) bool, not empty. votes: masks that were in its cluster, >= 1."""

    mask: np.ndarray
    votes: int


def vote(candidates: Sequence[np.ndarray], config: VoteConfig) -> list[VotedMask]:
    """The masks that most candidates agree on, those with most votes first.

    candidates: bool (M, Gh, Gw), one array for each eigenvector or voter, each on a grid of its own.

    The order of the candidates does not matter.
    """
    masks_MN = _in_order([sampled(masks_MGG, (config.grid, config.grid)) for masks_MGG in candidates], config.grid)
    found = []
    for members in mask_clusters(masks_MN, config):
        mask_N = masks_MN[members].mean(axis=0) > config.pixel_share
        if mask_N.any():
            found.append(VotedMask(mask_N.reshape(config.grid, config.grid), len(members)))
    return sorted(found, key=lambda one: -one.votes)


def candidate_masks(vector_GG: np.ndarray, config: CandidateConfig) -> np.ndarray:
    """The masks that an eigenvector proposes, bool (M, Gh, Gw). vector_GG: float (Gh, Gw)."""
    found = [
        mask_GG
        for k in config.ks
        for mask_GG in _components(kmeans_1d(vector_GG.ravel(), k).reshape(vector_GG.shape), config)
    ]
    return np.array(found, bool).reshape(-1, *vector_GG.shape)


def _components(labels_GG: np.ndarray, config: CandidateConfig) -> Iterator[np.ndarray]:
    """Connected components, by the four neighbours, of every cluster that is not background."""
    for label in range(int(labels_GG.max()) + 1):
        cluster_GG = labels_GG == label
        if np.count_nonzero(cluster_GG[[0, 0, -1, -1], [0, -1, 0, -1]]) >= config.background_corners:
            continue
        pieces_GG, count = scipy.ndimage.label(cluster_GG)
        if count > config.max_components:
            continue
        for piece, (rows, columns) in enumerate(scipy.ndimage.find_objects(pieces_GG), start=1):
            if max(rows.stop - rows.start, columns.stop - columns.start) >= config.min_side:
                yield pieces_GG == piece


def _in_order(masks: Sequence[np.ndarray], side: int) -> np.ndarray:
    """All masks as rows, bool (M, N), in an order that depends on what they are alone: larger ones first."""
    masks_MN = np.concatenate([*masks, np.zeros((0, side, side), bool)]).reshape(-1, side * side)
    keys = [(-int(mask_N.sum()), np.packbits(mask_N).tobytes()) for mask_N in masks_MN]
    return masks_MN[sorted(range(len(masks_MN)), key=keys.__getitem__)]


def mask_clusters(masks_MN: np.ndarray, config: VoteConfig) -> list[np.ndarray]:
    """Rows of each cluster, int, `config.masks` clusters at most.

    masks_MN: bool; none is empty.

    Masks are taken as pivots by falling number of masks that belong together with them; of equal ones the first row is
    first. A cluster grows by all that belong together with its pivot, then around its member with the largest sum of
    IoUs within it, and so on. What one cluster has is lost to those after it; a pivot that is lost makes none.
    """
    iou_MM = _ious(masks_MN)
    near_MM = iou_MM > config.same_iou
    used_M = np.zeros(len(masks_MN), bool)
    clusters: list[np.ndarray] = []
    for pivot in np.argsort(-near_MM.sum(axis=1), kind="stable"):
        if len(clusters) == config.masks:
            break
        if used_M[pivot]:
            continue
        members_M, pivot = _grown(int(pivot), iou_MM, near_MM, config.pivot_moves)
        if not used_M[pivot]:
            clusters.append(np.flatnonzero(members_M & ~used_M))
        used_M |= members_M
    return clusters


def _grown(pivot: int, iou_MM: np.ndarray, near_MM: np.ndarray, moves: int) -> tuple[np.ndarray, int]:
    """Members of the cluster that grows from a pivot, bool (M,), and the pivot that it ends with."""
    members_M = np.zeros(len(iou_MM), bool)
    members_M[pivot] = True
    for _ in range(moves):
        grown_M = members_M | near_MM[pivot]
        if np.array_equal(grown_M, members_M):
            break
        members_M, rows = grown_M, np.flatnonzero(grown_M)
        pivot = int(rows[iou_MM[np.ix_(rows, rows)].sum(axis=1).argmax()])
    return members_M, pivot


def _ious(masks_MN: np.ndarray) -> np.ndarray:
    """float64 (M, M)."""
    numbers_MN = masks_MN.astype(np.float32)  # counts of patches are exact in it
    both_MM = (numbers_MN @ numbers_MN.T).astype(np.float64)
    area_M = both_MM.diagonal()
    return both_MM / (area_M[:, None] + area_M - both_MM)
