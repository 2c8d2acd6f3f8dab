"""VoteCut's recipes, and how options override them."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.methods.overrides import with_override
from stages.affinity import AffinityConfig
from stages.box_refine import BoxRefineConfig
from stages.mask_votes import CandidateConfig, VoteConfig
from stages.ncut import NCutConfig

NAME = "votecut"


@dataclass(frozen=True)
class VoteRecipe:
    """The stages with their constants. Who votes is no part of it: see `voters`."""

    name: str
    affinity: AffinityConfig = AffinityConfig()
    ncut: NCutConfig = NCutConfig()
    candidates: CandidateConfig = CandidateConfig()
    votes: VoteConfig = VoteConfig()
    refine: BoxRefineConfig = BoxRefineConfig()

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for run.json."""
        return dataclasses.asdict(self)


# As published (Arica et al. 2024): one threshold for all backbones, and the CRF at any size.
PUBLISHED = VoteRecipe("votecut_published", affinity=AffinityConfig(tau=0.15))
# On weights that everyone has. A photo of a phone would take the CRF minutes per mask.
VOTECUT = VoteRecipe(NAME, refine=BoxRefineConfig(max_side=1024))

RECIPES = {recipe.name: recipe for recipe in (VOTECUT, PUBLISHED)}

# Those of VOTECUT: chosen by benchmarks/settle_voters.py.
VOTERS = {
    NAME: (
        "dinov2_vits14,dinov2_vits14:644,dinov2_vits14:476,"
        "dinov2_vits14:keys:centred:644:tau=0.2,dinov2_vits14:values:centred:644:tau=0.2"
    ),
    PUBLISHED.name: "dino_vits16,dino_vitb16,dino_vits8,dino_vitb8,dinov2_vits14:476,dinov2_vitb14:476",
}

ABOUT = {
    NAME: "VoteCut: masks of several features vote; on features of the default weights",
    PUBLISHED.name: "VoteCut as in the paper: six backbones of DINO and DINOv2",
}


def get_recipe(name: str, overrides: Iterable[str] = ()) -> VoteRecipe:
    """The recipe of this name with overrides like "votes.same_iou=0.5" applied; ConfigError names what is wrong."""
    recipe = RECIPES[name]
    for override in overrides:
        recipe = with_override(recipe, name, override)
    return recipe
