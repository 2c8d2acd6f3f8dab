"""The score of an instance, which ranks masks: a product of parts, each 0..1, that say how much of a thing it is.

N = Gh·Gw patches · Gh, Gw patch grid · D feature width · M masks

MaskCut scores every mask 1, and the papers rank nothing before a detector does. Which parts rank masks best was
measured on photos with true masks: docs/decisions/0007-tree-and-score.md.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

RING = 0.05  # width of the ring around a mask, of the grid's longer side: 3 patches of 60
ALIKE = 2.0  # a patch is like a mask when its cosine with the mask's mean feature exceeds so many times τ
SMALLEST_CONTRAST = 1e-6  # what is less is rounding, where all patches are alike: a blank photo has no masks
DEPTH_STEP = 0.002  # of the depth range: what is farther by less is as far


@dataclass(frozen=True)
class ScoreParts:
    """What a score is made of, all 0..1, larger speaks for the mask.

    contrast: half of 1 - cosine of the mean features inside the mask and in a ring around it.
    uniqueness: of all patches that are like the mask, the share inside of it: low for a piece of a larger thing.
    nearness: share of the outline beyond which the scene is farther: things occlude what is behind them.
    clearance: share of the image's border that the mask leaves free: backgrounds run along it.
    stability: mean Spatial Confidence over the mask, without its floor.
    novelty: 1 for a mask that overlaps no better one of its image, less the more it does (`stages.select`).
    """

    contrast: float = 1.0
    uniqueness: float = 1.0
    nearness: float = 1.0
    clearance: float = 1.0
    stability: float = 1.0
    novelty: float = 1.0


PARTS = tuple(field.name for field in fields(ScoreParts))
CONSTANT = "constant"  # MaskCut as published: every mask scores 1
OBJECTNESS = "*".join(PARTS)


def check_score(score: str) -> None:
    """Raise ValueError unless `score` is "constant" or a product of PARTS such as "contrast*stability"."""
    factors = score.split("*")
    if score != CONSTANT and (not set(factors) <= set(PARTS) or len(set(factors)) < len(factors)):
        raise ValueError(f'score must be "{CONSTANT}" or a product of {", ".join(PARTS)} like "contrast*stability", '
                         f"got {score!r}")  # fmt: skip


def score_of(parts: ScoreParts, score: str) -> float:
    """The score that a recipe's `score` makes of the parts, 0..1."""
    product = 1.0
    if score != CONSTANT:
        for name in score.split("*"):
            product *= getattr(parts, name)
    return product


def mask_parts(
    features_ND: torch.Tensor, depth_GhGw: np.ndarray | None, masks_MGG: np.ndarray, tau: float
) -> list[ScoreParts]:
    """The parts that can be told from masks, features and depth; stability and novelty are left at 1.

    features_ND: (N, D), any float dtype and device. depth_GhGw: (Gh, Gw) float, relative depth, larger = farther; None
    leaves nearness at 1. masks_MGG: (M, Gh, Gw) bool. tau: the affinity's threshold, see ALIKE. A mask that is empty or
    covers the image has contrast 0.
    """
    if not len(masks_MGG):
        return []
    grid = masks_MGG.shape[1:]
    unit_ND = F.normalize(features_ND.float(), dim=1)
    masks_MN = torch.from_numpy(masks_MGG.reshape(len(masks_MGG), -1)).to(unit_ND.device)
    inside_MN = masks_MN.float()
    mean_MD = inside_MN @ unit_ND
    reach = max(1, round(RING * max(grid)))
    grown_MGG = F.max_pool2d(inside_MN.view(-1, 1, *grid), 2 * reach + 1, stride=1, padding=reach)
    ring_MD = (grown_MGG.flatten(1) - inside_MN) @ unit_ND
    contrast_M = (0.5 - 0.5 * F.cosine_similarity(mean_MD, ring_MD, dim=1)).clamp(max=1.0)
    defined_M = masks_MN.any(dim=1) & ~masks_MN.all(dim=1) & (contrast_M > SMALLEST_CONTRAST)
    alike_MN = F.normalize(mean_MD, dim=1) @ unit_ND.T > min(ALIKE * tau, 0.95)
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
