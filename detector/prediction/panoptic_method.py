"""A run whose method is a trained panoptic detector: panoptic labels, of which it knows the things.

H, W pixels of the photo
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

import numpy as np

from detector.model.checkpoints import DetectorCheckpoint
from detector.model.panoptic_classes import PanopticClasses
from detector.prediction.options import NAME, OF_INSTANCES, DetectorOptions
from detector.prediction.panoptic import PanopticDetections, PanopticRule, merged
from pipeline.methods.protocol import Batch, Inputs
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import PanopticKind
from pipeline.results.semantic import NONE
from stages.late import torch


class PanopticMethod:
    """A `pipeline.methods.protocol.Method`: a trained panoptic detector on a device.

    Raises ConfigError for options of detectors of instances alone.
    """

    def __init__(self, options: DetectorOptions, checkpoint: DetectorCheckpoint, device: torch.device) -> None:
        from detector.prediction.panoptic_predictor import PanopticPredictor

        options.refuse(OF_INSTANCES, "detectors of instances alone")
        assert checkpoint.panoptic is not None
        self.device = device
        self.classes = checkpoint.panoptic
        self._options = options
        self._name, self._sha256 = checkpoint.config["name"], checkpoint.sha256
        self._predictor = PanopticPredictor(checkpoint, device, options.limits(PanopticRule.min_score), options.amp)
        self._rule = options.rule(self._predictor.threshold)

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 2

    def kind(self, until: str | None) -> PanopticKind:
        """Panoptic labels, with the things that the detector was trained on."""
        return PanopticKind(self.classes.classes, self.classes.is_thing)

    def config(self) -> dict[str, Any]:
        """What run.json freezes. The checkpoint is known by what is in it: it is also what made the classes."""
        elsewhere = ("checkpoint", *OF_INSTANCES)
        recipe = {name: value for name, value in asdict(self._options).items() if name not in elsewhere}
        recipe |= {"min_score": self._rule.min_score}
        return {
            "recipe": {"name": NAME, **recipe},
            "detector": {"name": self._name, "sha256": self._sha256},
            "model": {"fingerprint": self._sha256},
        }

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def outputs(self, batch: Batch) -> Sequence[PanopticRecord]:
        """See `pipeline.methods.protocol.Method`."""
        started = time.perf_counter()
        found = self._predictor([photo.rgb for photo in batch.photos])
        detected = time.perf_counter()
        each = map if batch.pool is None else batch.pool.map
        finish = partial(panoptic_record, rule=self._rule, classes=self.classes)
        records = list(each(finish, [photo.id for photo in batch.photos], found))
        batch.seconds["detect"] += detected - started
        batch.seconds["merge"] += time.perf_counter() - detected
        return records


def panoptic_record(
    id_: str, found: PanopticDetections, rule: PanopticRule, classes: PanopticClasses
) -> PanopticRecord:
    """The finished image: instances with their scores; stuff and its certainty as the semantic head has them; void."""
    map_ = merged(found, rule)
    class_of_instance = np.full(len(map_.labels) + 1, NONE, np.uint8)
    class_of_instance[1:] = np.array(classes.things, np.uint8)[map_.labels]
    class_of_stuff = np.full(NONE + 1, NONE, np.uint8)
    class_of_stuff[1 : len(classes.stuffs) + 1] = classes.stuffs
    labels_HW = np.where(
        map_.instance_ids_HW > 0, class_of_instance[map_.instance_ids_HW], class_of_stuff[map_.stuff_HW]
    )
    return PanopticRecord.of(id_, labels_HW, found.certainty, map_.instance_ids_HW, map_.scores, classes.classes)
