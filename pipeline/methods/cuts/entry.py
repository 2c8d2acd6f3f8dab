"""Cuts as a method of the registry: MaskCut and CutS3D, by rounds or in a tree."""

from collections.abc import Mapping
from typing import Any

from pipeline.methods.cuts.options import ABOUT, changed_lines, recipe_lines
from pipeline.methods.cuts.recipes import RECIPES, SEARCHES
from pipeline.methods.cuts.settings import cuts_settings, settings_read
from pipeline.methods.cuts.stage_graph import LAST, NAME, STAGES
from pipeline.methods.protocol import Method, MethodEntry
from pipeline.methods.shared.model_settings import with_absolute_models
from pipeline.runs.launch import Launch


def _load(launch: Launch, device: str, until: str | None) -> Method:
    from pipeline.methods.cuts.load import load_cuts  # torch, and the networks' libraries

    return load_cuts(launch, device, until)


def describe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Features, depth, search and score of a run's configuration."""
    recipe, features, depth = config["recipe"], config["features"], config["depth"]
    searched = next(name for name in SEARCHES if recipe.get(name))
    taus = {
        "hierarchy": lambda: recipe["hierarchy"]["thresholds"],
        "merge": lambda: [recipe["merge"]["bipartition_tau"]],
    }.get(searched, lambda: [recipe["affinity"]["tau"]])()
    of_taus = f"τ {', '.join(map(str, taus))}"
    return [
        ("features", f"{features['model']} {features['kind']}, {features['size']} px, {of_taus}"),
        ("depth", depth["name"] if depth else "not used"),
        ("searched", searched),
        ("score", recipe["score"]),
        *(("changed", line) for line in changed_lines(config)),
    ]


def _known(launch: Launch, until: str | None, files_here: bool) -> Mapping[str, Any]:
    return cuts_settings(launch, until, files_here).known()


ENTRY = MethodEntry(
    NAME,
    tuple(RECIPES),
    _load,
    STAGES,
    whole=LAST,
    known=_known,
    describe=describe,
    about=lambda recipe: ABOUT.get(recipe, ""),
    options=recipe_lines,
    absolute=with_absolute_models,
    reads=settings_read,
)
