"""Labels of a trained semantic model as a method of the registry."""

from collections.abc import Mapping
from typing import Any

from pipeline.methods.depthg.recipe import ABOUT, NAME, recipe_lines
from pipeline.methods.depthg.settings import absolute_launch, describe, label_settings, settings_read
from pipeline.methods.protocol import Method, MethodEntry
from pipeline.results.semantic_kind import NAME as SEMANTIC
from pipeline.runs.launch import Launch


def _load(launch: Launch, device: str, until: str | None) -> Method:
    from pipeline.methods.depthg.load import load_labels  # torch, and the networks' libraries

    return load_labels(launch, device)


def _known(launch: Launch, until: str | None, files_here: bool) -> Mapping[str, Any]:
    return label_settings(launch, files_here).known()


ENTRY = MethodEntry(
    NAME,
    (NAME,),
    _load,
    known=_known,
    describe=describe,
    about=lambda _: ABOUT,
    options=recipe_lines,
    absolute=absolute_launch,
    reads=settings_read,
    result=SEMANTIC,
)
