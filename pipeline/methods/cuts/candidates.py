"""What an image's masks are chosen from, and the best of it: the parts that a search gives, and their pieces in 3D.

M candidates · N = Gh·Gw patches · T thresholds · Gh, Gw patch grid
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.methods.cuts.proposals import Proposal, cut_thresholds
from pipeline.methods.cuts.recipes import Recipe
from stages.boundary import settle_boundaries
from stages.late import torch
from stages.local_cut import LocalCutConfig, group_graph, image_graph
from stages.mask_parts import mask_parts
from stages.ncut_tree import Part
from stages.score import ScoreParts, score_of
from stages.select import distinct, soft_nms
from stages.threshold_pieces import core, pieces, stability, threshold_labels


@dataclass(frozen=True)
class Candidate:
    """A part, or a piece that LocalCut cuts out of it. labels_TN: of the part's pieces at all thresholds, None without
    LocalCut.
    """

    part: Part
    mask_N: np.ndarray
    labels_TN: np.ndarray | None


def best_of(
    candidates: list[Candidate], features_ND: torch.Tensor, depth_GhGw: np.ndarray | None, recipe: Recipe
) -> tuple[Proposal, ...]:
    """The candidates of an image that its recipe selects, boundaries settled, best first."""
    if not candidates:
        return ()
    masks_MN = np.array([candidate.mask_N for candidate in candidates])
    grid = candidates[0].part.mask.shape
    if recipe.boundary is not None:
        settled_MGG = settle_boundaries(features_ND, masks_MN.reshape(-1, *grid), recipe.boundary)
        candidates, masks_MN = _distinct(candidates, settled_MGG.reshape(len(candidates), -1), recipe)
    masks_MGG = masks_MN.reshape(-1, *grid)
    described = mask_parts(features_ND, depth_GhGw, masks_MGG, recipe.affinity.settled_tau)
    if recipe.spatial_confidence is not None:
        described = [
            own if candidate.labels_TN is None
            else dataclasses.replace(own, stability=stability(candidate.labels_TN, candidate.mask_N))
            for own, candidate in zip(described, candidates, strict=True)
        ]  # fmt: skip
    scores_M = np.array([score_of(own, recipe.score) for own in described])
    best, novelty = soft_nms(scores_M, masks_MN, recipe.select)
    return tuple(
        _proposal(
            place, candidates[k], masks_MGG[k], dataclasses.replace(described[k], novelty=float(novelty[place])), recipe
        )
        for place, k in enumerate(best)
    )


def _distinct(candidates: list[Candidate], masks_MN: np.ndarray, recipe: Recipe) -> tuple[list[Candidate], np.ndarray]:
    """The candidates whose masks repeat none before, and these masks."""
    kept = distinct(masks_MN, recipe.select.same_iou)
    return [candidates[k] for k in kept], masks_MN[kept]


def candidates_of(parts: Sequence[Part], depth_GhGw: np.ndarray | None, recipe: Recipe, least: int) -> list[Candidate]:
    """What an image's masks are chosen from, nothing twice. least: pieces of so many patches or fewer are left out."""
    found = list(_all_candidates(parts, depth_GhGw, recipe, least))
    return _distinct(found, np.array([candidate.mask_N for candidate in found]), recipe)[0] if found else []


def _all_candidates(
    parts: Sequence[Part], depth_GhGw: np.ndarray | None, recipe: Recipe, least: int
) -> Iterator[Candidate]:
    """Every part, and what LocalCut makes of it at the thresholds of Spatial Confidence (at τ_knn without it)."""
    cut = recipe.local_cut
    if cut is None or depth_GhGw is None:
        yield from (Candidate(part, part.mask.ravel(), None) for part in parts)
        return
    for part, labels_TN in zip(
        parts, _labels(parts, depth_GhGw, cut, cut_thresholds(recipe, depth_GhGw.shape)), strict=True
    ):
        part_N = part.mask.ravel()
        yield Candidate(part, part_N, labels_TN)
        for piece_N in pieces(labels_TN, part_N, least):
            yield Candidate(part, piece_N, labels_TN)


def _labels(
    parts: Sequence[Part], depth_GhGw: np.ndarray, cut: LocalCutConfig, taus_T: np.ndarray
) -> Iterator[np.ndarray]:
    """Of each part the labels of its pieces at all thresholds, (T, N); those outside of the part mean nothing."""
    if cut.outside != "sever":
        yield from (threshold_labels(group_graph(depth_GhGw, part.mask, cut), taus_T) for part in parts)
        return
    whole = image_graph(depth_GhGw, cut)
    for together in _apart(parts):
        # They have no patch in common: the graph with all edges between them severed serves them all.
        part_N = np.zeros(depth_GhGw.size, np.int32)
        for number, part in enumerate(together, 1):
            part_N[part.mask.ravel()] = number
        yield from itertools.repeat(threshold_labels(whole.within(part_N), taus_T), len(together))


def _apart(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts, in their order, in as few runs as can be without two that overlap."""
    together: list[Part] = []
    held = np.zeros(parts[0].mask.shape if parts else (), bool)
    for part in parts:
        if (held & part.mask).any():
            yield together
            together, held = [], np.zeros_like(held)
        together.append(part)
        held |= part.mask
    if together:
        yield together


def _proposal(
    place: int, candidate: Candidate, settled_GhGw: np.ndarray, parts: ScoreParts, recipe: Recipe
) -> Proposal:
    """Source and sink: the eigenvector's peak in the candidate's core, and its lowest patch, on the other side."""
    part = candidate.part
    core_N = candidate.mask_N if candidate.labels_TN is None else core(candidate.labels_TN, candidate.mask_N)
    x_N = part.eigenvector.ravel()
    return Proposal(
        round=place,
        level=part.depth,
        eigenvector=part.eigenvector,
        eigenvalue=part.eigenvalue,
        gap=part.gap,
        parts=parts,
        group=part.mask,
        mask=candidate.mask_N.reshape(part.mask.shape),
        settled=settled_GhGw,
        tau=_tau(candidate, recipe),
        source=int(np.where(core_N, x_N, -np.inf).argmax()),
        sink=-1 if candidate.labels_TN is None else int(x_N.argmin()),
        dropped=None,
    )


def _tau(candidate: Candidate, recipe: Recipe) -> float:
    """The highest threshold at which the candidate is a piece of its part; infinity when it is the part itself."""
    part_N, mask_N, labels_TN = candidate.part.mask.ravel(), candidate.mask_N, candidate.labels_TN
    if labels_TN is None or np.array_equal(mask_N, part_N):
        return math.inf
    patch = int(mask_N.argmax())
    is_piece_T = [np.array_equal((labels_N == labels_N[patch]) & part_N, mask_N) for labels_N in labels_TN]
    taus_T = cut_thresholds(recipe, candidate.part.mask.shape)
    return float(taus_T[is_piece_T].max())
