"""What a launch asks for: the models of a recipe, and τ where no preset has one."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.engine.checks import check_settings
from pipeline.errors import ConfigError, WeightsError
from pipeline.methods.cuts.entry import describe
from pipeline.methods.cuts.recipes import MODELS, RECIPES
from pipeline.methods.cuts.settings import ModelNames, cuts_settings
from pipeline.methods.cuts.tau import propose_tau
from pipeline.models import hub
from pipeline.runs.launch import Launch
from stages.feature_presets import PRESETS


@pytest.mark.parametrize("recipe", ["maskcut_published", "hassod_published", "promerge_published", "cuts3d_published"])
def test_a_published_method_comes_with_its_networks(recipe: str) -> None:
    settings = cuts_settings(Launch(recipe=recipe), None, files_here=False)
    config = settings.feature_config
    assert config is not None
    assert (config.model, config.kind, config.centred, config.size) == ("vit_base_patch8_224.dino", "keys", False, 480)
    assert settings.recipe.affinity.tau == 0.15
    assert settings.models.depth == ("zoedepth" if settings.recipe.needs_depth else "fastdepth")


def test_thresholds_of_merging_are_those_of_the_features() -> None:
    for features, taus in (("dino_vitb8", (0.4, 0.2, 0.1)), ("dinov2_vits14", PRESETS["dinov2_vits14"].levels)):
        settings = cuts_settings(Launch(recipe="hassod", settings={"features": features}), None, files_here=False)
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
        assert cuts_settings(Launch(recipe=recipe), None, files_here=False).feature_config is not None


def test_unknown_tau_has_to_be_given() -> None:
    for features in (name for name, preset in PRESETS.items() if preset.tau is None):
        with pytest.raises(ConfigError, match=rf"no τ is known for the features {features}: .*--features {features}`"):
            cuts_settings(Launch(settings={"features": features}), None)
        launch = Launch(settings={"features": features}, overrides=("affinity.tau=0.4",))
        assert cuts_settings(launch, None, files_here=False).recipe.affinity.tau == 0.4


@pytest.mark.parametrize(
    ("recipe", "options", "says"),
    [
        (
            "cuts3d",
            ["kind=keys"],
            r"no τ .* dinov2_vits14 with features.kind=keys: .* --set features.kind=keys`",
        ),
        ("maskcut", ["centred=true"], "no τ is known for .*: .* --set features.centred=true`"),
        ("hassod", ["kind=keys"], "no thresholds are known for merging the features .* with features.kind=keys: give"),
        ("promerge", ["kind=values"], "no thresholds of merging are known for the features .*features.kind=values"),
    ],
)
def test_thresholds_of_one_kind_of_features_are_not_taken_for_another(
    recipe: str, options: list[str], says: str
) -> None:
    """Keys of DINOv2 have cosines of 0.75 to 0.9: the τ of its tokens cuts nothing."""
    overrides = tuple(f"features.{option}" for option in options)
    with pytest.raises(ConfigError, match=says):
        cuts_settings(Launch(recipe=recipe, overrides=overrides), None)
    same = ("features.kind=tokens", "features.centred=false", "features.size=420")
    assert cuts_settings(Launch(recipe=recipe, overrides=same), None).recipe.is_settled


def test_another_kind_of_features_is_cut_at_the_threshold_that_is_given() -> None:
    launch = Launch(overrides=("features.kind=keys", "affinity.tau=0.8"))
    settings = cuts_settings(launch, None)
    assert settings.feature_config is not None
    assert (settings.recipe.affinity.tau, settings.feature_config.kind) == (0.8, "keys")


@pytest.mark.parametrize(
    ("launch", "says"),
    [
        (Launch(recipe="maskcut_published"), "recipe maskcut_published brings --features dino_vitb8: .*=FILE"),
        (Launch(recipe="cuts3d_published"), "recipe cuts3d_published brings --depth zoedepth: .*--depth FOLDER"),
        (Launch(settings={"features": "dino_vits8"}), "^--features dino_vits8: .*dino_vits8=FILE"),
        (Launch(settings={"features": "vit_tiny_patch16_224"}), "^--features vit_tiny_patch16_224: "),
        (Launch(settings={"depth": "dpt-large"}), "^--depth dpt-large: "),
        (Launch(recipe="cuts3d_published", settings={"depth": "dpt-large"}), "^--depth dpt-large: "),
    ],
)
def test_weights_that_are_on_the_hub_only_are_missed_before_images_are_listed(
    launch: Launch, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "reachable", lambda: False)
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=says) as caught:
        check_settings(tmp_path / "run", replace(launch, images=nowhere), None, "cpu")
    for remedy in ("HF_HOME", "cuts3d weights list", "download them elsewhere"):
        assert remedy in str(caught.value)
    if launch.settings.keys() == {"features"}:
        with pytest.raises(WeightsError, match=says):
            propose_tau(nowhere, launch.settings["features"])


def test_weights_that_the_hub_s_cache_holds_are_not_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path))
    assert cuts_settings(Launch(recipe="cuts3d_published"), None).models.depth == "zoedepth"


def test_a_network_that_has_no_patches_is_refused_before_images_are_listed() -> None:
    with pytest.raises(ConfigError, match="resnet18 is not a ViT of timm"):
        cuts_settings(Launch(settings={"features": "resnet18"}), None)


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
    assert cuts_settings(
        Launch(recipe="promerge", overrides=rest, settings=unknown), None, files_here=False
    ).recipe.is_settled


def test_adjacent_patches_are_merged_at_thresholds_of_their_own() -> None:
    launch = Launch(recipe="promerge", overrides=("merge.grouping=adjacent",))
    settings = cuts_settings(launch, None)
    search = settings.recipe.search
    assert (getattr(search, "bipartition_tau", None), getattr(search, "dino_merge_tau", None)) == (0.9, 0.6)
    changed = [value for name, value in describe({**settings.known(), "depth": None}) if name == "changed"]
    assert changed == ['merge.grouping = "adjacent" (default "prompts")']
    published = Launch(recipe="promerge_published", overrides=launch.overrides)
    with pytest.raises(ConfigError, match=r"dino_vitb8 with merge\.grouping=adjacent: give them, --set "):
        cuts_settings(published, None, files_here=False)


def test_merging_has_no_ncut_to_stop_at() -> None:
    with pytest.raises(
        ConfigError,
        match="recipe promerge solves no NCut: there is no ncut stage to run, use features, localcut, confid",
    ):
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
