"""The recipes motion and cups as methods of the registry."""

from collections.abc import Mapping
from typing import Any

from pipeline.methods.cups.recipe import ABOUT, CUPS, MOTION, cups_lines, motion_lines, read_cups
from pipeline.methods.cups.settings import (
    absolute_launch,
    clips_of,
    cups_settings,
    describe_motion,
    labelled_clips_of,
    motion_settings,
    settings_of,
)
from pipeline.methods.depthg.settings import describe_labels
from pipeline.methods.protocol import Method, MethodEntry
from pipeline.results.panoptic_kind import NAME as PANOPTIC
from pipeline.runs.launch import Launch

_MOVED = "cuts3d run --out {run} --images CLIPS"


def _load_motion(launch: Launch, device: str, until: str | None) -> Method:
    from pipeline.methods.cups.load import load_motion_method  # torch

    return load_motion_method(launch, device)


def _load_cups(launch: Launch, device: str, until: str | None) -> Method:
    from pipeline.methods.cups.load import load_cups  # torch, and the networks' libraries

    return load_cups(launch, device)


def _known_motion(launch: Launch, until: str | None, files_here: bool) -> Mapping[str, Any]:
    return motion_settings(launch, files_here).known()


def _known_cups(launch: Launch, until: str | None, files_here: bool) -> Mapping[str, Any]:
    return cups_settings(launch, files_here).known()


def _describe_cups(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the recipe motion says, and where the labels are from."""
    labels = config["recipe"]["labels"]
    semantic = [("labels", f"of a run of {config['semantic']['recipe']}")] if labels is None else []
    return [*describe_motion(config), *(semantic or describe_labels(config, labels))]


MOTION_ENTRY = MethodEntry(
    MOTION,
    (MOTION,),
    _load_motion,
    known=_known_motion,
    manifest=clips_of,
    describe=describe_motion,
    about=lambda recipe: ABOUT[recipe],
    options=motion_lines,
    absolute=absolute_launch,
    reads=lambda launch: ("motion",),
    moved=_MOVED,
)

CUPS_ENTRY = MethodEntry(
    CUPS,
    (CUPS,),
    _load_cups,
    known=_known_cups,
    manifest=labelled_clips_of,
    describe=_describe_cups,
    about=lambda recipe: ABOUT[recipe],
    options=cups_lines,
    absolute=absolute_launch,
    reads=lambda launch: settings_of(read_cups(launch.overrides)),
    moved=_MOVED,
    result=PANOPTIC,
)
