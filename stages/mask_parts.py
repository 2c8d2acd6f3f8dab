"""What the score of a mask is made of, measured on its features and on depth (`stages.score` says what each part is).

N = Gh·Gw patches · Gh, Gw patch grid · D feature width · M masks
"""

from __future__ import annotations

import numpy as np

from stages.boundary import inside_and_around
from stages.late import torch
from stages.score import ScoreParts

ALIKE = 2.0  # a patch is like a mask when its cosine with the mask's mean feature exceeds so many times τ
SMALLEST_CONTRAST = 1e-6  # what is less is rounding, where all patches are alike: a blank photo has no masks
DEPTH_STEP = 0.002  # of the depth range: what is farther by less is as far


def mask_parts(
    features_ND: torch.Tensor, depth_GhGw: np.ndarray | None, masks_MGG: np.ndarray, tau: float
) -> list[ScoreParts]:
    """The parts that can be told from masks, features and depth; stability and novelty are left at 1.

    features_ND: (N, D), any float dtype and device.
    depth_GhGw: (Gh, Gw) float, relative depth, larger = farther; None leaves nearness at 1.
    masks_MGG: (M, Gh, Gw) bool.
    tau: the affinity's threshold, see ALIKE.

    A mask that is empty or covers the image has contrast 0.
    """
    if not len(masks_MGG):
        return []
    grid = masks_MGG.shape[1:]
    unit_ND = torch.nn.functional.normalize(features_ND.float(), dim=1)
    masks_MN = torch.from_numpy(masks_MGG.reshape(len(masks_MGG), -1)).to(unit_ND.device)
    inside_MD, around_MD = inside_and_around(unit_ND, masks_MN, grid)
    contrast_M = (0.5 - 0.5 * torch.nn.functional.cosine_similarity(inside_MD, around_MD, dim=1)).clamp(max=1.0)
    defined_M = masks_MN.any(dim=1) & ~masks_MN.all(dim=1) & (contrast_M > SMALLEST_CONTRAST)
    alike_MN = torch.nn.functional.normalize(inside_MD, dim=1) @ unit_ND.T > min(ALIKE * tau, 0.95)
    uniqueness_M = (alike_MN & masks_MN).sum(dim=1) / alike_MN.sum(dim=1).clamp(min=1)
    columns = (
        torch.where(defined_M, contrast_M, 0.0).cpu().numpy(),
        uniqueness_M.cpu().numpy(),
        np.ones(len(masks_MGG)) if depth_GhGw is None else nearness(depth_GhGw, masks_MGG),
        clearance(masks_MGG),
    )
    return [ScoreParts(*(float(value) for value in row)) for row in zip(*columns, strict=True)]


def nearness(depth_GhGw: np.ndarray, masks_MGG: np.ndarray) -> np.ndarray:
    """Share of each mask's outline, in edges between neighbouring patches, beyond which depth is larger by more than
    DEPTH_STEP: (M,) float64 in 0..1, 0 for a mask without an outline.
    """
    farther_M, outline_M = np.zeros(len(masks_MGG)), np.zeros(len(masks_MGG))
    for axis in (0, 1):
        step = np.diff(depth_GhGw, axis=axis)
        first, second = (np.moveaxis(masks_MGG, 1 + axis, 1)[:, part] for part in (np.s_[:-1], np.s_[1:]))
        step = np.moveaxis(step, axis, 0)
        leaving, entering = first & ~second, second & ~first
        farther_M += (leaving & (step > DEPTH_STEP)).sum(axis=(1, 2)) + (entering & (step < -DEPTH_STEP)).sum(
            axis=(1, 2)
        )
        outline_M += (leaving | entering).sum(axis=(1, 2))
    return farther_M / np.maximum(outline_M, 1)


def clearance(masks_MGG: np.ndarray) -> np.ndarray:
    """Share of the patches along the image's border that each mask does not hold: (M,) float64 in 0..1."""
    border = np.ones(masks_MGG.shape[1:], bool)
    border[1:-1, 1:-1] = False
    return 1.0 - masks_MGG[:, border].mean(axis=1)
