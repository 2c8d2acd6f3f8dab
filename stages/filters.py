"""Which proposals are kept, and why the others are dropped.

Gh, Gw patch grid
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class DropReason(StrEnum):
    """Why a proposal did not become an instance."""

    TOO_SMALL = "too_small"  # area at or below the least share of the image
    OVERLAPS_PREVIOUS = "overlaps_previous"  # the earlier mask over again
    COVERED = "covered"  # nothing is left once the earlier masks are taken out
    CRF_DISAGREES = "crf_disagrees"  # the dense CRF turned it into something else
    NO_BACKGROUND = "no_background"  # nothing in the image looks like background, so nothing can be told from it
    LITTLE_BACKGROUND = "little_background"  # the image's background is too small to tell anything from
    NOTHING_IN_FRONT = "nothing_in_front"  # the image is all background
    UNATTENDED = "unattended"  # the class token does not look at it
    CORNERS = "corners"  # it holds so many of the image's corners that it is background
    EMPTY_MASK = "empty_mask"  # it has no pixel at the original size of the photo
    UNSELECTED = "unselected"  # better masks of the image took all places


@dataclass(frozen=True)
class FilterConfig:
    """min_area: least share of the image's patches, exclusive, in [0, 1).
    max_iou: largest IoU with the previous mask, in [0, 1].
    first_exempt: the first round of an image is not filtered (CutLER's rule).
    """

    min_area: float = 0.01
    max_iou: float = 0.5
    first_exempt: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_area < 1.0:
            raise ValueError(f"filters.min_area must lie in [0, 1), got {self.min_area}")
        if not 0.0 <= self.max_iou <= 1.0:
            raise ValueError(f"filters.max_iou must lie in [0, 1], got {self.max_iou}")


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two bool masks of one shape; 0 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def judge(mask_GhGw: np.ndarray, previous_GhGw: np.ndarray | None, config: FilterConfig) -> DropReason | None:
    """Why this mask is to be dropped, or None. previous_GhGw: the mask of the round before, None in the first round.

    Source: CutLER: IoU with the previous mask over 0.5, or area at most 1 % of the patches.
    """
    if previous_GhGw is None and config.first_exempt:
        return None
    if mask_GhGw.mean() <= config.min_area:
        return DropReason.TOO_SMALL
    if previous_GhGw is not None and mask_iou(mask_GhGw, previous_GhGw) > config.max_iou:
        return DropReason.OVERLAPS_PREVIOUS
    return None
