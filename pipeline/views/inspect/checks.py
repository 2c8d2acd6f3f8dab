"""What can be wrong with an inspection, looked for before torch and models are loaded."""

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.images.image_lists import NO_ROOT_REMEDY
from pipeline.images.manifest import ImageRef
from pipeline.images.sources import list_images
from pipeline.methods.cuts.settings import cuts_settings
from pipeline.methods.cuts.stage_graph import NAME
from pipeline.methods.registry import entry_of
from pipeline.models.device import check_device
from pipeline.runs.launch import Launch
from pipeline.storage.outputs import need_folder


def checked_image(image: str, out: str | Path, launch: Launch, device: str) -> ImageRef:
    """The one image; raises as `writing.inspect` does, for all that shows by then."""
    check_device(device)
    if entry_of(launch.recipe).name != NAME:
        raise ConfigError(f"inspect shows the stages of cuts, and recipe {launch.recipe} has none: look at its gallery")
    cuts_settings(launch, None)
    refs = list_images(image, remedy=NO_ROOT_REMEDY).refs
    if len(refs) != 1:
        raise ConfigError(f"{image} holds {len(refs)} images: inspect takes one image")
    need_folder(Path(out))
    return refs[0]
