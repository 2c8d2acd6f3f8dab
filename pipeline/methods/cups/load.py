"""The models of a launch, loaded."""

from pipeline.methods.cups.method import CupsMethod
from pipeline.methods.cups.motion_method import MotionMethod
from pipeline.methods.cups.motion_work import MoverSearch
from pipeline.methods.cups.recipe import MotionRecipe
from pipeline.methods.cups.settings import cups_settings, motion_settings
from pipeline.methods.depthg.load import load_labeller
from pipeline.models.device import pick_device
from pipeline.models.load import load_motion
from pipeline.runs.launch import Launch
from stages.late import torch


def load_motion_method(launch: Launch, device: str) -> MotionMethod:
    """The recipe motion of a launch, on a device."""
    settings = motion_settings(launch)
    return MotionMethod(_search(settings.recipe, settings.model, pick_device(device)))


def load_cups(launch: Launch, device: str) -> CupsMethod:
    """The recipe cups of a launch, on a device."""
    settings, on = cups_settings(launch), pick_device(device)
    search = _search(settings.recipe.finding, settings.model, on)
    if settings.labels is not None:
        return CupsMethod(search, load_labeller(settings.labels, on))
    assert settings.run is not None  # its files are here
    return CupsMethod(search, settings.run)


def _search(recipe: MotionRecipe, model: str, device: torch.device) -> MoverSearch:
    return MoverSearch(recipe, load_motion(model, device))
