"""What decides the result for an image: the recipes of cuts of this package, or whatever another package brings.

A package that is installed with an entry point of the group `cuts3d.methods` adds a recipe name to `cuts3d run`:

    [options.entry_points]
    cuts3d.methods =
        detector = detector.prediction.method:load

`load(overrides, device)` is called with the launch's overrides ("detector.min_score=0.7", as texts) and the device, and
returns a `Method`. Runs made by it have the same store, commits, leases, retries and clusters as all others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.images.manifest import Shard
from pipeline.images.photos import Photo
from pipeline.methods.cuts.stage_files import KeptOutputs, Output
from pipeline.results.instances import ImageRecord
from stages.late import torch


@dataclass(frozen=True)
class Batch:
    """Images to work on together.

    shard: theirs; None for images of no run, by which a method is measured. positions: of the images in the shard.
    photos: of these images; empty when `Method.needs_photos` says so. until: the last stage. kept: outputs of earlier
    launches, by stage. seconds: gathers the time of each stage. pool: processes for what is the CPU's alone.
    """

    shard: Shard | None
    positions: Sequence[int]
    photos: Sequence[Photo]
    until: str = "refine"
    kept: Mapping[str, KeptOutputs] = field(default_factory=dict)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    pool: Executor | None = None


class Method(Protocol):
    """A loaded method on its device. One object serves several threads."""

    @property
    def device(self) -> torch.device: ...

    @property
    def grid(self) -> tuple[int, int]:
        """(Gh, Gw) of the confidences of its instances, the same for all images."""

    def config(self) -> dict[str, Any]:
        """What run.json freezes: all that decides results, JSON-able, with "recipe", a mapping that has a "name"."""

    def needs_photos(self, until: str, kept: Mapping[str, KeptOutputs]) -> bool:
        """Whether anything up to this stage that is not kept looks at the decoded images."""

    def outputs(self, batch: Batch) -> Sequence[Output | ImageRecord]:
        """For each image of the batch a record when `until` is "refine", else what the stage keeps.

        Raises whatever goes wrong: the batch is halved then, down to the image at fault, which is set aside.
        """
