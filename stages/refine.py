"""Refinement: patch-grid masks become masks at the size of the photo, with edges from a dense CRF.

H, W pixels of the original image · S, T height and width at which the CRF works · Gh, Gw patch grid · M masks

Source: the post-processing of MaskCut (CutLER), which CutS3D takes over: CRF, holes filled, and a mask that the CRF
changed beyond recognition is to be dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import scipy
from PIL import Image

from stages.crf import CrfConfig, dense_crf
from stages.filters import DropReason
from stages.late import torch


@dataclass(frozen=True)
class RefineConfig:
    """size: side in pixels of the square at which the CRF works, >= 1 (MaskCut: 480); None = each image's own size.
    crf: None leaves the masks as they are, up-sampled.
    fill_holes: background that a mask encloses becomes foreground.
    min_crf_iou: smallest IoU of a mask before and after that is kept, 0..1.
    """

    size: int | None = 480
    crf: CrfConfig | None = field(default_factory=CrfConfig)
    fill_holes: bool = True
    min_crf_iou: float = 0.5

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"refine.size must be >= 1 or None, got {self.size}")
        if not 0 <= self.min_crf_iou <= 1:
            raise ValueError(f"refine.min_crf_iou must be in 0..1, got {self.min_crf_iou}")


@dataclass(frozen=True)
class RefinedMasks:
    """masks: (M, H, W) bool at the original size of the image.
    crf_iou: (M,) float32, IoU before and after CRF and hole filling at the working size; 1 without CRF, 0 if both are
        empty.
    dropped: of each mask why it is not kept, or None: CRF_DISAGREES where crf_iou < min_crf_iou or the mask has no
        pixel at the original size.
    """

    masks: np.ndarray
    crf_iou: np.ndarray
    dropped: tuple[DropReason | None, ...]

    @property
    def keep(self) -> np.ndarray:
        """(M,) bool."""
        return np.array([reason is None for reason in self.dropped], bool)


def refine_masks(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    config: RefineConfig,
    device: torch.device | str = "cpu",
    each: Callable[..., Iterable[RefinedMasks]] = map,
) -> list[RefinedMasks]:
    """Refine the masks of a batch of images of any sizes; the CRF runs on `device`, what is left to do of every image
    where `each` takes it: the builtin map, or that of a pool of processes.

    images: uint8 RGB (H, W, 3).
    masks: for each image bool (M, Gh, Gw) on its patch grid, M >= 0.

    The result for an image does not depend on the other images. Raises ValueError for other shapes or dtypes.
    """
    _check(images, masks)
    coarse = [_to_working_size(image, own, config.size) for image, own in zip(images, masks, strict=True)]
    if config.crf is None:
        fine = coarse
    elif config.size is None:
        fine = []
        for image, own in zip(images, coarse, strict=True):
            fine += _crf([image], [own], config.crf, device)
    else:
        fine = _crf([to_square(image, config.size) for image in images], coarse, config.crf, device)
    return list(each(partial(_finish, config=config), coarse, fine, [image.shape[:2] for image in images]))


def _check(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
    if len(images) != len(masks):
        raise ValueError(f"masks must have one entry per image: {len(masks)} entries, {len(images)} images")
    for index, (image, own) in enumerate(zip(images, masks, strict=True)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"images[{index}] must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
        if own.dtype != np.bool_ or own.ndim != 3 or 0 in own.shape[1:]:
            raise ValueError(f"masks[{index}] must be bool (M, Gh, Gw), got {own.dtype} {own.shape}")


def to_square(image_HW3: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image_HW3).resize((size, size), Image.Resampling.LANCZOS))


def _to_working_size(image_HW3: np.ndarray, masks_MGG: np.ndarray, size: int | None) -> np.ndarray:
    return sampled(masks_MGG, image_HW3.shape[:2] if size is None else (size, size))


def sampled(masks_MGG: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks at another size, (M, *size), by the nearest neighbour: row y is that of the patch row floor(y · Gh / S)."""
    rows, columns = (np.arange(side) * own // side for side, own in zip(size, masks_MGG.shape[1:], strict=True))
    return masks_MGG[:, rows[:, None], columns]


def _crf(
    images_ST3: list[np.ndarray], masks_MST: list[np.ndarray], config: CrfConfig, device: torch.device | str
) -> list[np.ndarray]:
    """The dense CRF of images of one size."""
    if not images_ST3:
        return []
    images = torch.from_numpy(np.stack(images_ST3)).to(device)
    masks = [torch.from_numpy(own).to(device) for own in masks_MST]
    return [own.cpu().numpy() for own in dense_crf(images, masks, config)]


def _finish(before_MST: np.ndarray, after_MST: np.ndarray, size: tuple[int, int], config: RefineConfig) -> RefinedMasks:
    masks_MHW = np.zeros((len(after_MST), *size), dtype=bool)
    crf_iou = np.ones(len(after_MST), dtype=np.float32)
    for index, (before, after) in enumerate(zip(before_MST, after_MST, strict=True)):
        filled = without_holes(after) if config.fill_holes else after
        if config.crf is not None:
            union = np.count_nonzero(before | filled)
            crf_iou[index] = np.count_nonzero(before & filled) / union if union else 0.0
        masks_MHW[index] = resized_mask(filled, size)
    keep = (crf_iou >= config.min_crf_iou) & masks_MHW.any(axis=(1, 2))
    return RefinedMasks(masks_MHW, crf_iou, tuple(None if kept else DropReason.CRF_DISAGREES for kept in keep))


def without_holes(mask_ST: np.ndarray) -> np.ndarray:
    """The mask and all background that it, 4-connected, encloses (scipy's `binary_fill_holes` takes twice as long)."""
    labels, _ = scipy.ndimage.label(np.pad(~mask_ST, 1, constant_values=True))
    return mask_ST | (labels[1:-1, 1:-1] > 1)  # 1 is the background that the frame is in


def resized_mask(mask_ST: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic interpolation of the 0/255 mask, cut at half."""
    if mask_ST.shape == size:
        return mask_ST
    grey = Image.fromarray(mask_ST.astype(np.uint8) * 255)
    return np.asarray(grey.resize((size[1], size[0]), Image.Resampling.BICUBIC)) > 127
