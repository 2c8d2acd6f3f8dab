"""Masks by merging, for a batch of images: those of point prompts where they overlap, or adjacent groups of patches.

B images · S prompts · N = Gh·Gw patches · D feature width · M masks · Gh, Gw patch grid
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from pipeline.methods.cuts.candidates import best_of, candidates_of
from pipeline.methods.cuts.proposals import ImageProposals, Proposal, StopReason
from pipeline.methods.cuts.recipes import Recipe
from pipeline.methods.shared.batch_inputs import Each
from stages.affinity import point_similarities, unit_features
from stages.filters import DropReason
from stages.late import torch
from stages.ncut_tree import Part
from stages.patch_merging import (
    LEAST_BACKGROUND,
    Cluster,
    MergeConfig,
    attended,
    in_front,
    merge_adjacent,
    merge_overlapping,
)
from stages.prompt_points import Prompted, prompt_points, prompted
from stages.score import ScoreParts

LEAST_PIECE = 1 / 150  # of the patches: smaller pieces that LocalCut makes of a mask are specks, as in a tree of cuts


def search_merge(
    features_BND: torch.Tensor,
    importance_BN: torch.Tensor | None,
    attention_BN: torch.Tensor | None,
    depth_BGhGw: np.ndarray | None,
    grid: tuple[int, int],
    recipe: Recipe,
    rules: MergeConfig,
    each: Each = map,
) -> list[ImageProposals]:
    """Proposals of each image, best first: `recipe.select.masks` at most. An image that gives none for a reason has one
    that is dropped for it: its background.

    features_BND: (B, N, D) float.
    importance_BN: (B, N) float32, None for recipes without Spatial Importance.
    attention_BN: (B, N) float, of the class token to each patch; None where `rules.min_attention` is.
    depth_BGhGw: (B, Gh, Gw) float32 relative depth 0..1; None for recipes without LocalCut.
    grid: (Gh, Gw).
    rules: `recipe.search`.
    each: where the work on single images that is the CPU's alone is done.

    Raises ValueError when the features are not finite.
    """
    found = _Found(grid, recipe, rules)
    depths = [None] * len(features_BND) if depth_BGhGw is None else list(depth_BGhGw)
    attention = [None] * len(features_BND) if attention_BN is None else list(attention_BN.cpu().numpy())
    unit_BND = unit_features(features_BND)
    merged: list[tuple[list[Part], list[Proposal]]]
    if rules.grouping == "adjacent":
        merged = [found.adjacent(unit_ND, own) for unit_ND, own in zip(unit_BND, attention, strict=True)]
    else:
        points_S = prompt_points(grid, rules.stride)
        similarity_BSN = point_similarities(unit_BND, points_S, importance_BN, recipe.sharpen)
        alike_BSN = (similarity_BSN > rules.settled_tau("bipartition_tau")).cpu().numpy()
        prompt = partial(prompted, points_S=points_S, grid=grid, cc_maskarea_tau=rules.cc_maskarea_tau)
        merged = [
            found.overlapping(of_prompts, unit_ND, own)
            for of_prompts, unit_ND, own in zip(each(prompt, alike_BSN), unit_BND, attention, strict=True)
        ]
    least = int(LEAST_PIECE * grid[0] * grid[1])
    cut = each(partial(candidates_of, recipe=recipe, least=least), [parts for parts, _ in merged], depths)
    return [
        ImageProposals((*best_of(candidates, features_ND, depth, recipe), *dropped), StopReason.MERGED)
        for candidates, features_ND, depth, (_, dropped) in zip(cut, features_BND, depths, merged, strict=True)
    ]


class _Found:
    """What merging makes of an image: parts to choose from, and what is dropped for a reason."""

    def __init__(self, grid: tuple[int, int], recipe: Recipe, rules: MergeConfig) -> None:
        self._grid, self._recipe, self._rules = grid, recipe, rules

    def overlapping(
        self, found: Prompted, unit_ND: torch.Tensor, attention_N: np.ndarray | None
    ) -> tuple[list[Part], list[Proposal]]:
        """ProMerge's masks, or why there are none."""
        background_N = found.background
        why = self._why_nothing(found)
        if why is not None:
            return [], [self._dropped(background_N, why)]
        if background_N.mean() < LEAST_BACKGROUND:
            background_N = np.zeros_like(background_N)  # go on without
        chosen = in_front(found.masks, background_N, unit_ND, self._rules)
        if not len(chosen):
            return [], [self._dropped(background_N, DropReason.NOTHING_IN_FRONT)]
        clusters = merge_overlapping(found.masks[chosen], unit_ND, self._rules)
        return self._parts(clusters, unit_ND, attention_N)

    def adjacent(self, unit_ND: torch.Tensor, attention_N: np.ndarray | None) -> tuple[list[Part], list[Proposal]]:
        """Groups of adjacent patches."""
        masks_MN = merge_adjacent(unit_ND, self._grid, self._rules)
        return self._parts([Cluster(mask_N, m) for m, mask_N in enumerate(masks_MN)], unit_ND, attention_N)

    def _why_nothing(self, found: Prompted) -> DropReason | None:
        """Why the image gives no masks, before any is looked at."""
        if self._rules.need_background:
            if not found.candidates:
                return DropReason.NO_BACKGROUND
            if found.background.mean() < LEAST_BACKGROUND:
                return DropReason.LITTLE_BACKGROUND
        return None if len(found.masks) else DropReason.NOTHING_IN_FRONT

    def _parts(
        self, clusters: Sequence[Cluster], unit_ND: torch.Tensor, attention_N: np.ndarray | None
    ) -> tuple[list[Part], list[Proposal]]:
        masks_MN = np.array([cluster.mask for cluster in clusters])
        inside_MN = torch.from_numpy(masks_MN).to(unit_ND.device).float()
        cosines_MN = torch.nn.functional.normalize(inside_MN @ unit_ND, dim=1) @ unit_ND.T
        parts = [
            Part(mask_N.reshape(self._grid), cosine_N.reshape(self._grid), 0.0, 0.0, depth=1)
            for mask_N, cosine_N in zip(masks_MN, cosines_MN.cpu().numpy(), strict=True)
        ]
        if attention_N is None or self._rules.min_attention is None:
            return parts, []
        seen_M = attended(masks_MN, attention_N, self._rules.min_attention)
        unseen = [self._dropped(mask_N, DropReason.UNATTENDED) for mask_N in masks_MN[~seen_M]]
        return [part for part, seen in zip(parts, seen_M, strict=True) if seen], unseen

    def _dropped(self, mask_N: np.ndarray, why: DropReason) -> Proposal:
        mask = mask_N.reshape(self._grid)
        return Proposal(
            round=0,
            level=1,
            eigenvector=mask.astype(np.float32),
            eigenvalue=0.0,
            gap=0.0,
            parts=ScoreParts(),
            group=mask,
            mask=mask,
            settled=mask,
            tau=math.inf,
            source=int(mask.argmax()),
            sink=-1,
            dropped=why,
        )
