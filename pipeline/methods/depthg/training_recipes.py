"""Recipes of semantic training: what is minimised, with which constants, on which crops; and how options change them.

Nothing here knows labels: what is published with the help of labels (the presets' weights and shifts were searched for
on labelled images) is said in docs/semantics.md.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.depthg.checkpoint import MOST_CLUSTERS
from pipeline.methods.option_words import OptionLine, option_lines
from pipeline.methods.overrides import with_option
from stages.semantics.objective import ObjectiveConfig

GROUPS = ("objective", "training", "search", "kmeans")
OF_INPUTS = ("crops", "features")  # groups of options that the run has which makes the inputs
MOST_TRIALS = 1000  # of a search, each a training


@dataclass(frozen=True)
class TrainingConfig:
    """How the head is trained.

    codes: K, the width of a code, 1..4096.
    dropout: share of the channels set to 0 while training, in [0, 1).
    iterations: batches, at least 1.
    batch_size: crops per batch, at least 2; of fewer crops than that, all.
    neighbours: of how many nearest crops one is drawn as the neighbour, 1..29.
    learning_rate: of the head, Adam, in (0, 1].
    cluster_learning_rate: of the centroids, Adam, in (0, 1].
    log_every: iterations between two lines of the log, at least 1. It decides no result.
    checkpoint_every: iterations between two checkpoints, at least 1. It decides no result.
    """

    codes: int = 70
    dropout: float = 0.1
    iterations: int = 2333
    batch_size: int = 32
    neighbours: int = 7
    learning_rate: float = 5e-4
    cluster_learning_rate: float = 5e-3
    log_every: int = 50
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        for name, least, most in (
            ("codes", 1, 4096),
            ("iterations", 1, None),
            ("batch_size", 2, None),
            ("neighbours", 1, 29),
            ("log_every", 1, None),
            ("checkpoint_every", 1, None),
        ):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                allowed = f"at least {least}" if most is None else f"in {least}..{most}"
                raise ValueError(f"training.{name} must be {allowed}, got {value}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"training.dropout must lie in [0, 1), got {self.dropout}")
        for name in ("learning_rate", "cluster_learning_rate"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"training.{name} must lie in (0, 1], got {getattr(self, name)}")


@dataclass(frozen=True)
class SearchConfig:
    """How weights and shifts are looked for before the training, see `search`.

    trials: up to 1000; 0 is without. The first is the recipe's own.
    iterations: batches of each, at least 1.
    factor: that a weight or shift is multiplied with or divided by at most, above 1.
    """

    trials: int = 0
    iterations: int = 500
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.trials <= MOST_TRIALS:
            raise ValueError(f"search.trials must be in 0..{MOST_TRIALS}, got {self.trials}")
        if self.iterations < 1:
            raise ValueError(f"search.iterations must be at least 1, got {self.iterations}")
        if not self.factor > 1.0:
            raise ValueError(f"search.factor must be above 1, got {self.factor}")


@dataclass(frozen=True)
class KMeansConfig:
    """k-means of directions: those of features, or of a trained head's codes.

    patches: that are clustered, drawn evenly from up to so many of all crops, at least 2.
    iterations: at most, at least 1; it ends before when no patch changes its cluster any more.
    """

    patches: int = 100_000
    iterations: int = 1000

    def __post_init__(self) -> None:
        if self.patches < 2:
            raise ValueError(f"kmeans.patches must be at least 2, got {self.patches}")
        if self.iterations < 1:
            raise ValueError(f"kmeans.iterations must be at least 1, got {self.iterations}")


@dataclass(frozen=True)
class SemanticRecipe:
    """name: of the recipe.
    about: what it is, a line.
    clusters: C, 2..255.
    objective: what a step minimises; None where nothing is trained.
    training: how; None with `objective`.
    search: before it; None with `objective`.
    kmeans: how clusters are found, of features where nothing is trained, else of the codes when the head is trained;
        None: by the probe that learns beside the head, as published.
    features: as `--features` takes it, unless given there; "" is the default of the inputs.
    inputs: options of the inputs, as `--set` takes them, unless given there.
    """

    name: str
    about: str
    clusters: int = 27
    objective: ObjectiveConfig | None = ObjectiveConfig()
    training: TrainingConfig | None = TrainingConfig()
    search: SearchConfig | None = SearchConfig()
    kmeans: KMeansConfig | None = None
    features: str = ""
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.clusters <= MOST_CLUSTERS:
            raise ValueError(f"clusters must be in 2..{MOST_CLUSTERS}, got {self.clusters}")

    @property
    def needs_depth(self) -> bool:
        """Whether the inputs must have a depth."""
        return self.objective is not None and self.objective.needs_depth

    def check_grid(self, height: int, width: int) -> None:
        """ConfigError for more farthest points than a crop of so many patches has."""
        if self.objective is None or self.objective.sampling != "fps":
            return
        samples, patches = self.objective.samples, height * width
        if samples**2 > patches:
            raise ConfigError(
                f"objective.samples={samples} asks for {samples**2} farthest points of {patches} patches: take at most "
                f"{math.isqrt(patches)}, or larger crops, --set features.size=PIXELS"
            )

    def identity(self) -> dict[str, Any]:
        """What decides the result, nested plain values."""
        plain = dataclasses.asdict(self)
        for name in ("about", "features", "inputs"):  # the inputs have a digest of their own
            del plain[name]
        for name in ("log_every", "checkpoint_every"):
            if plain["training"] is not None:
                del plain["training"][name]
        return plain


# DepthG's four published commands (paper_reproduction.sh). Its steps are those of Lightning 2.0.1, which counts three a
# batch, one per optimizer: 7000 steps are 2333 batches, and a decay "every 250 steps" falls on every 250th batch, the
# least common multiple of 3 and 250 being 750; "every 300" on every 100th.
_COCO_S = ObjectiveConfig(samples_decay=0.9)
_COCO_B = ObjectiveConfig(
    own_weight=0.23052367315917113,
    own_shift=0.12326312284078644,
    neighbour_weight=1.0500945312858674,
    neighbour_shift=0.21028290947990444,
    random_weight=0.2485038032028848,
    random_shift=0.9748103425096648,
    depth_weight=0.16026274975444096,
    depth_shift=0.035909146298813595,
    depth_decay=0.64,
    depth_decay_every=100,
    samples=12,
)
_CITYSCAPES = ObjectiveConfig(
    own_weight=0.95,
    own_shift=0.39,
    neighbour_weight=1.02,
    neighbour_shift=0.25,
    random_weight=0.57,
    random_shift=0.26,
    depth_weight=0.09,
    depth_shift=0.03,
    depth_decay=0.8,
    depth_decay_every=400,
    sampling="random",
    pointwise=False,
)
_POTSDAM = ObjectiveConfig(
    own_weight=0.61,
    own_shift=0.20,
    neighbour_weight=0.34,
    neighbour_shift=0.09,
    random_weight=0.72,
    random_shift=0.63,
    depth_weight=0.13,
    depth_shift=0.14,
    depth_decay=1.0,
    depth_decay_every=200,
)
# STEGO's for COCO-Stuff with a ViT-S.
_STEGO = ObjectiveConfig(
    own_weight=0.67,
    own_shift=0.08,
    neighbour_weight=0.25,
    neighbour_shift=0.02,
    random_weight=0.63,
    random_shift=0.66,
    depth_weight=0.0,
    sampling="random",
)
# Shifts for the default features, DINOv2's, chosen with the labels of 105 COCO photos (decision 37). The published ones
# are for DINO's.
_DINOV2 = replace(_COCO_S, own_shift=0.2, neighbour_shift=0.1, random_shift=0.3)
# The rows of DepthG's ablation: everything else is as in `depthg`.
_NEITHER = replace(_DINOV2, depth_weight=0.0, sampling="random", samples_decay=1.0)
_LHP = 0.2


def _rows() -> Iterable[SemanticRecipe]:
    yield SemanticRecipe(
        "depthg",
        "DepthG: depth correlation and farthest points, constants of COCO ViT-S, but shifts for DINOv2's features; "
        "clusters by k-means of the codes",
        objective=_DINOV2,
        kmeans=KMeansConfig(),
    )
    yield SemanticRecipe(
        "depthg_probe",
        "`depthg`, with clusters by the probe that learns beside the head, as published",
        objective=_DINOV2,
    )
    yield SemanticRecipe(
        "depthg_released",
        "what the released code does, which is not what the paper says, with its constants",
        objective=replace(_COCO_S, reading="released"),
        inputs=("crops.resize=nearest",),
    )
    yield SemanticRecipe(
        "stego",
        "STEGO: features alone, without depth, published constants; clusters by k-means of the codes",
        objective=_STEGO,
        training=TrainingConfig(iterations=5000),
        kmeans=KMeansConfig(),
    )
    yield SemanticRecipe(
        "stego_probe",
        "`stego`, with clusters by the probe that learns beside the head, as published",
        objective=_STEGO,
        training=TrainingConfig(iterations=5000),
    )
    yield SemanticRecipe(
        "kmeans",
        "the baseline: k-means of the features, nothing is trained",
        objective=None,
        training=None,
        search=None,
        kmeans=KMeansConfig(),
    )
    for name, what, objective in (
        ("base", "neither depth correlation nor farthest points", _NEITHER),
        ("corr", "depth correlation alone", replace(_NEITHER, depth_weight=0.19)),
        ("fps", "farthest points alone", replace(_DINOV2, depth_weight=0.0)),
        ("lhp", "local hidden positives by depth alone", replace(_NEITHER, lhp_weight=_LHP)),
        ("corr_fps_lhp", "all three together; `depthg` is the first two", replace(_DINOV2, lhp_weight=_LHP)),
    ):
        yield SemanticRecipe(
            f"depthg_{name}", f"ablation of `depthg`: {what}", objective=objective, kmeans=KMeansConfig()
        )
    preset = "published for"
    yield SemanticRecipe(
        "depthg_coco_vits8",
        f"{preset} COCO-Stuff, DINO ViT-S/8 at 224, five crops",
        objective=_COCO_S,
        features="dino_vits8",
    )
    yield SemanticRecipe(
        "depthg_coco_vitb8",
        f"{preset} COCO-Stuff, DINO ViT-B/8 at 224, five crops",
        objective=_COCO_B,
        training=TrainingConfig(codes=90),
        features="dino_vitb8",
    )
    yield SemanticRecipe(
        "depthg_cityscapes_vitb8",
        f"{preset} Cityscapes, DINO ViT-B/8 at 224, five crops",
        objective=_CITYSCAPES,
        training=TrainingConfig(codes=100),
        features="dino_vitb8",
    )
    yield SemanticRecipe(
        "depthg_potsdam_vits8",
        f"{preset} Potsdam, DINO ViT-S/8 at 224, whole patches, 3 clusters",
        clusters=3,
        objective=_POTSDAM,
        training=TrainingConfig(codes=90, batch_size=16),
        features="dino_vits8",
        inputs=("crops.layout=whole",),
    )


_OPTIONS = {"training.iterations": "iterations", "search.trials": "search"}  # of the command, in place of --set

RECIPES = {recipe.name: recipe for recipe in _rows()}


def get_recipe(
    name: str,
    overrides: Iterable[str] = (),
    *,
    clusters: int | None = None,
    iterations: int | None = None,
    trials: int | None = None,
) -> SemanticRecipe:
    """The recipe of this name, changed by overrides like "objective.depth_weight=0.1"; ConfigError, which names what is
    wrong.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    options = {"training.iterations": iterations, "search.trials": trials}
    given = [f"{path}={value}" for path, value in options.items() if value is not None]
    for override in (*overrides, *given):
        path, equals, text = (piece.strip() for piece in override.partition("="))
        group, _, option = path.partition(".")
        if not equals or not option:
            raise ConfigError(f"override {override!r} is not of the form group.option=value")
        if group not in GROUPS:
            raise ConfigError(
                f"override {override!r}: there is no {group!r}; groups of options: {', '.join((*GROUPS, *OF_INPUTS))}"
            )
        if getattr(recipe, group) is None:
            groups = ", ".join(f"{name}.*" for name in GROUPS if getattr(recipe, name) is not None)
            what = f"--{_OPTIONS[path]}" if override in given else f"--set {override}"
            why = "trains no head" if recipe.training is None else "finds its clusters while it trains, without k-means"
            raise ConfigError(f"recipe {name} {why}: leave {what} out; it has {groups}")
        try:
            recipe = with_option(recipe, name, path.split("."), text, path)
        except ValueError as error:
            raise ConfigError(f"override {override!r} of recipe {name}: {error}") from error
    return replace(recipe, clusters=clusters or recipe.clusters)


def apart(overrides: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Overrides of the training, and those of its inputs."""
    given = tuple(overrides)
    of_inputs = tuple(one for one in given if one.partition(".")[0] in OF_INPUTS)
    return tuple(one for one in given if one not in of_inputs), of_inputs


def recipe_options(name: str) -> Sequence[OptionLine]:
    """The options of a recipe, as `--set` takes them; ConfigError for an unknown one. Those of its inputs are those of
    the run that makes them.
    """
    recipe = get_recipe(name)
    groups = [(group, getattr(recipe, group)) for group in GROUPS]
    return [
        OptionLine("--clusters", str(recipe.clusters), "how many clusters, 2..255"),
        *(line for group, values in groups if values for line in option_lines(type(values), f"{group}.", values)),
    ]
