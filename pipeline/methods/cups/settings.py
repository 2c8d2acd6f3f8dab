"""What a launch of the recipes motion and cups asks for, checked and put together before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.images.manifest import Manifest
from pipeline.methods.cups.labelled_run import LabelledRun
from pipeline.methods.cups.recipe import CUPS, CupsRecipe, MotionRecipe, read_cups, read_motion
from pipeline.methods.depthg.settings import ModelSettings, model_settings
from pipeline.methods.shared.model_settings import refuse_other_settings, with_absolute_models
from pipeline.models.specs import check_motion, motion_source
from pipeline.runs.launch import Launch, listed_manifest
from pipeline.runs.run_folder import RUN_FILE
from pipeline.storage.files_at import files_at
from pipeline.storage.locations import absolute
from pipeline.wording import few_of, part_of

DEFAULT_MODEL = "opencv"
_PATHS = (f"{CUPS}.checkpoint", f"{CUPS}.semantic")


@dataclass(frozen=True)
class MotionSettings:
    """What a launch of the recipe motion asks for. model: as `load_motion` takes it."""

    recipe: MotionRecipe
    model: str

    def known(self) -> dict[str, Any]:
        """The part of `MotionMethod.config` that needs no model."""
        return {"recipe": self.recipe.as_dict()}


@dataclass(frozen=True, eq=False)
class CupsSettings:
    """What a launch of the recipe cups asks for.

    model: of motion, as `load_motion` takes it.
    labels: the semantic model; None for labels of a run.
    run: the run; None for a model, and where models are loaded on another machine.
    """

    recipe: CupsRecipe
    model: str
    labels: ModelSettings | None
    run: LabelledRun | None

    def known(self) -> dict[str, Any]:
        """The part of `CupsMethod.config` that needs no model."""
        of_labels = {} if self.labels is None else self.labels.known()
        of_run = {} if self.run is None else {"semantic": self.run.facts()}
        return {"recipe": self.recipe.as_dict(), **of_labels, **of_run}


def motion_settings(launch: Launch, files_here: bool = True) -> MotionSettings:
    """The settings of a launch of the recipe motion. Raises ConfigError, WeightsError for what is wrong.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    recipe = read_motion(launch.overrides)
    refuse_other_settings(launch, ("motion",))
    return MotionSettings(recipe, _motion_model(launch, files_here))


def cups_settings(launch: Launch, files_here: bool = True) -> CupsSettings:
    """The settings of a launch of the recipe cups. Raises ConfigError, WeightsError, and StoreError for a run that is
    not there or not finished. files_here: as above.
    """
    recipe = read_cups(launch.overrides)
    refuse_other_settings(launch, settings_of(recipe))
    model = _motion_model(launch, files_here)
    if recipe.labels is not None:
        return CupsSettings(recipe, model, model_settings(launch, recipe.labels, files_here), None)
    return CupsSettings(recipe, model, None, LabelledRun.open(recipe.semantic) if files_here else None)


def settings_of(recipe: CupsRecipe) -> tuple[str, ...]:
    """Names of the settings that the recipe reads."""
    return ("motion",) if recipe.semantic else ("motion", "features")


def _motion_model(launch: Launch, files_here: bool) -> str:
    model = launch.settings.get("motion", DEFAULT_MODEL)
    (check_motion if files_here else motion_source)(model)
    return model


def absolute_launch(launch: Launch) -> Launch:
    """The launch with the paths of models, of stored maps and of the semantic run absolute."""
    return replace(with_absolute_models(launch), overrides=tuple(map(_absolute, launch.overrides)))


def _absolute(override: str) -> str:
    name, _, value = (piece.strip() for piece in override.partition("="))
    return f"{name}={absolute(value)}" if name in _PATHS and value and value.lower() != "none" else override


def clips_of(launch: Launch) -> Manifest:
    """The clips of a launch; ConfigError where its images are photos alone, and what `listed_manifest` raises."""
    manifest = listed_manifest(launch)
    if not any(ref.clip for ref in manifest.refs):
        raise ConfigError(
            f"recipe {launch.recipe} needs stereo video, and {launch.images} has photos alone: give --images "
            "cityscapes:FOLDER, kitti:FOLDER or clips:FILE"
        )
    return manifest


def labelled_clips_of(launch: Launch) -> Manifest:
    """The same of the recipe cups; ConfigError where its run of semantic labels has other images."""
    manifest = clips_of(launch)
    place = read_cups(launch.overrides).semantic
    if place and files_at(place).exists(RUN_FILE):  # or it is on the machines that do the work
        _refuse_missing(LabelledRun.open(place).lacking([ref.id for ref in manifest.refs]), manifest, place)
    return manifest


def _refuse_missing(missing: Sequence[str], manifest: Manifest, place: str) -> None:
    if missing:
        some = part_of(len(missing), len(manifest), "left picture")
        raise ConfigError(
            f"{some} not in {CUPS}.semantic={place}: {few_of(missing)}; "
            "make that run of the same --images, for instance by --recipe depthg, so that pictures have the same names"
        )


def describe_motion(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model of motion, size and ensemble of a run's configuration."""
    recipe = config["recipe"]
    side, movers = recipe["motion"]["side"], recipe["movers"]
    size = "the pictures' size" if side is None else f"{side} x {2 * side} px at most"
    return [
        ("motion", f"{config['motion']['name']}, at {size}"),
        ("movers", f"{movers['runs']} runs, agreement {movers['agreement']:g}, background {movers['background']}"),
    ]
