"""COCO files: what an image and an annotation in one must have, its images, and where in a file of any size the
annotations of each of them lie.

I images · A annotations
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.flags import is_crowd
from pipeline.images.left_out import LeftOut
from pipeline.storage.json_lists import ROOT, Entry, JsonLists, open_lists

_IMAGES, _ANNOTATIONS = "images", "annotations"


class CocoImage(NamedTuple):
    """An image as a file lists it. height, width: pixels, None where the file has none, or 0."""

    id: int
    file_name: str
    height: int | None
    width: int | None


def checked_image(image: Any, name: str, *, sized: bool = False) -> CocoImage:
    """An entry of a file's "images".

    name: of the file, for messages.
    sized: whether height and width must be there.

    Raises SourceError, naming the field, when one is missing or not of its type.
    """
    if not isinstance(image, Mapping):
        raise SourceError(f'{name}: an image is no object: it has no "file_name" and no "id": {str(image)[:120]}')
    id_, file_name = image.get("id"), image.get("file_name")
    has = 'an image must have an "id", a whole number, and a "file_name"'
    if not _is_id(id_):
        raise _without(image, "id", int, has, name)
    if not isinstance(file_name, str):
        raise _without(image, "file_name", str, has, name)
    sides = {side: image.get(side) for side in ("height", "width")}
    for side, pixels in sides.items():
        if not sized and (pixels is None or pixels == 0):
            sides[side] = None
        elif type(pixels) is not int or not 0 < pixels < 1 << 31:
            raise _without(image, side, int, f'"{side}" of an image must be a number of pixels', name)
    return CocoImage(id_, file_name, **sides)


def image_id_of(annotation: Any, name: str) -> int:
    """The "image_id" of an annotation; SourceError when it has none."""
    image_id = annotation.get("image_id") if isinstance(annotation, Mapping) else None
    if not _is_id(image_id):
        raise SourceError(f'{name}: an annotation has no "image_id", a whole number: {str(annotation)[:120]}')
    return image_id


def refuse_equal_ids(ids: Sequence[int] | np.ndarray, name: str) -> None:
    """SourceError when two images of a file have one id."""
    sorted_ids = np.sort(np.asarray(ids, np.int64))
    twice = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
    if len(twice):
        raise SourceError(f"{name}: two images have the id {twice[0]}; ids must be unique")


def list_in(document: Any, key: str, name: str) -> list[Any]:
    """A list of a COCO document that has been read; SourceError when it is not there, or not of objects."""
    found = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise SourceError(f'{name} is not a COCO instances file: it has no list "{key}" of objects')
    return found


def listed_images(location: str) -> list[CocoImage]:
    """The images of a COCO file of any size, in its order; path or fsspec URL.

    Raises SourceError when it cannot be read, lists none, or two of them have one id.
    """
    with open_lists(location) as lists:
        images = [checked_image(entry.value, location) for entry in lists.entries() if entry.key == _IMAGES]
        if not images and _IMAGES not in lists.keys:
            raise SourceError(f'{location} is not a COCO file: it has no list "images"')
    if not images:
        raise SourceError(f"{location} lists no images")
    refuse_equal_ids([image.id for image in images], location)
    return images


class CocoIndex:
    """Images and annotations of a COCO instances file, or of a list of detections and the file that lists its images.

    Of an annotation some twenty bytes are in memory; `annotations` reads the rest when it is asked for.

    Attributes: `file_names` (of the images, in the file's order), `ids` (int64 (I,)), `listed` (int32 (I, 2), height
    and width as listed, 0 where they are not), `n_annotations`, `n_masks` (annotations that have a segmentation).

    Annotations of no image that is listed are left out, and the log says how many.

    Raises:
        SourceError: an image lacks a field, two have one id, an annotation does not say whether it is a crowd, there is
            no image, or no mask of one.
    """

    def __init__(self, lists: JsonLists, images_of: JsonLists | None = None) -> None:
        self._lists = lists
        self.name = lists.name
        self.file_names: list[str] = []
        self._image_ids, self._sizes = array("q"), array("i")
        self._of, self._starts, self._lengths = array("q"), array("q"), array("i")
        self.n_masks = 0
        self._left_out = LeftOut(lists.name, "annotations")
        for entry in lists.entries():
            if entry.key == _IMAGES and images_of is None:
                self._add_image(entry.value, lists.name)
            elif entry.key in (_ANNOTATIONS, ROOT):
                self._add_annotation(entry)
        if images_of is not None:
            for entry in images_of.entries():
                if entry.key == _IMAGES:
                    self._add_image(entry.value, images_of.name)
        if not self.file_names:
            raise SourceError(self._no_images(ROOT in lists.keys, images_of))
        self.ids = np.array(self._image_ids, np.int64)
        self.listed = np.array(self._sizes, np.int32).reshape(-1, 2)
        self.n_annotations = len(self._of) + self._left_out.total
        if not self.n_masks:
            raise SourceError(
                f"{self.name} has {self.n_annotations or 'no'} annotations, none of them with a segmentation: "
                "pseudo-masks need masks"
            )
        self._sort()

    def annotations(self, image: int) -> list[dict[str, Any]]:
        """Annotations of an image, given by its place in `file_names`, in the order of the file; read from it again."""
        first, last = self._edges[image], self._edges[image + 1]
        return [
            self._lists.read(self._starts[place], self._starts[place] + self._lengths[place])
            for place in self._order[first:last].tolist()
        ]

    def _add_image(self, entry: Any, name: str) -> None:
        image = checked_image(entry, name)
        self.file_names.append(image.file_name)
        self._image_ids.append(image.id)
        self._sizes.extend((image.height or 0, image.width or 0))

    def _add_annotation(self, entry: Entry) -> None:
        try:
            image_id = image_id_of(entry.value, self.name)
        except SourceError as error:
            self._left_out.add("without image_id", str(error).removeprefix(f"{self.name}: "))
            return
        is_crowd(entry.value, self.name)
        self._of.append(image_id)
        self._starts.append(entry.start)
        self._lengths.append(entry.end - entry.start)
        self.n_masks += entry.value.get("segmentation") is not None

    def _sort(self) -> None:
        """Bring images and annotations together."""
        refuse_equal_ids(self.ids, self.name)
        by_id = np.argsort(self.ids, kind="stable")
        sorted_ids = self.ids[by_id]
        of = np.array(self._of, np.int64)
        places = np.minimum(np.searchsorted(sorted_ids, of), len(sorted_ids) - 1)
        is_listed_A = sorted_ids[places] == of
        for image_id in of[~is_listed_A].tolist():
            self._left_out.add("not_listed", f"one of image {image_id}, which is not listed")
        self._left_out.tell(self.n_annotations)
        image_A = by_id[places[is_listed_A]]
        by_image = np.argsort(image_A, kind="stable")
        self._order, image_A = np.flatnonzero(is_listed_A)[by_image], image_A[by_image]
        self._edges: Sequence[int] = np.searchsorted(image_A, np.arange(len(self.ids) + 1)).tolist()

    def _no_images(self, is_list: bool, images_of: JsonLists | None) -> str:
        if images_of is not None:
            return f'{images_of.name} lists no images: it needs a list "images", as COCO files have it'
        if is_list:
            return (
                f"{self.name} is a list of detections, which does not say what images they are of: name the COCO file "
                "that lists them with --images-of"
            )
        return f'{self.name} lists no images: a COCO instances file has the lists "images" and "annotations"'


def _without(image: Any, field: str, kind: type, rule: str, name: str) -> SourceError:
    return SourceError(f'{name}: an image has no "{field}" of type {kind.__name__}: {str(image)[:120]}; {rule}')


def _is_id(value: Any) -> TypeGuard[int]:
    return type(value) is int and abs(value) < 1 << 63
