"""A method that gives semantic labels, without weights: the class of a pixel is how bright it is, in four steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.methods.protocol import Batch
from pipeline.results.semantic import NONE, Classes, SemanticRecord
from pipeline.results.semantic_kind import SemanticKind
from support.installed import with_package

NAME = "labels"
STEPS = 4
CLASSES = Classes.clusters(STEPS)


class LabelMethod:
    """A `pipeline.methods.protocol.Method`. An image whose name holds "fails" breaks it; pure black has no class."""

    name, takes, stages, batch_size = NAME, "photos", (), 4

    def __init__(self, overrides: Sequence[str] = (), device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def config(self) -> dict[str, object]:
        return {"recipe": {"name": NAME, "steps": STEPS}}

    def kind(self, until: str | None) -> SemanticKind:
        return SemanticKind(CLASSES)

    def needs_inputs(self, until: str | None, kept: object) -> bool:
        return True

    def outputs(self, batch: Batch) -> list[SemanticRecord]:
        return [self.record(photo.id, photo.rgb) for photo in batch.photos]

    def record(self, id_: str, rgb: np.ndarray) -> SemanticRecord:
        if "fails" in id_:
            raise RuntimeError("too bright")
        labels, confidence = labels_of(rgb)
        return SemanticRecord.of(id_, labels, confidence, CLASSES)


def installed(folder: Path) -> dict[str, str]:
    """What a process needs in its environment to find this method as that of an installed package."""
    return with_package(folder, "label-method", {"cuts3d.methods": {NAME: "support.label_method:LabelMethod"}})


def labels_of(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W) and float32 (H, W) of a photo: its step of brightness, and how near it is to the step's middle."""
    brightness = rgb.astype(np.float32).mean(axis=2) / 256 * STEPS
    labels = brightness.astype(np.uint8)
    labels[(rgb == 0).all(axis=2)] = NONE
    return labels, 1 - 2 * np.abs(brightness % 1 - 0.5)
