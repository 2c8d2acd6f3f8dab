"""Named recipes and overrides."""

import dataclasses
import json
import re
from itertools import pairwise

import pytest

from pipeline.errors import ConfigError
from pipeline.methods.cuts.options import _lines as every_line
from pipeline.methods.cuts.options import read_recipe, recipe_lines
from pipeline.methods.cuts.recipes import RECIPES, SEARCHES, Recipe, RoundsConfig, get_recipe
from pipeline.methods.cuts.settings import cuts_settings
from pipeline.methods.overrides import parse_overrides
from pipeline.runs.launch import Launch
from stages.crf import CrfConfig
from stages.features import FeatureConfig
from stages.local_cut import LocalCutConfig
from stages.ncut_tree import TreeConfig
from stages.patch_merging import MergeConfig
from stages.score import OBJECTNESS
from stages.spatial_confidence import SpatialConfidenceConfig
from stages.spatial_importance import SpatialImportanceConfig


def test_the_ablation_adds_one_stage_a_row() -> None:
    switched = {
        name: [s for s in ("local_cut", "spatial_importance", "spatial_confidence") if getattr(recipe, s) is not None]
        for name, recipe in RECIPES.items()
    }
    assert switched == {
        "maskcut": [],
        "localcut": ["local_cut"],
        "localcut_importance": ["local_cut", "spatial_importance"],
        "cuts3d_rounds": ["local_cut", "spatial_importance", "spatial_confidence"],
        "cuts3d": ["local_cut", "spatial_confidence"],
        "hassod": [],
        "promerge": [],
        "promerge3d": ["local_cut", "spatial_confidence"],
        "maskcut_published": [],
        "hassod_published": [],
        "promerge_published": [],
        "cuts3d_published": ["local_cut", "spatial_importance", "spatial_confidence"],
    }
    flat = [name for name, recipe in RECIPES.items() if not recipe.needs_depth]
    published = ["maskcut_published", "hassod_published", "promerge_published"]
    assert flat == ["maskcut", "hassod", "promerge", *published]
    assert {name for name, recipe in RECIPES.items() if isinstance(recipe.search, TreeConfig)} == {"cuts3d"}
    merging = {name for name, recipe in RECIPES.items() if isinstance(recipe.search, MergeConfig)}
    assert merging == {"promerge", "promerge3d", "promerge_published"}


def test_maskcut_has_the_published_constants() -> None:
    recipe = RECIPES["maskcut"]
    assert isinstance(recipe.search, RoundsConfig)
    assert recipe.search.n == 3
    assert recipe.score == "constant"
    assert recipe.affinity.epsilon == 1e-5
    assert (recipe.filters.min_area, recipe.filters.max_iou) == (0.01, 0.5)
    assert recipe.refine.size == 480
    crf = recipe.refine.crf
    assert crf is not None
    assert (crf.iterations, crf.gaussian_sxy, crf.gaussian_compat) == (10, 3.0, 7.0)
    assert (crf.bilateral_sxy, crf.bilateral_srgb, crf.bilateral_compat) == (50.0, 5.0, 10.0)


def test_promerge_has_the_published_constants() -> None:
    settled = cuts_settings(Launch(recipe="promerge_published"), None, files_here=False).recipe.search
    assert settled == MergeConfig(
        grouping="prompts",
        stride=4,
        bipartition_tau=0.2,
        cc_maskarea_tau=0.5,
        need_background=True,
        iou_filter_tau=0.8,
        foreground_include_tau=0.1,
        intersection_merge_tau=0.5,
        merge_ioa_tau=0.1,
        dino_merge_tau=0.1,
        min_attention=None,
    )
    recipe = RECIPES["promerge"]
    assert (recipe.score, recipe.refine, recipe.boundary) == ("constant", RECIPES["maskcut"].refine, None)
    assert recipe.select.masks == 255, "all of them: as many as a store can number"


def test_recipes_that_do_not_merge_are_written_as_before() -> None:
    for name, recipe in RECIPES.items():
        written = recipe.as_dict()
        assert ("merge" in written) == name.startswith("promerge")
        assert {"rounds", "tree"} <= written.keys()
        if name.startswith("promerge"):
            assert (written["rounds"], written["tree"]) == (None, None)


def test_the_published_methods_are_the_recipes_of_that_name_but_for_what_is_said() -> None:
    def changes(name: str, other: str) -> set[str]:
        one, two = RECIPES[name].as_dict(), RECIPES[other].as_dict()
        return {key for key in one if one[key] != two[key]}

    assert changes("maskcut_published", "maskcut") == {"name"}
    assert changes("promerge_published", "promerge") == {"name"}
    assert changes("cuts3d_published", "cuts3d_rounds") == {"name", "local_cut", "score"}
    local_cut = RECIPES["cuts3d_published"].local_cut
    assert local_cut is not None
    assert dataclasses.replace(local_cut, tau_knn=0.06) == LocalCutConfig()
    assert local_cut.tau_knn == 0.115


def test_the_papers_rows_differ_in_what_they_add_alone() -> None:
    """From each row to the next only the new stage and what it is called; scores use what is known."""
    rows = [RECIPES[name].as_dict() for name in ("localcut", "localcut_importance", "cuts3d_rounds")]
    changes = [{key for key in one if one[key] != other[key]} for one, other in pairwise(rows)]
    assert changes == [{"name", "spatial_importance"}, {"name", "spatial_confidence", "score"}]
    assert RECIPES["cuts3d_rounds"].score == OBJECTNESS == RECIPES["cuts3d"].score
    assert RECIPES["localcut"].score == "contrast*uniqueness*nearness*clearance"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("tree.depth=6", ("tree", "depth"), 6),
        ("tree.min_area=0.01", ("tree", "min_area"), 0.01),
        ("tree.max_area=0.5", ("tree", "max_area"), 0.5),
        ("select.masks=4", ("select", "masks"), 4),
        ("select.same_iou=0.8", ("select", "same_iou"), 0.8),
        ("select.overlap_sigma=0.5", ("select", "overlap_sigma"), 0.5),
        ("score=stability*contrast", ("score",), "stability*contrast"),
        ("local_cut.tau_knn=0.05", ("local_cut", "tau_knn"), 0.05),
        ("local_cut.k=16", ("local_cut", "k"), 16),
        ("sharpen.exponent=mean", ("sharpen", "exponent"), "mean"),
        ("affinity.tau=-0.1", ("affinity", "tau"), -0.1),
        ("refine.crf.iterations=5", ("refine", "crf", "iterations"), 5),
        ("refine.crf=none", ("refine", "crf"), None),
        ("spatial_importance=none", ("spatial_importance",), None),
    ],
)
def test_overrides_reach_the_configuration(override: str, path: tuple[str, ...], value: object) -> None:
    assert_reaches("cuts3d", override, path, value)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("rounds.n=5", ("rounds", "n"), 5),
        ("rounds.rest_iou=none", ("rounds", "rest_iou"), None),
        ("rounds.take_dropped=false", ("rounds", "take_dropped"), False),
        ("spatial_importance.beta=0.3", ("spatial_importance", "beta"), 0.3),
    ],
)
def test_overrides_of_rounds(override: str, path: tuple[str, ...], value: object) -> None:
    assert_reaches("cuts3d_rounds", override, path, value)


def assert_reaches(recipe: str, override: str, path: tuple[str, ...], value: object) -> None:
    """The override changes this option, and nothing else."""
    plain, changed = get_recipe(recipe).as_dict(), get_recipe(recipe, [override]).as_dict()
    *groups, option = path
    for name in groups:
        assert {key for key in plain if plain[key] != changed[key]} <= {name}
        plain, changed = plain[name], changed[name]
    assert changed[option] == value
    assert type(changed[option]) is type(value)
    assert {key for key in plain if plain[key] != changed[key]} <= {option}


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
        ("tree.depth=0", r"tree\.depth must be at least 1, got 0"),
        ("tree.min_area=0.9", r"tree\.min_area and max_area must lie in 0\.\.1"),
        ("select.masks=0", r"select\.masks must be 1\.\.255"),
        ("select.masks=none", r"select\.masks cannot be none"),
        ("score=confidence", r"a product of contrast, uniqueness, .*, got 'confidence'"),
        ("score=none", "score cannot be none"),
        ("rounds.n=3", "has no rounds: switch it on first, rounds=on, or take one that has it"),
        ("tree=4", "tree is a group of options: set tree.depth, .*, or tree=none or on to switch it"),
        ("affinity.tau=3", r"\[-1, 1\]"),
        ("ncut.tolerance.x=1", "no options of its own"),
        ("name=mine", "there is no 'name'"),
        ("merge.stride=4", "has no merge: switch it on first, merge=on"),
    ],
)
def test_bad_overrides_say_what_is_wrong(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get_recipe("cuts3d", [override])


def test_a_stage_is_switched_on_with_its_defaults() -> None:
    recipe = get_recipe("cuts3d", ["spatial_importance=on", "spatial_importance.sigma=2"])
    assert recipe.spatial_importance == SpatialImportanceConfig(sigma=2.0)
    recipe = get_recipe("maskcut", ["local_cut=On", "spatial_confidence=ON"])
    assert (recipe.local_cut, recipe.spatial_confidence) == (LocalCutConfig(), SpatialConfidenceConfig())
    assert recipe.needs_depth
    off_and_on = get_recipe("cuts3d", ["refine.crf=none", "refine.crf=on"])
    assert off_and_on.refine.crf == CrfConfig(), "on gives the stage's own defaults, not those of the recipe"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("merge.stride=0", r"merge\.stride must be at least 1, got 0"),
        ("merge.grouping=both", r"merge\.grouping must be prompts or adjacent, got 'both'"),
        ("merge.bipartition_tau=2", r"merge\.bipartition_tau must lie in \[-1, 1\] or be none, got 2"),
        ("merge.iou_filter_tau=1.5", r"merge\.iou_filter_tau must lie in \[0, 1\], got 1.5"),
        ("merge.cc_maskarea_tau=-1", r"merge\.cc_maskarea_tau must be at least 0, got -1"),
        ("merge.min_attention=-1", r"merge\.min_attention must be at least 0, got -1"),
        ("merge.need_background=maybe", "is true or false"),
        ("merge=none", "by rounds or by tree or by merge"),
        ("local_cut=on local_cut.outside=keep", "must be sever, push or remove"),
        ("merge.grouping=adjacent spatial_importance=on", r"it needs merge\.grouping=prompts"),
    ],
)
def test_bad_options_of_merging(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get_recipe("promerge", override.split())


@pytest.mark.parametrize(
    ("recipe", "overrides", "says"),
    [
        ("promerge", ["ncut.tolerance=0.1"], "never reads ncut.tolerance, since it searches by merging"),
        ("promerge", ["filters.min_area=0.1"], "never reads filters.min_area, since it searches by merging"),
        ("promerge", ["affinity.weights=soft"], "never reads affinity.weights, since it searches by merging"),
        (
            "promerge",
            ["merge.grouping=adjacent", "merge.stride=2"],
            "merge.stride, since its merge.grouping is adjacent",
        ),
        ("promerge", ["local_cut=on", "local_cut.sink=group"], "since a merge takes all pieces of a part"),
    ],
)
def test_options_that_merging_never_reads(recipe: str, overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_recipe(recipe, overrides)
    for line in recipe_lines(Launch(recipe=recipe)):
        if not line.path.startswith(("--", "features.")):
            read_recipe(recipe, [f"{line.path}={line.value}"] if " switches it on" not in line.words else [])


@pytest.mark.parametrize(
    ("recipe", "override"),
    [("cuts3d", "tree=none"), ("cuts3d", "rounds=on"), ("maskcut", "tree=on"), ("maskcut", "rounds=none")],
)
def test_rounds_and_tree_exclude_each_other(recipe: str, override: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe {recipe} with {override}: .*by rounds or by tree"):
        get_recipe(recipe, [override])


def test_the_search_is_written_under_its_name_and_can_be_changed_for_the_other() -> None:
    written = Recipe("mine", TreeConfig(depth=2)).as_dict()
    assert (written["rounds"], written["tree"]["depth"]) == (None, 2)
    assert "search" not in written
    recipe = get_recipe("maskcut", ["rounds=none", "tree=on", "tree.depth=2"])
    assert recipe.search == TreeConfig(depth=2)
    assert recipe.as_dict() == RECIPES["maskcut"].as_dict() | {"rounds": None, "tree": written["tree"]}


def test_a_stage_that_the_recipe_lacks_is_not_switched_on_silently() -> None:
    with pytest.raises(ConfigError, match="has no local_cut"):
        get_recipe("maskcut", ["local_cut.k=4"])
    with pytest.raises(ConfigError, match="needs local_cut"):
        get_recipe("cuts3d", ["local_cut=none"])
    with pytest.raises(ConfigError, match="spatial_confidence samples LocalCut's threshold: it needs local_cut"):
        get_recipe("maskcut", ["spatial_confidence=on"])
    assert get_recipe("cuts3d", ["spatial_confidence=none", "local_cut=none"]).local_cut is None
    with pytest.raises(ConfigError, match="known: maskcut, localcut"):
        get_recipe("maskcutt")


def test_every_option_that_is_listed_can_be_set_to_what_is_listed() -> None:
    for recipe in RECIPES.values():
        listed = {line.path: line.value for line in every_line(recipe)}
        listed |= {name: "none" for name, kind in SEARCHES.items() if not isinstance(recipe.search, kind)}
        for name, value in listed.items():
            assert get_recipe(recipe.name, [f"{name}={value}"]) == recipe


@pytest.mark.parametrize("text", ["0.7,0.3", "[0.7,0.3]", "(0.7, 0.3)", " [ 0.7 , 0.3, ] ", "0.7,0.3,"])
def test_a_list_may_be_in_brackets(text: str) -> None:
    search = get_recipe("hassod", [f"hierarchy.thresholds={text}"]).search
    assert getattr(search, "thresholds", None) == (0.7, 0.3)


@pytest.mark.parametrize("text", ["[0.7,0.3", "0.7,0.3]", "(0.7,0.3", "[0.7,0.3)", "[[0.7,0.3]", "[", "(]"])
def test_a_list_with_a_bracket_missing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"hierarchy\.thresholds is a .*, got "):
        get_recipe("hassod", [f"hierarchy.thresholds={text}"])


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
    with pytest.raises(ConfigError, match=r"rounds\.take_dropped is true or false, got 'maybe'"):
        get_recipe("maskcut", ["rounds.take_dropped=maybe"])
