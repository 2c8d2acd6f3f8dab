"""Which methods there are: those of this package, and what other packages bring."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.images.manifest import Manifest
from pipeline.images.sources import clip_prefix
from pipeline.methods.coco_import.entry import ENTRY as COCO_IMPORT
from pipeline.methods.cups.entry import CUPS_ENTRY, MOTION_ENTRY
from pipeline.methods.cuts.entry import ENTRY as CUTS
from pipeline.methods.depthg.entry import ENTRY as DEPTHG
from pipeline.methods.depthg.inputs_entry import ENTRY as SEMANTIC_INPUTS
from pipeline.methods.option_words import OptionLine, option_lines
from pipeline.methods.protocol import Method, MethodEntry, plain_description
from pipeline.methods.votecut.entry import ENTRY as VOTECUT
from pipeline.models.device import pick_device
from pipeline.plugins import entries, loaded
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.locations import absolute, is_url

GROUP = "cuts3d.methods"

METHODS = (CUTS, VOTECUT, COCO_IMPORT, SEMANTIC_INPUTS, DEPTHG, MOTION_ENTRY, CUPS_ENTRY)


def recipes() -> list[str]:
    """What can be typed as `--recipe`, those of this package first."""
    return [*(name for entry in METHODS for name in entry.recipes), *other_methods()]


def other_methods() -> list[str]:
    """What installed packages add to the recipes."""
    return [entry.name for entry in entries(GROUP)]


def entry_of(recipe: str) -> MethodEntry:
    """The method of a recipe; ConfigError when there is none."""
    for entry in METHODS:
        if recipe in entry.recipes:
            return entry
    if recipe not in other_methods():
        known = ", ".join(recipes())
        raise ConfigError(f"unknown recipe {recipe!r}; known: {known}. If another package brings it, install that here")
    return _of_another_package(recipe)


def stage_of(recipe: str, until: str | None) -> str | None:
    """The stage that `--until` names for a recipe; None for the whole result. ConfigError when there is none."""
    entry = entry_of(recipe)
    if until is None or until == entry.whole:
        return None
    if until not in entry.stages:
        whole = [entry.whole] if entry.whole else []
        known = (
            f"stages of {entry.name} are {', '.join([*entry.stages, *whole])}" if entry.stages else "leave --until out"
        )
        raise ConfigError(f"recipe {recipe} has no stage {until}: {known}")
    return until


def load_method(launch: Launch, device: str, until: str | None = None) -> Method:
    """The method that a launch's recipe names, on a device, up to a stage.

    Raises ConfigError for an unknown recipe or stage, ExtensionError when another package's method is broken, and what
    the method itself raises.
    """
    return entry_of(launch.recipe).load(launch, device, stage_of(launch.recipe, until))


def known_config(launch: Launch, until: str | None, files_here: bool = True) -> Mapping[str, Any]:
    """The part of `Method.config` that is known before anything is loaded; raises what `load_method` would by then.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    return entry_of(launch.recipe).known(launch, stage_of(launch.recipe, until), files_here)


def with_absolute_paths(launch: Launch) -> Launch:
    """The launch with all paths absolute, as it is kept and sent to other processes; ConfigError for an unknown
    recipe.
    """
    images, root = map(_absolute, (launch.images, launch.root))
    return replace(entry_of(launch.recipe).absolute(launch), images=images, root=root)


def _absolute(place: str | None) -> str | None:
    if place is None or is_url(place):
        return place
    prefix = clip_prefix(place)
    return prefix + absolute(place.removeprefix(prefix))


def manifest_of(launch: Launch) -> Manifest:
    """The images of a launch, as its method lists them; ConfigError, SourceError."""
    return entry_of(launch.recipe).manifest(launch)


def describe(method: str, config: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """The configuration of a run in words and values, as its method says it; all settings where it is unknown here."""
    for entry in METHODS:
        if entry.name == method:
            return entry.describe(config)
    return plain_description(config)


def moved_command(run: RunFolder) -> str:
    """What tells a run where its photos have moved to."""
    moved = next((entry.moved for entry in METHODS if entry.name == run.method), MethodEntry.moved)
    return moved.format(run=run.url)


def _of_another_package(name: str) -> MethodEntry:
    """The method that an entry point names; its stages are said by an attribute of what the entry point names."""
    made = loaded(next(entry for entry in entries(GROUP) if entry.name == name))

    def load(launch: Launch, device: str, until: str | None) -> Method:
        known(launch, until, True)
        method: Method = made(launch.overrides, pick_device(device))
        return method

    def known(launch: Launch, until: str | None, files_here: bool) -> Mapping[str, Any]:
        if launch.settings:
            option = next(iter(launch.settings)).replace("_", "-")
            raise ConfigError(
                f"recipe {name} never reads --{option}: its options are given by --set, see `cuts3d recipes {name}`"
            )
        if files_here and (check := getattr(made, "check", None)) is not None:
            check(launch.overrides)
        return {}

    def options(_launch: Launch) -> Sequence[OptionLine]:
        own = getattr(made, "options", None)
        return [] if own is None else list(option_lines(own, f"{name}."))

    about = (getattr(made, "__doc__", None) or "").strip().partition("\n")[0]
    stages = tuple(getattr(made, "stages", ()))
    given: dict[str, Any] = {"absolute": made.absolute} if hasattr(made, "absolute") else {}
    given |= {"known": known, "about": lambda _: about, "options": options, "result": ""}
    return MethodEntry(name, (name,), load, stages, **given)
