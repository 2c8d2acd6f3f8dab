"""What a launch asks for: the models of a recipe, and τ where no preset has one."""

from dataclasses import replace

import pytest

from pipeline.errors import ConfigError
from pipeline.methods.cuts.entry import describe
from pipeline.methods.cuts.recipes import MODELS, RECIPES
from pipeline.methods.cuts.settings import ModelNames, cuts_settings
from pipeline.runs.launch import Launch
from stages.feature_presets import PRESETS


@pytest.mark.parametrize("recipe", ["maskcut_published", "promerge_published", "cuts3d_published"])
def test_a_published_method_comes_with_its_networks(recipe: str) -> None:
    settings = cuts_settings(Launch(recipe=recipe), None)
    config = settings.feature_config
    assert config is not None
    assert (config.model, config.kind, config.centred, config.size) == ("vit_base_patch8_224.dino", "keys", False, 480)
    assert settings.recipe.affinity.tau == 0.15
    assert settings.models.depth == ("zoedepth" if settings.recipe.needs_depth else "fastdepth")


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


def test_thresholds_of_merging_are_those_of_the_features_or_have_to_be_given() -> None:
    settled = cuts_settings(Launch(recipe="promerge"), None).recipe
    assert settled.is_settled
    given = ("merge.bipartition_tau=0.11", "affinity.tau=0.3")
    part = cuts_settings(Launch(recipe="promerge", overrides=given), None).recipe.search
    assert part == replace(settled.search, bipartition_tau=0.11)
    unknown = {"features": "dinov3_vits16"}
    says = "no thresholds of merging are known for the features dinov3_vits16: give them, --set merge.foreground_incl"
    with pytest.raises(ConfigError, match=says):
        cuts_settings(Launch(recipe="promerge", overrides=given, settings=unknown), None)
    rest = (*given, "merge.foreground_include_tau=0.1", "merge.dino_merge_tau=0.1")
    assert cuts_settings(Launch(recipe="promerge", overrides=rest, settings=unknown), None).recipe.is_settled


def test_merging_has_no_ncut_to_stop_at() -> None:
    with pytest.raises(ConfigError, match="recipe promerge solves no NCut: there is no ncut stage to run"):
        cuts_settings(Launch(recipe="promerge"), "ncut")
    assert cuts_settings(Launch(recipe="promerge"), "localcut").recipe.name == "promerge"


def test_what_a_run_of_merging_says_of_itself() -> None:
    launch = Launch(recipe="promerge", overrides=("merge.stride=5",))
    known = cuts_settings(launch, None).known()
    facts = describe({**known, "depth": None})
    assert ("searched", "merge") in facts
    assert [value for name, value in facts if name == "changed"] == ["merge.stride = 5 (default 4)"]
    switched = Launch(recipe="maskcut", overrides=("rounds=none", "merge=on"))
    facts = describe({**cuts_settings(switched, None).known(), "depth": None})
    assert 'merge = "on" (default none)' in [value for name, value in facts if name == "changed"]
