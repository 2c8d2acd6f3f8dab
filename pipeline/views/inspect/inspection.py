"""All stages of one image, run afresh and laid open, to see how a mask came about.

N = Gh·Gw patches · Gh, Gw patch grid · H, W pixels · D feature width
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.images.photos import Photo
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from pipeline.methods.cuts.proposals import Proposal, StopReason
from pipeline.methods.cuts.recipes import Recipe, RoundsConfig, unmeasured_parts
from pipeline.results.instance_overlay import instance_colours
from pipeline.results.instances import ImageRecord, Instance
from stages.affinity import point_similarities, similarities, unit_features
from stages.filters import DropReason
from stages.hierarchy import HierarchyConfig
from stages.local_cut import KnnGraph, group_graph
from stages.ncut_tree import Part, TreeConfig, ncut_tree, part_edges
from stages.patch_merging import MergeConfig
from stages.point_cloud import orthographic_points
from stages.prompt_points import prompt_points, prompted
from stages.score import ScoreParts
from stages.spatial_importance import spatial_importance

MOST_ROWS = 16  # of a panel of regions
NO_INSTANCE = np.array([110, 114, 122], np.uint8)  # colour of points that belong to no instance


@dataclass(frozen=True)
class InspectedProposal:
    """One proposal with what went into it and what became of it.

    piece, pieces: its place, from 1, among the proposals of its round.
    outside: (Gh, Gw) bool, patches that are not in the graph that was cut: those that earlier rounds took, or what lies
        outside of the part of the tree; nothing where regions are merged.
    cosines: (Gh, Gw) float32, of each patch's features with those of the source.
    edges: (Gh, Gw) float32, weights of the source's edges in the graph that was cut; zeros where none was.
    graph: LocalCut's k-NN graph, not truncated; None without LocalCut.
    confidence: (Gh, Gw) float32 in 0..1, without its floor; None for proposals dropped before.
    refined: (H, W) bool; None for proposals dropped before.
    crf_iou: IoU of `refined` with the mask that went into the CRF; None like that.
    dropped: why it did not become an instance, verdicts on the refined mask included; None when it did.
    instance: as the record has it, None for dropped proposals.
    """

    proposal: Proposal
    piece: int
    pieces: int
    outside: np.ndarray
    cosines: np.ndarray
    edges: np.ndarray
    graph: KnnGraph | None
    confidence: np.ndarray | None
    refined: np.ndarray | None
    crf_iou: float | None
    dropped: DropReason | None
    instance: Instance | None

    @property
    def parts(self) -> ScoreParts:
        """Parts of the score; with the stability that goes into it as soon as there is a confidence."""
        if self.instance is not None:
            return self.instance.parts
        inside = self.proposal.mask
        if self.confidence is None or not inside.any():
            return self.proposal.parts
        return replace(self.proposal.parts, stability=float(self.confidence[inside].mean()))

    def unknown_parts(self, recipe: Recipe) -> frozenset[str]:
        """Parts of the score that were not measured, and are 1 in its product."""
        dropped_early = frozenset(("stability",)) if self.confidence is None else frozenset()
        return unmeasured_parts(recipe.as_dict()) | dropped_early


@dataclass(frozen=True)
class Inspection:
    """All intermediate results of one image.

    method: as `Method.config` has it.
    depth, importance: (Gh, Gw) float32; None for recipes that do without.
    features: (N, D) float16.
    tree: all parts that a tree of cuts gives, whether they became masks or not; empty for other searches.
    background: (Gh, Gw) bool, what the masks of prompts vote for; None for other searches.
    stop: why the search ended.
    record: exactly what a run stores of this image.
    seconds: by stage.
    """

    photo: Photo
    recipe: Recipe
    method: dict[str, Any]
    grid: tuple[int, int]
    depth: np.ndarray | None
    importance: np.ndarray | None
    features: np.ndarray
    tree: tuple[Part, ...]
    background: np.ndarray | None
    proposals: tuple[InspectedProposal, ...]
    stop: StopReason
    record: ImageRecord
    seconds: dict[str, float]

    def index_of(self, inspected: InspectedProposal) -> int:
        """Index in the record of the instance that the proposal became; ValueError when it was dropped."""
        found = [i for i, instance in enumerate(self.record.instances) if instance is inspected.instance]
        if not found:
            raise ValueError("this proposal became no instance of the record")
        return found[0]

    @property
    def rows(self) -> tuple[InspectedProposal, ...]:
        """The proposals that a panel has a row for: all of them; of a hierarchy, which has hundreds, the instances of
        the best scores, larger ones first where they are the same.
        """
        if not isinstance(self.recipe.search, HierarchyConfig):
            return self.proposals
        ranked = [
            (-one.instance.score, -one.instance.area, place)
            for place, one in enumerate(self.proposals)
            if one.instance is not None
        ]
        return tuple(self.proposals[place] for *_, place in sorted(ranked)[:MOST_ROWS])

    @cached_property
    def points_N3(self) -> np.ndarray:
        """The point cloud as LocalCut measures it, float64; ValueError for recipes that do not look at depth."""
        if self.depth is None:
            raise ValueError(f"recipe {self.recipe.name} does not look at depth: there is no point cloud")
        scale = self.recipe.local_cut.depth_scale if self.recipe.local_cut else 1.0
        return orthographic_points(self.depth) * [1.0, 1.0, scale]

    @cached_property
    def photo_N3(self) -> np.ndarray:
        """Mean colour of the photo in each patch, uint8."""
        size = self.grid[1], self.grid[0]
        return np.asarray(Image.fromarray(self.photo.rgb).resize(size, Image.Resampling.BOX)).reshape(-1, 3)

    @cached_property
    def instance_N(self) -> np.ndarray:
        """Which instance of the record each patch was cut out for, int16; -1 for none. Before refinement; where masks
        lie on each other, as those of a tree may, the smallest."""
        owner_N = np.full(self.grid[0] * self.grid[1], -1, np.int16)
        kept = [inspected for inspected in self.proposals if inspected.instance is not None]
        for inspected in sorted(kept, key=lambda one: -int(one.proposal.mask.sum())):
            owner_N[inspected.proposal.mask.ravel()] = self.index_of(inspected)
        return owner_N

    @cached_property
    def instances_N3(self) -> np.ndarray:
        """Colour of each patch's instance as the overlays have it, uint8; grey for none."""
        palette = np.concatenate([instance_colours(len(self.record.instances)).reshape(-1, 3), NO_INSTANCE[None]])
        return palette[self.instance_N]


def inspect_image(photo: Photo, method: CutsMethod) -> Inspection:
    """Run all stages on one photo with the very code of a run and keep everything."""
    seconds: defaultdict[str, float] = defaultdict(float)
    work = BatchWork(method, [photo], [0], {}, seconds)
    recipe, grid = method.recipe, method.grid
    graph_NN = work.graph_BNN[0] if recipe.has_ncut else None  # before the cuts: the batch lets go of it there
    record = work.records[0]
    depth = None if work.depth_BGhGw is None else work.depth_BGhGw[0]
    importance = None
    if recipe.spatial_importance is not None and depth is not None:
        importance = spatial_importance(torch.from_numpy(depth)[None], recipe.spatial_importance)[0].numpy()
    return Inspection(
        photo=photo,
        recipe=recipe,
        method=method.config(),
        grid=grid,
        depth=depth,
        importance=importance,
        features=work.features_BND[0].cpu().numpy(),
        tree=() if graph_NN is None else _tree(work, graph_NN),
        background=_background(work),
        proposals=_inspected(work, graph_NN, depth),
        stop=work.cut_images[0].found.stop,
        record=record,
        seconds=dict(seconds),
    )


def _tree(work: BatchWork, similarity_NN: torch.Tensor | None) -> tuple[Part, ...]:
    """All parts of the only image of the batch. Cut once more: the proposals hold only those that became masks."""
    recipe = work.method.recipe
    if not isinstance(recipe.search, TreeConfig) or similarity_NN is None:
        return ()
    roots, grid = work.first_ncut.solutions(), work.method.grid
    (parts,) = ncut_tree(similarity_NN[None], roots, grid, recipe.search, recipe.affinity, recipe.ncut)
    return tuple(parts)


def _background(work: BatchWork) -> np.ndarray | None:
    """The background of the only image of the batch, voted for once more."""
    recipe, grid = work.method.recipe, work.method.grid
    rules = recipe.search
    if not isinstance(rules, MergeConfig) or rules.grouping != "prompts":
        return None
    points_S = prompt_points(grid, rules.stride)
    (similarity_SN,) = point_similarities(
        unit_features(work.features_BND), points_S, work.importance_BN, recipe.sharpen
    )
    alike_SN = (similarity_SN > rules.settled_tau("bipartition_tau")).cpu().numpy()
    return prompted(alike_SN, points_S, grid, rules.cc_maskarea_tau).background.reshape(grid)


def _inspected(
    work: BatchWork, graph_NN: torch.Tensor | None, depth_GhGw: np.ndarray | None
) -> tuple[InspectedProposal, ...]:
    """The proposals of the only image of the batch. graph_NN: its semantic graph; None for recipes without NCuts."""
    recipe, grid = work.method.recipe, work.method.grid
    (cut,), (refined,), (record,) = work.confident_images, work.refined, work.records
    proposals = cut.found.proposals
    cosines_PN = similarities(work.features_BND)[0, [p.source for p in proposals]].cpu().numpy()
    kept = [k for k, proposal in enumerate(proposals) if proposal.dropped is None]
    place = {k: m for m, k in enumerate(kept)}
    instances = dict(zip([k for k in kept if refined.keep[place[k]]], record.instances, strict=True))
    sizes = Counter(proposal.round for proposal in proposals)
    inspected = []
    for k, proposal in enumerate(proposals):
        outside = _outside(proposal, proposals, recipe)
        confidence = cut.confidences[k]
        graph = None
        if recipe.local_cut is not None and depth_GhGw is not None:
            graph = group_graph(depth_GhGw, proposal.group, recipe.local_cut)
        inspected.append(
            InspectedProposal(
                proposal=proposal,
                piece=1 + sum(other.round == proposal.round for other in proposals[:k]),
                pieces=sizes[proposal.round],
                outside=outside,
                cosines=cosines_PN[k].reshape(grid),
                edges=_alike(work, proposal.source)
                if graph_NN is None
                else _edges_of(proposal.source, graph_NN, outside, recipe),
                graph=graph,
                confidence=None if confidence is None else confidence.astype(np.float32) / 255,
                refined=refined.masks[place[k]] if k in place else None,
                crf_iou=float(refined.crf_iou[place[k]]) if k in place else None,
                dropped=refined.dropped[place[k]] if k in place else proposal.dropped,
                instance=instances.get(k),
            )
        )
    return tuple(inspected)


def _outside(proposal: Proposal, proposals: Sequence[Proposal], recipe: Recipe) -> np.ndarray:
    """(Gh, Gw) bool, the patches that were not in the graph when this proposal was cut, by the recipe's rules."""
    if not isinstance(recipe.search, RoundsConfig):
        return ~proposal.was_cut
    taken = np.zeros_like(proposal.mask)
    for earlier in proposals:
        if earlier.round < proposal.round:
            if recipe.local_cut is not None and recipe.local_cut.pieces == "all":
                taken |= earlier.group
            elif recipe.search.take_dropped or earlier.dropped in (None, DropReason.COVERED):
                taken |= earlier.mask
    return taken


def _alike(work: BatchWork, patch: int) -> np.ndarray:
    """(Gh, Gw) float32, similarities of the patches that are like one, as prompts have it, 0 elsewhere; 0 everywhere
    for a hierarchy, which does not look at single patches.
    """
    recipe = work.method.recipe
    if not isinstance(recipe.search, MergeConfig):
        return np.zeros(work.method.grid, np.float32)
    unit_BND = unit_features(work.features_BND)
    (row_1N,) = point_similarities(unit_BND, np.array([patch]), work.importance_BN, recipe.sharpen)
    alike_N = row_1N[0] * (row_1N[0] > recipe.search.settled_tau("bipartition_tau"))
    return alike_N.cpu().numpy().reshape(work.method.grid)


def _edges_of(patch: int, graph_NN: torch.Tensor, outside: np.ndarray, recipe: Recipe) -> np.ndarray:
    """(Gh, Gw) float32, weights of a patch's edges in the graph that was cut. graph_NN: see `search.semantic_graph`."""
    edges = np.zeros(outside.shape, np.float32)
    inside_n = np.flatnonzero(~outside)
    if isinstance(recipe.search, TreeConfig):
        row_n = part_edges(graph_NN, recipe.affinity, inside_n)[int(np.searchsorted(inside_n, patch))]
    else:
        row_n = graph_NN[patch, torch.from_numpy(inside_n).to(graph_NN.device)]
    edges[~outside] = row_n.cpu().numpy()
    return edges
