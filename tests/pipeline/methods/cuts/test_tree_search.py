"""The tree of cuts on rendered scenes, and its choice against one made of plain loops over all candidates."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.csgraph
import torch
from support.rendered_scenes import SceneConfig, features_ND, majority, majority_depth, render

from pipeline.methods.cuts.proposals import ImageProposals, Proposal, StopReason, confidence_of
from pipeline.methods.cuts.recipes import Recipe, get_recipe
from pipeline.methods.cuts.search import first_ncut, propose, semantic_graph
from stages.boundary import settle_boundaries
from stages.filters import mask_iou
from stages.local_cut import group_graph
from stages.mask_parts import mask_parts
from stages.ncut_tree import TreeConfig, first_cuts, ncut_tree
from stages.score import score_of

GRID = (40, 40)
TAU = "affinity.tau=0.3"


@dataclasses.dataclass(frozen=True)
class Image:
    """features: (N, D) float32. depth: (Gh, Gw) float32. instances: (Gh, Gw) int32, 0 = background."""

    features: np.ndarray
    depth: np.ndarray
    instances: np.ndarray


def scene(seed: int, grid: tuple[int, int] = GRID, **more: int | float) -> Image:
    rendered = render(SceneConfig(size=240, seed=seed, **more))  # type: ignore[arg-type]
    return Image(
        features_ND(rendered, grid, noise=0.1, width=16, seed=seed),
        majority_depth(rendered, grid),
        majority(rendered.instances, grid),
    )


def run(images: list[Image], recipe: Recipe) -> list[ImageProposals]:
    features = torch.from_numpy(np.stack([image.features for image in images]))
    graph = semantic_graph(features, None, recipe)
    depth = np.stack([image.depth for image in images]) if recipe.needs_depth else None
    grid = images[0].depth.shape
    return propose(graph, features, depth, grid, recipe, first_ncut(graph, recipe))


def best_for(found: ImageProposals, truth: np.ndarray) -> tuple[int, float]:
    """The proposal with the largest IoU with a true mask, and this IoU."""
    ious = [mask_iou(proposal.mask, truth) for proposal in found.proposals]
    return int(np.argmax(ious)), max(ious)


@pytest.mark.parametrize("n_objects", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_touching_objects_of_one_appearance_are_proposals_of_their_own(n_objects: int, seed: int) -> None:
    image = scene(seed, n_objects=n_objects, depth_gap=0.15, n_classes=1)
    (found,) = run([image], get_recipe("cuts3d", [TAU]))
    assert found.stop is StopReason.TREE
    chosen = [best_for(found, image.instances == i) for i in range(1, n_objects + 1)]
    assert min(iou for _, iou in chosen) >= 0.8, chosen
    masks = [found.proposals[k].mask for k, _ in chosen]
    assert len({k for k, _ in chosen}) == n_objects
    assert np.sum(masks, axis=0).max() == 1, "apart from each other"
    for k, _ in chosen:
        assert math.isfinite(found.proposals[k].tau), "it takes a cut in 3D to tell them apart"
    # where they are told apart in 3D only, no part of the features' tree alone will do
    (flat,) = run([image], get_recipe("cuts3d", [TAU, "spatial_confidence=none", "local_cut=none"]))
    assert min(best_for(flat, image.instances == i)[1] for i in range(1, n_objects + 1)) < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_objects_of_several_appearances_are_found(seed: int) -> None:
    image = scene(seed, n_objects=4, depth_gap=0.1, n_classes=2)
    (found,) = run([image], get_recipe("cuts3d", [TAU]))
    assert min(best_for(found, image.instances == i)[1] for i in range(1, 5)) >= 0.8


@pytest.mark.parametrize("seed", range(2))
def test_without_depth_the_tree_finds_what_looks_different(seed: int) -> None:
    """No LocalCut and nothing else that looks at depth: the parts themselves are the candidates."""
    recipe = get_recipe("cuts3d", [TAU, "spatial_confidence=none", "local_cut=none"])
    assert not recipe.needs_depth
    image = scene(seed, n_objects=2, n_classes=2)
    (found,) = run([image], recipe)
    for i in (1, 2):
        assert best_for(found, image.instances == i)[1] >= 0.9
    for proposal in found.proposals:
        np.testing.assert_array_equal(proposal.mask, proposal.group)
        assert (proposal.sink, proposal.tau) == (-1, math.inf)
        assert proposal.source == np.where(proposal.mask, proposal.eigenvector, -np.inf).argmax()
        assert (proposal.parts.nearness, proposal.parts.stability) == (1.0, 1.0)


def score(proposal: Proposal, recipe: Recipe) -> float:
    return score_of(proposal.parts, recipe.score)


@pytest.mark.parametrize("overrides", [[], ["local_cut.outside=push"], ["spatial_confidence=none"], ["boundary=none"]])
def test_what_holds_of_every_proposal(overrides: list[str]) -> None:
    image = scene(4, n_objects=3, n_classes=2)
    recipe = get_recipe("cuts3d", [TAU, *overrides])
    (found,) = run([image], recipe)
    assert 3 < len(found.proposals) <= recipe.select.masks
    assert [p.round for p in found.proposals] == list(range(len(found.proposals)))
    scores = [score(p, recipe) for p in found.proposals]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < scores[0] <= 1
    for place, p in enumerate(found.proposals):
        assert p.dropped is None
        assert not (p.mask & ~p.group).any()
        assert p.mask.sum() > recipe.search.min_area * p.mask.size  # type: ignore[union-attr]
        assert p.group.sum() <= recipe.search.max_area * p.mask.size  # type: ignore[union-attr]
        assert p.mask.flat[p.source]
        assert not p.group.flat[p.sink]
        assert p.sink == p.eigenvector.argmin()
        assert recipe.boundary is not None or np.array_equal(p.settled, p.mask)
        better = [mask_iou(p.settled, other.settled) for other in found.proposals[:place]]
        assert max(better, default=0.0) <= recipe.select.same_iou
        novelty = math.prod(math.exp(-(iou**2) / recipe.select.overlap_sigma) for iou in better)
        assert p.parts.novelty == pytest.approx(novelty, rel=1e-5)
        confidence = confidence_of(p, image.depth, recipe)
        assert p.parts.stability == pytest.approx(confidence[p.mask].mean(), abs=1e-5)
    assert recipe.spatial_confidence is None or len({p.parts.stability for p in found.proposals}) > 1


def naive(image: Image, recipe: Recipe, taus: list[float]) -> list[tuple[np.ndarray, float]]:
    """The choice by loops over all candidates: masks, best first, and scores. `taus`: LocalCut's thresholds."""
    assert isinstance(recipe.search, TreeConfig)
    assert recipe.local_cut is not None
    grid = image.depth.shape
    similarity = semantic_graph(torch.from_numpy(image.features)[None], None, recipe)
    roots = first_cuts(similarity, recipe.affinity, recipe.ncut)
    (parts,) = ncut_tree(similarity, roots, grid, recipe.search, recipe.affinity, recipe.ncut)
    candidates: list[tuple[np.ndarray, list[np.ndarray]]] = []  # mask, and its part's components at each threshold
    for part in parts:
        graph = group_graph(image.depth, part.mask, recipe.local_cut)
        labels = []
        for tau in taus:
            short = graph.truncated(tau)
            adjacency = short.adjacency(np.ones(len(short.edges_E2)))
            labels.append(scipy.sparse.csgraph.connected_components(adjacency, directed=False)[1].reshape(grid))
        candidates.append((part.mask, labels))
        for of_tau in labels:
            for label in np.unique(of_tau[part.mask]):
                piece = part.mask & (of_tau == label)
                if piece.sum() > int(recipe.search.min_area * piece.size):
                    candidates.append((piece, labels))
    different = [candidates[k] for k in naive_distinct([mask for mask, _ in candidates], recipe)]
    features_ND = torch.from_numpy(image.features)
    masks = [mask for mask, _ in different]
    if recipe.boundary is not None:
        masks = [settle_boundaries(features_ND, mask[None], recipe.boundary)[0] for mask in masks]
    kept = [(masks[k], *different[k]) for k in naive_distinct(masks, recipe)]
    scores = []
    for settled, mask, labels in kept:
        (own,) = mask_parts(features_ND, image.depth, settled[None], recipe.affinity.settled_tau)
        sizes = {label: int((labels[0][mask] == label).sum()) for label in np.unique(labels[0][mask])}
        core = mask & (labels[0] == max(sizes, key=lambda label: sizes[label]))
        first = int(core.argmax())
        together = np.mean([(of_tau == of_tau.flat[first])[mask].mean() for of_tau in labels])
        scores.append(score_of(dataclasses.replace(own, stability=float(together)), recipe.score))
    chosen: list[tuple[np.ndarray, float]] = []
    left = {k: s for k, s in enumerate(scores) if s > 0}
    while left and len(chosen) < recipe.select.masks:
        best = max(left, key=lambda k: left[k])
        chosen.append((kept[best][0], left.pop(best)))
        for k in left:
            left[k] *= math.exp(-(mask_iou(kept[k][0], chosen[-1][0]) ** 2) / recipe.select.overlap_sigma)
    return chosen


def naive_distinct(masks: list[np.ndarray], recipe: Recipe) -> list[int]:
    kept: list[int] = []
    for k in sorted(range(len(masks)), key=lambda k: -int(masks[k].sum())):
        if all(mask_iou(masks[k], masks[other]) <= recipe.select.same_iou for other in kept):
            kept.append(k)
    return kept


@pytest.mark.parametrize("boundary", ["boundary=on", "boundary=none"])
@pytest.mark.parametrize("seed", range(3))
def test_the_choice_equals_a_naive_one(seed: int, boundary: str) -> None:
    image = scene(seed, (24, 24), n_objects=3, n_classes=2)
    overrides = [TAU, "tree.depth=3", "spatial_confidence.thresholds=4", "local_cut.tau_knn=0.05", boundary]
    recipe = get_recipe("cuts3d", overrides)
    taus = [0.05 * 59 / 23 * share for share in (1 / 3, 5 / 9, 7 / 9, 1)]
    expected = naive(image, recipe, taus)
    (found,) = run([image], recipe)
    assert len(found.proposals) == len(expected) > 5
    for proposal, (mask, value) in zip(found.proposals, expected, strict=True):
        np.testing.assert_array_equal(proposal.settled, mask)
        assert score(proposal, recipe) == pytest.approx(value, rel=1e-4)


def test_the_threshold_that_cut_a_proposal_out() -> None:
    """At its threshold it is a component of its part, at the next one it is none any more, or the part is whole."""
    image = scene(1, n_objects=3, n_classes=1, depth_blur=3.0)
    recipe = get_recipe("cuts3d", [TAU])
    assert recipe.local_cut is not None
    (found,) = run([image], recipe)
    taus = np.linspace(1 / 3, 1, 6) * recipe.local_cut.tau_on(GRID)
    cut_out = [p for p in found.proposals if math.isfinite(p.tau)]
    assert len({p.tau for p in cut_out}) > 1
    for p in cut_out:
        graph = group_graph(image.depth, p.group, recipe.local_cut)
        at = []
        for tau in taus:
            short = graph.truncated(float(tau))
            adjacency = short.adjacency(np.ones(len(short.edges_E2)))
            labels = scipy.sparse.csgraph.connected_components(adjacency, directed=False)[1].reshape(GRID)
            at.append(bool(((labels == labels.flat[p.source]) & p.group == p.mask).all()))
        assert p.tau == pytest.approx(taus[at].max())
    for p in found.proposals:
        if not math.isfinite(p.tau):
            np.testing.assert_array_equal(p.mask, p.group)


def same(one: ImageProposals, other: ImageProposals) -> None:
    assert len(one.proposals) == len(other.proposals)
    for a, b in zip(one.proposals, other.proposals, strict=True):
        for field in dataclasses.fields(Proposal):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def test_the_same_images_give_the_same_proposals_alone_and_in_a_batch() -> None:
    images = [scene(seed, (30, 30), n_objects=2 + seed, n_classes=1 + seed) for seed in range(2)]
    recipe = get_recipe("cuts3d", [TAU])
    together, again = run(images, recipe), run(images, recipe)
    for image in range(2):
        same(together[image], again[image])
        (alone,) = run(images[image : image + 1], recipe)
        assert len(alone.proposals) == len(together[image].proposals)
        for a, b in zip(alone.proposals, together[image].proposals, strict=True):
            np.testing.assert_array_equal(a.mask, b.mask)
            assert (a.source, a.sink, a.level) == (b.source, b.sink, b.level)
            assert dataclasses.astuple(a.parts) == pytest.approx(dataclasses.astuple(b.parts), abs=1e-5)


def test_options_of_the_tree_and_of_the_selection() -> None:
    image = scene(0, n_objects=3, n_classes=2)
    (few,) = run([image], get_recipe("cuts3d", [TAU, "select.masks=3"]))
    (many,) = run([image], get_recipe("cuts3d", [TAU, "select.masks=40"]))
    assert len(few.proposals) == 3 < len(many.proposals)
    same(few, dataclasses.replace(many, proposals=many.proposals[:3]))
    (shallow,) = run([image], get_recipe("cuts3d", [TAU, "tree.depth=1"]))
    assert {p.level for p in shallow.proposals} == {1}
    assert {p.level for p in many.proposals} > {1, 2}
    (large,) = run([image], get_recipe("cuts3d", [TAU, "tree.min_area=0.04"]))
    assert min(p.mask.mean() for p in large.proposals) > 0.04
    (unlike,) = run([image], get_recipe("cuts3d", [TAU, "select.same_iou=0.3", "select.masks=40"]))
    masks = [p.mask for p in unlike.proposals]
    assert max(mask_iou(a, b) for k, a in enumerate(masks) for b in masks[:k]) <= 0.3


def test_scores_of_a_recipe_rank_its_proposals() -> None:
    image = scene(0, n_objects=3, n_classes=2)
    recipe = get_recipe("cuts3d", [TAU, "score=contrast", "select.overlap_sigma=1000000"])
    contrasts = [p.parts.contrast for p in run([image], recipe)[0].proposals]
    assert contrasts == sorted(contrasts, reverse=True)
    constant = get_recipe("cuts3d", [TAU, "score=constant"])
    assert [score(p, constant) for p in run([image], constant)[0].proposals] == [1.0] * 10


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_blank_image_has_no_proposals(value: float) -> None:
    depth = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    blank = Image(np.full((400, 8), value, np.float32), depth, np.zeros((20, 20), np.int32))
    (found,) = run([blank], get_recipe("cuts3d", [TAU]))
    assert found.proposals == ()
    assert found.stop is StopReason.TREE
