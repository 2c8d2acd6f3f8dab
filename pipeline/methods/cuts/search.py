"""From features and depth to proposals, the way the recipe says: by rounds, or in a tree of cuts.

B images · N = Gh·Gw patches · D feature width · Gh, Gw patch grid
"""

from __future__ import annotations

import numpy as np

from pipeline.methods.cuts.proposals import Eigenvectors, ImageProposals
from pipeline.methods.cuts.recipes import Recipe, RoundsConfig
from pipeline.methods.cuts.rounds import search_rounds, solve_alive
from pipeline.methods.cuts.tree_search import search_tree
from pipeline.methods.shared.batch_inputs import Each
from stages.affinity import affinity_edges, similarities
from stages.late import torch
from stages.ncut_tree import TreeConfig, first_cuts


def semantic_graph(features_BND: torch.Tensor, importance_BN: torch.Tensor | None, recipe: Recipe) -> torch.Tensor:
    """What the recipe's NCuts are made of, (B, N, N) on the features' device: for rounds, which all cut the same graph,
    its edges, bool or float32; for a tree, whose parts have thresholds of their own, similarities, float32.

    features_BND: (B, N, D) float.
    importance_BN: (B, N) float32, None for recipes without Spatial Importance.
    """
    if isinstance(recipe.search, TreeConfig):
        return similarities(features_BND, importance_BN, recipe.sharpen)
    return affinity_edges(features_BND, recipe.affinity, importance_BN, recipe.sharpen)


def first_ncut(graph_BNN: torch.Tensor, recipe: Recipe) -> Eigenvectors:
    """NCut of untouched images. graph_BNN: what `semantic_graph` gives."""
    if isinstance(recipe.search, RoundsConfig):
        return solve_alive(
            graph_BNN, torch.ones(graph_BNN.shape[:2], dtype=torch.bool, device=graph_BNN.device), recipe
        )
    vectors, eigenvalues, gaps = zip(*first_cuts(graph_BNN, recipe.affinity, recipe.ncut), strict=True)
    return Eigenvectors(np.stack(vectors), np.array(eigenvalues, np.float32), np.array(gaps, np.float32))


def propose(
    graph_BNN: torch.Tensor,
    features_BND: torch.Tensor,
    depth_BGhGw: np.ndarray | None,
    grid: tuple[int, int],
    recipe: Recipe,
    first: Eigenvectors,
    each: Each = map,
) -> list[ImageProposals]:
    """Proposals for a batch.

    graph_BNN: what `semantic_graph` gives.
    features_BND: (B, N, D) float, on the same device, for the parts of the score.
    depth_BGhGw: (B, Gh, Gw) float32 relative depth 0..1; None for recipes without LocalCut (ValueError otherwise, and
        for recipes that make no cuts).
    grid: (Gh, Gw).
    first: what `first_ncut` gave for these images.
    each: where the work on single images that is the CPU's alone is done.
    """
    if recipe.local_cut is not None and depth_BGhGw is None:
        raise ValueError(f"recipe {recipe.name} cuts in 3D and needs depth")
    if isinstance(recipe.search, TreeConfig):
        return search_tree(graph_BNN, features_BND, depth_BGhGw, grid, recipe, recipe.search, first, each)
    if isinstance(recipe.search, RoundsConfig):
        return search_rounds(graph_BNN, features_BND, depth_BGhGw, grid, recipe, recipe.search, first, each)
    raise ValueError(f"recipe {recipe.name} makes no cuts")
