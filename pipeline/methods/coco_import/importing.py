"""Masks that others have made, as a method: for each image of a run what a COCO file has of it.

Nothing is known of how sure such masks are: their Spatial Confidence is 1 everywhere, on a grid of one patch.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import numpy as np

from pipeline.errors import ImageError
from pipeline.images.coco import CocoIndex
from pipeline.images.coco_masks import (
    UnusableMaskError,
    is_crowd,
    plain_segmentation,
    rle_size,
    stored_mask,
    tell_of_swapped,
)
from pipeline.images.image_lists import coco_refs
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef, Manifest, Shard, default_shard_size
from pipeline.images.photos import PhotoSize, photo_sizes
from pipeline.images.sources import listing_of
from pipeline.methods.coco_import.settings import NAME, RECIPE, ImportSettings
from pipeline.methods.protocol import Batch, Inputs
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import NO_MASKS, OK, ImageRecord, Instance
from pipeline.results.kinds import Failed
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.json_lists import open_lists
from stages.late import torch

log = logging.getLogger(__name__)

BAD_PART = "bad_part"  # the drop reason of a polygon without which its mask is taken

Size = tuple[int, int]
Drops = Callable[[str, str], None]

GRID = (1, 1)
IMAGES_REMEDY = "say with --images what folder the names are relative to"

_CERTAIN = np.full(GRID, 255, np.uint8)


def manifest_of(launch: Launch) -> Manifest:
    """The images of an import; raises as `CocoImport.manifest`."""
    return CocoImport.of(launch).manifest(launch)


class CocoImport:
    """A `pipeline.methods.protocol.Method`: what a COCO file has of each image.

    file: its path or URL.

    Each image's size is that of its photo the right way up, read from the photo's header, whatever the file says:
    CutLER's files have width and height swapped. Images without a usable photo, and those whose masks are not of the
    photo's size, fail. Masks that are not taken are counted as drops: "crowd", "no_mask", "empty", "malformed",
    "other_size", "duplicate" (the very same mask twice) and "low_score"; the first of each reason is in the log. Parts
    of a mask that are no polygons are left out, and counted as "bad_part".
    """

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 64  # whose headers are read side by side

    def __init__(self, settings: ImportSettings) -> None:
        self._settings = settings
        self.file = settings.coco
        self._open = ExitStack()
        self._index, self._digests = self._open.enter_context(_indexed(settings))
        self._place = {coco_id: place for place, coco_id in enumerate(self._index.ids.tolist())}
        self._lock = threading.Lock()
        self._told = set[str]()

    @classmethod
    def of(cls, launch: Launch) -> Self:
        """For a launch. Raises SourceError when the file is no COCO file, has no masks, or its ids do not fit."""
        return cls(ImportSettings.of(launch))

    def manifest(self, launch: Launch) -> Manifest:
        """The images of the file, at their places; SourceError when none of them is there."""
        listing = listing_of(*coco_refs(self.file, self._index.images(), launch.root, IMAGES_REMEDY), self.file)
        return Manifest(listing.refs, launch.shard_size or default_shard_size(len(listing.refs)))

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
        records = self.records(refs, self._tell)
        batch.seconds[RECIPE] += time.perf_counter() - started
        return records

    def _record(self, ref: ImageRef, size: PhotoSize | ImageError, told: Drops) -> ImageRecord | Failed:
        if isinstance(size, ImageError):
            return Failed(ref.id, size.reason, size.detail)
        place = None if ref.coco_id is None else self._place.get(ref.coco_id)
        if place is None:
            return Failed(ref.id, "not_listed", f"{ref.id} is not an image of {self.file}")
        with self._lock:  # one file, which is read at one place at a time
            annotations = self._index.annotations(place)
        return record_of(ref.id, size, self.listed(ref.coco_id), annotations, self._settings.min_score, told)

    def _tell(self, reason: str, detail: str) -> None:
        """Say the first drop of each reason."""
        with self._lock:
            if reason in self._told:
                return
            self._told.add(reason)
        log.warning("%s: dropped as %s, this one first: %s", self.file, reason, detail)

    def records(self, refs: Sequence[ImageRef], told: Drops) -> list[ImageRecord | Failed]:
        """What there is of these images. told: see `record_of`."""
        return [self._record(ref, size, told) for ref, size in zip(refs, photo_sizes(refs), strict=True)]

    def listed(self, coco_id: int | None) -> Size:
        """Height and width of an image as the file has them, 0 where it has not."""
        place = None if coco_id is None else self._place.get(coco_id)
        height, width = (0, 0) if place is None else self._index.listed[place].tolist()
        return height, width


def refuse_nothing(method: CocoImport, manifest: Manifest) -> None:
    """SourceError, with the first of each reason, when masks of these images are dropped and not one is taken."""
    left_out = LeftOut(method.file, "masks")
    for start in range(0, len(manifest.refs), method.batch_size):
        records = method.records(manifest.refs[start : start + method.batch_size], left_out.add)
        if any(isinstance(record, ImageRecord) and record.instances for record in records):
            return
    left_out.tell(left_out.total)


def tell_of_swapped_sizes(method: CocoImport, run: RunFolder) -> None:
    """Say how many images of the run have height and width swapped in the file."""
    listed = {ref.id: method.listed(ref.coco_id) for ref in run.manifest.refs}
    swapped = 0
    for shard, counts_B in RunReader(run).parts():
        sizes = zip(shard.ids, shard.size.tolist(), shard.done & counts_B, strict=True)
        swapped += sum(
            usable and listed[id_] == (width, height) != (height, width) for id_, (height, width), usable in sizes
        )
    tell_of_swapped(method.file, swapped, run.n_images)


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
    listed: Size,
    annotations: Sequence[Any],
    min_score: float = 0.0,
    told: Drops = lambda reason, detail: None,
) -> ImageRecord | Failed:
    """What the annotations of one image come to.

    size: of the photo.
    listed: height and width as the file has them, 0 where it has not.
    told: is called with reason and detail of each drop.
    """
    shape = (size.height, size.width)
    instances: list[Instance] = []
    drops: dict[str, int] = {}
    taken = set[bytes]()

    def drop(reason: str, annotation: Mapping[str, Any], detail: str) -> None:
        drops[reason] = drops.get(reason, 0) + 1
        told(reason, f"annotation {annotation.get('id', f'of {id_}')}: {detail}")

    polygons_fit = _fits(listed, size)
    for annotation in annotations:
        try:
            segmentation = plain_segmentation(annotation.get("segmentation"))
            if is_crowd(annotation):
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
            drop(unusable.reason, annotation, str(unusable))
            continue
        for fault in mask.bad_parts:
            drop(BAD_PART, annotation, fault)
        taken.add(mask.rle)
        instances.append(Instance(mask.rle, mask.box, mask.area, score, _CERTAIN, min(len(instances), 255)))
    if not instances and "other_size" in drops:
        return Failed(id_, "other_size", _size_trouble(annotations, listed, size), shape)
    return ImageRecord(id_, shape, OK if instances else NO_MASKS, tuple(instances), drops, None)


def _fits(listed: Size, size: PhotoSize) -> bool:
    """Whether polygons of an image that is listed with this size lie right on its photo. Swapped is as good, unless it
    is the EXIF orientation that swaps them: then they were drawn on the photo lying on its side.
    """
    if 0 in listed or listed == (size.height, size.width):
        return True
    return listed == (size.width, size.height) and not size.turned


def _score(annotation: Mapping[str, Any]) -> float:
    score = annotation.get("score")
    if score is None:
        return 1.0
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise UnusableMaskError("malformed", f"its score is {score!r}")
    return float(score)


def _size_trouble(annotations: Sequence[Any], listed: Size, size: PhotoSize) -> str:
    sizes = [rle_size(annotation.get("segmentation")) for annotation in annotations]
    theirs = next((own for own in sizes if own not in (None, (size.height, size.width))), None) or listed
    turned = ", turned as its EXIF data says" if size.turned else ""
    return f"its masks are of {theirs[0]} × {theirs[1]} pixels, the photo has {size.height} × {size.width}{turned}"
