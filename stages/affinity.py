"""Semantic affinity between the patches of an image.

B images · N = Gh·Gw patches · D feature width

The published graph (CutLER, CutS3D) is A = 1 where the cosine exceeds τ and ε elsewhere. It is kept here as the
0/1 matrix `edges_BNN` alone: A = ε + (1 - ε)·edges, and the ε part, being of rank one, is applied analytically by
`ncut`.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from stages.spatial_importance import SharpenConfig, sharpen


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


def cosine_similarity(features_BND: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs of patches: (B, N, D) any float -> (B, N, N) float32 in [-1, 1]; zero vectors have cosine
    0.
    """
    unit_BND = torch.nn.functional.normalize(features_BND.float(), dim=-1)
    return unit_BND @ unit_BND.transpose(1, 2)


def affinity_edges(
    features_BND: torch.Tensor,
    config: AffinityConfig,
    importance_BN: torch.Tensor | None = None,
    sharpening: SharpenConfig | None = None,
) -> torch.Tensor:
    """Edges of the semantic graph, (B, N, N) float32 in [0, 1], symmetric.

    features_BND: (B, N, D), any float dtype. importance_BN: Spatial Importance of the patches, (B, N) float32 in [β,
    1]; when given, the cosines are sharpened by it first (CutS3D eq. 3).
    Raises ValueError when `config.tau` is not settled or the features are not finite.
    """
    if config.tau is None:
        raise ValueError("affinity.tau is not set: give a value or take the feature preset's")
    if not torch.isfinite(features_BND).all():
        raise ValueError("the features hold NaN or infinity: check the feature extractor's weights and precision")
    weights_BNN = cosine_similarity(features_BND)
    if importance_BN is not None:
        weights_BNN = sharpen(weights_BNN, importance_BN, sharpening or SharpenConfig())
    above_BNN = weights_BNN > config.tau
    if config.weights == "binary":
        return above_BNN.float()
    return weights_BNN.clamp_(0.0, 1.0).mul_(above_BNN)
