"""Recipes: named compositions of the stages, one for each row of the papers' tables, and how options override them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.overrides import options_of, parsed, path_and_text, with_option
from stages.affinity import AffinityConfig
from stages.bipartition import BipartitionConfig
from stages.boundary import BoundaryConfig
from stages.crf import CrfConfig
from stages.filters import FilterConfig
from stages.hierarchy import HierarchyConfig
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


Search = RoundsConfig | TreeConfig | MergeConfig | HierarchyConfig
# By the names of their options, and the stage that they are listed before.
SEARCHES: dict[str, type[Search]] = {
    **{"rounds": RoundsConfig, "tree": TreeConfig},
    **{"merge": MergeConfig, "hierarchy": HierarchyConfig},
}
LISTED_BEFORE = {"rounds": "bipartition", "tree": "select", "merge": "select", "hierarchy": "select"}
# Stages that not every search reads.
_IN_3D = ("spatial_importance", "sharpen", "local_cut", "spatial_confidence")
STAGES_OF = {
    "rounds": ("ncut", "bipartition", "filters", *_IN_3D),
    "tree": ("ncut", "select", "boundary", *_IN_3D),
    "merge": ("select", "boundary", *_IN_3D),
    "hierarchy": ("select",),
}
# Searches that came later: recipes that do not use them do not mention them in run.json, which stays as it was.
NAMED_IF_USED = ("merge", "hierarchy")


@dataclass(frozen=True)
class Recipe:
    """A method: which stages run, with which constants. None switches a stage off.

    search: how the image is searched, by rounds, in a tree of cuts, by merging masks of prompts or in a hierarchy of
        merged regions; an option path says which, as in rounds.n. bipartition and filters are of the rounds, boundary
        of tree and merge, select of all but the rounds; the last two have no ncut, and regions do not look at depth.
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
        search, local_cut = self.search, self.local_cut
        by_rounds, is_hierarchy = isinstance(search, RoundsConfig), isinstance(search, HierarchyConfig)
        if (by_rounds or is_hierarchy) and self.boundary is not None:
            raise ValueError(
                "boundary is a stage of tree and merge recipes, the others leave masks as they are found: "
                "boundary must be none"
            )
        if is_hierarchy and self.needs_depth:
            raise ValueError("hierarchy merges by features alone: local_cut and spatial_importance must be none")
        if isinstance(search, MergeConfig) and search.grouping == "adjacent" and self.spatial_importance:
            raise ValueError("spatial_importance sharpens the similarities of prompts: it needs merge.grouping=prompts")
        if not by_rounds and local_cut is not None and local_cut.outside == "keep":
            raise ValueError(
                "tree and merge take a group's connected pieces: local_cut.outside must be sever, push or remove"
            )

    @property
    def needs_attention(self) -> bool:
        """Whether any stage looks at the class token's attention."""
        return isinstance(self.search, MergeConfig) and self.search.min_attention is not None

    @property
    def searched(self) -> str:
        """Name of the search."""
        return next(name for name, kind in SEARCHES.items() if isinstance(self.search, kind))

    @property
    def has_ncut(self) -> bool:
        """Whether the search solves NCuts."""
        return "ncut" in STAGES_OF[self.searched]

    @property
    def is_settled(self) -> bool:
        """Whether all thresholds that belong to the features are known."""
        return self.affinity.tau is not None and getattr(self.search, "is_settled", True)

    @property
    def needs_depth(self) -> bool:
        """Whether any stage looks at depth."""
        return self.local_cut is not None or self.spatial_importance is not None

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for run.json: each search under its name, None where it is not the recipe's."""
        groups = _grouped(dataclasses.asdict(self), type(self.search))
        return {"name": self.name} | {
            name: _plain(value) for name, value in groups.items() if value is not None or name not in NAMED_IF_USED
        }


def _plain(value: Any) -> Any:
    """With lists for tuples, as JSON gives them back."""
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    return list(value) if isinstance(value, tuple) else value


def unmeasured_parts(recipe: Mapping[str, Any]) -> frozenset[str]:
    """Parts of the score that a recipe, as run.json has it, does not measure: they are 1 in its product. Imports and
    the methods of other packages measure none.
    """
    if not {"local_cut", "spatial_importance", "spatial_confidence", "tree"} <= recipe.keys():
        return frozenset(PARTS)
    measured = {
        "nearness": recipe["local_cut"] or recipe["spatial_importance"],
        "stability": recipe["spatial_confidence"],
        "novelty": recipe["tree"] or recipe.get("merge") or recipe.get("hierarchy"),
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

# HASSOD's merged regions (Cao et al. 2023), nothing twice and no specks, ranked by what is known without depth.
HASSOD = Recipe(
    "hassod", HierarchyConfig(min_area=1 / 400), select=SelectConfig(masks=255),
    score="contrast*uniqueness*clearance*novelty",
)  # fmt: skip
# ProMerge's masks as published (Li & Shin 2024, arXiv 2409.18961), all of them, every one scored 1.
PROMERGE = Recipe("promerge", MergeConfig(), select=SelectConfig(masks=255, same_iou=1.0))

# The parts that help a tree of cuts, on merged masks; an image without background is searched, too
# (docs/decisions/0024-promerge.md).
PROMERGE3D = Recipe(
    "promerge3d",
    MergeConfig(need_background=False),
    local_cut=CUTS3D.local_cut,
    spatial_confidence=CUTS3D.spatial_confidence,
    boundary=CUTS3D.boundary,
    refine=CUTS3D.refine,
    score=CUTS3D.score,
)

# The papers' methods whole, with the networks that they were published with. τ is that of the features: 0.15 for DINO's
# keys. What of them is not known is said in docs/method.md, "The published methods".
MASKCUT_PUBLISHED = dataclasses.replace(MASKCUT, name="maskcut_published")
HASSOD_PUBLISHED = Recipe("hassod_published", HierarchyConfig(), select=SelectConfig(masks=255, same_iou=1.0))
PROMERGE_PUBLISHED = dataclasses.replace(PROMERGE, name="promerge_published")
CUTS3D_PUBLISHED = dataclasses.replace(
    CUTS3D_ROUNDS, name="cuts3d_published", local_cut=LocalCutConfig(tau_knn=0.115), score=CONSTANT
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(MASKCUT, LOCALCUT, LOCALCUT_IMPORTANCE, CUTS3D_ROUNDS, CUTS3D, HASSOD, PROMERGE, PROMERGE3D),
        *(MASKCUT_PUBLISHED, HASSOD_PUBLISHED, PROMERGE_PUBLISHED, CUTS3D_PUBLISHED),
    )
}

# Features and depth where a launch names no others, and those that a recipe comes with.
DEFAULT_FEATURES, DEFAULT_DEPTH = "dinov2_vits14", "fastdepth"
MODELS: dict[str, dict[str, str]] = {
    "maskcut_published": {"features": "dino_vitb8"},
    "hassod_published": {"features": "dino_vitb8"},
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
        path, text = path_and_text(override)
        first, *rest = path.split(".")
        try:
            if first not in now:
                raise ValueError(f"there is no {first!r} here; options: {', '.join(now)}")
            hint = _GROUPS[first]
            now[first] = with_option(now[first], first, rest, text, path) if rest else parsed(text, hint, path)
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


def _all_groups() -> Iterator[tuple[str, Any]]:
    """First names of option paths and their types, in the order in which they are listed."""
    for stage, hint in options_of(Recipe).items():
        yield from ((name, kind | None) for name, kind in SEARCHES.items() if LISTED_BEFORE[name] == stage)
        if stage != "search":
            yield stage, hint


_GROUPS = dict(_all_groups())
