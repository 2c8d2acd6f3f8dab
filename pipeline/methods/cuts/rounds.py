"""The rounds of MaskCut and CutS3D on a batch of images: NCut, foreground, cut, filter, take out, again.

B images · N = Gh·Gw patches · Gh, Gw patch grid

Everything here lives on the patch grid. Several images go through a round together, since NCut is batched; an image
whose stopping rule has spoken leaves the batch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline.methods.cuts.proposals import Eigenvectors, ImageProposals, Proposal, StopReason
from pipeline.methods.cuts.recipes import Recipe, RoundsConfig
from pipeline.methods.shared.batch_inputs import Each
from stages.bipartition import Bipartition, bipartition, component_of
from stages.filters import DropReason, judge, mask_iou
from stages.late import torch
from stages.local_cut import local_cut, local_cut_pieces
from stages.mask_parts import mask_parts
from stages.ncut import ncut
from stages.score import ScoreParts


@dataclass
class _Rounds:
    """State of one image between rounds, all (Gh, Gw) bool: what is taken out of the graph, what was output, and the
    mask of the round before (empty when that was dropped)."""

    taken: np.ndarray
    put_out: np.ndarray
    previous: np.ndarray | None = None
    proposals: list[Proposal] = field(default_factory=list)
    stop: StopReason = StopReason.ROUNDS
    ended: bool = False


def solve_alive(edges_BNN: torch.Tensor, alive_BN: torch.Tensor, recipe: Recipe) -> Eigenvectors:
    """NCut of each image without the patches that are not alive, (B, N) bool on the device of `edges_BNN`."""
    result = ncut(edges_BNN, alive_BN, recipe.affinity.epsilon, recipe.ncut)
    return Eigenvectors(
        result.eigenvector_BN.cpu().numpy(), result.eigenvalue_B.cpu().numpy(), result.gap_B.cpu().numpy()
    )


def search_rounds(
    edges_BNN: torch.Tensor,
    features_BND: torch.Tensor,
    depth_BGhGw: np.ndarray | None,
    grid: tuple[int, int],
    recipe: Recipe,
    rules: RoundsConfig,
    first: Eigenvectors,
    each: Each = map,
) -> list[ImageProposals]:
    """Run the rounds of the recipe on a batch. edges_BNN: (B, N, N), see `affinity_edges`; the other arguments
    as for `search.propose`.
    """
    states = [_Rounds(np.zeros(grid, bool), np.zeros(grid, bool)) for _ in range(len(edges_BNN))]
    depths = [None] * len(states) if depth_BGhGw is None else list(depth_BGhGw)
    solved = dict(enumerate(first.solutions()))
    for round_ in range(rules.n):
        stale = [image for image, state in enumerate(states) if not state.ended and image not in solved]
        if stale:
            alive_BN = torch.from_numpy(np.stack([~states[image].taken.ravel() for image in stale]))
            batch = edges_BNN if len(stale) == len(states) else edges_BNN[stale]
            again = solve_alive(batch, alive_BN.to(edges_BNN.device), recipe)
            solved.update(zip(stale, again.solutions(), strict=True))
        groups = {}
        for image, state in enumerate(states):
            group = None if state.ended else _group(state, solved[image], grid, recipe, rules)
            if group is not None:
                groups[image] = group
        cut = each(partial(_candidates, recipe=recipe), groups.values(), [depths[image] for image in groups])
        for (image, group), candidates in zip(groups.items(), cut, strict=True):
            state = states[image]
            taken_before = int(state.taken.sum())
            _take(state, round_, group, candidates, solved[image], recipe, rules)
            if int(state.taken.sum()) != taken_before:
                del solved[image]  # the graph changed; otherwise the next round sees the very same eigenvector
    return [
        ImageProposals(_with_parts(state.proposals, features_ND, depth, recipe), state.stop)
        for state, features_ND, depth in zip(states, features_BND, depths, strict=True)
    ]


def _group(
    state: _Rounds,
    solution: tuple[np.ndarray, float, float],
    grid: tuple[int, int],
    recipe: Recipe,
    rules: RoundsConfig,
) -> Bipartition | None:
    """What a round of an image cuts, its group without what is taken; or the image's rounds end here: None."""
    parts = bipartition(solution[0].reshape(grid), recipe.bipartition)
    group = parts.group
    if not rules.taken_may_return:
        group = group & ~state.taken
        if not group.any():
            state.ended, state.stop = True, StopReason.NOTHING_LEFT
            return None
    if rules.rest_iou is not None and state.taken.any() and mask_iou(group, ~state.taken) > rules.rest_iou:
        state.ended, state.stop = True, StopReason.REST
        return None
    return dataclasses.replace(parts, group=group)


def _take(
    state: _Rounds,
    round_: int,
    parts: Bipartition,
    candidates: list[tuple[np.ndarray, int, int]],
    solution: tuple[np.ndarray, float, float],
    recipe: Recipe,
    rules: RoundsConfig,
) -> None:
    """The end of a round of an image: its candidates become proposals."""
    grid, group, (_, eigenvalue, gap) = parts.group.shape, parts.group, solution
    tau = math.inf if recipe.local_cut is None else recipe.local_cut.tau_on(grid)
    for candidate, source, sink in candidates:
        dropped = judge(candidate, state.previous, recipe.filters)
        mask = candidate & ~state.put_out
        if dropped is None and not mask.any():
            dropped = DropReason.COVERED
        if dropped in (DropReason.TOO_SMALL, DropReason.OVERLAPS_PREVIOUS):
            state.previous = np.zeros(grid, bool)
            if rules.take_dropped:
                state.taken |= candidate
        else:
            state.previous = candidate
            state.taken |= candidate
            state.put_out |= mask
        state.proposals.append(
            Proposal(
                round=round_,
                level=1,
                eigenvector=parts.eigenvector,
                eigenvalue=eigenvalue,
                gap=gap,
                parts=ScoreParts(),
                group=group,
                mask=mask,
                settled=mask,
                tau=tau,
                source=source,
                sink=sink,
                dropped=dropped,
            )
        )
    if recipe.local_cut is not None and recipe.local_cut.pieces == "all":
        state.taken |= group  # every piece of it that is large enough has been output


def _candidates(parts: Bipartition, depth_GhGw: np.ndarray | None, recipe: Recipe) -> list[tuple[np.ndarray, int, int]]:
    """What a round cuts out of its group: masks, (Gh, Gw) bool, each with its source and sink."""
    group = parts.group
    if recipe.local_cut is None or depth_GhGw is None:
        return [(component_of(group, parts.seed), parts.seed, -1)]
    if recipe.local_cut.pieces == "all":
        least = int(recipe.filters.min_area * group.size)
        cuts = local_cut_pieces(depth_GhGw, group, parts.eigenvector, recipe.local_cut, least)
    else:
        cuts = [local_cut(depth_GhGw, group, parts.eigenvector, recipe.local_cut)]
    return [(cut.mask, cut.source, cut.sink) for cut in cuts]


def _with_parts(
    proposals: list[Proposal], features_ND: torch.Tensor, depth_GhGw: np.ndarray | None, recipe: Recipe
) -> tuple[Proposal, ...]:
    masks_MGG = np.array([proposal.mask for proposal in proposals], bool)
    parts = mask_parts(features_ND, depth_GhGw, masks_MGG, recipe.affinity.settled_tau)
    return tuple(dataclasses.replace(p, parts=own) for p, own in zip(proposals, parts, strict=True))
