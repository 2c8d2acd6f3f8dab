"""Spatial Confidence: how stable each patch of an instance is when LocalCut's threshold moves.

T thresholds · N = Gh·Gw patches · Gh, Gw patch grid

Source: CutS3D, "Spatial Confidence": SC = (1/T) Σ_t BC(t), BC(t) the binary LocalCut at threshold τ_t, the T
thresholds equally spaced up to τ_knn. The k-NN graph is built once and truncated T times.
"""

from dataclasses import dataclass

import numpy as np

from stages.local_cut import LocalCutConfig, cut_at, group_graph
from stages.threshold_pieces import threshold_labels


@dataclass(frozen=True)
class SpatialConfidenceConfig:
    """thresholds: T >= 1.
    lowest: τ_min as a fraction of τ_knn, in (0, 1].
    floor: least confidence that is stored for a patch of a mask, in [0, 1]; scores do not use it.
    """

    thresholds: int = 6
    lowest: float = 0.5
    floor: float = 0.5

    def __post_init__(self) -> None:
        if self.thresholds < 1:
            raise ValueError(f"spatial_confidence.thresholds must be at least 1, got {self.thresholds}")
        if not 0.0 < self.lowest <= 1.0:
            raise ValueError(f"spatial_confidence.lowest must lie in (0, 1] (a fraction of tau_knn), got {self.lowest}")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"spatial_confidence.floor must lie in [0, 1], got {self.floor}")


def threshold_ladder(tau_knn: float, config: SpatialConfidenceConfig) -> np.ndarray:
    """The T thresholds, ascending; the last is τ_knn itself, so that its cut is the instance."""
    return np.linspace(tau_knn, config.lowest * tau_knn, config.thresholds)[::-1]


def spatial_confidence(
    depth_GhGw: np.ndarray,
    group_GhGw: np.ndarray,
    mask_GhGw: np.ndarray,
    source: int,
    sink: int,
    cut: LocalCutConfig,
    config: SpatialConfidenceConfig,
) -> np.ndarray:
    """Spatial Confidence of each patch of an instance, before its floor: (Gh, Gw) float32, 0 outside of the mask.

    depth_GhGw, group_GhGw: as given to `local_cut`.
    mask_GhGw: bool, its result or what later steps left of it.
    source, sink: flat patch indices it returned.
    """
    graph = group_graph(depth_GhGw, group_GhGw, cut)
    taus_T = threshold_ladder(cut.tau_on(mask_GhGw.shape), config)
    votes_N = np.zeros(graph.n, dtype=np.float32)
    for labels_N, tau in zip(threshold_labels(graph, taus_T), taus_T, strict=True):
        component_N = labels_N == labels_N[source]
        votes_N += cut_at(graph, float(tau), source, sink, cut)[0] if component_N[sink] else component_N
    return np.where(mask_GhGw, votes_N.reshape(mask_GhGw.shape) / config.thresholds, 0.0).astype(np.float32)
