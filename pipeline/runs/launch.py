"""The settings of a run as a user gives them, kept beside it for the next launch."""

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.errors import ConfigError, StoreError
from pipeline.images.manifest import Manifest, default_shard_size
from pipeline.images.sources import list_images
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.locations import refuse_secrets

log = logging.getLogger(__name__)


LAUNCH_FILE = "launch.json"


@dataclass(frozen=True)
class Launch:
    """The settings of a run, as a user gives them. They are kept beside the run (launch.json), so that a later launch
    need not repeat them; what decides results is frozen in run.json.

    images: folder, list, tar or COCO file, see `list_images`; None goes on with the run's own manifest. root: what
    relative names in it are relative to.
    recipe: name of a recipe. features, depth: see `load_features`, `load_depth`. depth_kind: "depth" or
    "inverse_depth", overrides what is known of the model's output. overrides: "stage.option=value". shard_size: images
    a shard; None picks one from the number of images.
    """

    images: str | None = None
    root: str | None = None
    recipe: str = "cuts3d"
    features: str = "dinov2_vits14"
    depth: str = "fastdepth"
    depth_kind: str | None = None
    overrides: tuple[str, ...] = ()
    shard_size: int | None = None

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shard_size < 1:
            raise ConfigError(f"shard size must be at least 1, got {self.shard_size}")
        if self.depth_kind not in (None, "depth", "inverse_depth"):
            raise ConfigError(f"depth kind must be depth or inverse_depth, got {self.depth_kind!r}")
        for value in (self.images, self.root, self.features, self.depth, *self.overrides):
            refuse_secrets(value or "")


def keep_launch(folder: RunFolder, launch: Launch) -> None:
    """Remember the settings for `last_launch`."""
    folder.files.write_atomic(LAUNCH_FILE, json.dumps(asdict(launch), indent=1, ensure_ascii=False).encode())


def last_launch(out: str | Path) -> Launch:
    """The settings of the last launch of a run, StoreError when there is none, ConfigError when it is an import."""
    folder = RunFolder.open(out)
    if folder.config["recipe"]["name"] == IMPORT:
        raise ConfigError(
            f"{folder.url} holds masks that were imported, there is no method to make them: the same `cuts3d "
            "import-coco` goes on with it, and tries again what was set aside"
        )
    files = folder.files
    try:
        settings = json.loads(files.read_bytes(LAUNCH_FILE))
        known = {f.name for f in fields(Launch)}
        settings = {name: value for name, value in settings.items() if name in known}
        return Launch(**{**settings, "overrides": tuple(settings.get("overrides", ()))})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"{LAUNCH_FILE} of {files.url} cannot be read ({error}): give the settings again") from error


def listed_manifest(launch: Launch) -> Manifest:
    """The manifest of the launch's images; ConfigError or SourceError when they cannot be listed."""
    if launch.images is None:
        raise ConfigError("there are no images to list: give a folder, list, tar or COCO file")
    listing = list_images(launch.images, launch.root)
    skipped = ", ".join(f"{count} {name}" for name, count in sorted(listing.skipped.items()))
    log.info("%d images in %s%s", len(listing.refs), launch.images, f" (passed over: {skipped})" if skipped else "")
    return Manifest(listing.refs, launch.shard_size or default_shard_size(len(listing.refs)))


# What run.json has for the recipe of masks that came from elsewhere: no method made them here.
IMPORT = "import"
