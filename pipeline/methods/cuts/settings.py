"""What a launch asks of cuts, checked and put together as far as no model has to be loaded for it."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.methods.cuts.options import DEFAULT_FEATURES, read_recipe, refuse_unread_models
from pipeline.methods.cuts.recipes import Recipe, parse_overrides
from pipeline.models.specs import check_depth, feature_spec
from pipeline.runs.launch import Launch
from stages.features import FeatureConfig


@dataclass(frozen=True)
class ModelNames:
    """What cuts take from `Launch.settings`.

    features, depth: see `load_features`, `load_depth`.
    depth_kind: "depth" or "inverse_depth", overrides what is known of the depth model's output.
    """

    features: str = DEFAULT_FEATURES
    depth: str = "fastdepth"
    depth_kind: Literal["depth", "inverse_depth"] | None = None

    def __post_init__(self) -> None:
        if self.depth_kind not in (None, "depth", "inverse_depth"):
            raise ConfigError(f"depth kind must be depth or inverse_depth, got {self.depth_kind!r}")

    @classmethod
    def of(cls, launch: Launch) -> "ModelNames":
        """Those of a launch; ConfigError names what is wrong."""
        known = [f.name for f in fields(cls)]
        if foreign := [name for name in launch.settings if name not in known]:
            raise ConfigError(f"recipe {launch.recipe} has no setting {foreign[0]!r}: it has {', '.join(known)}")
        return cls(**dict[str, Any](launch.settings))


@dataclass(frozen=True)
class CutsSettings:
    """What a launch asks for.

    recipe: its affinity.tau may be None, which means that of the features.
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
        if self.recipe.affinity.tau is not None:
            known["recipe"] = self.recipe.as_dict()
        if self.feature_config is not None:
            known["features"] = asdict(self.feature_config)
        return known


def cuts_settings(launch: Launch, until: str | None, files_here: bool = True) -> CutsSettings:
    """The settings of a launch for the stages up to `until`. Raises ConfigError, WeightsError for what is wrong.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    ours = [o for o in launch.overrides if not o.startswith("features.")]
    theirs = [o.removeprefix("features.") for o in launch.overrides if o.startswith("features.")]
    recipe, models = read_recipe(launch.recipe, ours), ModelNames.of(launch)
    refuse_unread_models(recipe, launch.settings)
    if until == "depth" and not recipe.needs_depth:
        raise ConfigError(f"recipe {recipe.name} does not look at depth: there is no depth stage to run")
    if recipe.needs_depth and files_here:
        check_depth(models.depth, models.depth_kind)
    options = parse_overrides(FeatureConfig, theirs)
    preset = feature_spec(models.features, files_here).preset
    config = None
    if preset is not None:
        try:
            config = replace(preset.config, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"features {models.features}: {error}") from error
        if recipe.affinity.tau is None:
            recipe = replace(recipe, affinity=replace(recipe.affinity, tau=preset.tau))
    return CutsSettings(recipe, models, options, config)
