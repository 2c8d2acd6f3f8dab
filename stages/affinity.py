"""Semantic affinity between the patches of an image.

B images · N = Gh·Gw patches · S some of them · D feature width

The published graph (CutLER, CutS3D) is A = 1 where the cosine exceeds τ and ε elsewhere. It is kept here as the
0/1 matrix `edges_BNN` alone: A = ε + (1 - ε)·edges, and the ε part, being of rank one, is applied analytically by
`ncut`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stages.late import torch
from stages.spatial_importance import SharpenConfig, sharpen

BLOCK = 300  # rows of pairs that the CPU looks at together, so that they stay in its caches


@dataclass(frozen=True)
class AffinityConfig:
    """How cosines become edges.

    tau: threshold on the cosine, in [-1, 1]; None takes the value of the feature preset, since it belongs to the
    features.
    weights: "binary" (edge 1 above τ; CutLER) or "soft" (the cosine itself above τ; DiffNCuts).
    epsilon: weight of the pairs below τ, in (0, 1); keeps the graph connected.
    """

    tau: float | None = None
    weights: Literal["binary", "soft"] = "binary"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.tau is not None and not -1.0 <= self.tau <= 1.0:
            raise ValueError(f"affinity.tau must lie in [-1, 1], got {self.tau}")
        if self.weights not in ("binary", "soft"):
            raise ValueError(f'affinity.weights must be "binary" or "soft", got {self.weights!r}')
        if not 0.0 < self.epsilon < 1.0:
            raise ValueError(f"affinity.epsilon must lie in (0, 1), got {self.epsilon}")

    @property
    def settled_tau(self) -> float:
        """τ; ValueError while it is None."""
        if self.tau is None:
            raise ValueError("affinity.tau is not set: give a value or take the feature preset's")
        return self.tau


def similarities(
    features_BND: torch.Tensor,
    importance_BN: torch.Tensor | None = None,
    sharpening: SharpenConfig | None = None,
) -> torch.Tensor:
    """Similarities of all pairs of patches: cosines, sharpened where `importance_BN` is given: (B, N, N) float32. A
    zero vector has cosine 0 with everything.

    features_BND: (B, N, D), any float dtype.
    importance_BN: Spatial Importance of the patches, (B, N) float32 in [β, 1] (CutS3D eq. 3).

    Raises ValueError when the features are not finite.
    """
    return _of_pairs(features_BND, importance_BN, sharpening, lambda similarity: similarity)


def point_similarities(
    unit_BND: torch.Tensor,
    points_S: np.ndarray,
    importance_BN: torch.Tensor | None = None,
    sharpening: SharpenConfig | None = None,
) -> torch.Tensor:
    """The rows of `similarities` that belong to some patches: (B, S, N) float32.

    unit_BND: (B, N, D) float32, see `unit_features`.
    points_S: flat indices of the patches.
    """
    points = torch.from_numpy(points_S).to(unit_BND.device)
    similarity_BSN = unit_BND[:, points] @ unit_BND.transpose(1, 2)
    if importance_BN is None:
        return similarity_BSN
    return sharpen(similarity_BSN, importance_BN[:, points], sharpening or SharpenConfig(), importance_BN)


def unit_features(features_BND: torch.Tensor) -> torch.Tensor:
    """Features of length 1, float32, those of zeros left as they are; ValueError when they are not finite."""
    features_BND = features_BND.float()
    length_BN1 = torch.linalg.vector_norm(features_BND, dim=-1, keepdim=True)
    if not torch.isfinite(length_BN1).all():  # NaN and infinity show in the lengths, too
        raise ValueError("the features hold NaN or infinity: check the feature extractor's weights and precision")
    return features_BND / length_BN1.clamp(min=1e-12)


def _of_pairs(
    features_BND: torch.Tensor,
    importance_BN: torch.Tensor | None,
    sharpening: SharpenConfig | None,
    finish: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """`finish`, which is elementwise, of the similarities of all pairs: (B, N, N) of its dtype.

    The CPU computes the pairs on and above the diagonal, rows by rows, and mirrors them: half the products, and only
    the result is as large as all pairs.
    """
    unit_BND = unit_features(features_BND)
    b, n = unit_BND.shape[:2]

    def finished(rows: slice, columns: slice) -> torch.Tensor:
        similarity = unit_BND[:, rows] @ unit_BND[:, columns].transpose(1, 2)
        if importance_BN is not None:
            own, other = importance_BN[:, rows], importance_BN[:, columns]
            similarity = sharpen(similarity, own, sharpening or SharpenConfig(), other)
        return finish(similarity)

    if unit_BND.is_cuda:
        return finished(slice(None), slice(None))
    # numpy asks for large pages, torch does not: 5 instead of 25 ms to claim 52 MB
    result_BNN = torch.from_numpy(np.empty((b, n, n), finished(slice(0), slice(0)).numpy().dtype))
    for start in range(0, n, BLOCK):
        rows, columns, below = slice(start, start + BLOCK), slice(start, n), slice(start + BLOCK, n)
        result_BNN[:, rows, columns] = finished(rows, columns)
        result_BNN[:, below, rows] = result_BNN[:, rows, below].transpose(1, 2)
    return result_BNN


def joined(similarity: torch.Tensor, tau: float, weights: str) -> torch.Tensor:
    """Weights of the edges of the semantic graph: those of similarities above `tau`, 0 elsewhere. Binary weights are
    bool, soft ones float32 in [0, 1].

    similarity: float32 of any shape.
    weights: see `AffinityConfig`.
    """
    # numpy compares several times faster than torch
    above = similarity > tau if similarity.is_cuda else torch.from_numpy(similarity.numpy() > np.float32(tau))
    return above if weights == "binary" else similarity.clamp(0.0, 1.0).mul_(above)


def affinity_edges(
    features_BND: torch.Tensor,
    config: AffinityConfig,
    importance_BN: torch.Tensor | None = None,
    sharpening: SharpenConfig | None = None,
) -> torch.Tensor:
    """Edges of the semantic graph, (B, N, N) bool or float32 in [0, 1], symmetric: `similarities` `joined` at τ.

    Raises ValueError when `config.tau` is not settled or the features are not finite.
    """
    tau = config.settled_tau
    return _of_pairs(
        features_BND, importance_BN, sharpening, lambda similarity: joined(similarity, tau, config.weights)
    )
