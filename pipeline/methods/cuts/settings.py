"""What a launch asks of cuts, checked and put together as far as no model has to be loaded for it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.cuts.recipes import Recipe, get_recipe, parse_overrides
from pipeline.models.specs import check_depth, feature_spec
from pipeline.runs.launch import Launch
from stages.features import FeatureConfig


@dataclass(frozen=True)
class CutsSettings:
    """recipe: its affinity.tau may be None, which means that of the features. features: options that are overridden,
    by name. feature_config: None where only timm or a checkpoint knows it.
    """

    recipe: Recipe
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


def cuts_settings(launch: Launch, until: str, files_here: bool = True) -> CutsSettings:
    """The settings of a launch for the stages up to `until`. Raises ConfigError, WeightsError for what is wrong.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    ours = [o for o in launch.overrides if not o.startswith("features.")]
    theirs = [o.removeprefix("features.") for o in launch.overrides if o.startswith("features.")]
    recipe = get_recipe(launch.recipe, ours)
    if until == "depth" and not recipe.needs_depth:
        raise ConfigError(f"recipe {recipe.name} does not look at depth: there is no depth stage to run")
    if recipe.needs_depth and files_here:
        check_depth(launch.depth, launch.depth_kind)  # type: ignore[arg-type]
    options = parse_overrides(FeatureConfig, theirs)
    preset = feature_spec(launch.features, files_here).preset
    config = None
    if preset is not None:
        try:
            config = replace(preset.config, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"features {launch.features}: {error}") from error
        if recipe.affinity.tau is None:
            recipe = replace(recipe, affinity=replace(recipe.affinity, tau=preset.tau))
    return CutsSettings(recipe, options, config)
