"""Named recipes and overrides."""

import dataclasses
import json

import pytest

from pipeline.errors import ConfigError
from pipeline.recipes import RECIPES, RoundsConfig, get_recipe, option_lines, parse_overrides
from stages.features import FeatureConfig


def test_the_ablation_adds_one_stage_a_row() -> None:
    switched = {
        name: [s for s in ("local_cut", "spatial_importance", "spatial_confidence") if getattr(recipe, s) is not None]
        for name, recipe in RECIPES.items()
    }
    assert switched == {
        "maskcut": [],
        "localcut": ["local_cut"],
        "localcut_importance": ["local_cut", "spatial_importance"],
        "cuts3d": ["local_cut", "spatial_importance", "spatial_confidence"],
    }
    assert [r.needs_depth for r in RECIPES.values()] == [False, True, True, True]


def test_maskcut_has_the_published_constants() -> None:
    recipe = RECIPES["maskcut"]
    assert recipe.rounds.n == 3
    assert recipe.affinity.epsilon == 1e-5
    assert (recipe.filters.min_area, recipe.filters.max_iou) == (0.01, 0.5)
    assert recipe.refine.size == 480
    crf = recipe.refine.crf
    assert crf is not None
    assert (crf.iterations, crf.gaussian_sxy, crf.gaussian_compat) == (10, 3.0, 7.0)
    assert (crf.bilateral_sxy, crf.bilateral_srgb, crf.bilateral_compat) == (50.0, 5.0, 10.0)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("local_cut.tau_knn=0.05", ("local_cut", "tau_knn"), 0.05),
        ("local_cut.k=16", ("local_cut", "k"), 16),
        ("rounds.rest_iou=none", ("rounds", "rest_iou"), None),
        ("rounds.take_dropped=false", ("rounds", "take_dropped"), False),
        ("sharpen.exponent=mean", ("sharpen", "exponent"), "mean"),
        ("affinity.tau=-0.1", ("affinity", "tau"), -0.1),
        ("refine.crf.iterations=5", ("refine", "crf", "iterations"), 5),
        ("refine.crf=none", ("refine", "crf"), None),
        ("spatial_importance=none", ("spatial_importance",), None),
    ],
)
def test_overrides_reach_the_configuration(override: str, path: tuple[str, ...], value: object) -> None:
    config: object = get_recipe("cuts3d", [override])
    for name in path:
        config = getattr(config, name)
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("local_cut.tau_knn", "stage.option=value"),
        ("local_cut.tau=1", "there is no 'tau' here; options: k, tau_knn"),
        ("localcut.k=1", "there is no 'localcut'"),
        ("local_cut.k=many", "is a number"),
        ("local_cut.k=0", "at least 1"),
        ("local_cut.k=none", "cannot be none"),
        ("local_cut=1", "group of options"),
        ("rounds.take_dropped=maybe", "true or false"),
        ("affinity.tau=3", r"\[-1, 1\]"),
        ("ncut.tolerance.x=1", "no options of its own"),
        ("name=mine", "there is no 'name'"),
    ],
)
def test_bad_overrides_say_what_is_wrong(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get_recipe("cuts3d", [override])


def test_a_stage_that_the_recipe_lacks_is_not_switched_on_silently() -> None:
    with pytest.raises(ConfigError, match="has no local_cut"):
        get_recipe("maskcut", ["local_cut.k=4"])
    with pytest.raises(ConfigError, match="needs local_cut"):
        get_recipe("cuts3d", ["local_cut=none"])
    with pytest.raises(ConfigError, match="known: maskcut, localcut"):
        get_recipe("maskcutt")


def test_every_option_that_is_listed_can_be_set_to_what_is_listed() -> None:
    for recipe in RECIPES.values():
        for line in option_lines(recipe):
            name, _, value = line.partition(" = ")
            assert get_recipe(recipe.name, [f"{name}={value}"]) == recipe


def test_options_of_the_features() -> None:
    assert parse_overrides(FeatureConfig, ["size=420", "kind=keys"]) == {"size": 420, "kind": "keys"}
    with pytest.raises(ConfigError, match="there is no option 'sizes'"):
        parse_overrides(FeatureConfig, ["sizes=420"])


def test_as_dict_is_json() -> None:
    for recipe in RECIPES.values():
        assert json.loads(json.dumps(recipe.as_dict())) == recipe.as_dict()
    assert dataclasses.replace(RECIPES["cuts3d"]) == RECIPES["cuts3d"]


def test_rounds_are_validated() -> None:
    with pytest.raises(ValueError, match=r"rounds\.n"):
        RoundsConfig(n=0)
    with pytest.raises(ValueError, match=r"rounds\.rest_iou"):
        RoundsConfig(rest_iou=0.0)
