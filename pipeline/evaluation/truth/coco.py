"""True objects out of a COCO instances file, all categories counted as one, to score pseudo-masks with.

H, W pixels
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import Any, Self

import numpy as np
import scipy
from pycocotools import mask as coco_mask

from pipeline.errors import SourceError
from pipeline.images.coco import checked_image, first_of_each_photo, image_id_of, list_in
from pipeline.images.coco_masks import UnusableMaskError, checked_rle
from pipeline.storage.locations import read_json

# Two objects touch when their masks, each grown by this many pixels, overlap: hand-drawn outlines of neighbours leave
# gaps of a few pixels.
TOUCH_REACH = 2

_REQUIRED = ("image_id", "category_id", "bbox")


class Truth:
    """A COCO instances data set, checked; masks are made when an image is first asked for, and kept.

    dataset: a COCO instances document (`COCO.dataset` of pycocotools will do); not changed.
    name: for messages.
    masks: whether every object has one; a truth without masks can score boxes, see `has_masks`, and where its objects
        have no area, it is that of their boxes.

    Raises:
        SourceError: a list is missing, an image or annotation lacks a field, or ids do not fit together.
    """

    def __init__(self, dataset: Mapping[str, Any], name: str = "the truth", masks: bool = True) -> None:
        self.name = name
        self.has_masks = masks
        entries = list_in(dataset, "images", name)
        images = [checked_image(image, name, sized=True) for image in entries]
        if not images:
            raise SourceError(f"{name} lists no images")
        first_I = first_of_each_photo([image.id for image in images], [image.file_name for image in images], name)
        self._ids = {image.id: images[first].id for image, first in zip(images, first_I.tolist(), strict=True)}
        self._sizes = {image.id: (image.height or 0, image.width or 0) for image in images}
        self.images = {images[first].id: entries[first] for first in sorted(set(first_I.tolist()))}
        self._annotations: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in list_in(dataset, "annotations", name):
            self._add_annotation(annotation)
        self._objects: dict[int, list[dict[str, Any]]] = {}
        self._pairs: dict[int, list[tuple[int, int]]] = {}

    @classmethod
    def read(cls, location: str) -> Self:
        """Read a COCO JSON file, local or an fsspec URL; SourceError when it cannot be read or is not one."""
        return cls(read_json(location), location)

    def size(self, image_id: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._sizes[image_id]

    def objects(self, image_id: int) -> list[dict[str, Any]]:
        """Annotations of an image in the file's order, as pycocotools' matching takes them.

        id counts from 1, because pycocotools takes a match with the id 0 for none; area and bbox are the file's;
        segmentation is run-length coded, and not there without masks; iscrowd is 0 or 1; category is the file's
        category_id.
        """
        if image_id not in self._objects:
            self._objects[image_id] = [
                self._object(number, annotation)
                for number, annotation in enumerate(self._annotations.get(image_id, ()), start=1)
            ]
        return self._objects[image_id]

    def touching_pairs(self, image_id: int) -> list[tuple[int, int]]:
        """Pairs of objects of one category, crowds left out, whose masks grown by TOUCH_REACH pixels overlap; as
        places among those of `objects` that are not crowds.
        """
        if image_id not in self._pairs:
            single = [entry for entry in self.objects(image_id) if not entry["iscrowd"]]
            self._pairs[image_id] = [
                (i, j)
                for (i, a), (j, b) in combinations(enumerate(single), 2)
                if a["category"] == b["category"] and _touch(a["segmentation"], b["segmentation"])
            ]
        return self._pairs[image_id]

    def _object(self, number: int, annotation: Mapping[str, Any]) -> dict[str, Any]:
        crowd = int(annotation.get("iscrowd", 0))
        box = annotation["bbox"]
        entry = {
            "id": number,
            "category": annotation["category_id"],
            "area": annotation.get("area", box[2] * box[3]),
            "bbox": box,
            "iscrowd": crowd,
            "ignore": crowd,
        }
        return entry | {"segmentation": self._rle(annotation)} if self.has_masks else entry

    def _add_annotation(self, annotation: Mapping[str, Any]) -> None:
        """Of an image that is listed under a second id the same objects count once."""
        self._check_annotation(annotation)
        image_id = image_id_of(annotation, self.name)
        its = self._annotations[self._ids[image_id]]
        if self._ids[image_id] == image_id or not any(_is_same_object(annotation, other) for other in its):
            its.append(annotation)

    def _check_annotation(self, annotation: Mapping[str, Any]) -> None:
        required = (*_REQUIRED, "area", "segmentation") if self.has_masks else _REQUIRED
        missing = [field for field in required if annotation.get(field) is None]
        if missing:
            what = "a mask" if self.has_masks else "a box"
            raise SourceError(
                f'{self.name}: an annotation has no "{missing[0]}": {str(annotation)[:120]}. '
                f"It takes an instances file, with {what} for every object"
            )
        if image_id_of(annotation, self.name) not in self._ids:
            raise SourceError(f"{self._place(annotation)} is of image {annotation['image_id']}, which is not listed")
        box = annotation["bbox"]
        if not _numbers(box) or len(box) != 4 or not _numbers([annotation.get("area", 0)]):
            raise SourceError(f"{self._place(annotation)}: bbox must be x, y, width, height, and area a number")

    def _rle(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return checked_rle(annotation["segmentation"], self._sizes[annotation["image_id"]])
        except UnusableMaskError as error:
            raise SourceError(f"{self._place(annotation)}: {error}") from error

    def _place(self, annotation: Mapping[str, Any]) -> str:
        return f"{self.name}: annotation {annotation.get('id', '')}"


def _is_same_object(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(field) == other.get(field) for field in ("category_id", "bbox", "segmentation"))


def _numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _touch(first: dict[str, Any], second: dict[str, Any]) -> bool:
    corners = []
    for rle in (first, second):
        x, y, width, height = coco_mask.toBbox(rle)
        corners.append((y - TOUCH_REACH, x - TOUCH_REACH, y + height + TOUCH_REACH, x + width + TOUCH_REACH))
    low = np.maximum(corners[0][:2], corners[1][:2])
    high = np.minimum(corners[0][2:], corners[1][2:])
    if (low >= high).any():
        return False
    # What lies further than the reach from where the grown boxes overlap cannot grow into it.
    top, left = np.maximum(low - TOUCH_REACH, 0).astype(int)
    bottom, right = (high + TOUCH_REACH).astype(int)
    grown = [
        scipy.ndimage.maximum_filter(
            coco_mask.decode(rle)[top:bottom, left:right], size=2 * TOUCH_REACH + 1, mode="constant"
        )
        for rle in (first, second)
    ]
    return bool((grown[0] & grown[1]).any())
