"""How sure a proposal is of its patches, and at which thresholds it was cut."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage

from pipeline.methods.cuts.proposals import Proposal, confidence_of, cut_thresholds
from pipeline.methods.cuts.recipes import get_recipe
from stages.local_cut import local_cut
from stages.score import ScoreParts
from stages.spatial_confidence import SpatialConfidenceConfig, threshold_ladder

GRID = (20, 20)


def cut_proposal(recipe_name: str) -> tuple[Proposal, np.ndarray]:
    """A LocalCut of a group on rough depth, and the depth."""
    recipe = get_recipe(recipe_name)
    assert recipe.local_cut is not None
    rng = np.random.default_rng(0)
    depth = scipy.ndimage.gaussian_filter(rng.random(GRID), 1.0)
    depth = ((depth - depth.min()) / np.ptp(depth)).astype(np.float32)
    group = np.zeros(GRID, bool)
    group[3:15, 4:17] = True
    x = np.where(group, rng.random(GRID), -1.0).astype(np.float32)
    cut = local_cut(depth, group, x, recipe.local_cut)
    tau = recipe.local_cut.tau_on(GRID)
    return Proposal(0, 1, x, 0.1, 0.1, ScoreParts(), group, cut.mask, cut.mask, tau, cut.source, cut.sink, None), depth


@pytest.mark.parametrize("name", ["cuts3d_rounds", "cuts3d"])
def test_confidence_is_the_mean_of_cuts_at_the_recipes_thresholds(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.local_cut is not None
    proposal, depth = cut_proposal(name)
    cuts = [
        local_cut(depth, proposal.group, proposal.eigenvector, dataclasses.replace(recipe.local_cut, tau_knn=tau)).mask
        for tau in cut_thresholds(recipe, (60, 60)).tolist()
    ]
    confidence = confidence_of(proposal, depth, recipe)
    np.testing.assert_allclose(confidence, np.where(proposal.mask, np.mean(cuts, axis=0), 0), atol=1e-6)
    assert confidence.dtype == np.float32
    assert confidence.shape == GRID
    assert len(np.unique(confidence)) > 2


@pytest.mark.parametrize("name", ["maskcut", "localcut"])
def test_confidence_of_recipes_without_it_is_the_mask(name: str) -> None:
    proposal, depth = cut_proposal("localcut")
    np.testing.assert_array_equal(confidence_of(proposal, depth, get_recipe(name)), proposal.mask.astype(np.float32))


def test_thresholds_of_a_recipe() -> None:
    assert cut_thresholds(get_recipe("maskcut"), GRID).tolist() == []
    assert cut_thresholds(get_recipe("localcut", ["local_cut.tau_knn=0.05"]), (60, 60)).tolist() == [0.05]
    overrides = ["local_cut.tau_knn=0.05", "spatial_confidence.thresholds=4", "spatial_confidence.lowest=0.25"]
    np.testing.assert_allclose(
        cut_thresholds(get_recipe("cuts3d", overrides), (30, 30)),
        threshold_ladder(0.05 * 59 / 29, SpatialConfidenceConfig(thresholds=4, lowest=0.25)),
    )


def test_what_was_cut() -> None:
    """On the first level the whole image, below it what the eigenvector is of; an entry may be 0 by chance."""
    proposal, _ = cut_proposal("cuts3d")
    assert proposal.was_cut.all()
    x = np.where(proposal.group, 1.0, 0.0).astype(np.float32)
    x[2] = -0.5
    x[5, 5] = 0.0
    deeper = dataclasses.replace(proposal, level=2, eigenvector=x, tau=math.inf)
    expected = proposal.group.copy()
    expected[2] = True
    np.testing.assert_array_equal(deeper.was_cut, expected)
