"""What a launch asks of cuts, checked and put together as far as no model has to be loaded for it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.methods.cuts.options import read_recipe, refuse_unread_models
from pipeline.methods.cuts.recipes import DEFAULT_DEPTH, DEFAULT_FEATURES, MODELS, Recipe
from pipeline.methods.cuts.stage_graph import LAST, STAGES
from pipeline.methods.overrides import parse_overrides
from pipeline.methods.shared.model_settings import refuse_other_settings
from pipeline.models.specs import check_depth, check_features, feature_spec
from pipeline.runs.launch import Launch
from stages.feature_presets import FeaturePreset
from stages.features import FeatureConfig
from stages.hierarchy import HierarchyConfig
from stages.patch_merging import MergeConfig


@dataclass(frozen=True)
class ModelNames:
    """What cuts take from `Launch.settings`. A recipe may come with models of its own (`recipes.MODELS`).

    features, depth: see `load_features`, `load_depth`.
    depth_kind: "depth" or "inverse_depth", overrides what is known of the depth model's output.
    """

    features: str = DEFAULT_FEATURES
    depth: str = DEFAULT_DEPTH
    depth_kind: Literal["depth", "inverse_depth"] | None = None

    def __post_init__(self) -> None:
        if self.depth_kind not in (None, "depth", "inverse_depth"):
            raise ConfigError(f"depth kind must be depth or inverse_depth, got {self.depth_kind!r}")

    @classmethod
    def of(cls, launch: Launch) -> "ModelNames":
        """Those of a launch; ConfigError names what is wrong."""
        known = [f.name for f in fields(cls)]
        refuse_other_settings(launch, known)
        return cls(**dict[str, Any]({**MODELS.get(launch.recipe, {}), **launch.settings}))


@dataclass(frozen=True)
class CutsSettings:
    """What a launch asks for.

    recipe: its thresholds may be None, which means those of the features.
    models: names of the models.
    features: options that are overridden, by name.
    feature_config: None where only timm or a checkpoint knows it.
    """

    recipe: Recipe
    models: ModelNames
    features: dict[str, Any]
    feature_config: FeatureConfig | None

    def known(self) -> dict[str, Any]:
        """The part of `CutsMethod.config` that needs no model; digests of weights do."""
        known: dict[str, Any] = {}
        if self.recipe.is_settled:
            known["recipe"] = self.recipe.as_dict()
        if self.feature_config is not None:
            known["features"] = asdict(self.feature_config)
        return known


def settings_read(launch: Launch) -> tuple[str, ...]:
    """Names of the settings that a launch's recipe, with its overrides, reads; ConfigError as of `read_recipe`."""
    ours = [override for override in launch.overrides if not override.startswith("features.")]
    recipe = read_recipe(launch.recipe, ours)
    return ("features", "depth", "depth_kind") if recipe.needs_depth else ("features",)


def cuts_settings(launch: Launch, until: str | None, files_here: bool = True) -> CutsSettings:
    """The settings of a launch for the stages up to `until`. Raises ConfigError, WeightsError for what is wrong.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    ours = [o for o in launch.overrides if not o.startswith("features.")]
    theirs = [o.removeprefix("features.") for o in launch.overrides if o.startswith("features.")]
    recipe, models = read_recipe(launch.recipe, ours), ModelNames.of(launch)
    refuse_unread_models(recipe, launch.settings)
    if until == "depth" and not recipe.needs_depth:
        raise ConfigError(
            f"recipe {recipe.name} does not look at depth: there is no depth stage to run, {_stages_left(recipe)}"
        )
    if until == "ncut" and not recipe.has_ncut:
        raise ConfigError(f"recipe {recipe.name} solves no NCut: there is no ncut stage to run, {_stages_left(recipe)}")
    options = parse_overrides(FeatureConfig, theirs, "features.")
    preset = known_preset(models.features, files_here)
    config = None
    if preset is not None:
        read = reading(models.features, preset, options)
        recipe, config = with_thresholds(recipe, read, models.features, options), read.config
    if files_here:
        _check_models(recipe, launch, models, preset)
    return CutsSettings(recipe, models, options, config)


def _stages_left(recipe: Recipe) -> str:
    """Words for the stages that a recipe has."""
    without = {"depth": recipe.needs_depth, "ncut": recipe.has_ncut}
    return f"use {', '.join(stage for stage in (*STAGES, LAST) if without.get(stage, True))}"


def _check_models(recipe: Recipe, launch: Launch, models: ModelNames, preset: FeaturePreset | None) -> None:
    """WeightsError, ConfigError for models that cannot be loaded here, as far as shows without loading them."""
    brought = dict.fromkeys(MODELS.get(launch.recipe, {}), f"recipe {launch.recipe} brings ")
    whose = brought | dict.fromkeys(launch.settings, "")
    if recipe.needs_depth:
        check_depth(models.depth, models.depth_kind, whose.get("depth", ""))
    check_features(models.features, preset, whose.get("features", ""))


def known_preset(features: str, files_here: bool = True) -> FeaturePreset | None:
    """What the features are by their name; None for a checkpoint of one's own, which alone knows or is to be looked at
    by timm. ConfigError for a name that is none of features. files_here: as for `cuts_settings`.
    """
    found = feature_spec(features, files_here)
    if found.preset is not None or found.name is None or found.path is not None or not files_here:
        return found.preset
    from pipeline.models.load import feature_preset  # timm, and torch with it, which the run needs for these anyway

    return feature_preset(features)[0]


def reading(features: str, preset: FeaturePreset, options: Mapping[str, Any]) -> FeaturePreset:
    """`FeaturePreset.reading` of these features; ConfigError for what is out of range."""
    try:
        return preset.reading(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"features {features}: {error}") from error


def with_thresholds(
    recipe: Recipe, preset: FeaturePreset, features: str, options: Mapping[str, Any] = MappingProxyType({})
) -> Recipe:
    """The recipe with its thresholds settled: its own, else those of the features. ConfigError where one is known of
    neither.

    options: with which the features are read, for messages.
    """
    search = recipe.search
    own = {name: str(options[name]).lower() for name in ("kind", "centred") if name in options}
    what = f"the features {features}" + "".join(f" with features.{name}={value}" for name, value in own.items())
    if isinstance(search, HierarchyConfig) and not search.is_settled:
        if preset.levels is None:
            raise ConfigError(
                f"no thresholds are known for merging {what}: give some that fall, "
                "as in --set hierarchy.thresholds=0.4,0.2,0.1"
            )
        recipe = replace(recipe, search=search.settled(preset.levels))
    if isinstance(search, MergeConfig) and not search.is_settled:
        merging = preset.merging(search.grouping)
        if merging is None:
            grouping = "" if search.grouping == "prompts" else f" with merge.grouping={search.grouping}"
            raise ConfigError(
                f"no thresholds of merging are known for {what}{grouping}: give them, "
                + " ".join(f"--set merge.{name}=VALUE" for name in search.missing)
            )
        recipe = replace(recipe, search=search.settled(merging))
    if recipe.affinity.tau is not None:
        return recipe
    if preset.tau is None:
        sets = "".join(f" --set features.{name}={value}" for name, value in own.items())
        raise ConfigError(
            f"no τ is known for {what}: give one, --set affinity.tau=VALUE; "
            f"`cuts3d tau --images FOLDER --features {features}{sets}` proposes it"
        )
    return replace(recipe, affinity=replace(recipe.affinity, tau=preset.tau))
