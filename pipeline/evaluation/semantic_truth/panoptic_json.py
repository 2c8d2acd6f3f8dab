"""Panoptic JSON files and their PNG maps, whose colours are numbers of segments: COCO's, and what is written like them.

H, W pixels · S segments of an image
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import SourceError
from pipeline.evaluation.same_images import same_images
from pipeline.evaluation.semantic_truth.pixel_maps import read_pixels
from pipeline.evaluation.semantic_truth.truth import MapError
from pipeline.evaluation.truth.coco import list_of
from pipeline.images.beside import first_that_holds, places_beside
from pipeline.images.coco import whole_number
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.storage.locations import absolute, read_json, resolve

_FEW = 1 << 20  # numbers that are counted rather than sorted


@dataclass(frozen=True)
class PanopticImage:
    """What a file says of one image.

    file_name: of its map.
    categories: id of the category of each segment, by the segment's number.
    crowds: numbers of segments that are crowds.
    """

    file_name: str
    categories: Mapping[int, int]
    crowds: frozenset[int]


class PanopticMap(NamedTuple):
    """The map of one image.

    ids: numbers of segments that occur, ascending, 0 for void, int (S,).
    places: of each pixel the place of its segment among these, int (H, W).
    pixels: of each segment, (S,).
    """

    ids: np.ndarray
    places: np.ndarray
    pixels: np.ndarray


class PanopticFile:
    """A panoptic JSON that has been read; maps are read when they are asked for.

    name: for messages.
    location: path or URL of the file.
    folder: of the maps; None is the one beside the file that has its name.
    remedy: what to do where they are not there.

    Attributes: `categories`, as listed, by id; `images`, by number; `paths`, one an image, to compare with those of a
    run.

    Raises SourceError for a file that is none, or whose maps are nowhere.
    """

    def __init__(self, name: str, location: str, folder: str | None, remedy: str) -> None:
        self.name, document = name, read_json(absolute(location))
        self.categories = categories_of(document)
        if not self.categories:
            raise SourceError(f'{location} has no "categories": a panoptic file lists 133 of them')
        self.images = _panoptic_images(document, location)
        maps = {number: one.file_name for number, one in self.images.items()}
        photos = _photo_names(document)
        self.paths: Mapping[int, str] = {number: photos.get(number, file) for number, file in maps.items()}
        places = (
            [absolute(folder)]
            if folder
            else [absolute(location).rpartition(".")[0], *places_beside(absolute(location))]
        )
        found = first_that_holds(places, list(maps.values()))
        if found is None:
            raise SourceError(
                f"{location}: none of its {len(maps)} maps, such as {next(iter(maps.values()))}, is in "
                f"{' or '.join(places)}: {remedy}"
            )
        self._folder = found

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `beside_truth.Truth`."""
        # The photos are JPEG, the maps PNG, and not all files list the photos.
        stems = {number: path.rpartition(".")[0] or path for number, path in self.paths.items()}
        images = {ref.id: ref.id.rpartition(".")[0] or ref.id for ref in refs}
        return same_images(images, stems, self.name, {ref.id: ref.coco_id for ref in refs})

    def location(self, number: int) -> str:
        """Of the map of an image."""
        return resolve(self.images[number].file_name, self._folder)

    def map(self, number: int) -> PanopticMap:
        """The map of an image. MapError, whose detail names the file, where it cannot be read or is of others."""
        location = self.location(number)
        colours = read_pixels(location)
        if colours.ndim == 2:  # whose segments have grey colours, or one that is none
            colours = np.repeat(colours[..., None], 3, axis=2)
        ids_HW = colours.astype(np.int32) @ np.array((1, 1 << 8, 1 << 16), np.int32)
        found = PanopticMap(*distinct(ids_HW))
        if not any(id_ == 0 or id_ in self.images[number].categories for id_ in found.ids.tolist()):
            raise MapError("of other numbers", f"{location}, none of whose segments the file lists")
        return found

    def strange(self, number: int, map_: PanopticMap) -> dict[int, int]:
        """Pixels by number of a segment that the file does not list."""
        known = self.images[number].categories
        pairs = zip(map_.ids.tolist(), map_.pixels.tolist(), strict=True)
        return {id_: pixels for id_, pixels in pairs if id_ != 0 and id_ not in known}


def distinct(values_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers that occur, ascending; of each pixel the place of its number among these; pixels of each."""
    if values_HW.max(initial=0) >= _FEW or values_HW.min(initial=0) < 0:
        values, places, pixels = np.unique(values_HW, return_inverse=True, return_counts=True)
        return values, places.reshape(values_HW.shape), pixels
    counts = np.bincount(values_HW.ravel())
    values = np.flatnonzero(counts)
    table = np.zeros(len(counts), np.int32)
    table[values] = np.arange(len(values))
    return values, table[values_HW], counts[values]


def categories_of(document: Any) -> dict[int, Mapping[str, Any]]:
    """Categories of a COCO document by id; {} where it lists none."""
    listed = document.get("categories") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        return {}
    return {id_: one for one in listed if (id_ := entry_id(one)) is not None}


def entry_id(entry: Any) -> int | None:
    """The "id" of an entry, None where it has none."""
    return whole_number(entry.get("id")) if isinstance(entry, Mapping) else None


def _panoptic_images(document: Any, name: str) -> dict[int, PanopticImage]:
    entries = list_of(document, "annotations", name)
    left_out = LeftOut(name, "images")
    images: dict[int, PanopticImage] = {}
    for entry in entries:
        number = whole_number(entry.get("image_id")) if isinstance(entry, Mapping) else None
        file, segments = (
            (entry.get(field) for field in ("file_name", "segments_info")) if number is not None else (0, 0)
        )
        if number is None or not isinstance(file, str) or not isinstance(segments, list):
            left_out.add("without image_id, file_name and segments_info", str(entry)[:120])
        elif number in images:
            left_out.add("of an id twice", f"{file}, whose image_id {images[number].file_name} has, too")
        else:
            listed = [one for one in segments if isinstance(one, Mapping)]
            ids = ((entry_id(one), whole_number(one.get("category_id"))) for one in listed)
            crowds = frozenset(id_ for one in listed if one.get("iscrowd") and (id_ := entry_id(one)) is not None)
            images[number] = PanopticImage(file, {a: b for a, b in ids if a is not None and b is not None}, crowds)
    if left_out.total == len(entries):
        raise SourceError(
            f"{name} is no panoptic file: its annotations have no image_id, file_name and segments_info; instances and "
            "stuff are coco-things:, coco-stuff:"
        )
    left_out.tell(len(entries))
    return images


def _photo_names(document: Any) -> dict[int, str]:
    listed = document.get("images")
    entries = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    names = ((entry_id(one), one.get("file_name")) for one in entries)
    return {id_: name for id_, name in names if id_ is not None and isinstance(name, str)}
