"""The models of a launch of training inputs, loaded."""

from dataclasses import asdict

from pipeline.methods.depthg.inputs_method import InputsMethod
from pipeline.methods.depthg.inputs_settings import OF_FEATURES, feature_config, inputs_settings
from pipeline.models.device import pick_device
from pipeline.models.load import feature_preset, load_depth, load_features
from pipeline.runs.launch import Launch


def load_inputs_method(launch: Launch, device: str) -> InputsMethod:
    """Features and depth of a launch, on a device. Raises as `inputs_settings`, and what loading does."""
    settings = inputs_settings(launch)
    torch_device = pick_device(device)
    preset, _ = feature_preset(settings.features)
    config = asdict(settings.config or feature_config(settings.features, preset, settings.options))
    extractor = load_features(settings.features, torch_device, {name: config[name] for name in OF_FEATURES})
    depth = None if settings.depth is None else load_depth(settings.depth, torch_device, settings.depth_kind)
    return InputsMethod(settings.crops, extractor, depth, torch_device)
