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

    @property
    def settled_tau(self) -> float:
        """τ; ValueError while it is None."""
        if self.tau is None:
            raise ValueError("affinity.tau is not set: give a value or take the feature preset's")
        return self.tau


def cosine_similarity(features_BND: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs of patches: (B, N, D) any float -> (B, N, N) float32 in [-1, 1]; zero vectors have cosine
    0.
    """
    unit_BND = torch.nn.functional.normalize(features_BND.float(), dim=-1)
    return unit_BND @ unit_BND.transpose(1, 2)


def similarities(
    features_BND: torch.Tensor,
    importance_BN: torch.Tensor | None = None,
    sharpening: SharpenConfig | None = None,
) -> torch.Tensor:
    """Similarities of all pairs of patches: cosines, sharpened where `importance_BN` is given: (B, N, N) float32.

    features_BND: (B, N, D), any float dtype. importance_BN: Spatial Importance of the patches, (B, N) float32 in [β,
    1] (CutS3D eq. 3). Raises ValueError when the features are not finite.
    """
    if not torch.isfinite(features_BND).all():
        raise ValueError("the features hold NaN or infinity: check the feature extractor's weights and precision")
    cosines_BNN = cosine_similarity(features_BND)
    if importance_BN is None:
        return cosines_BNN
    return sharpen(cosines_BNN, importance_BN, sharpening or SharpenConfig())


def joined(similarity: torch.Tensor, tau: float, weights: str) -> torch.Tensor:
    """Weights of the edges of the semantic graph, float32 in [0, 1]: those of similarities above `tau`, 0 elsewhere.

    similarity: float32 of any shape. weights: see `AffinityConfig`.
    """
    above = similarity > tau
    return above.float() if weights == "binary" else similarity.clamp(0.0, 1.0).mul_(above)


def affinity_edges(
    features_BND: torch.Tensor,
    config: AffinityConfig,
    importance_BN: torch.Tensor | None = None,
    sharpening: SharpenConfig | None = None,
) -> torch.Tensor:
    """Edges of the semantic graph, (B, N, N) float32 in [0, 1], symmetric: `similarities` joined at τ.

    Raises ValueError when `config.tau` is not settled or the features are not finite.
    """
    tau = config.settled_tau
    return joined(similarities(features_BND, importance_BN, sharpening), tau, config.weights)
