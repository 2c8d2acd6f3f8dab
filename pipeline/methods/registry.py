"""Which methods there are, and how one is loaded: recipes of cuts, and what other packages bring."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint

import torch

from pipeline.errors import ConfigError
from pipeline.methods.cuts.load import load_cuts
from pipeline.methods.cuts.recipes import RECIPES
from pipeline.methods.protocol import Method
from pipeline.models.device import pick_device
from pipeline.plugins import entries, loaded
from pipeline.runs.launch import Launch


def load_method(launch: Launch, device: str, until: str = "refine") -> Method:
    """The method that a launch's recipe names, on a device: a recipe of cuts, or what another package brings."""
    if launch.recipe in RECIPES:
        return load_cuts(launch, device, until)
    if launch.recipe not in other_methods():
        raise ConfigError(f"unknown recipe {launch.recipe!r}; known: {', '.join((*RECIPES, *other_methods()))}")
    if until != "refine":
        raise ConfigError(f"recipe {launch.recipe} has no stage {until}: leave --until out")
    return load_other(launch.recipe, launch.overrides, pick_device(device))


GROUP = "cuts3d.methods"


def other_methods() -> Mapping[str, EntryPoint]:
    """What installed packages add to the recipes, by name."""
    return {entry.name: entry for entry in entries(GROUP)}


def load_other(name: str, overrides: Sequence[str], device: torch.device) -> Method:
    """A method of another package; ExtensionError when it is broken, and what the method itself raises."""
    load: Callable[[Sequence[str], torch.device], Method] = loaded(other_methods()[name])
    return load(overrides, device)
