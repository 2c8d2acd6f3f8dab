"""Training inputs as a method of the registry."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.images.manifest import Manifest
from pipeline.methods.depthg.crops import CropConfig
from pipeline.methods.depthg.inputs_settings import (
    DEFAULT_DEPTH,
    DEFAULT_FEATURES,
    NAME,
    NO_DEPTH,
    OF_FEATURES,
    SETTINGS,
    absolute_launch,
    feature_config,
    inputs_settings,
)
from pipeline.methods.option_words import OptionLine, field_words, option_lines
from pipeline.methods.protocol import Method, MethodEntry
from pipeline.results.crop_features_kind import NAME as CROP_FEATURES
from pipeline.runs.launch import Launch, listed_manifest
from stages.feature_presets import PRESETS
from stages.features import FeatureConfig

# A shard is in memory while it is computed and written: at 28 x 28 patches and 384 numbers a crop takes 0.6 MB.
_MOST_CROPS = 160


def _load(launch: Launch, device: str, until: str | None) -> Method:
    from pipeline.methods.depthg.inputs_load import load_inputs_method  # torch, and the networks' libraries

    return load_inputs_method(launch, device)


def _known(launch: Launch, until: str | None, files_here: bool) -> Mapping[str, Any]:
    return inputs_settings(launch, files_here).known()


def _manifest(launch: Launch) -> Manifest:
    """As for other methods, in shards of 160 crops at most unless the launch says otherwise."""
    listed = listed_manifest(launch)
    most = _MOST_CROPS // inputs_settings(launch, files_here=False).crops.per_photo
    if launch.shard_size is not None or listed.shard_size <= most:
        return listed
    return Manifest(listed.refs, most)


def _describe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Features, depth and crops."""
    features, depth, crops = config["features"], config["depth"], config["recipe"]["crops"]
    return [
        ("features", f"{features['model']} {features['kind']}, {features['size']} px"),
        ("depth", depth["name"] if depth else "none"),
        ("crops", f"{crops['layout']}, {crops['resize']}"),
    ]


def _options(launch: Launch) -> Sequence[OptionLine]:
    models = {"features": DEFAULT_FEATURES, "depth": DEFAULT_DEPTH, **launch.settings}
    preset = PRESETS.get(models["features"].partition("=")[0])
    words = field_words(FeatureConfig)
    config = feature_config(models["features"], preset, {}) if preset else None
    return [
        OptionLine("--features", models["features"], "the network whose features are kept."),
        OptionLine("--depth", models["depth"], f"the depth model, maps:FOLDER, or {NO_DEPTH}."),
        *option_lines(CropConfig, "crops."),
        *(OptionLine(f"features.{name}", str(getattr(config, name)), words[name]) for name in OF_FEATURES if config),
    ]


ENTRY = MethodEntry(
    NAME,
    (NAME,),
    _load,
    known=_known,
    manifest=_manifest,
    describe=_describe,
    about=lambda _: "no masks: what a semantic head is trained on, features and depth of crops",
    options=_options,
    absolute=absolute_launch,
    reads=lambda _: SETTINGS,
    result=CROP_FEATURES,
)
