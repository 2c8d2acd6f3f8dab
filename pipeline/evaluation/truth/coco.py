"""True objects out of a COCO instances file, all categories counted as one, to score pseudo-masks with.

H, W pixels
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Self

import numpy as np
import scipy
from pycocotools import mask as coco_mask

from pipeline.errors import SourceError
from pipeline.images.coco import (
    CocoImage,
    GivenIds,
    checked_image,
    first_of_each_photo,
    image_id_of,
    list_in,
    listed_image,
)
from pipeline.images.coco_masks import CheckedMask, UnusableMaskError, checked_mask, is_crowd, rle_size, tell_of_swapped
from pipeline.images.left_out import LeftOut
from pipeline.images.many_objects import without_gc
from pipeline.storage.locations import read_json

# Two objects touch when their masks, each grown by this many pixels, overlap: hand-drawn outlines of neighbours leave
# gaps of a few pixels.
TOUCH_REACH = 2

log = logging.getLogger(__name__)

Size = tuple[int, int]


@dataclass(frozen=True)
class _Object:
    """An annotation, checked. area and box: None where the mask has to tell."""

    category: Any
    crowd: bool
    area: float | None
    box: list[float] | None
    mask: CheckedMask | None


class Truth:
    """A COCO instances data set. All of it is checked when it is made; masks are drawn when an image is first asked
    for, and kept.

    Annotations that cannot be used are left out, and the log says how many, by reason. Where an annotation has no area
    or no box, they are those of its mask.

    dataset: a COCO instances document (`COCO.dataset` of pycocotools will do); not changed.
    name: for messages.
    own_ids: whether ids of images are those of the file, and not numbers that were given when it was read.
    masks: whether objects have one; a truth without masks can score boxes, see `has_masks`, and where its objects have
        no area, it is that of their boxes.

    Attributes: `images` (by id, as listed, with the height and width that hold), `swapped` (ids of those whose height
    and width are the other way round in the file).

    Raises:
        SourceError: a list is missing, or not one image or annotation can be used.
    """

    @without_gc()
    def __init__(
        self, dataset: Mapping[str, Any], name: str = "the truth", masks: bool = True, own_ids: bool = True
    ) -> None:
        self.name = name
        self.has_own_ids = own_ids
        self.has_masks = masks
        self.images: dict[int, Mapping[str, Any]] = {}
        self.swapped: set[int] = set()
        self._is_sure_of: set[int] = set()  # images whose masks are run-length codes of their size
        self._annotations: dict[int, list[_Object]] = {}
        self._objects: dict[int, list[dict[str, Any]]] = {}
        self._pairs: dict[int, list[tuple[int, int]]] = {}
        images, annotations = LeftOut(name, "images"), LeftOut(name, "annotations")
        parts = LeftOut(name, "parts of masks")
        listed = images_in(dataset, name, images)
        same = _same_photos([image for image, _ in listed], name, images)
        listings = Counter(same[image.id] for image, _ in listed if image.id in same)
        by_image = _by_image(dataset, same, listings, name, annotations)
        for image, entry in listed:
            if image.id in by_image:
                self._add_image(image, entry, by_image[image.id], images)
        if not self.images:
            checked_image(listed[0][1], name, sized=True)
        for image_id in self.images:
            found = (self._checked(one, image_id, annotations, parts) for one in by_image[image_id])
            self._annotations[image_id] = [one for one in found if one is not None]
        images.tell(len(dataset["images"]))
        annotations.tell(len(dataset["annotations"]))
        parts.tell()
        tell_of_swapped(name, len(self.swapped), len(self.images))
        ignored = [one.crowd for its in self._annotations.values() for one in its]
        if all(ignored):
            what = f"all of its objects ({len(ignored)}) are to be ignored" if ignored else "it has no annotations"
            log.warning("%s: %s: there is none to find", name, what)

    @classmethod
    @without_gc()
    def read(cls, location: str) -> Self:
        """Read a COCO JSON file, local or an fsspec URL; SourceError when it cannot be read or is not one."""
        return cls(read_json(location), location)

    def size(self, image_id: int) -> Size:
        """Height and width in pixels."""
        image = self.images[image_id]
        return image["height"], image["width"]

    def is_of_size(self, image_id: int, size: Size, turned: Callable[[], bool]) -> bool:
        """Whether an image is of the size of its photo. If it has that size but for height and width, which are
        swapped, the image has the photo's from now on: its polygons and boxes are right where they are.

        turned: whether it is its EXIF data that turns the photo; then objects were drawn on it as it lay on its side,
        and it is of another size.
        """
        if self.size(image_id) == size:
            return True
        if self.size(image_id) != size[::-1] or image_id in self._is_sure_of or turned():
            return False
        self.swapped.add(image_id)
        self.images[image_id] = {**self.images[image_id], "height": size[0], "width": size[1]}
        self._annotations[image_id] = [_turned(one, size) for one in self._annotations[image_id]]
        self._objects.pop(image_id, None)
        self._pairs.pop(image_id, None)
        return True

    def objects(self, image_id: int) -> list[dict[str, Any]]:
        """Annotations of an image in the file's order, as pycocotools' matching takes them.

        id counts from 1, because pycocotools takes a match with the id 0 for none; area and bbox are the file's, or the
        mask's; segmentation is run-length coded, and not there without masks; iscrowd is 0 or 1; category is the file's
        category_id, None where it has none.
        """
        if image_id not in self._objects:
            self._objects[image_id] = [
                _entry(number, one) for number, one in enumerate(self._annotations[image_id], start=1)
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

    def _add_image(self, image: CocoImage, entry: Any, annotations: list[Any], left_out: LeftOut) -> None:
        """Of the size that is listed, unless all of its masks are run-length codes that say otherwise: one such code
        among others is a fault of its own.
        """
        own = Counter(size for one in annotations if (size := rle_size(one.get("segmentation"))) is not None)
        listed = (image.height, image.width) if image.height and image.width else None
        if listed is None:
            if not own:
                left_out.add("without a size", f'{image.file_name}, which has no "height" and "width" above 0')
                return
            listed = own.most_common(1)[0][0]
        elif own and own[listed[::-1]] == sum(bool(one.get("segmentation")) for one in annotations):
            self.swapped.add(image.id)
            listed = listed[::-1]
        if listed in own:
            self._is_sure_of.add(image.id)
        self.images[image.id] = {**entry, "height": listed[0], "width": listed[1]}

    def _checked(
        self, annotation: Mapping[str, Any], image_id: int, left_out: LeftOut, parts: LeftOut
    ) -> _Object | None:
        """None for one that is left out."""
        mask = None
        segmentation, box, area = (annotation.get(field) for field in ("segmentation", "bbox", "area"))
        try:
            crowd = is_crowd(annotation)
        except UnusableMaskError as error:
            left_out.add(error.reason, f"{_place(annotation)}: {error}")
            return None
        has_box = _is_box(box)
        if self.has_masks or not has_box:
            try:
                mask = checked_mask(segmentation, self.size(image_id))
            except UnusableMaskError as error:
                if not self.has_masks:
                    left_out.add("without a box", f'{_place(annotation)}: "bbox" must be x, y, width, height')
                else:
                    left_out.add(error.reason, f"{_place(annotation)}: {error}")
                return None
        for fault in mask.bad_parts if mask else ():
            parts.add("bad_part", f"one of {_place(annotation)}: {fault}")
        if mask is not None and not self.has_masks:
            box, has_box, mask = coco_mask.toBbox(mask.rle()).tolist(), True, None
        return _Object(
            annotation.get("category_id"),
            crowd,
            area if area is not None and _is_number(area) and area >= 0 else None,
            list(box) if box is not None and has_box else None,
            mask,
        )


def images_in(document: Any, name: str, left_out: LeftOut) -> list[tuple[CocoImage, Any]]:
    """The images of a COCO document that has been read, each beside its entry. SourceError when it lists none, or when
    none of them is one; one among others may be anything, and is left out.
    """
    found = list_of(document, "images", name)
    images, odd, ids = [], [], GivenIds(name)
    for number, entry in enumerate(found, start=1):
        image = ids.given(listed_image(entry, number, name), number)
        if image.trouble is None:
            images.append((image, entry))
        else:
            odd.append(image.trouble)
            left_out.add("odd", image.trouble.removeprefix(f"{name}: "))
    if images:
        return images
    raise SourceError(odd[0] if odd else f"{name} lists no images")


def list_of(document: Any, key: str, name: str) -> list[Any]:
    """A list of a COCO document that has been read; SourceError when it is not there, or has no object in it. One entry
    among others may be anything.
    """
    found = document.get(key) if isinstance(document, Mapping) else None
    if isinstance(found, list) and any(isinstance(entry, Mapping) for entry in found):
        return found
    return list_in(document, key, name)


def _by_image(
    dataset: Mapping[str, Any], same: Mapping[int, int], listings: Counter[int], name: str, left_out: LeftOut
) -> dict[int, list[Any]]:
    """The annotations of each photo, by the first of its ids.

    same: of each id that first one.
    listings: how often each photo is listed.
    """
    by_image: dict[int, list[Any]] = {id_: [] for id_ in same.values()}
    for annotation in list_of(dataset, "annotations", name):
        try:
            image_id = image_id_of(annotation, name)
        except SourceError:
            left_out.add("without image_id", f'one whose "image_id" is no whole number: {str(annotation)[:120]}')
            continue
        if image_id not in same:
            left_out.add("not_listed", f"{_place(annotation)} is of image {image_id}, which is not listed, or left out")
            continue
        its = by_image[same[image_id]]
        # Of a photo that is listed once, equal objects count as the benchmark's own code counts them.
        if listings[same[image_id]] == 1 or not any(_is_same(annotation, one) for one in its):
            its.append(annotation)
    return by_image


def _same_photos(images: list[CocoImage], name: str, left_out: LeftOut) -> dict[int, int]:
    """Of each id the first one with the same file name: some tools list a photo once for each of its annotations.

    A listing with another size than the first is left out.
    """
    first_I = first_of_each_photo([image.file_name for image in images], name).tolist()
    same: dict[int, int] = {}
    for image, first in zip(images, first_I, strict=True):
        other = images[first]
        sizes = {(one.height, one.width) for one in (image, other) if one.height and one.width}
        if len(sizes) > 1:
            left_out.add(
                "of another size",
                f"images {other.id} and {image.id} are both {image.file_name}, of different sizes: give each "
                "photo a name of its own; the first counts",
            )
        else:
            same[image.id] = other.id
    return same


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two annotations are of one object, listed once more with its photo."""
    return all(one.get(field) == other.get(field) for field in ("category_id", "bbox", "segmentation"))


def _entry(number: int, one: _Object) -> dict[str, Any]:
    rle = one.mask.rle() if one.mask is not None else None
    box = one.box if one.box is not None else coco_mask.toBbox(rle).tolist()
    area = one.area
    if area is None:
        area = box[2] * box[3] if rle is None else float(coco_mask.area(rle))
    entry = {"id": number, "category": one.category, "area": area, "bbox": box}
    entry |= {"iscrowd": int(one.crowd), "ignore": int(one.crowd)}
    return entry if rle is None else entry | {"segmentation": rle}


def _place(annotation: Mapping[str, Any]) -> str:
    return f"annotation {annotation.get('id', '')}"


def _turned(one: _Object, size: Size) -> _Object:
    return one if one.mask is None else replace(one, mask=one.mask._replace(size=size))


def _is_box(box: Any) -> bool:
    return _numbers(box) and len(box) == 4 and min(box[2:]) >= 0


def _numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    kind = type(value)
    return (kind is float or (kind is not bool and isinstance(value, int | float))) and math.isfinite(value)


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
