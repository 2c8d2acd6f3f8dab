"""Recipes: named compositions of the stages, one for each row of the papers' tables, and how options override them."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from stages.affinity import AffinityConfig
from stages.bipartition import BipartitionConfig
from stages.boundary import BoundaryConfig
from stages.crf import CrfConfig
from stages.filters import FilterConfig
from stages.local_cut import LocalCutConfig
from stages.ncut import NCutConfig
from stages.ncut_tree import TreeConfig
from stages.patch_merging import MergeConfig
from stages.refine import RefineConfig
from stages.score import CONSTANT, OBJECTNESS, PARTS, check_score
from stages.select import SelectConfig
from stages.spatial_confidence import SpatialConfidenceConfig
from stages.spatial_importance import SharpenConfig, SpatialImportanceConfig


@dataclass(frozen=True)
class RoundsConfig:
    """How the rounds of an image follow each other, and when they stop.

    n: rounds at most, 1..256; the papers' N.
    taken_may_return: patches taken by an earlier round may be in a later group (MaskCut, which subtracts earlier masks
    from its output) or not (CutS3D, whose instance leaves its group).
    take_dropped: a dropped mask is taken out of the graph too, so that the next round sees something else. MaskCut
    does not, and spends its next round on the very same cut.
    rest_iou: stop when a group is just what earlier rounds left over, to this IoU, in (0, 1]; None never stops.
    """

    n: int = 3
    taken_may_return: bool = False
    take_dropped: bool = True
    rest_iou: float | None = 0.9

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 256:
            raise ValueError(f"rounds.n must be 1..256, got {self.n}")
        if self.rest_iou is not None and not 0.0 < self.rest_iou <= 1.0:
            raise ValueError(f"rounds.rest_iou must lie in (0, 1] or be none, got {self.rest_iou}")


Search = RoundsConfig | TreeConfig | MergeConfig
# By the names of their options, and the stage that they are listed before.
SEARCHES: dict[str, type[Search]] = {"rounds": RoundsConfig, "tree": TreeConfig, "merge": MergeConfig}
LISTED_BEFORE = {"rounds": "bipartition", "tree": "select", "merge": "select"}
# Stages that not every search reads.
STAGES_OF = {
    "rounds": ("ncut", "bipartition", "filters"),
    "tree": ("ncut", "select", "boundary"),
    "merge": ("select", "boundary"),
}
# Searches that came later: recipes that do not use them do not mention them in run.json, which stays as it was.
NAMED_IF_USED = ("merge",)


@dataclass(frozen=True)
class Recipe:
    """A method: which stages run, with which constants. None switches a stage off.

    search: how the image is searched, by rounds, in a tree of cuts or by merging; an option path says which, as in
        rounds.n. bipartition and filters are of the rounds, boundary and select of the others; merging has no ncut.
    score: "constant", or the product that ranks masks, see `stages.score`.
    """

    name: str
    search: Search
    affinity: AffinityConfig = AffinityConfig()
    spatial_importance: SpatialImportanceConfig | None = None
    sharpen: SharpenConfig = SharpenConfig()
    ncut: NCutConfig = NCutConfig()
    bipartition: BipartitionConfig = BipartitionConfig()
    filters: FilterConfig = FilterConfig()
    select: SelectConfig = SelectConfig()
    local_cut: LocalCutConfig | None = None
    spatial_confidence: SpatialConfidenceConfig | None = None
    boundary: BoundaryConfig | None = None
    refine: RefineConfig = RefineConfig()
    score: str = CONSTANT

    def __post_init__(self) -> None:
        check_score(self.score)
        if self.spatial_confidence is not None and self.local_cut is None:
            raise ValueError("spatial_confidence samples LocalCut's threshold: it needs local_cut")
        by_rounds = isinstance(self.search, RoundsConfig)
        if by_rounds and self.boundary is not None:
            raise ValueError("boundary is a stage of tree and merge recipes: rounds leave masks as they are cut")
        if isinstance(self.search, MergeConfig) and self.search.grouping == "adjacent" and self.spatial_importance:
            raise ValueError("spatial_importance sharpens the similarities of prompts: it needs merge.grouping=prompts")
        if not by_rounds and self.local_cut is not None and self.local_cut.outside == "keep":
            raise ValueError(
                "tree and merge take a group's connected pieces: local_cut.outside must be sever, push or remove"
            )

    @property
    def has_ncut(self) -> bool:
        """Whether the search solves NCuts."""
        return "ncut" in STAGES_OF[self.searched]

    @property
    def needs_attention(self) -> bool:
        """Whether any stage looks at the class token's attention."""
        return isinstance(self.search, MergeConfig) and self.search.min_attention is not None

    @property
    def is_settled(self) -> bool:
        """Whether the thresholds that belong to the features are known."""
        return self.affinity.tau is not None and not (isinstance(self.search, MergeConfig) and self.search.missing)

    @property
    def searched(self) -> str:
        """Name of the search."""
        return next(name for name, kind in SEARCHES.items() if isinstance(self.search, kind))

    @property
    def needs_depth(self) -> bool:
        """Whether any stage looks at depth."""
        return self.local_cut is not None or self.spatial_importance is not None

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for run.json: each search under its name, None where it is not the recipe's."""
        groups = _grouped(dataclasses.asdict(self), type(self.search))
        return {"name": self.name} | {
            name: value for name, value in groups.items() if value is not None or name not in NAMED_IF_USED
        }


def unmeasured_parts(recipe: Mapping[str, Any]) -> frozenset[str]:
    """Parts of the score that a recipe, as run.json has it, does not measure: they are 1 in its product. Imports and
    the methods of other packages measure none.
    """
    if not {"local_cut", "spatial_importance", "spatial_confidence", "tree"} <= recipe.keys():
        return frozenset(PARTS)
    measured = {
        "nearness": recipe["local_cut"] or recipe["spatial_importance"],
        "stability": recipe["spatial_confidence"],
        "novelty": recipe["tree"] or recipe.get("merge"),
    }
    return frozenset(part for part, stage in measured.items() if not stage)


# CutLER's MaskCut as published (Wang et al. 2023): τ of the preset, N = 3, every mask scores 1.
MASKCUT = Recipe("maskcut", RoundsConfig(taken_may_return=True, take_dropped=False, rest_iou=None))

# The rows of CutS3D's ablation table, each on top of the one before.
LOCALCUT = Recipe(
    "localcut", RoundsConfig(), local_cut=LocalCutConfig(), filters=FilterConfig(first_exempt=False),
    score="contrast*uniqueness*nearness*clearance",
)  # fmt: skip
LOCALCUT_IMPORTANCE = dataclasses.replace(
    LOCALCUT, name="localcut_importance", spatial_importance=SpatialImportanceConfig()
)
CUTS3D_ROUNDS = dataclasses.replace(
    LOCALCUT_IMPORTANCE, name="cuts3d_rounds", spatial_confidence=SpatialConfidenceConfig(), score=OBJECTNESS
)

# What wins on photos (docs/decisions/0007-tree-and-score.md): CutS3D's LocalCut and Spatial Confidence in a tree of
# cuts, and a CRF that small masks survive.
CUTS3D = Recipe(
    "cuts3d",
    TreeConfig(),
    local_cut=LocalCutConfig(outside="sever"),
    spatial_confidence=SpatialConfidenceConfig(lowest=1 / 3),
    boundary=BoundaryConfig(),
    refine=RefineConfig(
        size=320, crf=CrfConfig(iterations=5, gaussian_sxy=2.0, bilateral_sxy=10.0, bilateral_srgb=8.0)
    ),
    score=OBJECTNESS,
)

# ProMerge's masks as published (Li & Shin 2024, arXiv 2409.18961), all of them, every one scored 1.
PROMERGE = Recipe("promerge", MergeConfig(), select=SelectConfig(masks=255, same_iou=1.0))

# The papers' methods whole, with the networks that they were published with. τ is that of the features: 0.15 for DINO's
# keys. What of them is not known is said in docs/method.md, "The published methods".
MASKCUT_PUBLISHED = dataclasses.replace(MASKCUT, name="maskcut_published")
PROMERGE_PUBLISHED = dataclasses.replace(PROMERGE, name="promerge_published")
CUTS3D_PUBLISHED = dataclasses.replace(
    CUTS3D_ROUNDS, name="cuts3d_published", local_cut=LocalCutConfig(tau_knn=0.115), score=CONSTANT
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(MASKCUT, LOCALCUT, LOCALCUT_IMPORTANCE, CUTS3D_ROUNDS, CUTS3D, PROMERGE),
        *(MASKCUT_PUBLISHED, PROMERGE_PUBLISHED, CUTS3D_PUBLISHED),
    )
}

# Features and depth where a launch names no others, and those that a recipe comes with.
DEFAULT_FEATURES, DEFAULT_DEPTH = "dinov2_vits14", "fastdepth"
MODELS: dict[str, dict[str, str]] = {
    "maskcut_published": {"features": "dino_vitb8"},
    "promerge_published": {"features": "dino_vitb8"},
    "cuts3d_published": {"features": "dino_vitb8", "depth": "zoedepth"},
}


def get_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of this name with overrides like "local_cut.tau_knn=0.05" applied; ConfigError names what is wrong."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    now = _grouped(vars(recipe), type(recipe.search))
    given = tuple(overrides)
    for override in given:
        path, equals, text = (piece.strip() for piece in override.partition("="))
        if not equals or not path:
            raise ConfigError(f"override {override!r} is not of the form stage.option=value")
        first, *rest = path.split(".")
        try:
            if first not in now:
                raise ValueError(f"there is no {first!r} here; options: {', '.join(now)}")
            hint = _GROUPS[first]
            now[first] = _override(now[first], first, rest, text, path) if rest else _parse(text, hint, path)
        except ValueError as error:
            raise ConfigError(f"override {override!r} of recipe {name}: {error}") from error
    try:
        # all at once: rounds=none tree=on is a recipe, rounds=none alone is none
        return _of_groups(name, now)
    except ValueError as error:
        raise ConfigError(f"recipe {name} with {' '.join(given)}: {error}") from error


def _grouped(fields: Mapping[str, Any], kind: type[Search]) -> dict[str, Any]:
    """The fields of a recipe by the first names of option paths. kind: of its search; the others are None."""
    searches = {name: fields["search"] if search is kind else None for name, search in SEARCHES.items()}
    return {name: searches[name] if name in searches else fields[name] for name in _GROUPS}


def _of_groups(name: str, groups: Mapping[str, Any]) -> Recipe:
    """What `_grouped` took apart; ValueError unless just one search is on."""
    on = [groups[search] for search in SEARCHES if groups[search] is not None]
    if len(on) != 1:
        raise ValueError(f"a recipe searches by {' or by '.join(SEARCHES)}: switch on just one")
    return Recipe(name, on[0], **{name: value for name, value in groups.items() if name not in SEARCHES})


def parse_overrides(kind: type, overrides: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Options like "size=420" as values of the fields of a dataclass type; ConfigError names what is wrong, with the
    prefix that the options were given with.
    """
    hints = typing.get_type_hints(kind)
    values = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"override {prefix + override!r} is not of the form {prefix}option=value")
        if name not in hints:
            raise ConfigError(f"there is no option {prefix + name!r}; options: {', '.join(map(prefix.__add__, hints))}")
        try:
            values[name] = _parse(text, hints[name], prefix + name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return values


def _options(config: type) -> dict[str, Any]:
    """The options of a recipe or stage and their types."""
    return {name: hint for name, hint in typing.get_type_hints(config).items() if name != "name"}


def _all_groups() -> Iterator[tuple[str, Any]]:
    """First names of option paths and their types, in the order in which they are listed."""
    for stage, hint in _options(Recipe).items():
        yield from ((name, kind | None) for name, kind in SEARCHES.items() if LISTED_BEFORE[name] == stage)
        if stage != "search":
            yield stage, hint


_GROUPS = dict(_all_groups())


def _override(stage: Any, name: str, path: list[str], text: str, whole: str) -> Any:
    """A stage's configuration, or that of a part of it, with one option changed."""
    if stage is None:
        raise ValueError(f"this recipe has no {name}: switch it on first, {name}=on, or take one that has it")
    if not dataclasses.is_dataclass(stage) or isinstance(stage, type):
        raise ValueError(f"{name} has no options of its own")
    option, *rest = path
    hints = _options(type(stage))
    if option not in hints:
        raise ValueError(f"there is no {option!r} here; options: {', '.join(hints)}")
    value = _override(getattr(stage, option), option, rest, text, whole) if rest else _parse(text, hints[option], whole)
    return dataclasses.replace(stage, **{option: value})


def _parse(text: str, hint: Any, whole: str) -> Any:
    """A value of the field's type from its text."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if text.lower() == "none":
        if type(None) not in kinds:
            raise ValueError(f"{whole} cannot be none")
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if dataclasses.is_dataclass(kind):
        if text.lower() == "on":
            return typing.cast(type, kind)()
        fields = ", ".join(f"{whole}.{field.name}" for field in dataclasses.fields(kind))
        raise ValueError(f"{whole} is a group of options: set {fields}, or {whole}=none or on to switch it")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{whole} is true or false, got {text!r}")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            raise ValueError(f"{whole} is a number ({kind.__name__}), got {text!r}") from None
        if kind is float and not math.isfinite(number):
            raise ValueError(f"{whole} is a finite number, got {text!r}")
        return number
    return text
