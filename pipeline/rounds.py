"""The rounds of MaskCut and CutS3D on a batch of images: NCut, foreground, cut, filter, take out, again.

B images · N = Gh·Gw patches · Gh, Gw patch grid

Everything here lives on the patch grid. Several images go through a round together, since NCut is batched; an image
whose stopping rule has spoken leaves the batch.
"""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.proposals import Eigenvectors, ImageProposals, Proposal, StopReason
from pipeline.recipes import Recipe, RoundsConfig
from stages.bipartition import Bipartition, bipartition, component_of
from stages.filters import DropReason, judge, mask_iou
from stages.local_cut import local_cut, local_cut_pieces
from stages.mask_parts import mask_parts
from stages.ncut import ncut
from stages.score import ScoreParts


@dataclass
class _Rounds:
    """State of one image between rounds, all (Gh, Gw) bool: what is taken out of the graph, what was put out, and the
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
) -> list[ImageProposals]:
    """Run the rounds of the recipe on a batch. edges_BNN: (B, N, N), see `affinity_edges`; the other arguments
    as for `search.propose`.
    """
    states = [_Rounds(np.zeros(grid, bool), np.zeros(grid, bool)) for _ in range(len(edges_BNN))]
    solved = dict(enumerate(first.solutions()))
    for round_ in range(rules.n):
        stale = [image for image, state in enumerate(states) if not state.ended and image not in solved]
        if stale:
            alive_BN = torch.from_numpy(np.stack([~states[image].taken.ravel() for image in stale]))
            batch = edges_BNN if len(stale) == len(states) else edges_BNN[stale]
            again = solve_alive(batch, alive_BN.to(edges_BNN.device), recipe)
            solved.update(zip(stale, again.solutions(), strict=True))
        for image, state in enumerate(states):
            if state.ended:
                continue
            taken_before = int(state.taken.sum())
            _round(
                state, round_, solved[image], None if depth_BGhGw is None else depth_BGhGw[image], grid, recipe, rules
            )
            if int(state.taken.sum()) != taken_before:
                del solved[image]  # the graph changed; otherwise the next round sees the very same eigenvector
    return [
        ImageProposals(
            _with_parts(state.proposals, features_BND[i], None if depth_BGhGw is None else depth_BGhGw[i], recipe),
            state.stop,
        )
        for i, state in enumerate(states)
    ]


def _round(
    state: _Rounds,
    round_: int,
    solution: tuple[np.ndarray, float, float],
    depth_GhGw: np.ndarray | None,
    grid: tuple[int, int],
    recipe: Recipe,
    rules: RoundsConfig,
) -> None:
    """One round of one image: appends a proposal, or ends the image's rounds."""
    eigenvector_N, eigenvalue, gap = solution
    parts = bipartition(eigenvector_N.reshape(grid), recipe.bipartition)
    group = parts.group
    if not rules.taken_may_return:
        group = group & ~state.taken
        if not group.any():
            state.ended, state.stop = True, StopReason.NOTHING_LEFT
            return
    if rules.rest_iou is not None and state.taken.any() and mask_iou(group, ~state.taken) > rules.rest_iou:
        state.ended, state.stop = True, StopReason.REST
        return
    tau = math.inf if recipe.local_cut is None else recipe.local_cut.tau_on(grid)
    for candidate, source, sink in _candidates(parts, group, depth_GhGw, recipe):
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
        state.taken |= group  # every piece of it that is large enough has been put out


def _candidates(
    parts: Bipartition, group: np.ndarray, depth_GhGw: np.ndarray | None, recipe: Recipe
) -> list[tuple[np.ndarray, int, int]]:
    """What a round cuts out of its group: masks, (Gh, Gw) bool, each with its source and sink."""
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
