"""Which masks and images of a store a detector is trained on.

M masks and B images of a block of whole images
"""

import math
from collections import Counter
from dataclasses import dataclass
from types import NoneType

import numpy as np

from detector.data.options import options_of
from pipeline.errors import ConfigError

_KINDS: dict[str, tuple[type, ...]] = {
    "min_score": (int, float, NoneType),
    "min_confidence": (int, float),
    "min_area": (int, float),
    "max_area": (int, float),
    "max_per_image": (int, NoneType),
    "min_per_image": (int,),
}


@dataclass(frozen=True)
class InstanceFilter:
    """What stays; all bounds are inclusive, and a mask is counted as dropped by the first one that it does not meet.

    min_score: of the masks; None for all.
    min_confidence: mean spatial confidence of a mask, 0..1.
    min_area, max_area: share of the image that a mask covers, 0..1.
    max_per_image: at most so many masks per image, those that score best; None for all.
    min_per_image: images with fewer masks left are dropped; 0 keeps also those with none.

    Raises:
        ConfigError: a value out of range.
    """

    min_score: float | None = None
    min_confidence: float = 0.0
    min_area: float = 0.0
    max_area: float = 1.0
    max_per_image: int | None = None
    min_per_image: int = 1

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                number = "a number" if float in kinds else "a whole number"
                raise ConfigError(f"filters: {name} must be {number}, not {value!r}")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ConfigError("filters: min_score must be a number, neither NaN nor infinite")
        for name in ("min_confidence", "min_area", "max_area"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"filters: {name} must lie in 0..1, not {value}")
        if self.min_area > self.max_area:
            raise ConfigError(f"filters: min_area, {self.min_area}, is above max_area, {self.max_area}")
        if self.max_per_image is not None and self.max_per_image < 1:
            raise ConfigError(f"filters: max_per_image must be at least 1, or None, not {self.max_per_image}")
        if self.min_per_image < 0:
            raise ConfigError(f"filters: min_per_image must be at least 0, not {self.min_per_image}")
        if self.max_per_image is not None and self.min_per_image > self.max_per_image:
            raise ConfigError(
                f"filters: min_per_image, {self.min_per_image}, is above max_per_image, {self.max_per_image}: "
                "no image can have both"
            )

    @classmethod
    def of(cls, options: "InstanceFilter | dict[str, float | int | None] | None") -> "InstanceFilter":
        """Itself, one of these options, or the one that keeps all masks; ConfigError names an option it has not."""
        if isinstance(options, InstanceFilter):
            return options
        return options_of(cls, options or {}, "filters")


@dataclass(frozen=True)
class MaskFacts:
    """What filters judge, of all masks of B images one after the other.

    score, confidence: float32 (M,).
    area: int64 (M,), pixels.
    box: float32 (M, 4), x, y, width, height.
    counts: int64 (B,), masks of each image.
    pixels: int64 (B,), of each image.
    """

    score: np.ndarray
    confidence: np.ndarray
    area: np.ndarray
    box: np.ndarray
    counts: np.ndarray
    pixels: np.ndarray


def passing(facts: MaskFacts, filters: InstanceFilter) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Bool (M,): the masks that stay; bool (B,): the images that stay; and how many masks each filter dropped.

    Masks without a pixel, or with a box without extent, never stay ("empty"). Of equal scores the first masks stay.
    The count "min_per_image" is of masks that went with their images.
    """
    image_M = np.repeat(np.arange(len(facts.counts)), facts.counts)
    share_M = facts.area / np.maximum(facts.pixels[image_M], 1)
    keep_M = np.ones(len(image_M), bool)
    dropped: Counter[str] = Counter()
    for name, passes_M in (
        ("empty", (facts.area > 0) & (facts.box[:, 2:] > 0).all(axis=1)),
        ("min_score", facts.score >= (-math.inf if filters.min_score is None else filters.min_score)),
        ("min_confidence", facts.confidence >= filters.min_confidence),
        ("min_area", share_M >= filters.min_area),
        ("max_area", share_M <= filters.max_area),
    ):
        dropped[name] += int((keep_M & ~passes_M).sum())
        keep_M &= passes_M
    if filters.max_per_image is not None:
        worse_M = keep_M & ~_best(facts.score, image_M, keep_M, filters.max_per_image)
        dropped["max_per_image"] += int(worse_M.sum())
        keep_M &= ~worse_M
    left_B = np.bincount(image_M[keep_M], minlength=len(facts.counts))
    keep_B = left_B >= filters.min_per_image
    gone_M = keep_M & ~keep_B[image_M]
    dropped["min_per_image"] += int(gone_M.sum())
    return keep_M & ~gone_M, keep_B, dropped


def _best(score_M: np.ndarray, image_M: np.ndarray, keep_M: np.ndarray, count: int) -> np.ndarray:
    """Bool (M,): the `count` masks of each image that score best among those kept."""
    kept = np.flatnonzero(keep_M)
    # By image, then by falling score; equal scores in the order they have (lexsort is stable).
    order = kept[np.lexsort((-score_M[kept], image_M[kept]))]
    starts = np.searchsorted(image_M[order], image_M[order], side="left")
    best_M = np.zeros(len(keep_M), bool)
    best_M[order[np.arange(len(order)) - starts < count]] = True
    return best_M
