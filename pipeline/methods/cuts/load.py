"""The recipe and the models of a launch, loaded."""

from dataclasses import dataclass, fields, replace

from pipeline.errors import ConfigError
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.cuts.recipes import get_recipe, parse_overrides
from pipeline.models.device import pick_device
from pipeline.models.load import feature_preset, load_depth, load_features
from pipeline.runs.launch import Launch
from stages.features import FeatureConfig


@dataclass(frozen=True)
class CutsSettings:
    """What cuts take from `Launch.settings`.

    features, depth: see `load_features`, `load_depth`.
    depth_kind: "depth" or "inverse_depth", overrides what is known of the depth model's output.
    """

    features: str = "dinov2_vits14"
    depth: str = "fastdepth"
    depth_kind: str | None = None

    def __post_init__(self) -> None:
        if self.depth_kind not in (None, "depth", "inverse_depth"):
            raise ConfigError(f"depth kind must be depth or inverse_depth, got {self.depth_kind!r}")

    @classmethod
    def of(cls, launch: Launch) -> "CutsSettings":
        """Those of a launch; ConfigError names what is wrong."""
        known = [f.name for f in fields(cls)]
        if foreign := [name for name in launch.settings if name not in known]:
            raise ConfigError(f"recipe {launch.recipe} has no setting {foreign[0]!r}: it has {', '.join(known)}")
        return cls(**launch.settings)


def load_cuts(launch: Launch, device: str, until: str | None = None) -> CutsMethod:
    """Recipe and models of a launch, on a device; only the models that the stages up to `until` need."""
    torch_device, settings = pick_device(device), CutsSettings.of(launch)
    ours = [o for o in launch.overrides if not o.startswith("features.")]
    theirs = [o.removeprefix("features.") for o in launch.overrides if o.startswith("features.")]
    recipe = get_recipe(launch.recipe, ours)
    if recipe.affinity.tau is None:
        tau = feature_preset(settings.features)[0].tau
        recipe = replace(recipe, affinity=replace(recipe.affinity, tau=tau))
    if until == "depth" and not recipe.needs_depth:
        raise ConfigError(f"recipe {recipe.name} does not look at depth: there is no depth stage to run")
    depth = None
    if recipe.needs_depth:
        depth = load_depth(settings.depth, torch_device, settings.depth_kind)  # type: ignore[arg-type]
    extractor = load_features(settings.features, torch_device, parse_overrides(FeatureConfig, theirs))
    return CutsMethod(recipe, extractor, depth, torch_device)
