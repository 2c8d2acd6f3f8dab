"""What a launch asks of VoteCut, checked and put together as far as no model has to be loaded for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.overrides import parse_overrides
from pipeline.methods.votecut.recipe import VOTERS, VoteRecipe, get_recipe
from pipeline.methods.votecut.voters import (
    SettledVoter,
    Voter,
    absolute_voters,
    known_preset,
    read_voters,
    settled,
)
from pipeline.models.specs import check_features
from pipeline.runs.launch import Launch
from stages.feature_presets import FeaturePreset
from stages.features import FeatureConfig

OF_DEPTH = ("depth", "depth_kind")
OF_ALL_VOTERS = ("features.precision",)  # options of the features that are no voter's own


@dataclass(frozen=True)
class VoteSettings:
    """What a launch asks for.

    voters: in an order that does not depend on how they were given.
    features: options of the features of all voters, by name.
    settled: as voters; None for one that only timm or a checkpoint knows.
    """

    recipe: VoteRecipe
    voters: tuple[Voter, ...]
    features: dict[str, Any]
    settled: tuple[SettledVoter | None, ...]

    def settle(self, voter: Voter, preset: FeaturePreset) -> SettledVoter:
        """A voter with its preset; ConfigError for what is wrong with it."""
        return settled(voter, preset, self.recipe.affinity.tau, self.features, self.recipe.candidates.eigenvectors)

    def known(self) -> dict[str, Any]:
        """The part of `VoteMethod.config` that needs no model; digests of weights do."""
        voters = [one.as_dict() for one in self.settled if one is not None]
        known: dict[str, Any] = {"recipe": self.recipe.as_dict()}
        return known if len(voters) < len(self.settled) else {**known, "voters": voters}


def absolute_launch(launch: Launch) -> Launch:
    """The launch with the paths of its voters absolute."""
    if "features" not in launch.settings:
        return launch
    return replace(launch, settings={**launch.settings, "features": absolute_voters(launch.settings["features"])})


def vote_settings(launch: Launch, files_here: bool = True) -> VoteSettings:
    """The settings of a launch. Raises ConfigError, WeightsError for what is wrong.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    for name in launch.settings:
        if name in OF_DEPTH:
            raise ConfigError(f"recipe {launch.recipe} does not look at depth: leave --{name.replace('_', '-')} out")
        if name != "features":
            raise ConfigError(f"recipe {launch.recipe} has no setting {name!r}: it has features")
    recipe = get_recipe(launch.recipe, [o for o in launch.overrides if not o.startswith("features.")])
    voters = read_voters(launch.settings.get("features", VOTERS[launch.recipe]))
    found = VoteSettings(recipe, voters, _of_all(launch.overrides), ())
    presets = [known_preset(voter, files_here) for voter in voters]
    done = [None if p is None else found.settle(voter, p) for voter, p in zip(voters, presets, strict=True)]
    refuse_twice([one for one in done if one is not None])
    if files_here:
        for voter, preset in zip(voters, presets, strict=True):
            check_features(voter.features, preset, "" if launch.settings else f"recipe {launch.recipe} brings ")
    return replace(found, settled=tuple(done))


def refuse_twice(settled: list[SettledVoter]) -> None:
    """ConfigError for two voters that are the same features: kind, size and so on may be said or left to the preset."""
    seen: Mapping[Any, SettledVoter] = {}
    for one in settled:
        key = (one.voter.features, one.config)
        if key in seen:
            raise ConfigError(f"voters {seen[key].voter} and {one.voter} are the same: their votes would count twice")
        seen = {**seen, key: one}


def _of_all(overrides: tuple[str, ...]) -> dict[str, Any]:
    given = [override.removeprefix("features.") for override in overrides if override.startswith("features.")]
    values = parse_overrides(FeatureConfig, given, "features.")
    if own := [name for name in values if f"features.{name}" not in OF_ALL_VOTERS]:
        raise ConfigError(
            f"features.{own[0]} is each voter's own: name the voters with it, as in --features "
            "dinov2_vits14,dinov2_vits14:keys:centred:644:tau=0.2"
        )
    return values
