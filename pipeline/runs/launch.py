"""The settings of a run as a user gives them, kept beside it for the next launch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StoreError
from pipeline.images.manifest import Manifest, default_shard_size
from pipeline.images.sources import list_images
from pipeline.runs.run_folder import RUN_FILE, RunFolder
from pipeline.storage.files_at import files_at
from pipeline.storage.locations import refuse_secrets

LAUNCH_FILE = "launch.json"


@dataclass(frozen=True)
class Launch:
    """The settings of a run, as a user gives them. They are kept beside the run (launch.json), so that a later launch
    need not repeat them; what decides results is frozen in run.json.

    images: folder, list, tar or COCO file, see `list_images`; None takes the run's own manifest.
    root: what relative names in it are relative to.
    recipe: name of a recipe.
    settings: further words that the recipe's method takes, by name: features, depth, depth_kind for cuts. The method
        checks them, and has defaults for what is not there.
    overrides: "stage.option=value".
    shard_size: images per shard; None picks one from the number of images.
    """

    images: str | None = None
    root: str | None = None
    recipe: str = "cuts3d"
    settings: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    shard_size: int | None = None

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shard_size < 1:
            raise ConfigError(f"shard size must be at least 1, got {self.shard_size}")
        for value in (self.images, self.root, *self.settings.values(), *self.overrides):
            refuse_secrets(value or "")

    def as_dict(self) -> dict[str, Any]:
        """What launch.json holds: JSON-able, settings beside the rest."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "settings"}
        return {**plain, **self.settings, "overrides": list(self.overrides)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Launch":
        """Inverse of `as_dict`. ValueError, TypeError when a value is of the wrong kind."""
        own = {f.name for f in fields(cls)} - {"settings"}
        settings = {name: str(value) for name, value in values.items() if name not in own and value is not None}
        plain = {name: value for name, value in values.items() if name in own}
        return cls(**{**plain, "settings": settings, "overrides": tuple(plain.get("overrides", ()))})


def keep_launch(folder: RunFolder, launch: Launch) -> None:
    """Remember the settings for `last_launch`."""
    folder.files.write_atomic(LAUNCH_FILE, json.dumps(launch.as_dict(), indent=1, ensure_ascii=False).encode())


def last_launch(out: str | Path) -> Launch:
    """The settings of the last launch of a run; StoreError when there is no run, or nothing is known of its launch."""
    files = RunFolder.open(out).files
    try:
        return Launch.from_dict(json.loads(files.read_bytes(LAUNCH_FILE)))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"{LAUNCH_FILE} of {files.url} cannot be read ({error}): give the settings again") from error


def with_own_shard_size(launch: Launch, out: str | Path) -> Launch:
    """The launch with the shard size that the run has already, where there is a run and the launch does not say."""
    if launch.shard_size is not None or launch.images is None or not files_at(out).exists(RUN_FILE):
        return launch
    try:
        return replace(launch, shard_size=RunFolder.open(out).manifest.shard_size)
    except StoreError:  # the launch restores a manifest that is lost
        return launch


def listed_manifest(launch: Launch) -> Manifest:
    """The manifest of the launch's images; ConfigError or SourceError when they cannot be listed."""
    if launch.images is None:
        raise ConfigError("there are no images to list: give a folder, list, tar or COCO file")
    listing = list_images(launch.images, launch.root)
    return Manifest(listing.refs, launch.shard_size or default_shard_size(len(listing.refs)))
