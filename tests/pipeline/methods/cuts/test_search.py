"""What a recipe's NCuts are made of, and that the search follows its recipe: by rounds or in a tree."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.methods.cuts.proposals import Eigenvectors, ImageProposals, StopReason
from pipeline.methods.cuts.recipes import Recipe, get_recipe
from pipeline.methods.cuts.search import first_ncut, propose, semantic_graph
from stages.ncut import NCutConfig, ncut
from stages.ncut_tree import TreeConfig, part_edges
from stages.spatial_importance import SharpenConfig, sharpen

GRID = (10, 10)
N = 100


def blocks(seed: int, images: int = 2) -> torch.Tensor:
    """(B, N, D) features of three upright bands."""
    generator = torch.Generator().manual_seed(seed)
    band = torch.bucketize(torch.arange(10), torch.tensor([3, 6])).repeat(10)
    return torch.randn(images, 3, 12, generator=generator)[:, band] + 0.4 * torch.randn(
        images, N, 12, generator=generator
    )


def cosines(features_BND: torch.Tensor) -> np.ndarray:
    unit = (features_BND / features_BND.norm(dim=2, keepdim=True)).double().numpy()
    return np.einsum("bid,bjd->bij", unit, unit)


def run(features: torch.Tensor, depth: np.ndarray | None, recipe: Recipe) -> list[ImageProposals]:
    graph = semantic_graph(features, None, recipe)
    return propose(graph, features, depth, GRID, recipe, first_ncut(graph, recipe))


def test_rounds_cut_edges_and_a_tree_similarities() -> None:
    features = blocks(0)
    edges = semantic_graph(features, None, get_recipe("localcut", ["affinity.tau=0.3"]))
    np.testing.assert_array_equal(edges.numpy(), cosines(features) > 0.3)
    similar = semantic_graph(features, None, get_recipe("cuts3d", ["affinity.tau=0.3"]))
    np.testing.assert_allclose(similar.numpy(), cosines(features), atol=1e-6)
    assert (similar.dtype, edges.dtype) == (torch.float32, torch.bool)


@pytest.mark.parametrize("name", ["cuts3d_rounds", "cuts3d"])
def test_importance_sharpens_either(name: str) -> None:
    features, importance = blocks(1), torch.rand(2, N, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.45
    recipe = get_recipe(name, ["affinity.tau=0.3", "spatial_importance=on", "sharpen.exponent=mean"])
    expected = sharpen(torch.from_numpy(cosines(features)).float(), importance, SharpenConfig(exponent="mean")).numpy()
    got = semantic_graph(features, importance, recipe).numpy()
    if name == "cuts3d":
        np.testing.assert_allclose(got, expected, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, expected > 0.3)
    assert (got != semantic_graph(features, None, recipe).numpy()).any()


@pytest.mark.parametrize("name", ["maskcut", "cuts3d"])
def test_the_first_cut_is_that_of_the_whole_image(name: str) -> None:
    features = blocks(2)
    recipe = get_recipe(name, ["affinity.tau=0.3"])
    graph = semantic_graph(features, None, recipe)
    first = first_ncut(graph, recipe)
    is_tree = isinstance(recipe.search, TreeConfig)
    edges = torch.stack([part_edges(s, recipe.affinity) for s in graph]) if is_tree else graph
    expected = ncut(edges, torch.ones(2, N, dtype=torch.bool), 1e-5, NCutConfig())
    assert first.eigenvector_BN.shape == (2, N)
    for image in range(2):
        assert abs(first.eigenvector_BN[image] @ expected.eigenvector_BN[image].numpy()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(first.eigenvalue_B, expected.eigenvalue_B.numpy(), atol=1e-5)
    np.testing.assert_allclose(first.gap_B, expected.gap_B.numpy(), rtol=0.05, atol=1e-5)
    assert {array.dtype for array in vars(first).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["maskcut", "cuts3d"])
def test_the_search_starts_from_the_first_cut_that_it_is_given(name: str) -> None:
    """It is not solved again: an eigenvector of one's own decides the first parts."""
    features = blocks(3, 1)
    recipe = dataclasses.replace(get_recipe(name, ["affinity.tau=0.3"]), local_cut=None, spatial_confidence=None)
    mine = np.full(GRID, -0.01, np.float32)
    mine[2:6, 3:8] = 0.3
    first = Eigenvectors(mine.reshape(1, N), np.array([0.25], np.float32), np.array([0.5], np.float32))
    (found,) = propose(semantic_graph(features, None, recipe), features, None, GRID, recipe, first)
    (own,) = [p for p in found.proposals if p.eigenvalue == 0.25 and (p.group == (mine > 0)).all()][:1]
    np.testing.assert_array_equal(own.mask, mine > 0)
    np.testing.assert_array_equal(own.eigenvector, mine)
    assert own.gap == 0.5


def test_each_recipe_searches_its_own_way() -> None:
    features = blocks(4, 1)
    depth = np.random.default_rng(0).random((1, *GRID)).astype(np.float32)
    assert run(features, depth, get_recipe("cuts3d", ["affinity.tau=0.3"]))[0].stop is StopReason.TREE
    for name in ("maskcut", "localcut", "cuts3d_rounds"):
        assert run(features, depth, get_recipe(name, ["affinity.tau=0.3"]))[0].stop is not StopReason.TREE


@pytest.mark.parametrize("name", ["localcut", "cuts3d_rounds", "cuts3d"])
def test_recipes_in_3d_need_depth(name: str) -> None:
    with pytest.raises(ValueError, match=f"recipe {name} cuts in 3D and needs depth"):
        run(blocks(0), None, get_recipe(name, ["affinity.tau=0.3"]))
    recipe = dataclasses.replace(get_recipe(name, ["affinity.tau=0.3"]), local_cut=None, spatial_confidence=None)
    assert all(image.proposals for image in run(blocks(0), None, recipe))
