"""Refinement of regions that share an image out among them: labels of one CRF, as HASSOD does it.

H, W pixels of the original image · S, T height and width at which the CRF works · Gh, Gw patch grid · K regions that
share the image out · M masks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stages.crf import label_crf
from stages.filters import DropReason
from stages.hierarchy import HierarchyConfig
from stages.late import torch
from stages.refine import RefineConfig, RefinedMasks, to_square, without_holes

HALF = 0.5  # of a pixel, or of its label, is the mask's: it belongs to the mask


@dataclass(frozen=True)
class Partition:
    """Regions of one image, of which some are to become masks.

    labels: (Gh, Gw) int, 0..K-1, the region of each patch.
    wanted: labels of those that are to become masks.
    """

    labels: np.ndarray
    wanted: tuple[int, ...]


def refine_regions(
    images: Sequence[np.ndarray],
    partitions: Sequence[Sequence[Partition]],
    config: RefineConfig,
    device: torch.device | str = "cpu",
    each: Callable[..., Iterable[RefinedMasks]] = map,
) -> list[RefinedMasks]:
    """Of each image the wanted regions of its partitions, refined, those of one partition after those of the other.

    images: uint8 RGB (H, W, 3).
    partitions: of each image, all on one patch grid.
    each: where the work on single images that is the CPU's alone is done.

    The regions of a partition are interpolated from patches to `config.size` pixels, compete in one CRF and are
    interpolated to the size of the photo; a mask is where its region has half of a pixel or more. `crf_iou` compares
    the masks before and after the CRF. An image does not depend on the others.
    """
    soft = [_soft(image, own, config, device) for image, own in zip(images, partitions, strict=True)]
    return list(each(partial(_finish, config=config), soft, [image.shape[:2] for image in images]))


def judged(refined: RefinedMasks, config: HierarchyConfig) -> RefinedMasks:
    """With masks that are too small, or background, dropped, too."""

    def reason(mask_HW: np.ndarray, before: DropReason | None) -> DropReason | None:
        if before is not None:
            return before
        if np.count_nonzero(mask_HW) < config.min_pixels:
            return DropReason.TOO_SMALL
        corners = np.count_nonzero(mask_HW[[0, 0, -1, -1], [0, -1, 0, -1]])
        return DropReason.CORNERS if corners > config.max_corners else None

    return replace(refined, dropped=tuple(map(reason, refined.masks, refined.dropped)))


@dataclass(frozen=True)
class _Soft:
    """shares_MST: float32, of each pixel, after the CRF. crf_iou: (M,) float32."""

    shares_MST: np.ndarray
    crf_iou: np.ndarray


def _soft(
    image_HW3: np.ndarray, partitions: Sequence[Partition], config: RefineConfig, device: torch.device | str
) -> _Soft:
    """The wanted regions of an image at the size at which the CRF works."""
    square = image_HW3 if config.size is None else to_square(image_HW3, config.size)
    size = square.shape[:2]
    shares, ious = [torch.zeros(0, *size)], [torch.ones(0)]
    for own in partitions:
        if not own.wanted:
            continue
        labels_GG = torch.from_numpy(own.labels.astype(np.int64)).to(device)
        one_hot_KGG = torch.nn.functional.one_hot(labels_GG).permute(2, 0, 1).float()
        before_KST = torch.nn.functional.interpolate(one_hot_KGG[None], size, mode="bilinear")[0]
        after_KST = before_KST
        if config.crf is not None:
            photo = torch.from_numpy(square.copy()).to(device)
            (after_KST,) = label_crf(photo[None], [before_KST], config.crf)
        wanted = list(own.wanted)
        shares.append(after_KST[wanted].cpu())
        ious.append(_iou(before_KST[wanted] >= HALF, after_KST[wanted] >= HALF).cpu())
    return _Soft(torch.cat(shares).numpy(), torch.cat(ious).numpy())


def _iou(before_MST: torch.Tensor, after_MST: torch.Tensor) -> torch.Tensor:
    """(M,) float32, 0 where both are empty."""
    union_M = (before_MST | after_MST).flatten(1).sum(dim=1)
    return (before_MST & after_MST).flatten(1).sum(dim=1) / union_M.clamp(min=1)


def _finish(soft: _Soft, size: tuple[int, int], config: RefineConfig) -> RefinedMasks:
    masks_MHW = np.zeros((len(soft.shares_MST), *size), bool)
    for mask_HW, share_ST in zip(masks_MHW, soft.shares_MST, strict=True):
        share_11ST = torch.from_numpy(share_ST)[None, None]
        mask_HW[:] = torch.nn.functional.interpolate(share_11ST, size, mode="bilinear")[0, 0].numpy() >= HALF
        if config.fill_holes:
            mask_HW[:] = without_holes(mask_HW)
    agrees = (soft.crf_iou >= config.min_crf_iou) & masks_MHW.any(axis=(1, 2))
    return RefinedMasks(masks_MHW, soft.crf_iou, tuple(None if kept else DropReason.CRF_DISAGREES for kept in agrees))
