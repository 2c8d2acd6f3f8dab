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
        return cosines_BCN.float().unflatten(2, codes_BKhw.shape[2:])

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
    converged: whether the last of them changed nothing.
    reseeded: how often a cluster lost all its vectors and was begun again at the vector worst served.
    """

    centroids: torch.Tensor
    counts: torch.Tensor
    mean_cosine: float
    iterations: int
    converged: bool
    reseeded: int


def cosine_kmeans(vectors_ND: torch.Tensor, clusters: int, seed: int = 0, iterations: int = 100) -> Clustering:
    """Spherical k-means: directions that the vectors' directions gather around. Equal inputs give equal results.

    vectors_ND: any float dtype, read in blocks; on their device.
    clusters: C.
    seed: of the first centroids, drawn as k-means++ draws them.
    iterations: at most.

    A cluster that loses all its vectors begins again at the vector with the least cosine to its centroid. Where there
    are fewer different directions than clusters, dead clusters remain: `Clustering.counts`.

    Raises ValueError for fewer vectors than clusters, and vectors that are not finite.
    """
    raise NotImplementedError
