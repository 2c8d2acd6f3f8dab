"""What an import is told: its settings, and the launch of a run that holds them."""

import math
from dataclasses import dataclass, fields
from typing import Self

from pipeline.errors import ConfigError
from pipeline.runs.launch import Launch
from pipeline.storage.locations import absolute

NAME, RECIPE = "coco_import", "import"


@dataclass(frozen=True)
class ImportSettings:
    """What an import takes from `Launch.settings`, as texts there.

    coco: COCO instances file, or list of detections; path or fsspec URL.
    images_of: for a list of detections the COCO file with its images.
    min_score: masks that score less are dropped; a mask without a score has 1.
    """

    coco: str
    images_of: str | None = None
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.min_score):
            raise ConfigError(f"min_score is {self.min_score}: it must be a number")

    @classmethod
    def of(cls, launch: Launch) -> Self:
        """Those of a launch; ConfigError names what is wrong."""
        known = {f.name for f in fields(cls)}
        given = dict(launch.settings)
        if foreign := sorted([*(given.keys() - known), *launch.overrides]):
            raise ConfigError(f"an import has no setting {foreign[0]!r}: it has {', '.join(sorted(known))}")
        if "coco" not in given:
            raise ConfigError("an import needs a COCO file: `cuts3d import-coco FILE --out RUN`")
        try:
            score = float(given.pop("min_score", 0.0))
        except ValueError as error:
            raise ConfigError(f"min_score must be a number: {error}") from error
        return cls(**given, min_score=score)


def launch_of(
    coco: str,
    images: str | None = None,
    images_of: str | None = None,
    min_score: float = 0.0,
    shard_size: int | None = None,
) -> Launch:
    """The launch of an import.

    coco, images_of, min_score: see `ImportSettings`.
    images: folder that the file's names are relative to; None: the file's own folder, or `images` in it.
    shard_size: see `Launch`.
    """
    settings = {"coco": absolute(coco), "min_score": str(min_score)}
    if images_of:
        settings["images_of"] = absolute(images_of)
    return Launch(
        images=settings.get("images_of", settings["coco"]),
        root=images and absolute(images),
        recipe=RECIPE,
        settings=settings,
        shard_size=shard_size,
    )
