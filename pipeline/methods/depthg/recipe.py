"""The recipe that labels photos with a trained model: its options, and which of them it reads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from pipeline.errors import ConfigError
from pipeline.methods.option_words import OptionLine, field_words, option_lines
from pipeline.methods.overrides import path_and_text, with_option
from pipeline.runs.launch import Launch
from stages.features import FeatureConfig
from stages.semantics.labelling import LabelRefineConfig
from stages.semantics.windows import WindowConfig

NAME = "depthg"
ABOUT = "semantic labels by a model of `cuts3d train-semantic`, whichever recipe trained it: depthg, stego, kmeans, …"
OF_FEATURES = ("size", "precision")  # the others are the model's

View = Literal["squares", "squeezed"]


@dataclass(frozen=True)
class LabelRecipe:
    """How a trained model labels a photo.

    checkpoint: the model, the folder of `cuts3d train-semantic` or a file.
    view: squares looks at the photo in squares of its short side, so that things have their shape, as in training;
        squeezed in one square that the whole photo is squeezed into, which costs one pass.
    overlap: of neighbouring squares, at least, as a share of their side, 0..0.5; where they overlap one fades into the
        other. A photo of 4:3 or 16:9 takes two squares either way, one of 2:1 three, with 0 two.
    mirror: average the codes with those of the mirrored photo, as published; costs as many passes again.
    windows: see the photo from nearer, too, and mix both; windows=on, or any option of theirs, switches them on.
    refine: what becomes of the labels at the size of the photo.
    """

    checkpoint: str
    view: View = "squares"
    overlap: float = 0.2
    mirror: bool = True
    windows: WindowConfig | None = None
    refine: LabelRefineConfig = field(default_factory=LabelRefineConfig)

    def __post_init__(self) -> None:
        if self.view not in get_args(View):
            raise ValueError(f"view must be one of {', '.join(get_args(View))}, got {self.view!r}")
        if not 0 <= self.overlap <= 0.5:
            raise ValueError(f"overlap must be in 0..0.5, got {self.overlap}")

    @property
    def needs_depth(self) -> bool:
        """Whether distances decide how windows are mixed."""
        return self.windows is not None and self.windows.whole_share is None

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for run.json."""
        return {"name": NAME, **self.options()}

    def options(self) -> dict[str, Any]:
        """The same without a name. The model is known in run.json by what is in it, not by where it is."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint"}


def read_recipe(overrides: Sequence[str]) -> LabelRecipe:
    """The recipe with overrides like "depthg.mirror=false"; ConfigError names what is wrong, or never read."""
    recipe = read_options(overrides, NAME, LabelRecipe(""), "features.size and features.precision")
    if not recipe.checkpoint:
        raise ConfigError(
            f"recipe {NAME} needs a trained model: --set {NAME}.checkpoint=MODEL, from `cuts3d train-semantic`"
        )
    return recipe


def read_options(overrides: Sequence[str], name: str, start: LabelRecipe, others: str) -> LabelRecipe:
    """How a model labels photos in a recipe of this name, changed by overrides like "NAME.mirror=false"; ConfigError
    names what is wrong, or never read. others: options that the recipe has besides, for the message.
    """
    recipe, paths = start, []
    for override in overrides:
        path, text = path_and_text(override, f"{name}.option=value")
        if not path.startswith(f"{name}."):
            raise ConfigError(f"recipe {name} has no option {path!r}: its options are {name}.…, {others}")
        try:
            recipe = _with(recipe, name, path, text)
        except ValueError as error:
            raise ConfigError(f"override {override!r} of recipe {name}: {error}") from error
        paths.append(path)
    for path in paths:
        if why := _why_unread(recipe, name, path):
            raise ConfigError(f"recipe {name} never reads {path}, {why}")
    return recipe


def _with(recipe: LabelRecipe, name: str, path: str, text: str) -> LabelRecipe:
    _, first, *rest = path.split(".")
    if first == "windows" and rest and recipe.windows is None:
        recipe = replace(recipe, windows=WindowConfig())
    if path.startswith(f"{name}.refine.crf.") and recipe.refine.crf is None:
        raise ValueError(f"there is no CRF: leave {name}.refine.crf=none out")
    if path == f"{name}.refine.crf" and text.lower() == "on":
        return recipe  # it is, with other constants than those of a CRF elsewhere
    changed: LabelRecipe = with_option(recipe, name, [first, *rest], text, path)
    return changed


def _why_unread(recipe: LabelRecipe, name: str, path: str) -> str:
    """Why the recipe does not read an option; "" when it does."""
    if path == f"{name}.refine.side" and recipe.refine.crf is None:
        return f"since {name}.refine.crf is none"
    if path == f"{name}.overlap" and recipe.view != "squares":
        return f"since {name}.view is {recipe.view}"
    if path == f"{name}.windows.metres" and not recipe.needs_depth:
        return f"since {name}.windows.whole_share is given"
    return ""


def recipe_lines(launch: Launch) -> list[OptionLine]:
    """All options, with the words of their docstrings; the windows' as they are when they are switched on."""
    lines = []
    for line in option_lines(LabelRecipe, f"{NAME}.", LabelRecipe("to be given")):
        lines.append(line)
        if line.path == f"{NAME}.windows":
            lines += option_lines(WindowConfig, f"{NAME}.windows.")
    return [
        features_line(launch),
        OptionLine("--depth", launch.settings.get("depth", "none"), "maps:FOLDER of distances, which mix windows."),
        *lines,
        *feature_lines(),
    ]


def features_line(launch: Launch) -> OptionLine:
    """The option --features of a recipe that labels with a model."""
    given = launch.settings.get("features", "the model's")
    return OptionLine("--features", given, "where the weights of its features are.")


def feature_lines() -> list[OptionLine]:
    """What can be set of the model's features."""
    words = field_words(FeatureConfig)
    return [OptionLine(f"features.{name}", "the model's", words[name]) for name in OF_FEATURES]
