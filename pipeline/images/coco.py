"""COCO files: what an image and an annotation in one must have, its images, and where in a file of any size the
annotations of each of them lie.

I images · A annotations
"""

import logging
import posixpath
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.left_out import LeftOut
from pipeline.storage.json_lists import ROOT, Entry, JsonLists, open_lists
from pipeline.storage.locations import is_unicode
from pipeline.wording import counted

log = logging.getLogger(__name__)

_IMAGES, _ANNOTATIONS = "images", "annotations"

MOST_ID = (1 << 63) - 1
ID_RULE = f"{MOST_ID} (2^63 - 1) at most"


class CocoImage(NamedTuple):
    """An image as a file lists it.

    id: of the image; where it has none that can be taken a number that no file has.
    height, width: pixels, None where the file has none: what is no whole number above 0 is none.
    trouble: why the image is set aside; None for one that can be taken.
    """

    id: int
    file_name: str
    height: int | None
    width: int | None
    trouble: str | None = None


def checked_image(image: Any, name: str, *, sized: bool = False) -> CocoImage:
    """An entry of a file's "images".

    name: of the file, for messages.
    sized: whether height and width must be there.

    Raises SourceError, naming the field, when one is missing or not of its type.
    """
    if not isinstance(image, Mapping):
        raise SourceError(f'{name}: an image is no object: it has no "file_name" and no "id": {str(image)[:120]}')
    id_, file_name = id_of(image, "id", name, "an image"), image.get("file_name")
    if not isinstance(file_name, str):
        raise _without(image, "file_name", str, 'an image must have an "id", a whole number, and a "file_name"', name)
    if not is_unicode(file_name):
        raise SourceError(
            f'{name}: "file_name" {file_name!r:.200} is not UTF-8; mend it, or convert the file with iconv'
        )
    height, width = pixels_of(image.get("height")), pixels_of(image.get("width"))
    if sized and not (height and width):
        side = "width" if height else "height"
        rule = f'"{side}" of an image must be a number of pixels where its photo is not there to tell'
        raise _without(image, side, int, rule, name)
    return CocoImage(id_, file_name, height, width)


def listed_image(image: Any, number: int, name: str) -> CocoImage:
    """The same, where one odd entry must not cost the others: it has its trouble then.

    number: of the entry, from 1.
    """
    try:
        return checked_image(image, name)
    except SourceError as error:
        entry = image if isinstance(image, Mapping) else {}
        id_, file_name = whole_number(entry.get("id")), entry.get("file_name")
        if id_ is None or abs(id_) > MOST_ID:
            id_ = number - MOST_ID
        if not isinstance(file_name, str) or not file_name:
            file_name = f"entry {number}"
        return CocoImage(id_, file_name, None, None, str(error))


def pixels_of(value: Any) -> int | None:
    """A side of an image as files list it; None for what is no whole number above 0. 240.0 is 240."""
    number = whole_number(value)
    return number if number is not None and 0 < number < 1 << 31 else None


def whole_number(value: Any) -> int | None:
    """An int, or a float that is one, as pandas writes them; None for all else."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def id_of(entry: Any, field: str, name: str, what: str) -> int:
    """An id that an image or annotation must have.

    what: that must have it, for the SourceError when it has none, or one that does not fit 64 bits with a sign.
    """
    value = entry.get(field) if isinstance(entry, Mapping) else None
    number = whole_number(value)
    if number is None:
        raise SourceError(
            f'{name}: {what} has no "{field}" of type int: {str(entry)[:120]}; {what} must have an "{field}", a whole '
            "number"
        )
    if abs(number) > MOST_ID:
        raise SourceError(
            f'{name}: {what} has the "{field}" {number}: ids may be {ID_RULE}; write the file with smaller ids, in its '
            "images and annotations alike"
        )
    return number


def image_id_of(annotation: Any, name: str) -> int:
    """The "image_id" of an annotation; SourceError when it has none."""
    return id_of(annotation, "image_id", name, "an annotation")


class GivenIds:
    """Whose the ids of a file's images are: the first photo with an id has it, and with it the annotations. Another one
    that is listed with it is set aside, for nobody can tell which of the two they are of.

    name: of the file, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._owners: dict[int, str] = {}

    def given(self, image: CocoImage, number: int) -> CocoImage:
        """The image as listed, or with its trouble, and an id that no file has. number: of the entry, from 1."""
        if image.trouble is not None:
            return image
        owner = self._owners.setdefault(image.id, image.file_name)
        if _plain(owner) == _plain(image.file_name):
            return image
        why = (
            f'{self._name}: image {image.file_name} has the "id" {image.id}, which {owner} has before it, and '
            "annotations of that id are taken for those of the first; give each image an id of its own"
        )
        return CocoImage(number - MOST_ID, image.file_name, None, None, why)


def first_of_each_photo(file_names: Sequence[str], name: str, troubles: Collection[int] = ()) -> np.ndarray:
    """For each image of a file the place of the first one with the same file name, int64 (I,): a photo that is listed
    under two ids is one image, with the annotations of both. The log says so.

    name: of the file.
    troubles: places of images that are set aside, each of which is one of its own.
    """
    places: dict[str, int] = {}
    first_I = np.array(
        [
            place if place in troubles else places.setdefault(_plain(path), place)
            for place, path in enumerate(file_names)
        ],
        np.int64,
    )
    again = np.flatnonzero(first_I != np.arange(len(first_I)))
    if len(again):
        log.warning(
            "%s lists %s again, such as %s: each is one image, with the annotations of all its ids",
            *(name, counted(len(again), "photo"), _plain(file_names[again[0]])),
        )
    return first_I


def _plain(file_name: str) -> str:
    return posixpath.normpath(file_name) if "/." in file_name or file_name[:1] == "." else file_name


def list_in(document: Any, key: str, name: str) -> list[Any]:
    """A list of a COCO document that has been read; SourceError when it is not there, or not of objects."""
    found = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise SourceError(f'{name} is not a COCO instances file: it has no list "{key}" of objects')
    return found


def listed_images(location: str) -> list[CocoImage]:
    """The images of a COCO file of any size, in its order, each photo once; path or fsspec URL.

    Raises SourceError when it cannot be read or lists none.
    """
    with open_lists(location) as lists:
        entries, ids = (entry.value for entry in lists.entries() if entry.key == _IMAGES), GivenIds(location)
        images = [
            ids.given(listed_image(entry, number, location), number) for number, entry in enumerate(entries, start=1)
        ]
        if not images and _IMAGES not in lists.keys:
            raise SourceError(f'{location} is not a COCO file: it has no list "images"')
    if not images:
        raise SourceError(f"{location} lists no images")
    troubles = {place for place, image in enumerate(images) if image.trouble is not None}
    first_I = first_of_each_photo([image.file_name for image in images], location, troubles)
    return [images[place] for place in np.unique(first_I)]


class CocoIndex:
    """Images and annotations of a COCO instances file, or of a list of detections and the file that lists its images.

    Of an annotation some twenty bytes are in memory; `annotations` reads the rest when it is asked for.

    Attributes: `file_names` (of the images, in the file's order, each photo once), `ids` (int64 (I,)), `listed` (int32
    (I, 2), height and width as listed, 0 where they are not), `troubles` (of images that are set aside, by place),
    `n_annotations`, `n_masks` (annotations that have a segmentation).

    Annotations of no image that is listed are left out, and the log says how many.

    Raises:
        SourceError: there is no image that can be taken, or no mask of one.
    """

    def __init__(self, lists: JsonLists, images_of: JsonLists | None = None) -> None:
        self._lists = lists
        self.name = lists.name
        self.file_names: list[str] = []
        self.troubles: dict[int, str] = {}
        self._image_ids, self._sizes = array("q"), array("i")
        self._of, self._starts, self._lengths = array("q"), array("q"), array("i")
        self.n_masks = 0
        self._left_out = LeftOut(lists.name, "annotations")
        ids = GivenIds((images_of or lists).name)
        for entry in lists.entries():
            if entry.key == _IMAGES and images_of is None:
                self._add_image(entry.value, lists.name, ids)
            elif entry.key in (_ANNOTATIONS, ROOT):
                self._add_annotation(entry)
        if images_of is not None:
            for entry in images_of.entries():
                if entry.key == _IMAGES:
                    self._add_image(entry.value, images_of.name, ids)
        if not self.file_names:
            raise SourceError(self._no_images(ROOT in lists.keys, images_of))
        if len(self.troubles) == len(self.file_names):
            raise SourceError(self.troubles[0])
        self.n_annotations = len(self._of) + self._left_out.total
        if not self.n_masks:
            found = counted(self.n_annotations, "annotation") if self.n_annotations else "no annotations"
            raise SourceError(f"{self.name} has {found}, none of them with a segmentation: pseudo-masks need masks")
        self._sort()

    def images(self) -> list[CocoImage]:
        """The images, without sizes: those that the file says may be wrong."""
        return [
            CocoImage(id_, file_name, None, None, self.troubles.get(place))
            for place, (id_, file_name) in enumerate(zip(self.ids.tolist(), self.file_names, strict=True))
        ]

    def annotations(self, image: int) -> list[dict[str, Any]]:
        """Annotations of an image, given by its place in `file_names`, in the order of the file; read from it again."""
        first, last = self._edges[image], self._edges[image + 1]
        return [
            self._lists.read(self._starts[place], self._starts[place] + self._lengths[place])
            for place in self._order[first:last].tolist()
        ]

    def _add_image(self, entry: Any, name: str, ids: GivenIds) -> None:
        place = len(self.file_names)
        image = ids.given(listed_image(entry, place + 1, name), place + 1)
        if image.trouble is not None:
            self.troubles[place] = image.trouble
        self.file_names.append(image.file_name)
        self._image_ids.append(image.id)
        self._sizes.extend((image.height or 0, image.width or 0))

    def _add_annotation(self, entry: Entry) -> None:
        try:
            image_id = image_id_of(entry.value, self.name)
        except SourceError as error:
            self._left_out.add("without image_id", str(error).removeprefix(f"{self.name}: "))
            return
        self._of.append(image_id)
        self._starts.append(entry.start)
        self._lengths.append(entry.end - entry.start)
        self.n_masks += entry.value.get("segmentation") is not None

    def _sort(self) -> None:
        """Bring images and annotations together."""
        ids = np.array(self._image_ids, np.int64)
        first_I = first_of_each_photo(self.file_names, self.name, self.troubles)
        by_id = np.argsort(ids, kind="stable")
        sorted_ids = ids[by_id]
        of = np.array(self._of, np.int64)
        places = np.minimum(np.searchsorted(sorted_ids, of), len(sorted_ids) - 1)
        is_listed_A = sorted_ids[places] == of
        for image_id in of[~is_listed_A].tolist():
            self._left_out.add("not_listed", f"one of image {image_id}, which is not listed")
        self._left_out.tell(self.n_annotations)
        kept, number_I = np.unique(first_I, return_inverse=True)
        self.ids = ids[kept]
        self.listed = np.array(self._sizes, np.int32).reshape(-1, 2)[kept]
        self.file_names = [self.file_names[place] for place in kept.tolist()]
        renamed = dict(zip(kept.tolist(), range(len(kept)), strict=True)) if self.troubles else {}
        self.troubles = {renamed[place]: why for place, why in self.troubles.items() if place in renamed}
        image_A = number_I[by_id[places[is_listed_A]]]
        by_image = np.argsort(image_A, kind="stable")
        self._order, image_A = np.flatnonzero(is_listed_A)[by_image], image_A[by_image]
        self._edges: Sequence[int] = np.searchsorted(image_A, np.arange(len(kept) + 1)).tolist()

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
