"""Panoptic labels from Python: classes, instances and segments, of finished runs and of images in memory.

H, W pixels of an image · C classes · M instances
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cuts3d.labels import LabelledImage, ReadLabels
from cuts3d.loading import LoadedMethod, Overrides, loaded_method
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from pipeline.results.panoptic import PanopticInstance, PanopticRecord
    from pipeline.results.panoptic_segments import Segments
    from pipeline.results.panoptic_split import ThingSplit
    from pipeline.results.semantic import SemanticRecord
    from pipeline.results.semantic_assignment import Assignment
    from pipeline.runs.panoptic_reader import PanopticReader
    from pipeline.runs.run_folder import RunFolder


def load_panoptic(
    recipe: str | os.PathLike[str],
    *,
    overrides: Overrides = (),
    device: str | torch.device = "auto",
) -> PanopticModel:
    """Load a method that gives panoptic labels of single images, as a trained panoptic detector does, once for any
    number of images. Arguments and errors: as of `load`.
    """
    from pipeline.results.panoptic_kind import NAME

    otherwise = "gives no panoptic labels of single images: `cuts3d run` is for all else"
    return PanopticModel(loaded_method(recipe, {}, overrides, device, NAME, otherwise))


class PanopticModel(LoadedMethod["ImagePanoptic"]):
    """A loaded method that gives panoptic labels."""

    def _of(self, result: PanopticRecord, photo: Callable[[], np.ndarray]) -> ImagePanoptic:
        from pipeline.results.panoptic_split import ThingSplit

        things = self.method.kind(None).things  # type: ignore[attr-defined]
        split = None if things is None else ThingSplit.given(result.classes, things, {})
        return ImagePanoptic(result, photo, split)


@dataclass(frozen=True, eq=False)
class ImagePanoptic(LabelledImage):
    """What there is of one image; maps are decoded when they are asked for.

    record: as it is stored.
    split: which classes are things; None where only a whole run tells.
    """

    record: PanopticRecord = field(repr=False)
    split: ThingSplit | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"ImagePanoptic({self.id!r}, {self.size[0]} x {self.size[1]}, {len(self.instances)} instances)"

    @property
    def _semantic(self) -> SemanticRecord:
        return self.record.semantic

    @property
    def instances(self) -> tuple[PanopticInstance, ...]:
        """Each with class_ (0..C-1), confidence (0..1), area (pixels) and box (x, y, width, height), (M,)."""
        return self.record.instances

    @property
    def instance_ids(self) -> np.ndarray:
        """uint16 (H, W): 0 none, k for `instances[k - 1]`. StoreError when they are damaged."""
        return self.record.instance_ids

    @property
    def why_empty(self) -> str:
        """One word for why there is no instance; "" where there is one."""
        return self.record.why_empty

    @property
    def segments(self) -> Segments:
        """ids_HW, int32 (H, W), 0 void, and segments, each with id, class_, is_thing, instance, area and confidence: a
        stuff class is one, of a thing class each instance. ConfigError where nobody knows which classes are things.
        """
        from pipeline.results.panoptic_segments import segments_of

        return segments_of(self.record, self._known_split)

    def to_torch(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """labels, confidence and instance_ids (int32) as tensors, shapes as above."""
        import torch

        ids = self.instance_ids.astype(np.int32)
        arrays = {"labels": self.labels, "confidence": self.confidence, "instance_ids": ids}
        return {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}

    def to_coco(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """As COCO has it: the picture of segment ids, uint8 (H, W, 3), and its "segments_info", JSON-able, of category
        class + 1.
        """
        from pipeline.results.panoptic_coco import coloured_segments

        return coloured_segments(self.segments, self._known_split.classes)

    def draw(self) -> Image.Image:
        """The photo with its classes in their colours, a line around each instance, and a legend, which says what is a
        thing where that is known.
        """
        from pipeline.results.panoptic_overlay import draw_overlay

        return draw_overlay(self.photo, self.record, None if self.split is None else self.split.things)

    @property
    def _known_split(self) -> ThingSplit:
        if self.split is None:
            raise ConfigError(
                f"which classes of {self.id} are things only a whole run tells: make one with `cuts3d run`, then "
                "open_panoptic"
            )
        return self.split


@dataclass(frozen=True)
class PanopticRun(ReadLabels["ImagePanoptic"]):
    """A run of panoptic labels, finished or not; iterate for the images that are done, in the run's order, those set
    aside left out. What is done is looked up when iterating begins.

    threshold: what a class's share of all ratios has to exceed to be a thing; None for the published one, or for what
        the maker of the labels knows.
    assignment: whose classes stand for the run's clusters; None for the clusters.
    """

    folder: RunFolder = field(repr=False)
    threshold: float | None = None
    assignment: Assignment | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[ImagePanoptic]:
        """Raises StoreError when the run is damaged."""
        reader = self._reader()
        split = reader.split if reader.commits else None
        return (replace(image, split=split) for image in super().__iter__())

    def _of(self, result: PanopticRecord, photo: Callable[[], np.ndarray]) -> ImagePanoptic:
        return ImagePanoptic(result, photo)

    @property
    def split(self) -> ThingSplit:
        """Which classes are things, by what is done so far: things, bool (C,); ratios and shares, float64 (C,).
        StoreError while no shard of the run is done.
        """
        return self._reader().split

    def export(self, folder: str | os.PathLike[str]) -> int:
        """Write COCO panoptic JSON and PNGs, as `cuts3d export --panoptic` does; the number of PNGs."""
        from pipeline.views.panoptic_export import export_panoptic

        return export_panoptic(self._reader(), os.fspath(folder)).maps

    def export_instance_ids(self, folder: str | os.PathLike[str]) -> int:
        """Write Cityscapes' instanceIds, as `cuts3d export --instance-ids` does; the number of PNGs."""
        from pipeline.evaluation.semantic_truth.class_maps import cityscapes_ids
        from pipeline.views.panoptic_export import export_instance_ids

        reader = self._reader()
        return export_instance_ids(reader, os.fspath(folder), cityscapes_ids(reader.classes.names)).maps

    def _reader(self) -> PanopticReader:
        from pipeline.runs.panoptic_reader import PanopticReader

        return PanopticReader(self.folder, self.threshold, self.assignment)


def open_panoptic(
    path: str | os.PathLike[str],
    threshold: float | None = None,
    assignment: str | os.PathLike[str] | None = None,
) -> PanopticRun:
    """A run folder of panoptic labels that `cuts3d run` or `predict` made; path or URL.

    threshold: see `PanopticRun`.
    assignment: a file of `cuts3d evaluate-panoptic` or `evaluate-semantic`, whose classes take the place of the run's
        clusters.

    Raises StoreError when there is no run, ConfigError when it holds no panoptic labels, other clusters, or for a
    threshold out of range, SourceError for a file that is no assignment.
    """
    from pipeline.results.semantic_assignment import Assignment
    from pipeline.runs.run_folder import RunFolder

    classes = None if assignment is None else Assignment.read(os.fspath(assignment))
    run = PanopticRun(RunFolder.open(os.fspath(path)), threshold, classes)
    run._reader()  # what is wrong is said now
    return run
