"""The tree of cuts of a batch of images: NCut again and again, LocalCut of every part, the best of all that came out.

B images · N = Gh·Gw patches · Gh, Gw patch grid
"""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.methods.cuts.candidates import best_of, candidates_of
from pipeline.methods.cuts.proposals import Eigenvectors, ImageProposals, StopReason
from pipeline.methods.cuts.recipes import Recipe
from pipeline.methods.shared.batch_inputs import Each
from stages.late import torch
from stages.ncut_tree import TreeConfig, ncut_tree


def search_tree(
    similarity_BNN: torch.Tensor,
    features_BND: torch.Tensor,
    depth_BGhGw: np.ndarray | None,
    grid: tuple[int, int],
    recipe: Recipe,
    tree: TreeConfig,
    first: Eigenvectors,
    each: Each = map,
) -> list[ImageProposals]:
    """Proposals of each image, best first: `recipe.select.masks` at most. Arguments as for `search.propose`."""
    found = ncut_tree(similarity_BNN, first.solutions(), grid, tree, recipe.affinity, recipe.ncut)
    depths = [None] * len(found) if depth_BGhGw is None else list(depth_BGhGw)
    least = int(tree.min_area * grid[0] * grid[1])
    cut = each(partial(candidates_of, recipe=recipe, least=least), found, depths)
    return [
        ImageProposals(best_of(candidates, features_ND, depth, recipe), StopReason.TREE)
        for candidates, features_ND, depth in zip(cut, features_BND, depths, strict=True)
    ]
