"""Truths in COCO's JSON files: segments of stuff and things, and panoptic maps.

H, W pixels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.same_images import is_turned, same_images
from pipeline.evaluation.semantic_truth.class_maps import COCO_27, COCO_CATEGORIES, IGNORED, check_names
from pipeline.evaluation.semantic_truth.pixel_maps import read_pixels
from pipeline.evaluation.semantic_truth.truth import MapError, TrueLabels
from pipeline.evaluation.truth.coco import Truth, list_of
from pipeline.images.beside import first_that_holds, places_beside
from pipeline.images.coco import whole_number
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.storage.locations import absolute, read_json, resolve

_FIRST_STUFF = 92  # of COCO's category ids


class CocoSegments:
    """A `truth.SemanticTruth` of annotations with masks: COCO-Stuff's, instances, or both.

    Where masks overlap, things are above stuff, and the smaller one is on top; a crowd counts as its class.

    files: COCO documents of the same images by name; those that all of them list count.
    classes: supercategories that count.
    """

    numbering, open_ended = "", False

    def __init__(self, name: str, files: Mapping[str, Any], classes: tuple[str, ...], benchmark: str) -> None:
        self.name, self.classes, self.benchmark = name, classes, benchmark
        self._truth = Truth(_joined(files), name)
        self.paths: Mapping[int, str] = {id_: str(image["file_name"]) for id_, image in self._truth.images.items()}
        self._class_of: dict[int, int] = {}
        for file, document in files.items():
            self._class_of |= _classes_by_id(document, file, classes)
        if not self._class_of:
            raise SourceError(f"{name}: no category is one of {', '.join(classes)}, as COCO's supercategories are")

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `truth.SemanticTruth`."""
        return same_images(
            {ref.id: ref.id for ref in refs}, self.paths, self.name, {ref.id: ref.coco_id for ref in refs}
        )

    def labels(self, number: int, ref: ImageRef, size: tuple[int, int]) -> TrueLabels:
        """See `truth.SemanticTruth`."""
        self._truth.is_of_size(number, size, partial(is_turned, ref))  # which puts right what is swapped
        labels_HW = np.full(self._truth.size(number), IGNORED, np.uint8)
        for segment in sorted(self._truth.objects(number), key=_height):
            index = self._class_of.get(segment["category"], IGNORED)
            labels_HW[coco_mask.decode(segment["segmentation"]) > 0] = index
        return TrueLabels(labels_HW, {})


class CocoPanoptic:
    """A `truth.SemanticTruth` of a panoptic JSON and its PNG maps, whose colours are numbers of segments.

    folder: of the maps; None is the one beside the file that has its name.
    classes: 133, all of the file's categories, or 27, their supercategories.
    """

    numbering, open_ended = "", False

    def __init__(self, name: str, location: str, folder: str | None, classes: int | None = None) -> None:
        self.name = name
        if classes not in (None, 133, 27):
            raise ConfigError(f"--classes {classes}: {name} has 133 or 27 classes")
        document = read_json(absolute(location))
        categories = _categories(document, location)
        if not categories:
            raise SourceError(f'{location} has no "categories": a panoptic file lists 133 of them')
        if classes == 27:
            self.classes, self.benchmark = COCO_27, ""
            self._class_of = _classes_by_id(document, location, COCO_27)
        else:
            self.classes = tuple(str(one.get("name", id_)) for id_, one in categories.items())
            self.benchmark = ""
            self._class_of = {id_: index for index, id_ in enumerate(categories)}
        check_names(self.classes, location)
        self._segments = _panoptic_images(document, location)
        maps = {number: one.file_name for number, one in self._segments.items()}
        photos = _photo_names(document, location)
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
                f"{' or '.join(places)}: say where they are, coco-panoptic:JSON:FOLDER"
            )
        self._folder = found

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `truth.SemanticTruth`."""
        # The photos are JPEG, the maps PNG, and not all files list the photos.
        stems = {number: path.rpartition(".")[0] or path for number, path in self.paths.items()}
        images = {ref.id: ref.id.rpartition(".")[0] or ref.id for ref in refs}
        return same_images(images, stems, self.name, {ref.id: ref.coco_id for ref in refs})

    def labels(self, number: int, ref: ImageRef, size: tuple[int, int]) -> TrueLabels:
        """See `truth.SemanticTruth`."""
        image = self._segments[number]
        location = resolve(image.file_name, self._folder)
        colours = read_pixels(location)
        if colours.ndim == 2:  # whose segments have grey colours, or one that is none
            colours = np.repeat(colours[..., None], 3, axis=2)
        ids_HW = colours.astype(np.int32) @ np.array((1, 1 << 8, 1 << 16), np.int32)
        ids, place, counts = np.unique(ids_HW, return_inverse=True, return_counts=True)
        known = [id_ == 0 or id_ in image.categories for id_ in ids.tolist()]
        if not any(known):
            raise MapError("of other numbers", f"{location}, none of whose segments the file lists")
        classes = [self._class_of.get(image.categories.get(id_, 0), IGNORED) for id_ in ids.tolist()]
        strange = {int(i): int(n) for i, n, is_known in zip(ids, counts, known, strict=True) if not is_known}
        return TrueLabels(np.array(classes, np.uint8)[place].reshape(ids_HW.shape), strange)


@dataclass(frozen=True)
class _PanopticImage:
    """file_name: of its map. categories: of each segment."""

    file_name: str
    categories: Mapping[int, int]


def _height(segment: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """Sort key of masks, the lowest first."""
    category = segment["category"]
    return isinstance(category, int) and category < _FIRST_STUFF, not segment["iscrowd"], -segment["area"]


def _joined(files: Mapping[str, Any]) -> dict[str, Any]:
    """One document of several."""
    first, *others = files
    images = list_of(files[first], "images", first)
    annotations = list(list_of(files[first], "annotations", first))
    for other in others:
        theirs = {_id(image) for image in list_of(files[other], "images", other)}
        images = [image for image in images if _id(image) in theirs]
        annotations += list_of(files[other], "annotations", other)
    if not images:
        raise SourceError(f"{' and '.join(files)} have no image id in common: give files of the same images")
    kept = {_id(image) for image in images}
    if others:
        annotations = [
            one
            for one in annotations
            if not isinstance(one, Mapping) or whole_number(one.get("image_id")) in kept or "image_id" not in one
        ]
    return {"images": images, "annotations": annotations}


def _id(entry: Any) -> int | None:
    return whole_number(entry.get("id")) if isinstance(entry, Mapping) else None


def _categories(document: Any, name: str) -> dict[int, Mapping[str, Any]]:
    listed = document.get("categories") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        return {}
    return {id_: one for one in listed if (id_ := _id(one)) is not None}


def _classes_by_id(document: Any, name: str, classes: tuple[str, ...]) -> dict[int, int]:
    """Of each category its class, by its supercategory; where the file names none, by COCO's own ids."""
    index = {supercategory: i for i, supercategory in enumerate(classes)}
    above = {id_: one.get("supercategory") for id_, one in _categories(document, name).items()}
    if not any(above.values()):
        above = dict(COCO_CATEGORIES)
    return {id_: index[str(one)] for id_, one in above.items() if str(one) in index}


def _panoptic_images(document: Any, name: str) -> dict[int, _PanopticImage]:
    entries = list_of(document, "annotations", name)
    left_out = LeftOut(name, "images")
    images: dict[int, _PanopticImage] = {}
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
            ids = ((_id(one), whole_number(one.get("category_id"))) for one in segments if isinstance(one, Mapping))
            images[number] = _PanopticImage(file, {a: b for a, b in ids if a is not None and b is not None})
    if left_out.total == len(entries):
        raise SourceError(
            f"{name} is no panoptic file: its annotations have no image_id, file_name and segments_info; instances and "
            "stuff are coco-things:, coco-stuff:"
        )
    left_out.tell(len(entries))
    return images


def _photo_names(document: Any, name: str) -> dict[int, str]:
    listed = document.get("images")
    entries = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    names = ((_id(one), one.get("file_name")) for one in entries)
    return {id_: name for id_, name in names if id_ is not None and isinstance(name, str)}
