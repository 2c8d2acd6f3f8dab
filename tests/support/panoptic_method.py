"""A method that gives panoptic labels, without weights: the class of a pixel is how bright it is, in four steps; what
hangs together of the brightest step is an instance.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from pipeline.methods.protocol import Batch
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import PanopticKind
from support.installed import with_package
from support.label_method import CLASSES, STEPS, labels_of

NAME = "panoptic_labels"
SMALLEST = 12  # pixels of an instance
TOO_SMALL, NOT_BRIGHT = "too_small", "not_bright"


class PanopticMethod:
    """A `pipeline.methods.protocol.Method`. An image whose name holds "fails" breaks it."""

    name, takes, stages, batch_size = NAME, "photos", (), 4

    def __init__(self, overrides: Sequence[str] = (), device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def config(self) -> dict[str, object]:
        return {"recipe": {"name": NAME, "steps": STEPS}}

    def kind(self, until: str | None) -> PanopticKind:
        return PanopticKind(CLASSES)

    def needs_inputs(self, until: str | None, kept: object) -> bool:
        return True

    def outputs(self, batch: Batch) -> list[PanopticRecord]:
        return [self.record(photo.id, photo.rgb) for photo in batch.photos]

    def record(self, id_: str, rgb: np.ndarray) -> PanopticRecord:
        if "fails" in id_:
            raise RuntimeError("too bright")
        labels, confidence = labels_of(rgb)
        ids, reason = instances_of(labels)
        sure = [float(confidence[ids == k].mean()) for k in range(1, int(ids.max()) + 1)]
        return PanopticRecord.of(id_, labels, confidence, ids, sure, CLASSES, reason, float((labels < STEPS).mean()))


def instances_of(labels: np.ndarray) -> tuple[np.ndarray, str]:
    """int (H, W), ids of instances, and why there is none."""
    found, _ = ndimage.label(labels == STEPS - 1)
    areas = np.bincount(found.ravel())
    kept = [k for k in range(1, len(areas)) if areas[k] >= SMALLEST]
    number = np.zeros(len(areas), int)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[found], "" if kept else TOO_SMALL if len(areas) > 1 else NOT_BRIGHT


def installed(folder: Path) -> dict[str, str]:
    """What a process needs in its environment to find this method as that of an installed package."""
    where = "support.panoptic_method:PanopticMethod"
    return with_package(folder, "panoptic-method", {"cuts3d.methods": {NAME: where}})
