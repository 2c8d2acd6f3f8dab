"""Semantic labels from Python: of images in memory and of finished runs.

H, W pixels of an image · C classes
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cuts3d.loading import LoadedMethod, OfImage, OfOneImage, Overrides, ReadRun, loaded_method

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from pipeline.results.semantic import SemanticRecord
    from pipeline.results.semantic_assignment import Assignment
    from pipeline.runs.run_folder import RunFolder
    from pipeline.runs.semantic_reader import LabelReader, SemanticReader


def load_labels(
    recipe: str | os.PathLike[str],
    *,
    features: str | None = None,
    depth: str | None = None,
    depth_kind: str | None = None,
    overrides: Overrides = (),
    device: str | torch.device = "auto",
) -> LabelModel:
    """Load a method that labels every pixel once, for any number of images. Arguments and errors: as of `load`."""
    from pipeline.results.semantic_kind import NAME

    settings = {"features": features, "depth": depth, "depth_kind": depth_kind}
    otherwise = "does not label single images: load is for masks, `cuts3d run` for all else"
    return LabelModel(loaded_method(recipe, settings, overrides, device, NAME, otherwise))


class LabelModel(LoadedMethod["ImageLabels"]):
    """A loaded method that labels every pixel."""

    def _of(self, result: SemanticRecord, photo: Callable[[], np.ndarray]) -> ImageLabels:
        return ImageLabels(result, photo)


@dataclass(frozen=True, eq=False)
class LabelledImage(OfOneImage):
    """What images with labels have in common; labels are decoded when they are asked for."""

    @property
    def _semantic(self) -> SemanticRecord:
        record: SemanticRecord = self.record
        return record

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, (C,), whether they occur in the image or not; clusters have numbers for names."""
        return self._semantic.classes.names

    @property
    def colours(self) -> np.ndarray:
        """uint8 (C, 3): red, green, blue of each class, the same in all pictures and files."""
        return np.array(self._semantic.classes.colours, np.uint8)

    @property
    def labels(self) -> np.ndarray:
        """uint8 (H, W): class 0..C-1 of each pixel, 255 for none. StoreError when they are damaged."""
        return self._semantic.labels

    @property
    def confidence(self) -> np.ndarray:
        """float32 (H, W), 0..1, of the method in each pixel's class. Kept in cells of 8 pixels, interpolated."""
        return self._semantic.confidence

    @property
    def shares(self) -> np.ndarray:
        """float64 (C,), 0..1: of the image's pixels."""
        return self._semantic.shares


@dataclass(frozen=True, eq=False)
class ImageLabels(LabelledImage):
    """What there is of one image.

    record: as it is stored.
    """

    record: SemanticRecord = field(repr=False)

    def __repr__(self) -> str:
        found = sum(count > 0 for count in self.record.pixels)
        return f"ImageLabels({self.id!r}, {self.size[0]} x {self.size[1]}, {found} of {len(self.names)} classes)"

    def to_torch(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """labels and confidence as tensors, shapes and types as above."""
        import torch

        arrays = {"labels": self.labels, "confidence": self.confidence}
        return {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """A COCO-Stuff annotation for each class that occurs, JSON-able, of category class + 1; ids count from 1."""
        from pipeline.results.semantic_coco import annotations_of

        return [{"id": number, **one} for number, one in enumerate(annotations_of(self.record, image_id), start=1)]

    def draw(self) -> Image.Image:
        """The photo with its classes in their colours, and a legend."""
        from pipeline.results.semantic_overlay import draw_overlay

        return draw_overlay(self.photo, self.record)


class ReadLabels(ReadRun[OfImage]):
    """What runs of labels have in common."""

    @abstractmethod
    def _reader(self) -> LabelReader[Any]:
        """What is done by now."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, (C,). StoreError while no shard of the run is done."""
        return self._reader().classes.names

    @property
    def colours(self) -> np.ndarray:
        """uint8 (C, 3): red, green, blue of each class."""
        return np.array(self._reader().classes.colours, np.uint8)


@dataclass(frozen=True)
class LabelRun(ReadLabels["ImageLabels"]):
    """A run of semantic labels, finished or not, or the labels in a run of panoptic ones; iterate for the images that
    are done, in the run's order, those set aside left out. What is done is looked up when iterating begins.

    assignment: whose classes stand for the run's clusters; None for the clusters.
    """

    folder: RunFolder = field(repr=False)
    assignment: Assignment | None = field(default=None, repr=False)

    def _of(self, result: SemanticRecord, photo: Callable[[], np.ndarray]) -> ImageLabels:
        return ImageLabels(result, photo)

    def export(self, folder: str | os.PathLike[str]) -> int:
        """Write maps, legend and COCO-Stuff JSON, as `cuts3d export --semantic` does; the number of maps."""
        from pipeline.views.semantic_export import export_semantic

        return export_semantic(self.folder, os.fspath(folder), self.assignment).maps

    def _reader(self) -> SemanticReader:
        from pipeline.runs.semantic_reader import SemanticReader

        return SemanticReader(self.folder, self.assignment)


def open_labels(path: str | os.PathLike[str], assignment: str | os.PathLike[str] | None = None) -> LabelRun:
    """A run folder of semantic labels that `cuts3d run` made; path or URL.

    assignment: a file of `cuts3d evaluate-semantic` or `evaluate-panoptic`, whose classes take the place of the run's
        clusters.

    Raises StoreError when there is no run, ConfigError when it holds no labels or other clusters, SourceError for a
    file that is no assignment.
    """
    from pipeline.results.semantic_assignment import Assignment
    from pipeline.runs.run_folder import RunFolder

    classes = None if assignment is None else Assignment.read(os.fspath(assignment))
    run = LabelRun(RunFolder.open(os.fspath(path)), classes)
    run._reader()  # what is wrong is said now
    return run
