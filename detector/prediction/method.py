"""A run whose method is a trained detector: `cuts3d run --recipe detector --set detector.checkpoint=FILE`.

With `detector.previous=RUN` it makes the pseudo-masks of a round of self-training: see
`detector.prediction.merging`. Resume, leases, quarantine, retries, Ray and the store are those of every run.

Gh, Gw patch grid
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from detector.model.checkpoints import DetectorCheckpoint, read_detector
from detector.model.weight_files import need_checkpoint
from detector.needs import need_mmdet
from detector.prediction.detections import Limits, PasteRule
from detector.prediction.merging import KEEP_BELOW_IOU, merged_record
from detector.prediction.previous_round import PreviousRound
from pipeline.errors import ConfigError
from pipeline.methods.overrides import parse_overrides
from pipeline.methods.protocol import Batch, Inputs
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed
from pipeline.runs.launch import Launch
from pipeline.storage.locations import absolute_path
from stages.late import torch

NAME = "detector"
GRID = 60  # patches a side, as the default features of cuts have
BOXES = ("mask", "detector")


@dataclass(frozen=True)
class DetectorOptions:
    """What `--set detector.OPTION=VALUE` can say.

    checkpoint: file of a trained detector.
    min_score: least score of what is kept, 0..1.
    max_per_image: that many are kept, the best by score.
    nms_iou: of two boxes that overlap more, the worse goes; None leaves it to the checkpoint.
    previous: run whose masks stay where no prediction overlaps them.
    keep_iou: from this IoU on a prediction overlaps a mask of the previous run.
    grid: patches a side of the confidences; None takes those of the previous run, or 60.
    boxes: "mask", the boxes of the masks, which is what the store of pseudo-masks means by a box, or "detector", its
        own, by which detectors are scored.
    amp: half precision.
    """

    checkpoint: str
    min_score: float = Limits.min_score
    max_per_image: int = Limits.max_per_image
    nms_iou: float | None = Limits.nms_iou
    previous: str | None = None
    keep_iou: float = KEEP_BELOW_IOU
    grid: int | None = None
    boxes: str = BOXES[0]
    amp: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep_iou <= 1:
            raise ConfigError(f"detector.keep_iou is {self.keep_iou}: it must lie above 0 and up to 1")
        if self.grid is not None and not 1 <= self.grid <= 1024:
            raise ConfigError(f"detector.grid is {self.grid}: it must lie in 1..1024")
        if self.boxes not in BOXES:
            raise ConfigError(f"detector.boxes is {self.boxes!r}: it must be one of {', '.join(BOXES)}")

    @property
    def limits(self) -> Limits:
        """Of the detections."""
        return Limits(self.min_score, self.max_per_image, self.nms_iou)


class DetectorMethod:
    """A `pipeline.methods.protocol.Method`: a trained detector on a device, and the round before if there is one."""

    def __init__(self, options: DetectorOptions, checkpoint: DetectorCheckpoint, device: torch.device) -> None:
        # and MMDetection with it, which not every user of cuts3d has
        from detector.prediction.predictor import Predictor

        self.device = device
        self._options = options
        self._name, self._sha256 = checkpoint.config["name"], checkpoint.sha256
        self._previous = PreviousRound(options.previous) if options.previous else None
        self._identity = self._previous.identity() if self._previous else None
        self._predictor = Predictor(checkpoint, device, options.limits, options.amp)
        self._rule = PasteRule(self._predictor.threshold, self.grid, tight_boxes=options.boxes == "mask")

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(Gh, Gw) of the confidences."""
        if self._options.grid is not None:
            return self._options.grid, self._options.grid
        return (GRID, GRID) if self._previous is None else self._previous.grid

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 2

    def kind(self, until: str | None) -> InstanceKind:
        """Instances."""
        return InstanceKind(self.grid)

    def config(self) -> dict[str, Any]:
        """What run.json freezes. Checkpoint and previous run are known by what is in them, not by where they are."""
        recipe = {
            name: value for name, value in asdict(self._options).items() if name not in ("checkpoint", "previous")
        }
        return {
            "recipe": {"name": NAME, **recipe, "grid": list(self.grid)},
            "detector": {"name": self._name, "sha256": self._sha256},
            "previous": self._identity,
        }

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def outputs(self, batch: Batch) -> Sequence[ImageRecord]:
        """See `pipeline.methods.protocol.Method`."""
        started = time.perf_counter()
        found = self._predictor([photo.rgb for photo in batch.photos])
        detected = time.perf_counter()
        names = [(photo.id, photo.rgb.shape[:2]) for photo in batch.photos]
        each = map if batch.pool is None else batch.pool.map
        finish = partial(merged_record, rule=self._rule, keep_iou=self._options.keep_iou)
        records = list(each(finish, names, found, self._before(batch)))
        batch.seconds["detect"] += detected - started
        batch.seconds["masks"] += time.perf_counter() - detected
        return records

    def _before(self, batch: Batch) -> Sequence[ImageRecord | Failed | None]:
        if self._previous is None or batch.shard is None:
            return [None] * len(batch.photos)
        return self._previous.records(batch.shard, batch.positions)


class _Load:
    """A trained detector, of `cuts3d train`; on photos of one's own `cuts3d predict` is less to type."""

    options = DetectorOptions

    def __call__(self, overrides: Sequence[str], device: torch.device) -> DetectorMethod:
        """The method with a launch's overrides, such as "detector.min_score=0.7".

        Raises what `check` raises, WeightsError for a checkpoint that cannot be used, and what `PreviousRound` raises.
        """
        options = self.check(overrides)
        return DetectorMethod(options, read_detector(Path(options.checkpoint)), device)

    def check(self, overrides: Sequence[str]) -> DetectorOptions:
        """The options; ConfigError for wrong ones, or without MMDetection, WeightsError without the checkpoint."""
        need_mmdet()
        options = detector_options(overrides)
        need_checkpoint(Path(options.checkpoint))
        return options


load = _Load()


def absolute_launch(launch: Launch) -> Launch:
    """The launch with the paths of checkpoint and previous run absolute."""
    return replace(launch, overrides=tuple(map(_absolute, launch.overrides)))


load.absolute = absolute_launch  # type: ignore[attr-defined]  # as `pipeline.methods.protocol` asks of entry points


def _absolute(override: str) -> str:
    name, _, value = override.partition("=")
    is_place = name in (f"{NAME}.checkpoint", f"{NAME}.previous") and value not in ("", "none")
    return f"{name}={absolute_path(value)}" if is_place else override


def detector_options(overrides: Sequence[str]) -> DetectorOptions:
    """The options that a launch's overrides stand for; ConfigError names what is wrong."""
    foreign = [override for override in overrides if not override.startswith(f"{NAME}.")]
    if foreign:
        raise ConfigError(f"recipe {NAME} has no option {foreign[0].partition('=')[0]!r}: its options are {NAME}.…")
    given = parse_overrides(DetectorOptions, [override.removeprefix(f"{NAME}.") for override in overrides], f"{NAME}.")
    if not given.get("checkpoint"):
        raise ConfigError(f"recipe {NAME} needs a trained detector: --set {NAME}.checkpoint=FILE, from `cuts3d train`")
    return DetectorOptions(**given)


def overrides_of(options: DetectorOptions) -> tuple[str, ...]:
    """The inverse of `detector_options`; options that are at their defaults are left out."""
    plain = asdict(DetectorOptions(options.checkpoint))
    changed = {name: value for name, value in asdict(options).items() if value != plain[name]}
    return tuple(f"{NAME}.{name}={value}" for name, value in {"checkpoint": options.checkpoint, **changed}.items())
