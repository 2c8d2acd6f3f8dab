"""Wholes and parts: which masks of an image lie in which, and the options of the search that finds such masks.

M masks

Source: Cao et al., "HASSOD: Hierarchical Adaptive Self-Supervised Object Detection", NeurIPS 2023, and its code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

DEEPEST = 2  # level of subparts: what lies deeper counts as one, too


@dataclass(frozen=True)
class HierarchyConfig:
    """thresholds: cosines down to which adjacent regions are merged, falling, in [-1, 1], as in 0.4,0.2,0.1: each gives
        a mask of every region that there is then; none takes those of the features.
    min_area: share of the image's patches that a region must exceed to become a mask, in [0, 1).
    compete: the regions of a threshold are labels of one CRF (HASSOD); false refines each against its background.
    min_pixels: least area of a mask in pixels of the photo, >= 0.
    max_corners: most corners of the photo that a mask may hold, 0..4: what holds more is background.
    coverage: a mask is a part of the smallest one that holds this share of it, and of which it holds less, in (0, 1].
    """

    thresholds: tuple[float, ...] | None = None
    min_area: float = 0.0
    compete: bool = True
    min_pixels: int = 100
    max_corners: int = 2
    coverage: float = 0.9

    def __post_init__(self) -> None:
        taus = self.thresholds
        if taus is not None and not (0 < len(taus) <= 255 and all(-1.0 <= tau <= 1.0 for tau in taus)):
            raise ValueError(f"hierarchy.thresholds must be 1..255 numbers in [-1, 1] or none, got {_written(taus)}")
        if taus is not None and list(taus) != sorted(set(taus), reverse=True):
            raise ValueError(f"hierarchy.thresholds must fall, as in 0.4,0.2,0.1, got {_written(taus)}")
        if not 0.0 <= self.min_area < 1.0:
            raise ValueError(f"hierarchy.min_area must lie in [0, 1), got {self.min_area}")
        if self.min_pixels < 0:
            raise ValueError(f"hierarchy.min_pixels must be at least 0, got {self.min_pixels}")
        if not 0 <= self.max_corners <= 4:
            raise ValueError(f"hierarchy.max_corners must be 0..4, got {self.max_corners}")
        if not 0.0 < self.coverage <= 1.0:
            raise ValueError(f"hierarchy.coverage must lie in (0, 1], got {self.coverage}")

    @property
    def is_settled(self) -> bool:
        """Whether the thresholds are known."""
        return self.thresholds is not None

    def settled(self, of_features: tuple[float, ...]) -> HierarchyConfig:
        """With the features' thresholds where there are none."""
        return self if self.is_settled else replace(self, thresholds=of_features)

    @property
    def taus(self) -> tuple[float, ...]:
        """The thresholds; ValueError while there are none."""
        if self.thresholds is None:
            raise ValueError("hierarchy.thresholds are not set: give them or take the feature preset's")
        return self.thresholds


def _written(taus: tuple[float, ...]) -> str:
    return ",".join(f"{tau:g}" for tau in taus) or "none at all"


def parents(held_MM: np.ndarray, area_M: np.ndarray, coverage: float) -> np.ndarray:
    """Index of the mask that each mask is a part of, -1 for wholes, (M,) int64.

    held_MM: float, which share of mask A lies in mask B, 0..1.
    area_M: > 0.
    coverage: A is a part of the smallest B that holds at least this share of A, and of which A holds less; of equally
        small ones the first. So masks that cover each other are no parts of each other, and a part is smaller than its
        whole.
    """
    is_whole_MM = (held_MM >= coverage) & (coverage > held_MM.T)
    if not len(area_M):
        return np.zeros(0, np.int64)
    smallest_M = np.where(is_whole_MM, area_M, np.inf).argmin(axis=1)
    return np.where(is_whole_MM.any(axis=1), smallest_M, -1)


def levels(held_MM: np.ndarray, area_M: np.ndarray, coverage: float) -> np.ndarray:
    """0 for wholes, 1 for parts, 2 for parts of parts and what lies deeper, (M,) int64. Arguments as for `parents`."""
    parent_M = parents(held_MM, area_M, coverage)
    level_M = np.zeros(len(parent_M), np.int64)
    above_M = parent_M
    for _ in range(DEEPEST):
        level_M += above_M >= 0
        above_M = np.where(above_M >= 0, parent_M[above_M], -1)
    return level_M
