"""Masks that others have made, as a method: for each image of a run what a COCO file has of it.

Nothing is known of how sure such masks are: their Spatial Confidence is 1 everywhere, on a grid of one patch.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import numpy as np

from pipeline.errors import ImageError
from pipeline.images.beside import folder_of_photos
from pipeline.images.coco import CocoIndex
from pipeline.images.coco_masks import UnusableMaskError, rle_size, stored_mask
from pipeline.images.manifest import ImageRef, Manifest, Shard, default_shard_size, safe_id
from pipeline.images.photos import PhotoSize, photo_sizes
from pipeline.methods.coco_import.settings import NAME, RECIPE, ImportSettings
from pipeline.methods.protocol import Batch, Inputs
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import NO_MASKS, OK, ImageRecord, Instance
from pipeline.results.kinds import Failed
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.json_lists import open_lists
from pipeline.storage.locations import resolve
from stages.late import torch

log = logging.getLogger(__name__)

GRID = (1, 1)
IMAGES_REMEDY = "say with --images what folder the names are relative to"

_CERTAIN = np.full(GRID, 255, np.uint8)


def manifest_of(launch: Launch) -> Manifest:
    """The images of an import; raises as `CocoImport.manifest`."""
    return CocoImport.of(launch).manifest(launch)


class CocoImport:
    """A `pipeline.methods.protocol.Method`: what a COCO file has of each image.

    Each image's size is that of its photo the right way up, read from the photo's header, whatever the file says:
    CutLER's files have width and height swapped. Images without a usable photo, and those whose masks are not of the
    photo's size, fail. Masks that are not taken are counted as drops: "crowd", "no_mask", "empty", "malformed",
    "other_size", "duplicate" (the very same mask twice) and "low_score".
    """

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 64  # whose headers are read side by side

    def __init__(self, settings: ImportSettings) -> None:
        self._settings = settings
        self._open = ExitStack()
        self._index, self._digests = self._open.enter_context(_indexed(settings))
        self._place = {coco_id: place for place, coco_id in enumerate(self._index.ids.tolist())}
        self._lock = threading.Lock()
        self._told_of_swapped = False

    @classmethod
    def of(cls, launch: Launch) -> Self:
        """For a launch. Raises SourceError when the file is no COCO file, has no masks, or its ids do not fit."""
        return cls(ImportSettings.of(launch))

    def manifest(self, launch: Launch) -> Manifest:
        """The images of the file, at their places; SourceError when none of them is there."""
        ids = [safe_id(name) for name in self._index.file_names]
        root = folder_of_photos(self._settings.coco, ids, launch.root, IMAGES_REMEDY)
        refs = [
            ImageRef(id_, resolve(name, root), coco_id=coco_id)
            for id_, name, coco_id in zip(ids, self._index.file_names, self._index.ids.tolist(), strict=True)
        ]
        return Manifest(refs, launch.shard_size or default_shard_size(len(refs)))

    @property
    def device(self) -> torch.device:
        """No GPU has anything to do."""
        return torch.device("cpu")

    def kind(self, until: str | None) -> InstanceKind:
        """Instances, on a grid of one patch."""
        return InstanceKind(GRID)

    def config(self) -> dict[str, Any]:
        """What run.json freezes: the file by its content, wherever it is."""
        return {"recipe": {"name": RECIPE, "min_score": self._settings.min_score}, "source": self._digests}

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Never: of the photos only the headers are read."""
        return False

    def outputs(self, batch: Batch) -> list[ImageRecord | Failed]:
        """See `pipeline.methods.protocol.Method`."""
        assert batch.shard is not None  # a method that needs no inputs is not measured by noise
        started = time.perf_counter()
        refs = [batch.shard.refs[position] for position in batch.positions]
        records = [self._record(ref, size) for ref, size in zip(refs, photo_sizes(refs), strict=True)]
        batch.seconds[RECIPE] += time.perf_counter() - started
        return records

    def _record(self, ref: ImageRef, size: PhotoSize | ImageError) -> ImageRecord | Failed:
        if isinstance(size, ImageError):
            return Failed(ref.id, size.reason, size.detail)
        place = None if ref.coco_id is None else self._place.get(ref.coco_id)
        if place is None:
            return Failed(ref.id, "not_listed", f"{ref.id} is not an image of {self._settings.coco}")
        with self._lock:  # one file, which is read at one place at a time
            annotations = self._index.annotations(place)
        height, width = self._index.listed[place].tolist()
        if (height, width) == (size.width, size.height) != (size.height, size.width):
            self._tell_of_swapped()
        return record_of(ref.id, size, (height, width), annotations, self._settings.min_score)

    def _tell_of_swapped(self) -> None:
        with self._lock:
            told, self._told_of_swapped = self._told_of_swapped, True
        if not told:
            log.warning("%s has height and width of images swapped, as CutLER writes them", self._settings.coco)


def usable_again(run: RunFolder, method: CocoImport) -> list[str]:
    """Ids of the images that the import set aside and that it can use by now."""
    if not any(commit.counts["quarantined"] for commit in run.ledger.committed().values()):
        return []
    set_aside = {record.id for record in RunReader(run).quarantined()}
    refs = [ref for ref in run.manifest.refs if ref.id in set_aside]
    found = method.outputs(Batch(Shard("", tuple(refs)), range(len(refs)), ())) if refs else []
    return [record.id for record in found if not isinstance(record, Failed)]


@contextmanager
def _indexed(settings: ImportSettings) -> Iterator[tuple[CocoIndex, dict[str, str]]]:
    """The file's index, and digests of what it was made of."""
    with ExitStack() as stack:
        lists = stack.enter_context(open_lists(settings.coco))
        listing = stack.enter_context(open_lists(settings.images_of)) if settings.images_of else None
        digests = {"sha256": lists.sha256()} | ({"images_sha256": listing.sha256()} if listing else {})
        yield CocoIndex(lists, listing), digests


def record_of(
    id_: str,
    size: PhotoSize,
    listed: tuple[int, int],
    annotations: Sequence[Any],
    min_score: float = 0.0,
) -> ImageRecord | Failed:
    """What the annotations of one image come to.

    size: of the photo.
    listed: height and width as the file has them, 0 where it has not.
    """
    shape = (size.height, size.width)
    instances: list[Instance] = []
    drops: dict[str, int] = {}
    taken = set[bytes]()
    polygons_fit = _fits(listed, size)
    for annotation in annotations:
        try:
            segmentation = annotation.get("segmentation")
            if annotation.get("iscrowd"):
                raise UnusableMaskError("crowd", "it is a crowd")
            if isinstance(segmentation, list) and segmentation and not polygons_fit:
                raise UnusableMaskError("other_size", "the image is listed with another size")
            mask = stored_mask(segmentation, shape)
            score = _score(annotation)
            if score < min_score:
                raise UnusableMaskError("low_score", f"it scores {score}")
            if mask.rle in taken:
                raise UnusableMaskError("duplicate", "the same mask came before")
        except UnusableMaskError as unusable:
            drops[unusable.reason] = drops.get(unusable.reason, 0) + 1
            continue
        taken.add(mask.rle)
        instances.append(Instance(mask.rle, mask.box, mask.area, score, _CERTAIN, min(len(instances), 255)))
    if not instances and "other_size" in drops:
        return Failed(id_, "other_size", _size_trouble(annotations, listed, size), shape)
    return ImageRecord(id_, shape, OK if instances else NO_MASKS, tuple(instances), drops, None)


def _fits(listed: tuple[int, int], size: PhotoSize) -> bool:
    """Whether polygons of an image that is listed with this size lie right on its photo. Swapped is as good, unless it
    is the EXIF orientation that swaps them: then they were drawn on the photo lying on its side.
    """
    if 0 in listed or listed == (size.height, size.width):
        return True
    return listed == (size.width, size.height) and not size.turned


def _score(annotation: Mapping[str, Any]) -> float:
    score = annotation.get("score", 1.0)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise UnusableMaskError("malformed", f"its score is {score!r}")
    return float(score)


def _size_trouble(annotations: Sequence[Any], listed: tuple[int, int], size: PhotoSize) -> str:
    sizes = [rle_size(annotation.get("segmentation")) for annotation in annotations]
    theirs = next((own for own in sizes if own not in (None, (size.height, size.width))), None) or listed
    turned = ", turned as its EXIF data says" if size.turned else ""
    return f"its masks are of {theirs[0]} × {theirs[1]} pixels, the photo has {size.height} × {size.width}{turned}"
