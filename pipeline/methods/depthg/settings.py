"""What a launch of labels asks for, checked and put together as far as no model has to be loaded for it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.errors import ConfigError, WeightsError
from pipeline.methods.depthg.checkpoint import SemanticModel, read_model
from pipeline.methods.depthg.recipe import NAME, OF_FEATURES, LabelRecipe, read_recipe
from pipeline.methods.overrides import parse_overrides
from pipeline.methods.shared.model_settings import refuse_other_settings, with_absolute_models
from pipeline.models.specs import (
    check_depth,
    check_features,
    depth_source,
    feature_spec,
)
from pipeline.runs.launch import Launch
from pipeline.storage.locations import absolute_path
from stages.depth import DepthKind, check_kind
from stages.features import FeatureConfig

_CHECKPOINT = f"{NAME}.checkpoint"
SETTINGS = ("features", "depth", "depth_kind")


@dataclass(frozen=True, eq=False)
class ModelSettings:
    """A trained model and how it labels photos.

    model: None where models are loaded on another machine.
    features: as `load_features` takes them, those of the model unless the launch says where they are; "" without model.
    config: of the features, with the launch's options; None without model.
    """

    recipe: LabelRecipe
    model: SemanticModel | None
    features: str
    config: FeatureConfig | None

    def known(self) -> dict[str, Any]:
        """The part of `Labeller.config` that needs no network; digests of its weights do."""
        if self.model is None or self.config is None:
            return {}
        return {"model": model_facts(self.model), "features": asdict(self.config)}


@dataclass(frozen=True, eq=False)
class LabelSettings(ModelSettings):
    """What a launch asks for.

    depth: folder of maps; None where none is looked at.
    """

    depth: str | None
    depth_kind: DepthKind

    def known(self) -> dict[str, Any]:
        """The part of `LabelMethod.config` that needs no network."""
        return {"recipe": self.recipe.as_dict(), **super().known()}


def model_facts(model: SemanticModel) -> dict[str, Any]:
    """What run.json has of a model: by its fingerprint a replaced one is noticed."""
    clusters, codes = model.clusters.shape
    return {
        "recipe": model.info.recipe,
        "iterations": model.info.iterations,
        "clusters": clusters,
        "codes": codes,
        "fingerprint": model.fingerprint,
    }


def absolute_launch(launch: Launch) -> Launch:
    """The launch with the paths of the model, of features and of depth maps absolute."""
    return replace(with_absolute_models(launch), overrides=tuple(map(_absolute, launch.overrides)))


def _absolute(override: str) -> str:
    name, _, value = (piece.strip() for piece in override.partition("="))
    return f"{name}={absolute_path(value)}" if name == _CHECKPOINT and value else override


def settings_read(launch: Launch) -> tuple[str, ...]:
    """Names of the settings that a launch reads; ConfigError as of `read_recipe`."""
    return SETTINGS if read_recipe(_ours(launch)).needs_depth else ("features",)


def label_settings(launch: Launch, files_here: bool = True) -> LabelSettings:
    """The settings of a launch. Raises ConfigError, WeightsError for what is wrong.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    recipe = read_recipe(_ours(launch))
    refuse_other_settings(launch, SETTINGS)
    _feature_options(launch)  # a wrong one is refused before maps and models are looked for
    depth, kind = _depth(launch, recipe, files_here)
    return LabelSettings(**vars(model_settings(launch, recipe, files_here)), depth=depth, depth_kind=kind)


def model_settings(launch: Launch, recipe: LabelRecipe, files_here: bool = True) -> ModelSettings:
    """The recipe's model, and its features as the launch has them. Raises and files_here: as of `label_settings`."""
    options = _feature_options(launch)
    given = launch.settings.get("features", "")
    if not files_here:
        return ModelSettings(recipe, None, given, None)
    model = read_model(recipe.checkpoint)
    features = given or model.info.features
    _check_features(features, given, model, recipe.checkpoint)
    try:
        config = replace(model.info.feature_config, **options)
    except ValueError as error:
        raise ConfigError(f"features.{error}") from error
    return ModelSettings(recipe, model, features, config)


def _ours(launch: Launch) -> list[str]:
    return [override for override in launch.overrides if not override.startswith("features.")]


def _feature_options(launch: Launch) -> dict[str, Any]:
    given = [o.removeprefix("features.") for o in launch.overrides if o.startswith("features.")]
    options = parse_overrides(FeatureConfig, given, "features.")
    if other := [name for name in options if name not in OF_FEATURES]:
        raise ConfigError(
            f"features.{other[0]} is the trained model's: leave it out; what can be set is "
            + " and ".join(f"features.{name}" for name in OF_FEATURES)
        )
    return options


def _depth(launch: Launch, recipe: LabelRecipe, files_here: bool) -> tuple[str | None, DepthKind]:
    """Folder and kind of the depth maps."""
    spec = launch.settings.get("depth")
    if not recipe.needs_depth:
        if unread := next((name for name in ("depth", "depth_kind") if name in launch.settings), None):
            how = "whole_share is given" if recipe.windows else f"it has no windows, --set {NAME}.windows=on"
            raise ConfigError(f"recipe {NAME} does not look at depth ({how}): leave --{unread.replace('_', '-')} out")
        return None, "depth"
    try:
        kind = check_kind(launch.settings.get("depth_kind", "depth"))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    remedy = f"or mix windows by a fixed share, --set {NAME}.windows.whole_share=0.2"
    if spec is None:
        raise ConfigError(
            f"{NAME}.windows are mixed by distance: give stored maps of it, --depth maps:FOLDER, {remedy}"
        )
    if not files_here:
        return spec, kind
    how, where = depth_source(spec)
    if how != "maps":
        raise ConfigError(
            f"{NAME}.windows are mixed by distance, and the depth of --depth {spec} is relative: give stored maps, "
            f"--depth maps:FOLDER, {remedy}"
        )
    check_depth(spec, kind)
    return where, kind


def _check_features(features: str, given: str, model: SemanticModel, checkpoint: str) -> None:
    """ConfigError, WeightsError for features that cannot be the model's, as far as shows without loading them."""
    try:
        preset = feature_spec(features).preset
    except WeightsError as error:
        if given:
            raise
        raise WeightsError(
            f"{error}; it has the features of {checkpoint}: say where they are, --features NAME=FILE"
        ) from error
    trained = model.info.feature_config.model
    if preset is not None and preset.config.model != trained:
        raise not_its_features(features, checkpoint, f"they are {preset.config.model}, it has {trained}")
    check_features(features, preset, "" if given else f"{checkpoint} takes ")


def not_its_features(features: str, checkpoint: str, why: str) -> ConfigError:
    return ConfigError(
        f"--features {features} are not those that {checkpoint} was trained on ({why}): give those, or leave it out"
    )


def describe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, features, what is done with them, and depth, of a run's configuration."""
    depth = [("depth", config["depth"]["name"])] if config.get("depth") else []
    return [*describe_labels(config, config["recipe"]), *depth]


def describe_labels(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, features and what is done with them, of a run's configuration. recipe: `LabelRecipe.options`."""
    model, features = config["model"], config["features"]
    seen = [recipe["view"], *(["mirrored"] if recipe["mirror"] else [])]
    if windows := recipe["windows"]:
        share = windows["whole_share"]
        seen.append(f"windows of {windows['side']:g}, mixed by {'distance' if share is None else f'{share:g}'}")
    refine = recipe["refine"]
    size = "the photo's size" if refine["side"] is None else f"{refine['side']} px"
    return [
        ("model", f"{model['recipe']}, {model['clusters']} clusters, {model['iterations']} batches"),
        ("features", f"{features['model']} {features['kind']}, {features['size']} px"),
        ("seen", ", ".join(seen)),
        ("CRF", f"at {size}" if refine["crf"] else "none"),
    ]
