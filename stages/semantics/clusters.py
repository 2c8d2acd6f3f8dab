"""Clusters of codes and what tells their quality: cluster probe, linear probe, k-means of directions.

B images · K code width · C clusters · N vectors · h, w patch grid · H, W label map
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from stages.semantics.correlation import unit

SHARPNESS = 2.0
"""What cosines are multiplied with before the softmax at test time, as published."""


class ClusterProbe(nn.Module):
    """C centroids in code space; a pixel belongs to the one with the largest cosine.

    centroids: parameter (C, K) float32, drawn from N(0, 1); their lengths do not matter.
    generator: what they are drawn from; None takes torch's own.

    Source: STEGO's released code.
    """

    def __init__(self, codes: int, clusters: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.randn(clusters, codes, generator=generator))

    def cosines(self, codes_BKhw: torch.Tensor) -> torch.Tensor:
        """Cosines of codes and centroids: (B, C, h, w) float32, also under autocast."""
        directions_CK = unit(self.centroids)
        cosines_BCN = torch.matmul(directions_CK, unit(codes_BKhw).flatten(2))
        cosines_BCN = cosines_BCN.to(torch.promote_types(cosines_BCN.dtype, torch.float32))
        return cosines_BCN.unflatten(2, codes_BKhw.shape[2:])

    def loss(self, codes_BKhw: torch.Tensor) -> torch.Tensor:
        """Minus the mean cosine of codes and their nearest centroids, a scalar. Codes are taken as they are: no
        gradient reaches the head.
        """
        return -self.cosines(codes_BKhw.detach()).amax(dim=1).mean()

    def log_probabilities(self, codes_BKhw: torch.Tensor, sharpness: float = SHARPNESS) -> torch.Tensor:
        """log-softmax(sharpness · cosine) over the clusters: (B, C, h, w) float32."""
        return (self.cosines(codes_BKhw) * sharpness).log_softmax(dim=1)

    @torch.no_grad()
    def counts(self, codes_BKhw: torch.Tensor) -> torch.Tensor:
        """How many pixels belong to each cluster, (C,) int64: a cluster that gets none on many images is dead. Of equal
        cosines the first cluster's counts.
        """
        return torch.bincount(self.cosines(codes_BKhw).argmax(dim=1).flatten(), minlength=len(self.centroids))


class LinearProbe(nn.Module):
    """A linear classifier of codes. It learns from labels, so it measures codes and is no part of the method.

    Source: STEGO's released code.
    """

    def __init__(self, codes: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.classifier = nn.Conv2d(codes, classes, 1)

    def forward(self, codes_BKhw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Logits (B, classes, H, W) at `size`, bilinear. No gradient reaches the head."""
        logits = self.classifier(codes_BKhw.detach())
        return functional.interpolate(logits, size, mode="bilinear", align_corners=False)

    def loss(self, codes_BKhw: torch.Tensor, labels_BHW: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the pixels whose label, an integer, is a class in 0..classes - 1; 0 without any."""
        known_BHW = (labels_BHW >= 0) & (labels_BHW < self.classes)
        labels_BHW = labels_BHW.long().masked_fill(~known_BHW, -1)
        height, width = labels_BHW.shape[1:]
        logits = self(codes_BKhw, (height, width)).float()
        total = functional.cross_entropy(logits, labels_BHW, ignore_index=-1, reduction="sum")
        return total / known_BHW.sum().clamp(min=1)


@dataclass(frozen=True)
class Clustering:
    """What k-means found.

    centroids: (C, D) float32 of length 1.
    counts: (C,) int64, vectors in each cluster; a cluster with 0 is dead.
    mean_cosine: of vectors and their centroids.
    iterations: that it took.
    moved: vectors that changed their cluster in the last of them.
    reseeded: how often a cluster lost all its vectors and was begun again at the vector worst served.
    """

    centroids: torch.Tensor
    counts: torch.Tensor
    mean_cosine: float
    iterations: int
    moved: int
    reseeded: int

    @property
    def converged(self) -> bool:
        """Whether more iterations would change nothing."""
        return self.moved == 0


def cosine_kmeans(vectors_ND: torch.Tensor, clusters: int, seed: int = 0, iterations: int = 1000) -> Clustering:
    """Spherical k-means: directions that the vectors' directions gather around. Equal inputs give equal results.

    vectors_ND: any float dtype, read in blocks; on their device.
    clusters: C.
    seed: of the first centroids, drawn as k-means++ draws them.
    iterations: at most.

    A cluster that loses all its vectors begins again at the vector with the least cosine to its centroid. Where there
    are fewer different directions than clusters, dead clusters remain: `Clustering.counts`.

    Raises ValueError for fewer vectors than clusters, and vectors that are not finite.
    """
    count = len(vectors_ND)
    if not 1 <= clusters <= count:
        raise ValueError(f"k-means: {clusters} clusters need as many vectors at least, and there are {count}")
    if not all(torch.isfinite(block).all() for block in vectors_ND.split(_BLOCK)):
        raise ValueError("k-means needs finite vectors: some hold NaN or infinity")
    centroids_CD = _first_centroids(vectors_ND, clusters, seed)
    assigned = _assigned(vectors_ND, centroids_CD)
    reseeded, iteration, moved = 0, 0, count
    while iteration < iterations and moved:
        iteration += 1
        centroids_CD, begun = _moved(vectors_ND, assigned)
        reseeded += begun
        before = assigned
        assigned = _assigned(vectors_ND, centroids_CD)
        moved = int((assigned.label_N != before.label_N).sum())
    mean_cosine = float(assigned.cosine_N.double().mean())
    return Clustering(centroids_CD, assigned.count_C, mean_cosine, iteration, moved, reseeded)


_BLOCK = 16384
_SERVED = 1e-6  # a vector this close to its centroid, in cosine, is not worth a cluster of its own


@dataclass(frozen=True)
class _Assigned:
    """label_N: int64, the nearest centroid, of equally near ones the first. cosine_N: float32, with it.
    sum_CD: float32, of the directions of each cluster. count_C: int64.
    """

    label_N: torch.Tensor
    cosine_N: torch.Tensor
    sum_CD: torch.Tensor
    count_C: torch.Tensor


def _assigned(vectors_ND: torch.Tensor, centroids_CD: torch.Tensor) -> _Assigned:
    labels, cosines, sum_CD = [], [], torch.zeros_like(centroids_CD)
    for block in vectors_ND.split(_BLOCK):
        directions = unit(block)
        cosine, label = (directions @ centroids_CD.T).max(dim=1)
        # a product, since adding by index has no order on a GPU
        sum_CD += functional.one_hot(label, len(centroids_CD)).T.to(directions.dtype) @ directions
        labels.append(label)
        cosines.append(cosine)
    label_N = torch.cat(labels)
    count_C = functional.one_hot(label_N, len(centroids_CD)).sum(dim=0)
    return _Assigned(label_N, torch.cat(cosines), sum_CD, count_C)


def _moved(vectors_ND: torch.Tensor, assigned: _Assigned) -> tuple[torch.Tensor, int]:
    """Centroids in the middle of their vectors, and how many of them were dead and began again elsewhere."""
    centroids_CD = unit(assigned.sum_CD)
    dead = (assigned.count_C == 0).nonzero().flatten()
    cosine, worst = assigned.cosine_N.sort(stable=True)
    worst = worst[: len(dead)][cosine[: len(dead)] < 1 - _SERVED]
    centroids_CD[dead[: len(worst)]] = unit(vectors_ND[worst])
    return centroids_CD, len(worst)


def _first_centroids(vectors_ND: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    """k-means++: each next one is drawn with a chance that grows with its distance, 1 - cosine, to the nearest."""
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(vectors_ND), (), generator=generator))
    chosen = [unit(vectors_ND[first : first + 1])]
    distance_N = torch.full((len(vectors_ND),), float("inf"), dtype=torch.float64)
    for _ in range(clusters - 1):
        cosine_N = torch.cat([unit(block) @ chosen[-1][0] for block in vectors_ND.split(_BLOCK)])
        distance_N = torch.minimum(distance_N, (1 - cosine_N.cpu().double()).clamp(min=0))
        reach_N = distance_N.cumsum(dim=0)
        drawn = torch.rand((), generator=generator, dtype=torch.float64) * reach_N[-1]
        index = min(int(torch.searchsorted(reach_N, drawn, right=True)), len(vectors_ND) - 1)
        chosen.append(unit(vectors_ND[index : index + 1]))
    return torch.cat(chosen)
