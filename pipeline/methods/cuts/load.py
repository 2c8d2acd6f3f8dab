"""The recipe and the models of a launch, loaded."""

from pipeline.errors import ConfigError
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.cuts.settings import cuts_settings, reading, with_thresholds
from pipeline.models.device import pick_device
from pipeline.models.load import feature_preset, load_depth, load_features
from pipeline.runs.launch import Launch


def load_cuts(launch: Launch, device: str, until: str | None = None) -> CutsMethod:
    """Recipe and models of a launch, on a device; only the models that the stages up to `until` need."""
    settings = cuts_settings(launch, until)
    torch_device = pick_device(device)
    recipe, models = settings.recipe, settings.models
    if not recipe.is_settled:  # only timm or a checkpoint knows them
        read = reading(models.features, feature_preset(models.features)[0], settings.features)
        recipe = with_thresholds(recipe, read, models.features, settings.features)
    depth = None
    if recipe.needs_depth:
        depth = load_depth(models.depth, torch_device, models.depth_kind)
    extractor = load_features(models.features, torch_device, settings.features)
    if recipe.needs_attention and not extractor.has_attention:
        raise ConfigError(
            f"merge.min_attention needs a class token's attention, which {models.features} does not give: set it to "
            "none, or take features of DINO or DINOv2"
        )
    return CutsMethod(recipe, extractor, depth, torch_device)
