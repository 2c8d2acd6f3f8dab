"""A run whose method is a trained detector: `cuts3d run --recipe detector --set detector.checkpoint=FILE`.

With `detector.previous=RUN` it makes the pseudo-masks of a round of self-training: see
`detector.prediction.merging`. Resume, leases, quarantine, retries, Ray and the store are those of every run. A panoptic
detector makes panoptic labels: `detector.prediction.panoptic_method`.

Gh, Gw patch grid
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from detector.model.checkpoints import DetectorCheckpoint, read_detector
from detector.model.weight_files import need_checkpoint
from detector.needs import need_mmdet
from detector.prediction.detections import Limits, PasteRule
from detector.prediction.merging import merged_record
from detector.prediction.options import NAME, OF_PANOPTIC, DetectorOptions, detector_options
from detector.prediction.previous_round import PreviousRound
from pipeline.methods.protocol import Batch, Inputs, Method
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed
from pipeline.runs.launch import Launch
from pipeline.storage.locations import absolute_path
from stages.late import torch

GRID = 60  # patches a side, as the default features of cuts have


class DetectorMethod:
    """A `pipeline.methods.protocol.Method`: a trained detector on a device, and the round before if there is one.

    Raises ConfigError for options of panoptic detectors, or a detector of several classes.
    """

    def __init__(self, options: DetectorOptions, checkpoint: DetectorCheckpoint, device: torch.device) -> None:
        # and MMDetection with it, which not every user of cuts3d has
        from detector.prediction.predictor import Predictor

        options.refuse(OF_PANOPTIC, "panoptic detectors")
        self.device = device
        self._options = options
        self._name, self._sha256 = checkpoint.config["name"], checkpoint.sha256
        self._previous = PreviousRound(options.previous) if options.previous else None
        self._identity = self._previous.identity() if self._previous else None
        self._limits = options.limits(Limits.min_score)
        self._predictor = Predictor(checkpoint, device, self._limits, options.amp)
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
        elsewhere = ("checkpoint", "previous", *OF_PANOPTIC)
        recipe = {name: value for name, value in asdict(self._options).items() if name not in elsewhere}
        recipe |= {"min_score": self._limits.min_score, "grid": list(self.grid)}
        return {
            "recipe": {"name": NAME, **recipe},
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

    def __call__(self, overrides: Sequence[str], device: torch.device) -> Method:
        """The method with a launch's overrides, such as "detector.min_score=0.7".

        Raises what `check` raises, WeightsError for a checkpoint that cannot be used, ConfigError for options that its
        kind of detector has not, and what `PreviousRound` raises.
        """
        options = self.check(overrides)
        checkpoint = read_detector(Path(options.checkpoint))
        if checkpoint.panoptic is None:
            return DetectorMethod(options, checkpoint, device)
        from detector.prediction.panoptic_method import PanopticMethod

        return PanopticMethod(options, checkpoint, device)

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
