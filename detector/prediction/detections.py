"""Masks out of what a detector says of its boxes: pasted at the photo's own size, coded, and as sure as they are.

A mask is looked at inside its box's window only, one at a time: a hundred detections in a photo of twelve megapixels
take the memory of one. No MMDetection here, so that processes of a pool can do it.

M detections · H, W pixels of the photo · Y, X of a window · h, w cells of a box's mask · Gh, Gw patch grid · R, C the
rows and columns of it that a window touches
"""

import math
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.errors import ConfigError
from pipeline.results.instances import Instance

LAST_ROUND = 255  # what the store's uint8 holds


@dataclass(frozen=True)
class Limits:
    """Which detections are kept; None leaves it to the checkpoint.

    min_score: 0..1.
    max_per_image: the best by score.
    nms_iou: of two boxes that overlap more, the worse goes.
    """

    min_score: float = 0.0
    max_per_image: int = 100
    nms_iou: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score is {self.min_score}: it must lie in 0..1")
        if self.max_per_image < 1:
            raise ConfigError(f"max_per_image is {self.max_per_image}: it must be at least 1")
        if self.nms_iou is not None and not 0 < self.nms_iou <= 1:
            raise ConfigError(f"nms_iou is {self.nms_iou}: it must lie above 0 and up to 1, or be none")


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of one photo, the best first.

    boxes: float32 (M, 4), x1, y1, x2, y2 in pixels of the photo.
    scores: float32 (M,), 0..1.
    masks: float32 (M, h, w), probability of the object over the box.
    """

    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True, eq=False)
class Window:
    """Part of a photo.

    top, left: of its first pixel in the photo.
    values: (Y, X), of the pixels.
    """

    top: int
    left: int
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class PasteRule:
    """How detections become instances.

    threshold: pixels of at least this probability are the mask, > 0 and < 1.
    grid: (Gh, Gw) of the confidences.
    tight_boxes: an instance's box is its mask's, as in every store; else the detector's own, clipped to the photo, by
        which boxes are scored.
    """

    threshold: float
    grid: tuple[int, int]
    tight_boxes: bool = True


def instance_of(
    probability_hw: np.ndarray, box: np.ndarray, score: float, place: int, size: tuple[int, int], rule: PasteRule
) -> Instance | None:
    """The instance of one detection; None when no pixel reaches the threshold.

    probability_hw: float32, 0..1, over the box.
    box: x1, y1, x2, y2 in pixels of the photo.
    size: its height, width.
    place: of the detection by score, 0-based; kept as the instance's round.

    Its confidence is, per patch of the grid, the mean probability of the mask's pixels in it, 255 = 1.0, and 0 where it
    has none: threshold..1 inside the mask, as the Spatial Confidence of cuts lies between its floor and 1.
    """
    pasted = paste(probability_hw, box, size)
    mask_YX = pasted.values >= rule.threshold
    area = int(np.count_nonzero(mask_YX))
    if not area:
        return None
    rle = encode(Window(pasted.top, pasted.left, mask_YX), size)
    return Instance(
        rle=rle,
        box=_box_of(rle, size) if rule.tight_boxes else _clipped(box, size),
        area=area,
        score=score,
        confidence=patch_confidence(pasted, mask_YX, size, rule.grid),
        round=min(place, LAST_ROUND),
    )


def paste(probability_hw: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> Window:
    """The probabilities of a box's mask at the photo's pixels, float32, in the window outside of which all are 0.

    Bilinear between the centres of the cells, and falling to 0 beyond the outermost, as in Mask R-CNN (Detectron2's and
    MMDetection's pasting). Interpolating is linear along each side, so it is two products of matrices.
    """
    rows, columns = probability_hw.shape
    top, down_Yh = _interpolation(box[1], box[3], rows, size[0])
    left, across_Xw = _interpolation(box[0], box[2], columns, size[1])
    # Made turned, so that its columns are contiguous: run-length codes run down them.
    values_XY = across_Xw @ probability_hw.T.astype(np.float32) @ down_Yh.T
    return Window(top, left, values_XY.T)


def encode(mask: Window, size: tuple[int, int]) -> bytes:
    """COCO compressed run-length code of a photo that is 1 where the window's bool (Y, X) is true."""
    photo_HW = np.zeros(size, np.uint8, order="F")
    rows, columns = mask.values.shape
    photo_HW[mask.top : mask.top + rows, mask.left : mask.left + columns] = mask.values
    code: bytes = coco_mask.encode(photo_HW)["counts"]
    return code


def patch_confidence(pasted: Window, mask_YX: np.ndarray, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """uint8 (Gh, Gw): mean of the window's values over the mask's pixels of each patch, 255 = 1.0; 0 without any.

    A pixel belongs to the patch in which its upper left corner lies.
    """
    rows, rows_RY = _members(pasted.top, mask_YX.shape[0], size[0], grid[0])
    columns, columns_CX = _members(pasted.left, mask_YX.shape[1], size[1], grid[1])
    inside_YX = mask_YX.astype(np.float32)
    with np.errstate(invalid="ignore"):  # a BLAS may raise the flag for finite matrices, now and then
        counts_RC = rows_RY @ inside_YX @ columns_CX.T
        sums_RC = rows_RY @ (inside_YX * pasted.values) @ columns_CX.T
    means_RC = np.rint(255 * sums_RC / np.maximum(counts_RC, 1)).clip(1, 255)
    confidence = np.zeros(grid, np.uint8)
    confidence[rows, columns] = np.where(counts_RC > 0, means_RC, 0)
    return confidence


def _members(first: int, pixels: int, side: int, patches: int) -> tuple[slice, np.ndarray]:
    """Along one side of the photo: the patches that these pixels lie in; float32 (patches, pixels), 1 where they do."""
    patch_P = (first + np.arange(pixels)) * patches // side
    touched = slice(int(patch_P[0]), int(patch_P[-1]) + 1)
    return touched, (np.arange(touched.start, touched.stop)[:, None] == patch_P).astype(np.float32)


def _interpolation(low: float, high: float, cells: int, limit: int) -> tuple[int, np.ndarray]:
    """First pixel, and weights (pixels, cells), of a row of cells between two coordinates, of `limit` pixels in all.

    Pixel p has its centre at p + 0.5, cell c at low + (c + 0.5) * (high - low) / cells.
    """
    cell = (high - low) / cells
    if not cell > 0:
        return 0, np.zeros((0, cells), np.float32)
    first = min(max(math.floor(low - cell / 2), 0), limit)
    last = min(max(math.ceil(high + cell / 2), first), limit)
    place_P = (np.arange(first, last) + 0.5 - low) / cell - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(place_P[:, None] - np.arange(cells)))
    return first, weights.astype(np.float32)


def _box_of(rle: bytes, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = coco_mask.toBbox({"size": list(size), "counts": rle}).tolist()
    return x, y, width, height


def _clipped(box: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x1, x2 = (float(min(max(x, 0), size[1])) for x in (box[0], box[2]))
    y1, y2 = (float(min(max(y, 0), size[0])) for y in (box[1], box[3]))
    return x1, y1, x2 - x1, y2 - y1
