"""Which options a recipe of cuts reads, and what they are for.

A recipe has every stage's options, whether it comes to that stage or not: what is set in one that it never reads would
do nothing, and is refused.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.cuts.recipes import (
    DEFAULT_DEPTH,
    DEFAULT_FEATURES,
    MODELS,
    NAMED_IF_USED,
    RECIPES,
    SEARCHES,
    STAGES_OF,
    Recipe,
    get_recipe,
)
from pipeline.methods.option_words import OptionLine, field_words, option_lines
from pipeline.methods.overrides import path_of
from pipeline.runs.changed_settings import ABSENT, differences, shown, without_noise
from pipeline.runs.launch import Launch
from stages.feature_presets import PRESETS, FeaturePreset
from stages.features import FeatureConfig
from stages.patch_merging import OF_FEATURES, MergeConfig

# What does there what the option does here.
INSTEAD = {
    "rounds.n": "select.masks",
    "filters.min_area": "tree.min_area",
    "filters.max_iou": "select.same_iou",
}
INSTEAD |= {theirs: ours for ours, theirs in INSTEAD.items()}

ABOUT = {
    "cuts3d": "the default: LocalCut and Spatial Confidence in a tree of cuts, its ten best masks per image",
    "cuts3d_rounds": "CutS3D's rounds, three at most, with the default features and depth",
    "cuts3d_published": "CutS3D as in the paper: those rounds on DINO ViT-B/8 keys and ZoeDepth",
    "localcut_importance": "CutS3D's ablation: MaskCut with LocalCut and Spatial Importance",
    "localcut": "CutS3D's ablation: MaskCut with LocalCut",
    "maskcut": "CutLER's MaskCut, with the default features",
    "hassod": "HASSOD: neighbouring patches merged to regions, wholes and parts, with the default features",
    "hassod_published": "HASSOD as in the paper: on DINO ViT-B/8 keys, merged down to 0.4, 0.2 and 0.1",
    "promerge": "ProMerge: masks of point prompts, merged where they overlap, with the default features",
    "promerge3d": "ProMerge's masks, cut and ranked in 3D as those of cuts3d",
    "promerge_published": "ProMerge as in the paper: on DINO ViT-B/8 keys",
    "maskcut_published": "MaskCut as in the paper: on DINO ViT-B/8 keys, τ = 0.15",
}
_SEARCHED = {
    "rounds": "since it searches by rounds",
    "tree": "since it searches in a tree of cuts",
    "hierarchy": "since it merges regions by their features",
    "merge": "since it searches by merging",
}
# Options of merging that prompts alone read.
_PROMPT_PATHS = (
    *("merge.stride", "merge.cc_maskarea_tau", "merge.need_background", "merge.iou_filter_tau"),
    *("merge.foreground_include_tau", "merge.intersection_merge_tau", "merge.merge_ioa_tau"),
)
# Of the options that the features have; the others follow from the model.
_OF_FEATURES = ("kind", "centred", "size", "precision")


def read_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """`get_recipe`, which refuses an option that the recipe never reads, too: ConfigError says which one it has."""
    paths = [path_of(override) for override in overrides]
    try:
        recipe = get_recipe(name, overrides)
    except ConfigError as error:
        other = next((INSTEAD[path] for path in paths if path.partition(".")[0] in SEARCHES and path in INSTEAD), "")
        if other and name in RECIPES and _why_unread(RECIPES[name], other) is None:
            raise ConfigError(f"{error}; what does this in recipe {name} is {other}") from error
        raise
    for path in paths:
        if (why := _why_unread(recipe, path)) is not None:
            instead = INSTEAD.get(path)
            known = f": what does this here is {instead}" if instead else ""
            raise ConfigError(f"recipe {name} never reads {path}, {why}{known}")
    return recipe


def refuse_unread_models(recipe: Recipe, settings: Mapping[str, str]) -> None:
    """ConfigError for the name of a depth model that a recipe never looks at."""
    for name in ("depth", "depth_kind"):
        if name in settings and not recipe.needs_depth:
            raise ConfigError(f"recipe {recipe.name} does not look at depth: leave --{name.replace('_', '-')} out")


def _why_unread(recipe: Recipe, path: str) -> str | None:
    """Why a recipe does not read an option, None when it does. path: of the option, or of its stage."""
    first, _, option = path.partition(".")
    ours = recipe.searched
    if first not in STAGES_OF[ours] and any(first in stages for stages in STAGES_OF.values()):
        return _SEARCHED[ours]
    if first == "affinity" and option in ("weights", "epsilon") and not recipe.has_ncut:
        return _SEARCHED[ours]
    if isinstance(recipe.search, MergeConfig) and recipe.search.grouping == "adjacent" and path in _PROMPT_PATHS:
        return "since its merge.grouping is adjacent, not prompts"
    if first == "sharpen" and recipe.spatial_importance is None:
        return "since it has no spatial_importance"
    if first == "local_cut" and recipe.local_cut is not None:
        if option == "outside_depth" and recipe.local_cut.outside != "push":
            return f"since its local_cut.outside is {recipe.local_cut.outside}, not push"
        if option in ("sink", "pieces") and ours != "rounds":
            return f"since a {ours} takes all pieces of a part"
    return None


def recipe_lines(launch: Launch) -> list[OptionLine]:
    """The networks and options of a launch's recipe, those that it reads, with the values that they have."""
    recipe = read_recipe(launch.recipe, [one for one in launch.overrides if not one.startswith("features.")])
    models = {"features": DEFAULT_FEATURES, "depth": DEFAULT_DEPTH, **MODELS.get(launch.recipe, {}), **launch.settings}
    preset = PRESETS.get(models["features"].partition("=")[0])
    lines = [line for line in _lines(recipe) if _why_unread(recipe, line.path) is None]
    return [*_model_lines(recipe, models, preset), *lines, *(_feature_lines(preset) if preset else ())]


def changed_lines(config: Mapping[str, Any]) -> list[str]:
    """What a run's configuration has that is not the default of its recipe, or of its features, as words for people."""
    recipe, features = {**dict.fromkeys(NAMED_IF_USED), **config["recipe"]}, config["features"]
    usual: dict[str, Any] = {}
    preset = next((p for p in PRESETS.values() if _is_of(p, features)), None)
    if recipe["name"] in RECIPES:
        usual["recipe"] = {**dict.fromkeys(NAMED_IF_USED), **RECIPES[recipe["name"]].as_dict()}
        if preset is not None and usual["recipe"]["affinity"]["tau"] is None:
            usual["recipe"]["affinity"]["tau"] = preset.tau
        if preset is not None and preset.levels is not None and usual["recipe"]["hierarchy"] is not None:
            usual["recipe"]["hierarchy"]["thresholds"] = list(preset.levels)
        merging = preset.merging(recipe["merge"]["grouping"]) if preset is not None and recipe["merge"] else None
        if merging is not None and usual["recipe"]["merge"] is not None:
            of_features = {name: getattr(merging, name) for name in OF_FEATURES}
            usual["recipe"]["merge"] |= {k: v for k, v in of_features.items() if usual["recipe"]["merge"][k] is None}
    if preset is not None:
        usual["features"] = {name: getattr(preset.config, name) for name in _OF_FEATURES}
    now = {"recipe": recipe, "features": {name: features[name] for name in _OF_FEATURES if name in features}}
    found = without_noise(differences({part: usual.get(part, now[part]) for part in now}, now))
    return [
        f"{path.removeprefix('recipe.')} = {shown(value)} (default {shown(default)})"
        for path, (default, value) in found.items()
        if default is not ABSENT and value is not ABSENT
    ]


def _is_of(preset: FeaturePreset, features: Mapping[str, Any]) -> bool:
    return (preset.config.model, preset.config.kind) == (features.get("model"), features.get("kind"))


def _lines(recipe: Recipe) -> Iterator[OptionLine]:
    yield from option_lines(type(recipe.search), f"{recipe.searched}.", recipe.search)
    words = field_words(Recipe)
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in ("name", "search"):
            continue
        if dataclasses.is_dataclass(value):
            yield from option_lines(type(value), f"{field.name}.", value)
        elif value is None:
            yield OptionLine(field.name, "none", f"{field.name}=on switches it on")
        else:
            yield OptionLine(field.name, str(value), words[field.name])


def _model_lines(recipe: Recipe, models: Mapping[str, str], preset: FeaturePreset | None) -> Iterator[OptionLine]:
    tau = f", with τ = {preset.tau:g}" if preset and preset.tau is not None else ""
    yield OptionLine("--features", models["features"], f"the network whose features are cut{tau}.")
    if recipe.needs_depth:
        yield OptionLine("--depth", models["depth"], "the depth model, or maps:FOLDER.")


def _feature_lines(preset: FeaturePreset) -> Iterator[OptionLine]:
    config, words = preset.config, field_words(FeatureConfig)
    for name in _OF_FEATURES:
        yield OptionLine(f"features.{name}", str(getattr(config, name)), words[name])
