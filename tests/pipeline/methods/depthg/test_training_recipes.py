"""Recipes of semantic training: the published numbers, the rows of the ablation, options and what is refused."""

from dataclasses import asdict, replace

import pytest

from pipeline.errors import ConfigError
from pipeline.methods.depthg.training_recipes import RECIPES, KMeansConfig, apart, get_recipe, recipe_options

# weights and shifts: own, neighbour, random, depth; decay, every so many batches; then samples, their decay, points,
# centring; codes, batch, clusters, backbone. From DepthG's paper_reproduction.sh and configuration.
PUBLISHED = {
    "depthg_coco_vits8": (
        (0.58, 0.07, 0.36, 0.025, 0.7, 0.761, 0.19, 0.03, 0.6, 250),
        (11, 0.9, "fps", True),
        (70, 32, 27, "dino_vits8"),
    ),
    "depthg_coco_vitb8": (
        (
            *(0.23052367315917113, 0.12326312284078644, 1.0500945312858674, 0.21028290947990444),
            *(0.2485038032028848, 0.9748103425096648, 0.16026274975444096, 0.035909146298813595, 0.64, 100),
        ),
        (12, 1.0, "fps", True),
        (90, 32, 27, "dino_vitb8"),
    ),
    "depthg_cityscapes_vitb8": (
        (0.95, 0.39, 1.02, 0.25, 0.57, 0.26, 0.09, 0.03, 0.8, 400),
        (11, 1.0, "random", False),
        (100, 32, 27, "dino_vitb8"),
    ),
    "depthg_potsdam_vits8": (
        (0.61, 0.2, 0.34, 0.09, 0.72, 0.63, 0.13, 0.14, 1.0, 200),
        (11, 1.0, "fps", True),
        (90, 16, 3, "dino_vits8"),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_numbers(name: str) -> None:
    recipe = RECIPES[name]
    numbers, points, rest = PUBLISHED[name]
    o, t = recipe.objective, recipe.training
    assert o is not None
    assert t is not None
    pairs = [
        getattr(o, f"{pair}_{part}") for pair in ("own", "neighbour", "random", "depth") for part in ("weight", "shift")
    ]
    assert (*pairs, o.depth_decay, o.depth_decay_every) == numbers
    assert (o.samples, o.samples_decay, o.sampling, o.pointwise) == points
    assert (t.codes, t.batch_size, recipe.clusters, recipe.features) == rest
    assert (t.iterations, t.learning_rate, t.cluster_learning_rate, t.neighbours, o.negatives) == (
        2333,
        5e-4,
        5e-3,
        7,
        5,
    )
    assert (o.reading, o.zero_clamp, o.lhp_weight, t.dropout) == ("paper", True, 0.0, 0.1)
    assert recipe.kmeans is None


def test_the_default_differs_from_the_published_in_what_was_chosen_here() -> None:
    """Decision 37: shifts for its features, and how clusters are found."""
    ours, published = RECIPES["depthg"], RECIPES["depthg_coco_vits8"]
    assert ours.objective is not None
    assert published.objective is not None
    shifts = {"own_shift": 0.2, "neighbour_shift": 0.1, "random_shift": 0.3}
    assert ours.objective == replace(published.objective, **shifts)
    assert ours.training == published.training
    for name in ("depthg", "stego"):
        plain, probe = RECIPES[name], RECIPES[f"{name}_probe"]
        assert plain.kmeans == KMeansConfig()
        assert replace(plain, kmeans=None, name=probe.name, about=probe.about) == probe


@pytest.mark.parametrize(
    ("name", "left"),
    [("depthg_coco_vits8", 0.6**9), ("depthg_coco_vitb8", 0.64**23), ("depthg_cityscapes_vitb8", 0.8**5)],
)
def test_depth_decays_as_often_as_in_7000_steps_of_which_three_are_a_batch(name: str, left: float) -> None:
    recipe = RECIPES[name]
    assert recipe.objective is not None
    assert recipe.training is not None
    assert recipe.objective.depth_scale_at(recipe.training.iterations - 1) == pytest.approx(left)


def test_samples_fall_once_more_at_the_start_in_the_released_reading() -> None:
    paper, released = RECIPES["depthg_coco_vits8"].objective, RECIPES["depthg_released"].objective
    assert paper is not None
    assert released is not None
    assert [paper.samples_at(step) for step in (0, 1, 999, 1000, 2000)] == [11, 11, 11, 9, 8]
    assert [released.samples_at(step) for step in (0, 1, 1000, 1001, 2001)] == [11, 9, 9, 8, 7]
    assert replace(paper, reading="released") == released


def test_each_row_of_the_ablation_changes_what_it_says() -> None:
    rows = {name: RECIPES[f"depthg_{name}"].objective for name in ("base", "corr", "fps", "lhp", "corr_fps_lhp")}
    facts = {n: (o.depth_weight > 0, o.sampling == "fps", o.lhp_weight > 0) for n, o in rows.items() if o is not None}
    assert facts == {
        "base": (False, False, False),
        "corr": (True, False, False),
        "fps": (False, True, False),
        "lhp": (False, False, True),
        "corr_fps_lhp": (True, True, True),
    }
    depthg = RECIPES["depthg"].objective
    assert depthg is not None
    assert (depthg.depth_weight > 0, depthg.sampling, depthg.lhp_weight) == (True, "fps", 0.0)
    named = ("depth_weight", "sampling", "samples_decay", "lhp_weight")
    for objective in rows.values():
        assert objective is not None
        assert [(k, v) for k, v in asdict(objective).items() if k not in named] == [
            (k, v) for k, v in asdict(depthg).items() if k not in named
        ]
    assert {name: recipe.needs_depth for name, recipe in RECIPES.items() if not recipe.needs_depth} == dict.fromkeys(
        ("stego", "stego_probe", "kmeans", "depthg_base"), False
    )


def test_options_change_a_recipe() -> None:
    own, of_inputs = apart(
        ["objective.depth_weight=0.3", "crops.layout=whole", "training.codes=12", "features.size=64"]
    )
    assert of_inputs == ("crops.layout=whole", "features.size=64")
    recipe = get_recipe("depthg", own, clusters=5, iterations=7, trials=3)
    assert recipe.objective is not None
    assert recipe.training is not None
    assert recipe.search is not None
    assert (recipe.objective.depth_weight, recipe.training.codes, recipe.clusters) == (0.3, 12, 5)
    assert (recipe.training.iterations, recipe.search.trials) == (7, 3)
    released = get_recipe("depthg_coco_vits8", ["objective.reading=released"])
    assert released.objective == RECIPES["depthg_released"].objective


def test_what_decides_no_result_is_no_part_of_the_identity() -> None:
    plain, other = get_recipe("depthg"), get_recipe("depthg", ["training.log_every=7", "training.checkpoint_every=3"])
    assert plain != other
    assert plain.identity() == other.identity()
    assert plain.identity() != get_recipe("depthg", ["training.codes=71"]).identity()


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("depthgg", [], "unknown recipe 'depthgg'; known: depthg, depthg_probe, depthg_released, stego"),
        ("depthg", ["objective.depth_wight=1"], "there is no 'depth_wight' here; options: reading, own_weight"),
        ("depthg", ["objective.depth_weight=-1"], "objective.depth_weight must be at least 0, got -1.0"),
        ("depthg", ["objective.reading=code"], "objective.reading must be paper or released, got 'code'"),
        ("depthg", ["objective.sampling=grid"], "objective.sampling must be random or fps"),
        ("depthg", ["training.batch_size=1"], "training.batch_size must be at least 2, got 1"),
        ("depthg", ["training.neighbours=30"], "training.neighbours must be in 1..29, got 30"),
        ("depthg", ["training.dropout=1"], "training.dropout must lie in [0, 1), got 1.0"),
        ("depthg", ["training.learning_rate=0"], "training.learning_rate must lie in (0, 1], got 0.0"),
        ("depthg", ["training.cluster_learning_rate=1e38"], "must lie in (0, 1], got 1e+38"),
        ("depthg", ["objective.negatives=99999999999"], "objective.negatives must be in 1..256, got 99999999999"),
        ("stego", ["objective.samples=100000"], "objective.samples must be in 1..64, got 100000"),
        ("depthg", ["search.factor=1"], "search.factor must be above 1, got 1.0"),
        ("depthg", ["training.learning_rate=fast"], "training.learning_rate is a number (float), got 'fast'"),
        ("depthg", ["kmeans.patches=1"], "kmeans.patches must be at least 2, got 1"),
        (
            "depthg_probe",
            ["kmeans.patches=9"],
            "recipe depthg_probe finds its clusters while it trains, without k-means: leave --set kmeans.patches=9 out",
        ),
        ("depthg", ["training=9"], "is not of the form group.option=value"),
        ("depthg", ["training.codes"], "is not of the form group.option=value"),
        (
            "depthg",
            ["head.codes=9"],
            "there is no 'head'; groups of options: objective, training, search, kmeans, crops",
        ),
        ("kmeans", ["objective.samples=9"], "leave --set objective.samples=9 out; it has kmeans.*"),
        ("kmeans", ["kmeans.patches=1"], "kmeans.patches must be at least 2, got 1"),
    ],
)
def test_what_is_wrong_is_said(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        get_recipe(name, overrides)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_kmeans_has_no_iterations_and_no_search() -> None:
    with pytest.raises(ConfigError, match="recipe kmeans trains no head: leave --iterations out"):
        get_recipe("kmeans", iterations=5)
    with pytest.raises(ConfigError, match="recipe kmeans trains no head: leave --search out"):
        get_recipe("kmeans", trials=5)


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_has_words(name: str) -> None:
    lines = recipe_options(name)
    assert [line.path for line in lines if not line.words] == []
    assert len({line.path for line in lines}) == len(lines) > 2
