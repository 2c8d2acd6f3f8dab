"""Which methods there are, and how one is loaded: recipes of cuts, and what other packages bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.cuts.load import load_cuts
from pipeline.methods.cuts.recipes import RECIPES
from pipeline.methods.cuts.settings import cuts_settings
from pipeline.methods.protocol import Method
from pipeline.models.device import pick_device
from pipeline.plugins import entries, loaded
from pipeline.runs.launch import Launch
from stages.late import torch


def load_method(launch: Launch, device: str, until: str = "refine") -> Method:
    """The method that a launch's recipe names, on a device: a recipe of cuts, or what another package brings."""
    if launch.recipe in RECIPES:
        return load_cuts(launch, device, until)
    _check_other(launch, until)
    return load_other(launch.recipe, launch.overrides, pick_device(device))


def known_config(launch: Launch, until: str, files_here: bool = True) -> Mapping[str, Any]:
    """The part of `Method.config` that is known before anything is loaded; raises what `load_method` would by then.

    files_here: whether models are loaded on this machine, so that their files are looked for.
    """
    if launch.recipe in RECIPES:
        return cuts_settings(launch, until, files_here).known()
    _check_other(launch, until)
    return {}


def _check_other(launch: Launch, until: str) -> None:
    if launch.recipe not in other_methods():
        raise ConfigError(f"unknown recipe {launch.recipe!r}; known: {', '.join((*RECIPES, *other_methods()))}")
    if until != "refine":
        raise ConfigError(f"recipe {launch.recipe} has no stage {until}: leave --until out")


GROUP = "cuts3d.methods"


def other_methods() -> Mapping[str, EntryPoint]:
    """What installed packages add to the recipes, by name."""
    return {entry.name: entry for entry in entries(GROUP)}


def load_other(name: str, overrides: Sequence[str], device: torch.device) -> Method:
    """A method of another package; ExtensionError when it is broken, and what the method itself raises."""
    load: Callable[[Sequence[str], torch.device], Method] = loaded(other_methods()[name])
    return load(overrides, device)
