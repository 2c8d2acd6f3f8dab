"""Regions of a batch of images, merged bottom-up to several thresholds: masks of wholes and of their parts (HASSOD).

B images · N = Gh·Gw patches · D feature width · R regions · M candidates · T thresholds · Gh, Gw patch grid
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.methods.cuts.proposals import ImageProposals, Proposal, StopReason
from pipeline.methods.cuts.recipes import Recipe
from pipeline.methods.shared.batch_inputs import Each
from pipeline.results.instances import Instance
from stages.filters import DropReason
from stages.hierarchy import HierarchyConfig, levels
from stages.late import torch
from stages.mask_parts import mask_parts
from stages.refine_regions import Partition
from stages.region_merging import merge_regions
from stages.score import ScoreParts, score_of
from stages.select import distinct, soft_nms

MOST_LABELS = 256  # of one CRF, whose memory grows with them; no recipe keeps more masks


def search_hierarchy(
    features_BND: torch.Tensor, grid: tuple[int, int], recipe: Recipe, rules: HierarchyConfig, each: Each = map
) -> list[ImageProposals]:
    """Proposals of each image: its regions of more than `rules.min_area`, those of the highest threshold first, each
    threshold's by first patches. Those that repeat a larger one, and those beyond the best `recipe.select.masks`, are
    dropped ones.

    features_BND: (B, N, D) float, on any device.
    """
    merged = each(partial(merge_regions, grid=grid, thresholds=rules.taus), features_BND.cpu().numpy())
    return [
        ImageProposals(_proposals(regions_TN, features_ND, grid, recipe, rules), StopReason.REGIONS)
        for regions_TN, features_ND in zip(merged, features_BND, strict=True)
    ]


def partitions(proposals: Sequence[Proposal]) -> list[Partition]:
    """How each threshold shares the image out, with the proposals that are kept as wanted; patches of no proposal, and
    the smallest regions beyond MOST_LABELS, are one region more.
    """
    found = []
    for round_ in sorted({proposal.round for proposal in proposals}):
        own = [proposal for proposal in proposals if proposal.round == round_]
        ranked = sorted(range(len(own)), key=lambda k: (own[k].dropped is not None, -int(own[k].mask.sum())))
        own = [own[k] for k in sorted(ranked[:MOST_LABELS])]
        labels_GG = np.full(own[0].mask.shape, len(own))
        for label, proposal in enumerate(own):
            labels_GG[proposal.mask] = label
        found.append(Partition(labels_GG, tuple(k for k, proposal in enumerate(own) if proposal.dropped is None)))
    return found


def with_levels(instances: Sequence[Instance], size: tuple[int, int], rules: HierarchyConfig) -> list[Instance]:
    """An image's instances with their level: whole, part or subpart. size: (H, W) of the image."""
    if not instances:
        return []
    codes = [{"size": size, "counts": one.rle} for one in instances]
    held_MM = coco_mask.iou(codes, codes, [1] * len(codes))  # with a "crowd": shared area by that of the first
    level_M = levels(held_MM, np.array([one.area for one in instances]), rules.coverage)
    return [dataclasses.replace(one, level=int(level)) for one, level in zip(instances, level_M, strict=True)]


def choose(
    parts: Sequence[ScoreParts], masks_MN: np.ndarray, recipe: Recipe
) -> tuple[list[ScoreParts], list[DropReason | None]]:
    """Of each candidate the parts of its score, with its novelty where it is chosen, and why it is not, or None.

    masks_MN: bool.
    """
    settled = list(parts)
    chosen: list[DropReason | None] = [DropReason.OVERLAPS_PREVIOUS] * len(parts)
    same_iou = recipe.select.same_iou
    kept = list(range(len(parts))) if same_iou == 1.0 else sorted(distinct(masks_MN, same_iou).tolist())
    scores = np.array([score_of(parts[k], recipe.score) for k in kept])
    best, novelty = soft_nms(scores, masks_MN[kept], recipe.select)
    for k in kept:
        chosen[k] = DropReason.UNSELECTED
    for place, own in zip(best, novelty, strict=True):
        k = kept[place]
        chosen[k], settled[k] = None, dataclasses.replace(parts[k], novelty=float(own))
    return settled, chosen


def _proposals(
    regions_TN: np.ndarray, features_ND: torch.Tensor, grid: tuple[int, int], recipe: Recipe, rules: HierarchyConfig
) -> tuple[Proposal, ...]:
    round_M, masks_MN = candidates(regions_TN, rules.min_area)
    masks_MGG = masks_MN.reshape(-1, *grid)
    described = mask_parts(features_ND, None, masks_MGG, recipe.affinity.settled_tau)
    parts, dropped = choose(described, masks_MN, recipe)
    cosines_MN = _cosines(features_ND, masks_MN)
    return tuple(
        Proposal(
            round=int(round_),
            level=1,
            eigenvector=cosines_N.reshape(grid),
            eigenvalue=0.0,
            gap=0.0,
            parts=own,
            group=mask_GG,
            mask=mask_GG,
            settled=mask_GG,
            tau=rules.taus[round_],
            source=int(np.where(mask_GG.ravel(), cosines_N, -np.inf).argmax()),
            sink=-1,
            dropped=reason,
        )
        for round_, mask_GG, own, cosines_N, reason in zip(round_M, masks_MGG, parts, cosines_MN, dropped, strict=True)
    )


def candidates(regions_TN: np.ndarray, min_area: float) -> tuple[np.ndarray, np.ndarray]:
    """Regions of more than this share of the patches at all thresholds: (M,) int, place of the threshold, and (M, N)
    bool, the region. regions_TN: what `merge_regions` gives.
    """
    at_T = [regions_N == np.arange(regions_N.max() + 1)[:, None] for regions_N in regions_TN]
    round_M = np.concatenate([np.full(len(masks_RN), place) for place, masks_RN in enumerate(at_T)])
    masks_MN = np.concatenate(at_T)
    large_M = masks_MN.sum(axis=1) > min_area * masks_MN.shape[1]
    return round_M[large_M], masks_MN[large_M]


def _cosines(features_ND: torch.Tensor, masks_MN: np.ndarray) -> np.ndarray:
    """(M, N) float32, of each patch's feature with the mean one of each mask."""
    features_ND = features_ND.float()
    means_MD = torch.from_numpy(masks_MN).to(features_ND.device).float() @ features_ND
    unit_MD, unit_ND = (torch.nn.functional.normalize(values, dim=1) for values in (means_MD, features_ND))
    cosines_MN: np.ndarray = (unit_MD @ unit_ND.T).cpu().numpy()
    return cosines_MN
