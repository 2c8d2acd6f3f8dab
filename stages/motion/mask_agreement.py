"""The ensemble: masks on which the runs agree, each object once.

M masks of all runs · n pixels that any of them covers · H, W pixels

Source: CUPS (arXiv 2504.01955), section 3.1 and its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.motion.object_masks import Piece

_SIGMA = 2.0  # of matrix NMS: it multiplies


def agreement(pooled: Sequence[Piece], runs: int) -> np.ndarray:
    """Of each mask the share of the runs that cover it, on average over its pixels: float (M), 0..1.

    Masks of one run are disjoint.
    """
    covered = np.bincount(np.concatenate([np.zeros(0, np.intp), *(piece.pixels for piece in pooled)]))
    return np.array([covered[piece.pixels].mean() / runs for piece in pooled])


def matrix_nms(pooled: Sequence[Piece], least: float) -> list[int]:
    """Which masks are left, the most certain first: those whose certainty times decay is `least` or more.

    The decay of mask j is the least of exp(-2·o²) / exp(-2·c²) over the masks i that are more certain: o the IoU of the
    two, c the largest of i with any that is more certain than i (Wang et al., "SOLOv2", NeurIPS 2020). Of equally
    certain ones the first is taken for the more certain.
    """
    order = sorted(range(len(pooled)), key=lambda index: -pooled[index].certainty)
    iou_MM = np.triu(_ious([pooled[index] for index in order]), k=1)
    worst_M = iou_MM.max(axis=0, initial=0)
    decay_MM = np.exp(-_SIGMA * np.square(iou_MM)) / np.exp(-_SIGMA * np.square(worst_M))[:, None]
    decay_MM[np.tril_indices(len(order))] = 1.0  # only those before count
    decay_M = decay_MM.min(axis=0, initial=1)
    return [index for index, decay in zip(order, decay_M, strict=True) if pooled[index].certainty * decay >= least]


def _ious(pooled: Sequence[Piece]) -> np.ndarray:
    """Of all pairs, (M, M)."""
    if not pooled:
        return np.zeros((0, 0))
    place_of = np.zeros(max(int(piece.pixels.max()) for piece in pooled) + 1, bool)
    for piece in pooled:
        place_of[piece.pixels] = True
    place_of = np.cumsum(place_of) - 1
    masks_Mn = np.zeros((len(pooled), int(place_of[-1]) + 1), np.float32)  # counts of pixels are exact in it
    for index, piece in enumerate(pooled):
        masks_Mn[index, place_of[piece.pixels]] = 1
    both_MM = (masks_Mn @ masks_Mn.T).astype(np.float64)
    area_M = both_MM.diagonal()
    return both_MM / (area_M[:, None] + area_M - both_MM)


def painted(masks: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Disjoint masks, int (H, W): 0 nothing, i the mask i - 1. Where they overlap the larger one is on top."""
    label_HW = np.zeros(size, np.int32)
    for index in sorted(range(len(masks)), key=lambda index: int(masks[index].sum())):
        label_HW[masks[index]] = index + 1
    return label_HW


def surface(mask_HW: np.ndarray, depth_HW: np.ndarray, reliable_HW: np.ndarray, focal: tuple[float, float]) -> float:
    """Square metres of a mask, of its convex hull, facing the camera at the median depth of its reliable pixels; 0 if
    none is.

    focal: fx, fy. CUPS triangulates the pixels in space instead, where the noise of the depth adds many times the true
    surface.
    """
    import cv2

    depth_n = depth_HW[mask_HW & reliable_HW]
    if not len(depth_n):
        return 0.0
    hull = cv2.convexHull(cv2.findNonZero(mask_HW.astype(np.uint8)))
    pixels = np.zeros(mask_HW.shape, np.uint8)
    cv2.fillConvexPoly(pixels, hull, 1)
    return float(np.count_nonzero(pixels) * np.median(depth_n) ** 2 / (focal[0] * focal[1]))
