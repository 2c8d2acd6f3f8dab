"""From the moving objects and the semantic labels of a picture to its panoptic labels.

H, W pixels of the picture · h, w pixels of it at the size at which motion is looked at · M movers

Source: pseudo-labels of CUPS (arXiv 2504.01955).
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from pipeline.results.semantic import NONE
from stages.motion.movers import Movers

# Why there is no instance, beside `EMPTY_REASONS`.
AT_BORDER, NO_CLASS = "at_border", "no_class"


@dataclass(frozen=True, eq=False)
class Fused:
    """Classes and instances of a picture, as `PanopticRecord.of` takes them.

    labels_HW: uint8, 0..C-1, or 255 for a pixel without a class; all pixels of an instance have one.
    ids_HW: uint16, 0 for none, 1.. for instances.
    agreement_M: float32, 0..1, of instance 1, 2, ...
    reason: one word for why there is no instance; "" where there is one.
    """

    labels_HW: np.ndarray
    ids_HW: np.ndarray
    agreement_M: np.ndarray
    reason: str


def fuse(labels_HW: np.ndarray, movers: Movers) -> Fused:
    """Give each mover the class that most of its pixels have; of equals the one with the lower number.

    Pixels without a class do not count, and take the class of their mover. A mover that has no other pixels is left
    out. labels_HW: uint8, and `movers` of the same size; both stay as they are.
    """
    labels_HW, ids_HW = labels_HW.copy(), np.zeros(labels_HW.shape, np.uint16)
    kept = []
    for place, mask_HW in enumerate(movers.masks_MHW):
        counts = np.bincount(labels_HW[mask_HW], minlength=NONE + 1)[:NONE]
        if counts.any():
            kept.append(place)
            labels_HW[mask_HW], ids_HW[mask_HW] = counts.argmax(), len(kept)
    reason = movers.reason or ("" if kept else NO_CLASS)
    return Fused(labels_HW, ids_HW, movers.agreement_M[kept], reason)


def within_borders(movers: Movers, border: float, area: int) -> Movers:
    """The movers without what lies in columns at the left and right border, where half of a thing is in view, and flow
    leaves the picture. What is left of one must have `area` pixels.

    border: share of the width, 0..0.5, at each side.
    """
    width = movers.masks_MHW.shape[2]
    columns = round(border * width)
    masks_MHW = movers.masks_MHW.copy()
    masks_MHW[:, :, :columns] = masks_MHW[:, :, width - columns :] = False
    before_M, after_M = (masks.sum(axis=(1, 2)) for masks in (movers.masks_MHW, masks_MHW))
    kept_M = (after_M == before_M) | (after_M >= area)
    reason = movers.reason if movers.reason or kept_M.any() else AT_BORDER
    return replace(movers, masks_MHW=masks_MHW[kept_M], agreement_M=movers.agreement_M[kept_M], reason=reason)


def at_size(movers: Movers, size: tuple[int, int]) -> Movers:
    """The movers in a picture of another height and width: each pixel is of the mover that has the nearest one."""
    if movers.masks_MHW.shape[1:] == size:
        return movers
    numbers_hw = np.zeros(movers.masks_MHW.shape[1:], np.uint16)
    for number, mask_hw in enumerate(movers.masks_MHW, start=1):
        numbers_hw[mask_hw] = number
    numbers_HW = np.asarray(Image.fromarray(numbers_hw).resize(size[::-1], Image.Resampling.NEAREST))
    return replace(movers, masks_MHW=numbers_HW == np.arange(1, len(movers.masks_MHW) + 1)[:, None, None])
