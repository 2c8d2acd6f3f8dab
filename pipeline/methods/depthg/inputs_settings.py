"""What a launch of training inputs asks for, checked and put together as far as no model has to be loaded for it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.depthg.crops import CropConfig
from pipeline.methods.overrides import parse_overrides
from pipeline.methods.shared.model_settings import refuse_other_settings, with_absolute_models
from pipeline.models.specs import check_depth, check_features, feature_spec
from pipeline.runs.launch import Launch
from stages.depth import DepthKind, check_kind
from stages.feature_presets import FeaturePreset
from stages.features import FeatureConfig

NAME = "semantic_inputs"
DEFAULT_FEATURES, DEFAULT_DEPTH = "dinov2_vits14", "fastdepth"
NO_DEPTH = "none"
GRID = 28  # patches a side of a crop, as published
SETTINGS = ("features", "depth", "depth_kind")
# Of the features' options; the others follow from the model.
OF_FEATURES = ("size", "kind", "centred", "precision")


@dataclass(frozen=True)
class InputsSettings:
    """What a launch asks for.

    features: see `pipeline.models.load.load_features`.
    options: of the features, that are given.
    config: of the features; None where only timm or a checkpoint knows them.
    depth: see `pipeline.models.load.load_depth`; None: no depth.
    """

    crops: CropConfig
    features: str
    options: Mapping[str, Any]
    config: FeatureConfig | None
    depth: str | None
    depth_kind: DepthKind | None

    def known(self) -> dict[str, Any]:
        """The part of `InputsMethod.config` that needs no model; digests of weights do."""
        known = {"recipe": recipe_of(self.crops)}
        return known if self.config is None else {**known, "features": asdict(self.config)}


def recipe_of(crops: CropConfig) -> dict[str, Any]:
    """What run.json has as the recipe."""
    return {"name": NAME, "crops": asdict(crops)}


def absolute_launch(launch: Launch) -> Launch:
    """The launch with the paths of models and depth maps absolute."""
    return with_absolute_models(launch, names=[NO_DEPTH])


def inputs_settings(launch: Launch, files_here: bool = True) -> InputsSettings:
    """The settings of a launch. Raises ConfigError, WeightsError for what is wrong.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    refuse_other_settings(launch, SETTINGS)
    crops, options = _options(launch.overrides)
    features = launch.settings.get("features", DEFAULT_FEATURES)
    depth: str | None = launch.settings.get("depth", DEFAULT_DEPTH)
    kind = launch.settings.get("depth_kind")
    if depth == NO_DEPTH:
        depth = None
        if kind is not None:
            raise ConfigError("--depth none has no direction: leave --depth-kind out")
    try:
        depth_kind = None if kind is None else check_kind(kind)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    preset = feature_spec(features, files_here).preset
    config = None if preset is None else feature_config(features, preset, options)
    if files_here:
        check_features(features, preset)
        if depth is not None:
            check_depth(depth, depth_kind)
    return InputsSettings(crops, features, options, config, depth, depth_kind)


def feature_config(features: str, preset: FeaturePreset, options: Mapping[str, Any]) -> FeatureConfig:
    """The final tokens of the features' network on 28 x 28 patches, with options overridden; ConfigError for what is
    out of range.

    A preset's own reading, such as DINO's keys, is one for cutting objects out.
    """
    usual = {"kind": "tokens", "centred": False, "size": GRID * preset.config.patch_size}
    try:
        return replace(preset.config, **{**usual, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"features {features}: {error}") from error


def _options(overrides: tuple[str, ...]) -> tuple[CropConfig, dict[str, Any]]:
    """The crops, and options of the features, that overrides ask for."""
    crops, features = [], []
    for override in overrides:
        stage, _, option = override.partition(".")
        if stage == "crops":
            crops.append(option)
        elif stage == "features":
            features.append(option)
        else:
            raise ConfigError(f"recipe {NAME} has no option {override.partition('=')[0]!r}: it has {', '.join(_PATHS)}")
    options = parse_overrides(FeatureConfig, features, "features.")
    if unread := [name for name in options if name not in OF_FEATURES]:
        raise ConfigError(f"features.{unread[0]} follows from the model: leave it out")
    try:
        return CropConfig(**parse_overrides(CropConfig, crops, "crops.")), options
    except ValueError as error:
        raise ConfigError(f"crops.{error}") from error


_PATHS = [
    *(f"crops.{field.name}" for field in dataclasses.fields(CropConfig)),
    *(f"features.{name}" for name in OF_FEATURES),
]
