"""The rounds of a recipe on a batch of images: NCut, foreground, cut, filter, take out, again.

B images · N = Gh·Gw patches · Gh, Gw patch grid

Everything here lives on the patch grid. Several images go through a round together, since NCut is batched; an image
whose stopping rule has spoken leaves the batch.
"""

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch

from pipeline.recipes import Recipe
from stages.bipartition import Bipartition, bipartition, component_of
from stages.filters import DropReason, judge, mask_iou
from stages.local_cut import local_cut, local_cut_pieces
from stages.mask_score import feature_contrast
from stages.ncut import ncut
from stages.spatial_confidence import spatial_confidence


class StopReason(StrEnum):
    """Why the rounds of an image ended."""

    ROUNDS = "rounds"  # all rounds of the recipe were run
    NOTHING_LEFT = "nothing_left"  # the group holds no patch that was not taken before
    REST = "rest"  # the group is just what the earlier rounds left over


@dataclass(frozen=True)
class Proposal:
    """What one round found.

    round: 0-based. eigenvector: (Gh, Gw) float32, foreground positive. eigenvalue, gap: λ₂ and λ₃ - λ₂ of its NCut.
    contrast: of the features inside and outside of the mask, 0..2 (`stages.mask_score`).
    group: (Gh, Gw) bool, the semantic group. mask: (Gh, Gw) bool, the candidate for an instance, without the patches of
    earlier masks. source, sink: flat patch indices of LocalCut's terminals; without LocalCut the source is the seed
    and the sink -1. dropped: why it is not kept, or None.
    """

    round: int
    eigenvector: np.ndarray
    eigenvalue: float
    gap: float
    contrast: float
    group: np.ndarray
    mask: np.ndarray
    source: int
    sink: int
    dropped: DropReason | None


@dataclass(frozen=True)
class Eigenvectors:
    """First-round NCut of a batch, as the `ncut` stage keeps it: eigenvector_BN float32, eigenvalue_B, gap_B
    float32.
    """

    eigenvector_BN: np.ndarray
    eigenvalue_B: np.ndarray
    gap_B: np.ndarray


@dataclass(frozen=True)
class ImageProposals:
    """All proposals of an image in the order of their rounds, kept and dropped, and why the rounds ended."""

    proposals: tuple[Proposal, ...]
    stop: StopReason


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


def first_ncut(edges_BNN: torch.Tensor, recipe: Recipe) -> Eigenvectors:
    """NCut of untouched images. edges_BNN: (B, N, N) float32 on any device."""
    return _solve(edges_BNN, torch.ones(edges_BNN.shape[:2], dtype=torch.bool, device=edges_BNN.device), recipe)


def propose(
    edges_BNN: torch.Tensor,
    features_BND: torch.Tensor,
    depth_BGhGw: np.ndarray | None,
    grid: tuple[int, int],
    recipe: Recipe,
    first: Eigenvectors,
) -> list[ImageProposals]:
    """Run the rounds of the recipe on a batch.

    edges_BNN: (B, N, N) float32, see `affinity_edges`. features_BND: (B, N, D) float, on the same device, for the
    proposals' contrast. depth_BGhGw: (B, Gh, Gw) float32 relative depth 0..1; None for recipes without LocalCut
    (ValueError otherwise). grid: (Gh, Gw). first: what `first_ncut` gave for these images.
    """
    if recipe.local_cut is not None and depth_BGhGw is None:
        raise ValueError(f"recipe {recipe.name} cuts in 3D and needs depth")
    states = [_Rounds(np.zeros(grid, bool), np.zeros(grid, bool)) for _ in range(len(edges_BNN))]
    solved = {image: _pick(first, image) for image in range(len(states))}
    for round_ in range(recipe.rounds.n):
        stale = [image for image, state in enumerate(states) if not state.ended and image not in solved]
        if stale:
            alive_BN = torch.from_numpy(np.stack([~states[image].taken.ravel() for image in stale]))
            batch = edges_BNN if len(stale) == len(states) else edges_BNN[stale]
            again = _solve(batch, alive_BN.to(edges_BNN.device), recipe)
            solved.update({image: _pick(again, position) for position, image in enumerate(stale)})
        for image, state in enumerate(states):
            if state.ended:
                continue
            taken_before = int(state.taken.sum())
            _round(state, round_, solved[image], None if depth_BGhGw is None else depth_BGhGw[image], grid, recipe)
            if int(state.taken.sum()) != taken_before:
                del solved[image]  # the graph changed; otherwise the next round sees the very same eigenvector
    return [
        ImageProposals(_with_contrast(state.proposals, features_ND), state.stop)
        for state, features_ND in zip(states, features_BND, strict=True)
    ]


def confidence_of(proposal: Proposal, depth_GhGw: np.ndarray | None, recipe: Recipe) -> np.ndarray:
    """Spatial Confidence of a proposal, (Gh, Gw) float32 in 0..1, 0 outside its mask; 1 inside for recipes without
    it.
    """
    if recipe.spatial_confidence is None or recipe.local_cut is None or depth_GhGw is None:
        return proposal.mask.astype(np.float32)
    return spatial_confidence(
        depth_GhGw,
        proposal.group,
        proposal.mask,
        proposal.source,
        proposal.sink,
        recipe.local_cut,
        recipe.spatial_confidence,
    )


def _solve(edges_BNN: torch.Tensor, alive_BN: torch.Tensor, recipe: Recipe) -> Eigenvectors:
    result = ncut(edges_BNN, alive_BN, recipe.affinity.epsilon, recipe.ncut)
    return Eigenvectors(
        result.eigenvector_BN.cpu().numpy(), result.eigenvalue_B.cpu().numpy(), result.gap_B.cpu().numpy()
    )


def _pick(batch: Eigenvectors, image: int) -> tuple[np.ndarray, float, float]:
    return batch.eigenvector_BN[image], float(batch.eigenvalue_B[image]), float(batch.gap_B[image])


def _round(
    state: _Rounds,
    round_: int,
    solution: tuple[np.ndarray, float, float],
    depth_GhGw: np.ndarray | None,
    grid: tuple[int, int],
    recipe: Recipe,
) -> None:
    """One round of one image: appends a proposal, or ends the image's rounds."""
    rules = recipe.rounds
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
            Proposal(round_, parts.eigenvector, eigenvalue, gap, 0.0, group, mask, source, sink, dropped)
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


def _with_contrast(proposals: list[Proposal], features_ND: torch.Tensor) -> tuple[Proposal, ...]:
    if not proposals:
        return ()
    masks_MN = torch.from_numpy(np.stack([proposal.mask.ravel() for proposal in proposals])).to(features_ND.device)
    contrast_M = feature_contrast(features_ND, masks_MN).tolist()
    return tuple(
        dataclasses.replace(proposal, contrast=contrast)
        for proposal, contrast in zip(proposals, contrast_M, strict=True)
    )
