"""What a launch asks for: the models of a recipe, and τ where no preset has one."""

import pytest

from pipeline.errors import ConfigError
from pipeline.methods.cuts.recipes import MODELS, RECIPES
from pipeline.methods.cuts.settings import ModelNames, cuts_settings
from pipeline.runs.launch import Launch
from stages.feature_presets import PRESETS


@pytest.mark.parametrize("recipe", ["maskcut_published", "hassod_published", "cuts3d_published"])
def test_a_published_method_comes_with_its_networks(recipe: str) -> None:
    settings = cuts_settings(Launch(recipe=recipe), None)
    config = settings.feature_config
    assert config is not None
    assert (config.model, config.kind, config.centred, config.size) == ("vit_base_patch8_224.dino", "keys", False, 480)
    assert settings.recipe.affinity.tau == 0.15
    assert settings.models.depth == ("zoedepth" if settings.recipe.needs_depth else "fastdepth")


def test_thresholds_of_merging_are_those_of_the_features() -> None:
    for features, taus in (("dino_vitb8", (0.4, 0.2, 0.1)), ("dinov2_vits14", PRESETS["dinov2_vits14"].levels)):
        settings = cuts_settings(Launch(recipe="hassod", settings={"features": features}), None)
        assert getattr(settings.recipe.search, "thresholds", None) == taus
    launch = Launch(recipe="hassod", overrides=("hierarchy.thresholds=0.5",))
    assert getattr(cuts_settings(launch, None).recipe.search, "thresholds", None) == (0.5,)


def test_models_that_are_given_come_first() -> None:
    given = {"features": "dinov2_vits14", "depth": "fastdepth"}
    settings = cuts_settings(Launch(recipe="cuts3d_published", settings=given), None)
    assert (settings.models.features, settings.models.depth) == ("dinov2_vits14", "fastdepth")
    assert settings.recipe.affinity.tau == 0.3
    assert ModelNames.of(Launch(recipe="cuts3d")) == ModelNames()


def test_models_of_recipes_are_models() -> None:
    assert MODELS.keys() <= RECIPES.keys()
    for recipe in MODELS:
        assert cuts_settings(Launch(recipe=recipe), None).feature_config is not None


def test_unknown_tau_has_to_be_given() -> None:
    for features in (name for name, preset in PRESETS.items() if preset.tau is None):
        with pytest.raises(ConfigError, match=rf"no τ is known for the features {features}: .*--features {features}`"):
            cuts_settings(Launch(settings={"features": features}), None)
        launch = Launch(settings={"features": features}, overrides=("affinity.tau=0.4",))
        assert cuts_settings(launch, None).recipe.affinity.tau == 0.4
