"""What a COCO file of any size holds: its images, and where in the file the annotations of each of them lie.

I images · A annotations
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import SourceError
from pipeline.storage.json_lists import ROOT, Entry, JsonLists

_IMAGES, _ANNOTATIONS = "images", "annotations"


class CocoIndex:
    """Images and annotations of a COCO instances file, or of a list of detections and the file that lists its images.

    Of an annotation some twenty bytes are in memory; `annotations` reads the rest when it is asked for.

    Attributes: `file_names` (of the images, in the file's order), `ids` (int64 (I,)), `listed` (int32 (I, 2), height
    and width as listed, 0 where they are not), `n_annotations`, `n_masks` (annotations that have a segmentation).

    Raises:
        SourceError: an image or annotation lacks a field, ids do not fit together, there is no image or no mask.
    """

    def __init__(self, lists: JsonLists, images_of: JsonLists | None = None) -> None:
        self._lists = lists
        self.name = lists.name
        self.file_names: list[str] = []
        self._image_ids, self._sizes = array("q"), array("i")
        self._of, self._starts, self._lengths = array("q"), array("q"), array("i")
        self.n_masks = 0
        seen = set[str]()
        for entry in lists.entries():
            seen.add(entry.key)
            if entry.key == _IMAGES and images_of is None:
                self._add_image(entry.value)
            elif entry.key in (_ANNOTATIONS, ROOT):
                self._add_annotation(entry)
        for entry in images_of.entries() if images_of is not None else ():
            if entry.key == _IMAGES:
                self._add_image(entry.value)
        if not self.file_names:
            raise SourceError(self._no_images(ROOT in seen, images_of))
        self.ids = np.array(self._image_ids, np.int64)
        self.listed = np.array(self._sizes, np.int32).reshape(-1, 2)
        self.n_annotations = len(self._of)
        if not self.n_masks:
            raise SourceError(
                f"{self.name} has {self.n_annotations or 'no'} annotations, none of them with a segmentation: "
                "pseudo-masks need masks"
            )
        self._sort()

    def annotations(self, image: int) -> list[dict[str, Any]]:
        """Annotations of an image, given by its place in `file_names`, in the order of the file; read from it anew."""
        first, last = self._edges[image], self._edges[image + 1]
        return [
            self._lists.read(self._starts[place], self._starts[place] + self._lengths[place])
            for place in self._order[first:last].tolist()
        ]

    def _add_image(self, image: Any) -> None:
        if not isinstance(image, Mapping):
            raise SourceError(f"{self.name}: an image is no object: {str(image)[:120]}")
        if not _is_id(image.get("id")) or not isinstance(image.get("file_name"), str):
            raise SourceError(
                f'{self.name}: an image must have an "id", a whole number, and a "file_name": {str(image)[:120]}'
            )
        self.file_names.append(image["file_name"])
        self._image_ids.append(image["id"])
        for field in ("height", "width"):
            side = image.get(field)
            if side is not None and not (type(side) is int and 0 < side < 1 << 31):
                raise SourceError(f'{self.name}: "{field}" of an image must be a number of pixels: {str(image)[:120]}')
            self._sizes.append(side or 0)

    def _add_annotation(self, entry: Entry) -> None:
        annotation = entry.value
        image_id = annotation.get("image_id") if isinstance(annotation, Mapping) else None
        if image_id is None or not _is_id(image_id):
            raise SourceError(f'{self.name}: an annotation has no "image_id", a whole number: {str(annotation)[:120]}')
        self._of.append(image_id)
        self._starts.append(entry.start)
        self._lengths.append(entry.end - entry.start)
        self.n_masks += annotation.get("segmentation") is not None

    def _sort(self) -> None:
        """Bring images and annotations together."""
        by_id = np.argsort(self.ids, kind="stable")
        sorted_ids = self.ids[by_id]
        twice = np.flatnonzero(sorted_ids[1:] == sorted_ids[:-1])
        if len(twice):
            raise SourceError(f"{self.name}: two images have the id {sorted_ids[twice[0]]}; ids must be unique")
        of = np.array(self._of, np.int64)
        places = np.minimum(np.searchsorted(sorted_ids, of), len(sorted_ids) - 1)
        strangers = np.flatnonzero(sorted_ids[places] != of)
        if len(strangers):
            raise SourceError(
                f"{self.name}: {len(strangers)} annotations are of images that are not listed, such as image "
                f"{of[strangers[0]]}"
            )
        image_A = by_id[places]
        self._order = np.argsort(image_A, kind="stable")
        self._edges: Sequence[int] = np.searchsorted(image_A[self._order], np.arange(len(self.ids) + 1)).tolist()

    def _no_images(self, is_list: bool, images_of: JsonLists | None) -> str:
        if images_of is not None:
            return f'{images_of.name} lists no images: it needs a list "images", as COCO files have it'
        if is_list:
            return (
                f"{self.name} is a list of detections, which does not say what images they are of: name the COCO file "
                "that lists them with --images-of"
            )
        return f'{self.name} lists no images: a COCO instances file has the lists "images" and "annotations"'


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 63
