"""The recipe motion: what moves in a clip, as instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from pipeline.methods.cups.motion_work import MotionWork, MoverSearch
from pipeline.methods.cups.recipe import MOTION
from pipeline.methods.protocol import Batch, Inputs
from pipeline.methods.shared.batch_inputs import once
from pipeline.methods.shared.instances import encoded_instance, finished_record, touched_patches
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord
from stages.motion.movers import Movers

GRID = (60, 60)  # of the confidence of an instance, as other recipes have it


class MotionMethod:
    """A `pipeline.methods.protocol.Method`: the movers of a clip are the instances of its left picture."""

    name = MOTION
    takes: ClassVar[Inputs] = "clips"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 2

    def __init__(self, search: MoverSearch) -> None:
        self.search = search
        self.device, self.in_processes = search.device, search.model.in_processes

    def kind(self, until: str | None) -> InstanceKind:
        """Instances."""
        return InstanceKind(GRID)

    def config(self) -> dict[str, Any]:
        """What run.json freezes. Device and batch size are not in it: they do not decide results."""
        return {"recipe": self.search.recipe.as_dict(), **self.search.config()}

    def mended(self, config: Mapping[str, Any]) -> dict[str, str]:
        """See `MoverSearch.mended`."""
        return self.search.mended(config)

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def outputs(self, batch: Batch) -> Sequence[ImageRecord]:
        """See `pipeline.methods.protocol.Method`."""
        return InstanceWork(self.search, self.device, batch).records


class InstanceWork(MotionWork):
    """The steps of one batch."""

    @once
    def records(self) -> list[ImageRecord]:
        """The finished clips."""
        found = []
        for picture, movers in zip(self.names, self.movers(), strict=True):
            with self._clock("encode"):
                found.append(_record(picture, movers))
        return found


def _record(picture: tuple[str, tuple[int, int]], movers: Movers) -> ImageRecord:
    """The finished picture: score and confidence of a mover are its agreement; a picture without any counts the reason
    as a drop. picture: its id, height and width.
    """
    instances = []
    for place, (mask_HW, agreement) in enumerate(zip(movers.masks_MHW, movers.agreement_M.tolist(), strict=True)):
        confidence = np.where(touched_patches(mask_HW, GRID), max(1, round(255 * agreement)), 0).astype(np.uint8)
        instances.append(encoded_instance(mask_HW, confidence, score=agreement, round=min(place, 255)))
    return finished_record(picture, instances, {movers.reason: 1} if movers.reason else {})
