"""The recipe cups: movers and semantic labels of clips, as panoptic labels.

H, W pixels of a picture
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from pipeline.images.photos import Photo
from pipeline.methods.cups.fusing import fuse
from pipeline.methods.cups.labelled_run import LabelledRun
from pipeline.methods.cups.motion_work import MotionWork, MoverSearch
from pipeline.methods.cups.recipe import CUPS, CupsRecipe
from pipeline.methods.depthg.method import Labeller, LabelWork
from pipeline.methods.protocol import Batch, Inputs
from pipeline.methods.shared.batch_inputs import once
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import PanopticKind
from stages.semantics.windows import WindowConfig, whole_shares


class CupsMethod:
    """A `pipeline.methods.protocol.Method`: movers, each with the class that most of its pixels have.

    labels: what gives the semantic labels of left pictures, a model or a run.
    """

    name = CUPS
    takes: ClassVar[Inputs] = "clips"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 2

    def __init__(self, search: MoverSearch, labels: Labeller | LabelledRun) -> None:
        self.search, self.labels, self.in_processes = search, labels, search.model.in_processes
        self.device = labels.device if isinstance(labels, Labeller) else search.device
        recipe = labels.recipe if isinstance(labels, Labeller) else None
        self.recipe = CupsRecipe(labels=recipe, finding=search.recipe)

    def kind(self, until: str | None) -> PanopticKind:
        """Panoptic labels, of clusters."""
        return PanopticKind(self.labels.classes)

    def config(self) -> dict[str, Any]:
        """What run.json freezes. Device and batch size are not in it: they do not decide results."""
        of_labels = self.labels.config() if isinstance(self.labels, Labeller) else {"semantic": self.labels.facts()}
        return {"recipe": self.recipe.as_dict(), **self.search.config(), **of_labels}

    def mended(self, config: Mapping[str, Any]) -> dict[str, str]:
        """See `MoverSearch.mended`."""
        return self.search.mended(config)

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def outputs(self, batch: Batch) -> Sequence[PanopticRecord]:
        """See `pipeline.methods.protocol.Method`."""
        return CupsWork(self, batch).records


class CupsWork(MotionWork):
    """The steps of one batch: movers are looked for in processes, if there are any, while the semantic model labels."""

    def __init__(self, method: CupsMethod, batch: Batch) -> None:
        super().__init__(method.search, method.device, batch)
        self.method, self._batch = method, batch

    @once
    def records(self) -> list[PanopticRecord]:
        """The finished clips."""
        movers, classes, found = self.movers(), self.method.labels.classes, []
        for (id_, _), (labels_HW, confidence), own in zip(self.names, self._labels(), movers, strict=True):
            with self._clock("fuse"):
                fused = fuse(labels_HW, own)
            with self._clock("encode"):
                record = PanopticRecord.of(
                    id_,
                    fused.labels_HW,
                    confidence,
                    fused.ids_HW,
                    fused.agreement_M,
                    classes,
                    fused.reason,
                    own.reliable,
                )
            found.append(record)
        return found

    def _labels(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of one picture after the other its semantic labels and their confidence."""
        labels = self.method.labels
        if isinstance(labels, Labeller):
            yield from LabelWork(labels, replace(self._batch, inputs=self.photos), self._whole_share).labels()
            return
        for id_, size in self.names:
            with self._clock("labels"):
                record = labels.record(id_, size)
                found = record.labels, record.confidence
            yield found

    def _whole_share(self, photo: Photo, config: WindowConfig) -> np.ndarray:
        """By the disparity of the very clip."""
        place = next(place for place, own in enumerate(self.photos) if own is photo)
        camera = self.small[place].camera
        by_camera = replace(config, metres=camera.fx * camera.baseline)
        return whole_shares(self.motion[place].disparity_HW, "inverse_depth", by_camera)
