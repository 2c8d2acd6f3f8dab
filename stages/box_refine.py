"""Refinement of each mask in its own box: the dense CRF sees the box and its surroundings on the photo at its own size.

H, W pixels of the photo · h, w pixels of an enlarged box · Gh, Gw patch grid · M masks

Source: the post-processing of VoteCut (CuVLER): a mask that the CRF takes elsewhere is not dropped but stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from stages.crf import CrfConfig, dense_crf
from stages.filters import DropReason
from stages.late import torch
from stages.refine import RefinedMasks, resized_mask, sampled, without_holes

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class BoxRefineConfig:
    """margin: on each side of a mask's box, as a share of the box's width and height, >= 0.
    max_side: the longer side in pixels at which the CRF works at most, >= 1; larger boxes are made smaller for it. None
        = every box at the photo's own size.
    crf: None leaves the masks as they are, up-sampled.
    fill_holes: background that a mask encloses becomes foreground.
    min_box_iou: where the boxes before and after overlap less, the mask stays as it was, 0..1.
    """

    margin: float = 1 / 3
    max_side: int | None = None
    crf: CrfConfig | None = field(default_factory=CrfConfig)
    fill_holes: bool = True
    min_box_iou: float = 0.5

    def __post_init__(self) -> None:
        if not self.margin >= 0:
            raise ValueError(f"refine.margin must be at least 0, got {self.margin}")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"refine.max_side must be at least 1 or none, got {self.max_side}")
        if not 0 <= self.min_box_iou <= 1:
            raise ValueError(f"refine.min_box_iou must be in 0..1, got {self.min_box_iou}")


def refine_in_boxes(
    image_HW3: np.ndarray, masks_MGG: np.ndarray, config: BoxRefineConfig, device: torch.device | str = "cpu"
) -> RefinedMasks:
    """The masks of one photo, uint8 RGB, from bool (M, Gh, Gw) on its patch grid. The CRF runs on `device`.

    `crf_iou` is 0 for a mask that stays as it was before the CRF. `dropped`, as EMPTY_MASK, is only a mask without a
    pixel: a photo of fewer pixels than the grid has patches can lose one.
    """
    before_MHW = sampled(masks_MGG, image_HW3.shape[:2])
    after_MHW, crf_iou = before_MHW.copy(), np.ones(len(masks_MGG), np.float32)
    has_pixels_M = np.asarray(before_MHW.any(axis=(1, 2)))
    for place in np.flatnonzero(has_pixels_M if config.crf is not None else []):
        refined_HW = _refined(image_HW3, before_MHW[place], config, device)
        if refined_HW is None:
            crf_iou[place] = 0.0
            continue
        after_MHW[place] = refined_HW
        union = np.count_nonzero(before_MHW[place] | refined_HW)
        crf_iou[place] = np.count_nonzero(before_MHW[place] & refined_HW) / union
    return RefinedMasks(after_MHW, crf_iou, tuple(None if there else DropReason.EMPTY_MASK for there in has_pixels_M))


def _refined(
    image_HW3: np.ndarray, mask_HW: np.ndarray, config: BoxRefineConfig, device: torch.device | str
) -> np.ndarray | None:
    """What the CRF makes of a mask; None where nothing is left of it or its box is another one."""
    assert config.crf is not None
    box = _box(mask_HW)
    top, left, bottom, right = _enlarged(box, config.margin, mask_HW.shape)
    image_hw3, mask_hw = image_HW3[top:bottom, left:right], mask_HW[top:bottom, left:right]
    size = _working_size(mask_hw.shape, config.max_side)
    if size != mask_hw.shape:
        image_hw3 = np.asarray(Image.fromarray(image_hw3).resize(size[::-1], Image.Resampling.LANCZOS))
    small_1hw = sampled(mask_hw[None], size)
    image_1hw3 = torch.from_numpy(np.array(image_hw3)).to(device)[None]
    (refined_1hw,) = dense_crf(image_1hw3, [torch.from_numpy(small_1hw).to(device)], config.crf)
    refined_hw = refined_1hw[0].cpu().numpy()
    if config.fill_holes:
        refined_hw = without_holes(refined_hw)
    refined_HW = np.zeros_like(mask_HW)
    refined_HW[top:bottom, left:right] = resized_mask(refined_hw, mask_hw.shape)
    if not refined_HW.any() or box_iou(box, _box(refined_HW)) < config.min_box_iou:
        return None
    return refined_HW


def _box(mask_HW: np.ndarray) -> Box:
    """Top, left, bottom, right of a mask that is not empty, the last two exclusive."""
    rows, columns = (np.flatnonzero(mask_HW.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _enlarged(box: Box, margin: float, limits: tuple[int, ...]) -> Box:
    top, left, bottom, right = box
    more_h, more_w = int((bottom - top) * margin), int((right - left) * margin)
    return (
        *(max(top - more_h, 0), max(left - more_w, 0)),
        *(min(bottom + more_h, limits[0]), min(right + more_w, limits[1])),
    )


def _working_size(shape: tuple[int, ...], max_side: int | None) -> tuple[int, int]:
    height, width = shape
    scale = 1.0 if max_side is None else min(1.0, max_side / max(shape))
    return max(1, round(height * scale)), max(1, round(width * scale))


def box_iou(a: Box, b: Box) -> float:
    """IoU of two boxes, neither of them empty."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    both = max(height, 0) * max(width, 0)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (sum(areas) - both)
