"""The recipes motion and cups: their options, and which of them they read."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.depthg.recipe import LabelRecipe, feature_lines, features_line, read_options
from pipeline.methods.option_words import OptionLine, option_lines
from pipeline.methods.overrides import options_of, path_and_text, path_of, with_override
from pipeline.runs.launch import Launch
from stages.motion.movers_config import MoversConfig
from stages.semantics.labelling import LabelRefineConfig
from stages.semantics.windows import WindowConfig

MOTION, CUPS = "motion", "cups"
ABOUT = {
    MOTION: "masks of what moves, from stereo video; the score is the agreement of runs",
    CUPS: "panoptic labels from stereo video: what moves, and the semantic labels of a model or of a run",
}
_OF_MOTION = ("motion.", "movers.")  # overrides that both recipes take
# How a model labels the left picture unless options say otherwise: as published, in windows mixed by distance, and with
# the CRF at the size at which motion is looked at.
LABELS = LabelRecipe("", windows=WindowConfig(), refine=LabelRefineConfig(side=640))


@dataclass(frozen=True)
class MotionOptions:
    """At which size motion is looked at, and where movers are kept.

    side: pixels, at least 64: pictures that are higher, or more than twice as wide, are made smaller first. 640 makes
        Cityscapes' 640×1280, as published, and leaves KITTI's as they are. None leaves all as they are.
    border: share of the width, 0..0.4, at the left and at the right in which no mover is kept.
    seed: of the proposals of motions, at least 0; the same for all clips.
    """

    side: int | None = 640
    border: float = 0.025
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 64:
            raise ValueError(f"motion.side must be at least 64 or none, got {self.side}")
        if not 0 <= self.border <= 0.4:
            raise ValueError(f"motion.border must be in 0..0.4, got {self.border}")
        if self.seed < 0:
            raise ValueError(f"motion.seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class MotionRecipe:
    """How movers are found in a clip. movers: see there."""

    motion: MotionOptions = MotionOptions()
    movers: MoversConfig = MoversConfig()

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for run.json."""
        return {"name": MOTION, **asdict(self)}


@dataclass(frozen=True)
class CupsRecipe:
    """Where panoptic labels of a clip come from: movers, and semantic labels of a model or of a run.

    semantic: in place of a model, a finished run of semantic labels of the same left pictures, folder or URL.
    labels: how the model labels the left picture; None where there is a run.
    """

    semantic: str = ""
    labels: LabelRecipe | None = None
    finding: MotionRecipe = field(default_factory=MotionRecipe)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for run.json. Model and run are known there by what is in them."""
        labels = None if self.labels is None else self.labels.options()
        return {"name": CUPS, **asdict(self.finding), "labels": labels}


def read_motion(overrides: Sequence[str], name: str = MOTION) -> MotionRecipe:
    """How movers are found, with overrides like "movers.runs=4"; ConfigError names what is wrong. name: of the
    recipe.
    """
    recipe = MotionRecipe()
    for override in overrides:
        path, _ = path_and_text(override)
        if not path.startswith(_OF_MOTION):
            raise ConfigError(f"recipe {name} has no option {path!r}: its options are motion.… and movers.…")
        recipe = with_override(recipe, name, override)
    return recipe


def read_cups(overrides: Sequence[str]) -> CupsRecipe:
    """The recipe with overrides like "cups.checkpoint=MODEL"; those of features are another's. ConfigError names what
    is wrong, or never read.
    """
    of_motion = _of_motion(overrides)
    finding = read_motion(of_motion, CUPS)
    semantic, of_labels = _semantic([one for one in overrides if one not in of_motion])
    paths = list(map(path_of, of_labels))
    if semantic:
        if paths:
            raise ConfigError(f"recipe {CUPS} never reads {paths[0]}, since {CUPS}.semantic is given")
        return CupsRecipe(semantic, None, finding)
    known = sorted({*options_of(LabelRecipe), "semantic"})
    for path in paths:
        if path.startswith(f"{CUPS}.") and path.split(".")[1] not in known:
            raise ConfigError(f"recipe {CUPS} has no option {path}: of {CUPS}.… there are {', '.join(known)}")
    of_model = [one for one in of_labels if not one.startswith("features.")]
    labels = read_options(of_model, CUPS, LABELS, "motion.…, movers.…, features.size and features.precision")
    if f"{CUPS}.windows.metres" in paths:
        raise ConfigError(f"recipe {CUPS} never reads {CUPS}.windows.metres, since the clip's camera says it")
    if not labels.checkpoint:
        raise ConfigError(
            f"recipe {CUPS} needs semantic labels: --set {CUPS}.checkpoint=MODEL, from `cuts3d train-semantic`, or "
            f"--set {CUPS}.semantic=RUN, a run of them on the same left pictures"
        )
    return CupsRecipe("", labels, finding)


def _of_motion(overrides: Sequence[str]) -> list[str]:
    return [one for one in overrides if one.strip().startswith(_OF_MOTION)]


def _semantic(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The run that overrides name, "" for none, and the other overrides."""
    found, others = "", []
    for override in overrides:
        path, _, text = (piece.strip() for piece in override.partition("="))
        if path == f"{CUPS}.semantic":
            found = "" if text.lower() == "none" else text
        else:
            others.append(override)
    return found, others


def motion_lines(launch: Launch) -> list[OptionLine]:
    """All options of the recipe motion, with the words of their docstrings."""
    return [_motion_line(launch), *_finding_lines(read_motion(launch.overrides))]


def cups_lines(launch: Launch) -> list[OptionLine]:
    """All options of the recipe cups, those of the labels as they are with a model."""
    words = {line.path: line.words for line in option_lines(CupsRecipe, f"{CUPS}.")}
    labels = replace(LABELS, checkpoint="to be given")
    return [
        _motion_line(launch),
        features_line(launch),
        OptionLine(f"{CUPS}.semantic", "none", words[f"{CUPS}.semantic"]),
        *(line for line in option_lines(LabelRecipe, f"{CUPS}.", labels) if line.path != f"{CUPS}.windows.metres"),
        *_finding_lines(read_motion(_of_motion(launch.overrides), CUPS)),
        *feature_lines(),
    ]


def _motion_line(launch: Launch) -> OptionLine:
    words = "flow and disparity: opencv, raft-things, raft=FILE, or maps:FOLDER of one's own."
    return OptionLine("--motion", launch.settings.get("motion", "opencv"), words)


def _finding_lines(recipe: MotionRecipe) -> Iterator[OptionLine]:
    yield from option_lines(MotionRecipe, "", recipe)
