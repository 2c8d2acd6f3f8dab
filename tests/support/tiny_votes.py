"""VoteCut without weights: voters of a tiny random ViT."""

import torch

from pipeline.methods.votecut.method import LoadedVoter, VoteMethod
from pipeline.methods.votecut.recipe import get_recipe
from stages.features import FeatureConfig, FeatureExtractor
from support.tiny_method import tiny_vit


def tiny_votes(recipe: str = "votecut", overrides: tuple[str, ...] = (), device: str = "cpu") -> VoteMethod:
    """The named recipe with three voters on 8×8 grids, two of them of one network."""
    config = FeatureConfig(model="tiny", patch_size=8, kind="tokens", centred=True, size=64)
    first = FeatureExtractor(tiny_vit(), config, device)
    small = FeatureExtractor(tiny_vit(), FeatureConfig("tiny", 8, kind="keys", centred=True, size=48), device)
    voters = [LoadedVoter(first, 0.1), LoadedVoter(first.reading("keys", True), 0.2), LoadedVoter(small, 0.1)]
    own = ("candidates.min_side=2", "votes.grid=8", "refine.crf.iterations=2", "refine.max_side=64", *overrides)
    return VoteMethod(get_recipe(recipe, own), voters, torch.device(device))
