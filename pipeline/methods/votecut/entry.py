"""VoteCut as a method of the registry."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.methods.option_words import OptionLine, option_lines
from pipeline.methods.protocol import Method, MethodEntry
from pipeline.methods.votecut.recipe import ABOUT, NAME, RECIPES, VoteRecipe, get_recipe
from pipeline.methods.votecut.settings import OF_ALL_VOTERS, absolute_launch, vote_settings
from pipeline.runs.launch import Launch
from stages.features import FeatureConfig


def _load(launch: Launch, device: str, until: str | None) -> Method:
    from pipeline.methods.votecut.load import load_votecut  # torch, and the networks' libraries

    return load_votecut(launch, device)


def _known(launch: Launch, until: str | None, files_here: bool) -> Mapping[str, Any]:
    return vote_settings(launch, files_here).known()


def _describe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The voters, and what the score is."""
    voters = [
        f"{one['model']} {one['kind']}{' centred' if one['centred'] else ''}, {one['size']} px, τ {one['tau']}"
        for one in config["voters"]
    ]
    return [("features", "; ".join(voters)), ("score", "votes")]


def _options(launch: Launch) -> Sequence[OptionLine]:
    recipe = get_recipe(launch.recipe, [one for one in launch.overrides if not one.startswith("features.")])
    lines = [line for line in option_lines(VoteRecipe, "", recipe) if line.path != "name"]
    return [*lines, *(line for line in option_lines(FeatureConfig, "features.") if line.path in OF_ALL_VOTERS)]


ENTRY = MethodEntry(
    NAME,
    tuple(RECIPES),
    _load,
    known=_known,
    describe=_describe,
    about=lambda recipe: ABOUT[recipe],
    options=_options,
    absolute=absolute_launch,
    reads=lambda launch: ("features",),
)
