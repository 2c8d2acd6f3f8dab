"""A method of another package that gives masks: the middle of every photo. No weights, no stages, no settings."""

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask

from pipeline.methods.protocol import Batch
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord, Instance


class Centre:
    """The middle of every photo, as one mask; an image whose name holds "fails" breaks it."""

    name, takes, stages, batch_size = "centre", "photos", (), 4

    def __init__(self, overrides: Sequence[str], device: torch.device) -> None:
        self.device = device

    def config(self) -> dict[str, object]:
        return {"recipe": {"name": "centre"}}

    def kind(self, until: str | None) -> InstanceKind:
        return InstanceKind(grid=(1, 1))

    def needs_inputs(self, until: str | None, kept: object) -> bool:
        return True

    def outputs(self, batch: Batch) -> list[ImageRecord]:
        return [self.record(photo.id, photo.rgb) for photo in batch.photos]

    def record(self, id_: str, rgb: np.ndarray) -> ImageRecord:
        if "fails" in id_:
            raise RuntimeError("nothing in the middle")
        mask = np.zeros(rgb.shape[:2], np.uint8, order="F")
        mask[16:48, 20:60] = 1
        code = coco_mask.encode(mask)
        box = tuple(coco_mask.toBbox(code).tolist())
        instance = Instance(code["counts"], box, int(mask.sum()), 1.0, np.full((1, 1), 255, np.uint8), round=0)
        return ImageRecord(id_, mask.shape, "ok", (instance,), {}, None)
