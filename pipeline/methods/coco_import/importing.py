"""Masks that others have made, as a run: a COCO file becomes shards with the schema and the commits of all runs.

Nothing is known of how sure such masks are: their Spatial Confidence is 1 everywhere, on a grid of one patch.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, ImageError
from pipeline.images.beside import folder_of_photos
from pipeline.images.coco import CocoIndex
from pipeline.images.coco_masks import UnusableMaskError, rle_size, stored_mask
from pipeline.images.manifest import ImageRef, Manifest, Shard, default_shard_size, safe_id
from pipeline.images.photos import PhotoSize, photo_sizes
from pipeline.results.instance_file import write_shard
from pipeline.results.instances import NO_MASKS, OK, QUARANTINED, ImageRecord, Instance, counts_of, quarantine_of
from pipeline.runs.launch import IMPORT
from pipeline.runs.lease import Lease
from pipeline.runs.provenance import new_attempt
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.summary import Reporter, RunSummary, Silent, start_reporting
from pipeline.storage.json_lists import open_lists
from pipeline.storage.locations import absolute, resolve

log = logging.getLogger(__name__)

GRID = (1, 1)
IMAGES_REMEDY = "say with --images what folder the names are relative to"

_CERTAIN = np.full(GRID, 255, np.uint8)


def import_coco(
    location: str,
    out: str | Path,
    images: str | None = None,
    *,
    images_of: str | None = None,
    min_score: float = 0.0,
    shard_size: int | None = None,
    reporter: Reporter | None = None,
) -> RunSummary:
    """Make a run of a COCO instances file, or go on with one.

    Each image's size is that of its photo the right way up, read from the photo's header, whatever the file says:
    CutLER's files have width and height swapped. Images without a usable photo, and those whose masks are not of the
    photo's size, are set aside; the same import tries them again. Masks that are not taken are counted as drops:
    "crowd", "no_mask", "empty", "malformed", "other_size", "duplicate" (the very same mask twice) and "low_score".

    location: COCO file, or list of detections; path or fsspec URL. out: run folder. images: folder that the file's
    names are relative to; default: the first beside it that holds some (`places_beside`). images_of: for a list of
    detections the COCO file with its images. min_score: masks that score less are dropped; one without a score has 1.

    Raises:
        SourceError: the file is no COCO file, has no masks, its ids do not fit, or none of its images is there.
        ConfigError: a setting is out of range, or the run's photos are elsewhere.
        RunMismatchError: the folder holds another run.
        StoreError: it cannot be written.
    """
    if not math.isfinite(min_score):
        raise ConfigError(f"min_score is {min_score}: it must be a number")
    started = time.perf_counter()
    with ExitStack() as stack:
        lists = stack.enter_context(open_lists(location))
        listing = stack.enter_context(open_lists(images_of)) if images_of else None
        index = CocoIndex(lists, listing)
        ids = [safe_id(name) for name in index.file_names]
        root = folder_of_photos(absolute(location), ids, absolute(images) if images else None, IMAGES_REMEDY)
        refs = [
            ImageRef(id_, resolve(name, root), coco_id=coco_id)
            for id_, name, coco_id in zip(ids, index.file_names, index.ids.tolist(), strict=True)
        ]
        manifest = Manifest(refs, shard_size or default_shard_size(len(refs)))
        digests = {"sha256": lists.sha256()} | ({"images_sha256": listing.sha256()} if listing else {})
        config = {"recipe": {"name": IMPORT, "min_score": min_score}, "source": digests}
        folder = RunFolder.create_or_open(out, config, manifest)
        _refuse_moved_photos(folder, manifest)
        work = _Import(folder, index, min_score)
        summary = RunSummary(folder.url, "refine")
        with Lease(folder.files) as lease:
            work.do(folder.pending(), summary, lease, reporter or Silent())
            work.retry(summary, lease)
        summary.settle(folder, folder.ledger, started)
    if work.swapped:
        log.warning("%d images of %s had height and width swapped, as CutLER writes them", work.swapped, location)
    return summary


class _Import:
    """The shards of one import."""

    def __init__(self, folder: RunFolder, index: CocoIndex, min_score: float) -> None:
        self._folder, self._index, self._min_score = folder, index, min_score
        self._place = {coco_id: place for place, coco_id in enumerate(index.ids.tolist())}
        self.swapped = 0

    def do(self, shards: Sequence[Shard], summary: RunSummary, lease: Lease, reporter: Reporter) -> None:
        start_reporting(reporter, self._folder, shards)
        try:
            for shard in shards:
                lease.check()
                started = time.monotonic()
                records = self._records(shard.refs)
                reporter.shard(self._commit(shard, records, started, summary))
        finally:
            reporter.stop()

    def retry(self, summary: RunSummary, lease: Lease) -> None:
        """Take up images that were set aside and can be used by now."""
        if not any(commit.counts["quarantined"] for commit in self._folder.ledger.committed().values()):
            return
        started = time.monotonic()
        set_aside = {record.id for record in RunReader(self._folder).quarantined()}
        refs = [ref for ref in self._folder.manifest.refs if ref.id in set_aside]
        found = {record.id: record for record in self._records(refs) if record.status != QUARANTINED}
        for shard in self._folder.retry_shards(found) if found else ():
            lease.check()
            self._commit(shard, [found[ref.id] for ref in shard.refs], started, summary)

    def _records(self, refs: Sequence[ImageRef]) -> list[ImageRecord]:
        return [self._record(ref, size) for ref, size in zip(refs, photo_sizes(refs), strict=True)]

    def _record(self, ref: ImageRef, size: PhotoSize | ImageError) -> ImageRecord:
        assert ref.coco_id is not None  # `import_coco` lists them with it
        place = self._place[ref.coco_id]
        if isinstance(size, ImageError):
            return _set_aside(ref.id, (0, 0), size)
        height, width = self._index.listed[place].tolist()
        record = record_of(ref.id, size, (height, width), self._index.annotations(place), self._min_score)
        self.swapped += (height, width) == (size.width, size.height) != (size.height, size.width)
        return record

    def _commit(
        self, shard: Shard, records: Sequence[ImageRecord], started: float, summary: RunSummary
    ) -> dict[str, Any]:
        data = write_shard(records, GRID, self._folder.shard_attributes("refine"))
        counts = counts_of(records)
        wall = time.monotonic() - started
        seconds = {IMPORT: wall}
        self._folder.ledger.commit(shard.key, new_attempt(), data, quarantine_of(records), counts, seconds, wall)
        summary.add(counts, seconds)
        return counts


def record_of(
    id_: str,
    size: PhotoSize,
    listed: tuple[int, int],
    annotations: Sequence[Any],
    min_score: float = 0.0,
) -> ImageRecord:
    """What the annotations of one image come to.

    size: of the photo. listed: height and width as the file has them, 0 where it has not.
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
        return _set_aside(id_, shape, ImageError("other_size", _size_trouble(annotations, listed, size)))
    return ImageRecord(id_, shape, OK if instances else NO_MASKS, tuple(instances), drops, None)


def _set_aside(id_: str, size: tuple[int, int], error: ImageError) -> ImageRecord:
    return ImageRecord(id_, size, QUARANTINED, (), {}, None, error.reason, error.detail)


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


def _refuse_moved_photos(folder: RunFolder, manifest: Manifest) -> None:
    """The manifest that readers of the run will see is that of the first import, and so is where it finds photos."""
    if not folder.ledger.committed_keys():
        return
    before = RunFolder.open(folder.url).manifest.refs[0].uri
    if before != manifest.refs[0].uri:
        raise ConfigError(
            f"{folder.url} was begun with photos elsewhere, such as {before}, now {manifest.refs[0].uri}: give the "
            "same --images, or another --out"
        )
