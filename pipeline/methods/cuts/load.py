"""The recipe and the models of a launch, loaded."""

from dataclasses import replace

from pipeline.errors import ConfigError
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.cuts.recipes import get_recipe, parse_overrides
from pipeline.models.device import pick_device
from pipeline.models.load import feature_preset, load_depth, load_features
from pipeline.runs.launch import Launch
from stages.features import FeatureConfig


def load_cuts(launch: Launch, device: str, until: str = "refine") -> CutsMethod:
    """Recipe and models of a launch, on a device; only the models that the stages up to `until` need."""
    torch_device = pick_device(device)
    ours = [o for o in launch.overrides if not o.startswith("features.")]
    theirs = [o.removeprefix("features.") for o in launch.overrides if o.startswith("features.")]
    recipe = get_recipe(launch.recipe, ours)
    if recipe.affinity.tau is None:
        tau = feature_preset(launch.features)[0].tau
        recipe = replace(recipe, affinity=replace(recipe.affinity, tau=tau))
    if until == "depth" and not recipe.needs_depth:
        raise ConfigError(f"recipe {recipe.name} does not look at depth: there is no depth stage to run")
    depth = None
    if recipe.needs_depth:
        depth = load_depth(launch.depth, torch_device, launch.depth_kind)  # type: ignore[arg-type]
    extractor = load_features(launch.features, torch_device, parse_overrides(FeatureConfig, theirs))
    return CutsMethod(recipe, extractor, depth, torch_device)
