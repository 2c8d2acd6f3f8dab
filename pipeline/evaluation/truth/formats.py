"""True objects in the formats of the benchmarks that class-agnostic detectors are scored on, named FORMAT:PATH.

    coco:JSON               COCO instances; also PATH alone. Without any mask in it: boxes
    coco20k:JSON[:LIST]     COCO train2014, of it the images that a text or JSON list names
    lvis:JSON               LVIS; 300 detections of an image count, as in the papers
    uvo:JSON                UVO's frames
    sa1b:FOLDER             SA-1B: a JSON file beside each photo
    objects365:JSON         boxes
    openimages:CSV          boxes of Open Images, validation-annotations-bbox.csv
    voc:FOLDER[:SPLIT]      boxes; VOCdevkit/VOC2007, splits joined by "+", by default trainval+test
    clipart:, watercolor:, comic:FOLDER[:SPLIT]     the same layout, by default train+test
    kitti:FOLDER            boxes; the folder with label_2 and image_2

The last six take a COCO file (.json), too, as others have converted them. All categories count as one. What a format
marks as a crowd, as a group, as difficult or as not to care about is ignored by COCO's rule for crowds: it is no object
to find, and what lies in it is not wrong.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import SourceError
from pipeline.evaluation.average_precision import LVIS_DETECTIONS, MAX_DETECTIONS
from pipeline.evaluation.truth.boxes import kitti_dataset, open_images_dataset, voc_dataset
from pipeline.evaluation.truth.coco import Truth, images_in, list_of
from pipeline.evaluation.truth.files import files_in, read_text
from pipeline.images.beside import first_that_holds, none_is_there, places_beside
from pipeline.images.coco import CocoImage, checked_image, whole_number
from pipeline.images.image_lists import coco_refs
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.images.many_objects import without_gc
from pipeline.images.photos import PhotoSize, photo_sizes
from pipeline.storage.locations import absolute, is_unicode, parent_of, read_json, resolve

_SPLIT = re.compile(r"(.+):([\w+]+)")
_LIST = re.compile(r"(.+\.json):(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class TruthSet:
    """A benchmark's true objects, and where its photos are.

    benchmark: as the papers' tables call it; "" for a data set of one's own.
    images_root: folder that the truth's file names are relative to.
    max_detections: of an image that count.
    """

    truth: Truth
    benchmark: str
    images_root: str
    max_detections: int = MAX_DETECTIONS

    @property
    def has_masks(self) -> bool:
        """Whether masks can be scored, and not boxes alone."""
        return self.truth.has_masks

    @property
    def images(self) -> list[tuple[int, str]]:
        """Id of each image in the truth, and path or URL of its photo, whether or not it is there."""
        return [(id_, resolve(image["file_name"], self.images_root)) for id_, image in self.truth.images.items()]

    def need_photos(self, remedy: str) -> None:
        """SourceError, which ends with the remedy, when none of its photos is in the folder of its photos."""
        names = [str(image["file_name"]) for image in self.truth.images.values()]
        if names and first_that_holds([self.images_root], names) is None:
            raise none_is_there(self.truth.name, names, [self.images_root], remedy)

    def refs(self, remedy: str) -> tuple[str, list[ImageRef]]:
        """The folder of its photos and its images, see `coco_refs`."""
        listed = [CocoImage(id_, str(image["file_name"]), None, None) for id_, image in self.truth.images.items()]
        return coco_refs(self.truth.name, listed, self.images_root, remedy)


@without_gc()
def read_truth(spec: str, images: str | None = None) -> TruthSet:
    """Read FORMAT:PATH, see the top of this module; path or fsspec URL.

    images: folder that file names are relative to, where photos are not at a usual place beside. Photos are looked at
    only where the format does not say how large they are (KITTI, Open Images).

    Raises:
        SourceError: the format is unknown, or a file is missing or not in that format; the message names file and
            place.
    """
    name, colon, path = spec.partition(":")
    if not colon or path.startswith("//") or "/" in name or Path(spec).exists():
        name, path = "coco", spec
    if name not in FORMATS:
        raise SourceError(f"{spec}: there is no format {name!r}; known: {', '.join(FORMATS)}")
    if not path:
        raise SourceError(f"{spec}: say where the file or folder is, {name}:PATH")
    benchmark, read = FORMATS[name]
    return read(benchmark, path, absolute(images) if images else None)


def _coco(benchmark: str, path: str, images: str | None) -> TruthSet:
    """COCO instances, masks where it has them."""
    return _coco_set(benchmark, path, read_json(absolute(path)), images)


def _own_coco(benchmark: str, path: str, images: str | None) -> TruthSet:
    """The same of a file that may be anybody's, and is COCO's if its name says so."""
    return _coco("" if "val2017" not in PurePosixPath(path).name else benchmark, path, images)


def _coco_boxes(benchmark: str, path: str, images: str | None) -> TruthSet:
    """COCO instances of a benchmark that is scored by boxes; others' conversions have boxes for masks."""
    return _coco_set(benchmark, path, read_json(absolute(path)), images, masks=False)


def _lvis(benchmark: str, path: str, images: str | None) -> TruthSet:
    """LVIS itself names no files, but their URLs: .../val2017/000000000139.jpg."""
    location = absolute(path)
    dataset = read_json(location)
    named = [
        {**image, "file_name": _lvis_name(image)} if isinstance(image, Mapping) else image
        for image in list_of(dataset, "images", location)
    ]
    return _coco_set(benchmark, path, {**dataset, "images": named}, images, max_detections=LVIS_DETECTIONS)


def _coco20k(benchmark: str, path: str, images: str | None) -> TruthSet:
    parts = _LIST.fullmatch(path)
    if not parts or Path(path).exists():
        return _coco(benchmark, path, images)
    location, left_out = absolute(parts[1]), LeftOut(parts[2], "names")
    wanted = _stems(parts[2], left_out)
    dataset = read_json(location)
    listed = [image for image in list_of(dataset, "images", location) if isinstance(image, Mapping)]
    kept = [image for image in listed if _stem(image.get("file_name")) in wanted]
    there = {_stem(image.get("file_name")) for image in kept}
    for name in (name for stem, name in wanted.items() if stem not in there):
        why = f"{name}, which {parts[1]} does not list: the list is of COCO train2014, and so must the annotations be"
        left_out.add("unknown", why)
    left_out.tell(left_out.total + len(there))
    ids = {whole_number(image.get("id")) for image in kept}
    annotations = [
        one
        for one in list_of(dataset, "annotations", location)
        if not isinstance(one, Mapping) or whole_number(one.get("image_id")) in ids
    ]
    return _coco_set(benchmark, parts[1], {**dataset, "images": kept, "annotations": annotations}, images)


def _sa1b(benchmark: str, path: str, images: str | None) -> TruthSet:
    folder = absolute(path)
    dataset: dict[str, Any] = {"images": [], "annotations": []}
    locations, left_out = files_in(folder, ".json"), LeftOut(path, "files")
    owners: dict[int | None, str] = {}
    for location in locations:
        try:
            image, annotations = _sa1b_file(location)
        except SourceError as error:
            left_out.add("unreadable", str(error))
            continue
        owner = owners.setdefault(whole_number(image.get("image_id")), location)
        if owner != location:
            left_out.add("of an id twice", f"{location}, whose image_id {image.get('image_id')} {owner} has, too")
            continue
        dataset["images"].append({**image, "id": image.get("image_id")})
        dataset["annotations"] += annotations
    left_out.tell(len(locations))
    if not dataset["images"]:
        raise SourceError(f"{path} holds no JSON file: SA-1B has one beside each photo, such as sa_123.json")
    return TruthSet(Truth(dataset, path), benchmark, images or folder)


def _sa1b_file(location: str) -> tuple[Mapping[str, Any], list[Any]]:
    """An image and its annotations, as a COCO file would list them; SourceError for a file that has none."""
    document = read_json(location)
    image = document.get("image") if isinstance(document, Mapping) else None
    if not isinstance(image, Mapping):
        raise SourceError(f'{location} is no file of SA-1B: it has no "image"')
    its = {"image_id": image.get("image_id"), "category_id": 1}
    checked_image({**image, "id": its["image_id"]}, location)
    return image, [
        {**one, **its} if isinstance(one, Mapping) else one for one in list_of(document, "annotations", location)
    ]


def _voc(splits: str) -> Callable[[str, str, str | None], TruthSet]:
    def read(benchmark: str, path: str, images: str | None) -> TruthSet:
        if path.endswith(".json"):
            return _coco_boxes(benchmark, path, images)
        parts = _SPLIT.fullmatch(path)
        folder, split = (parts[1], parts[2]) if parts and not Path(path).exists() else (path, splits)
        dataset, root = voc_dataset(absolute(folder), split, images)
        return TruthSet(Truth(dataset, path, masks=False, own_ids=False), benchmark, root)

    return read


def _kitti(benchmark: str, path: str, images: str | None) -> TruthSet:
    if path.endswith(".json"):
        return _coco_boxes(benchmark, path, images)
    dataset, root = kitti_dataset(absolute(path), images)
    return TruthSet(Truth(dataset, path, masks=False, own_ids=False), benchmark, root)


def _open_images(benchmark: str, path: str, images: str | None) -> TruthSet:
    if path.endswith(".json"):
        return _coco_boxes(benchmark, path, images)
    dataset, root = open_images_dataset(absolute(path), images)
    return TruthSet(Truth(dataset, path, masks=False, own_ids=False), benchmark, root)


# Of each format its name in the papers' tables, and its reader.
FORMATS: dict[str, tuple[str, Callable[[str, str, str | None], TruthSet]]] = {
    "coco": ("COCO val2017", _own_coco),
    "coco20k": ("COCO20K", _coco20k),
    "lvis": ("LVIS", _lvis),
    "uvo": ("UVO", _coco),
    "sa1b": ("SA-1B", _sa1b),
    "objects365": ("Objects365", _coco_boxes),
    "openimages": ("OpenImages", _open_images),
    "voc": ("VOC", _voc("trainval+test")),
    "clipart": ("Clipart", _voc("train+test")),
    "watercolor": ("Watercolor", _voc("train+test")),
    "comic": ("Comic", _voc("train+test")),
    "kitti": ("KITTI", _kitti),
}


def _coco_set(
    benchmark: str,
    path: str,
    dataset: Any,
    images: str | None,
    *,
    masks: bool = True,
    max_detections: int = MAX_DETECTIONS,
) -> TruthSet:
    """masks: whether those that are there are to be scored."""
    location = absolute(path)
    listed = images_in(dataset, path, LeftOut(path, "images"))  # of which Truth speaks
    annotations = list_of(dataset, "annotations", location)
    has_masks = masks and (not annotations or any(_has_mask(one) for one in annotations))
    places = [*places_beside(location), f"{parent_of(location)}/all_UVO_frames"]
    root = images or first_that_holds(places, [image.file_name for image, _ in listed]) or places[0]
    sizes = _missing_sizes([image for image, _ in listed], root)
    sized = [_with_size(entry, sizes) for entry in dataset["images"]] if sizes else dataset["images"]
    truth = Truth({**dataset, "images": sized}, path, masks=has_masks)
    return TruthSet(truth, benchmark, root, max_detections)


def _has_mask(annotation: Any) -> bool:
    return isinstance(annotation, Mapping) and bool(annotation.get("segmentation"))


def _missing_sizes(images: list[CocoImage], root: str) -> dict[str, PhotoSize]:
    """By name the sizes of photos that are there and whose size is not listed."""
    names = [image.file_name for image in images if not (image.height and image.width)]
    sizes = photo_sizes([ImageRef(name, resolve(name, root)) for name in names])
    return {name: size for name, size in zip(names, sizes, strict=True) if isinstance(size, PhotoSize)}


def _with_size(entry: Any, sizes: Mapping[str, PhotoSize]) -> Any:
    size = sizes.get(str(entry.get("file_name"))) if isinstance(entry, Mapping) else None
    return entry if size is None else {**entry, "height": size.height, "width": size.width}


def _lvis_name(image: Mapping[str, Any]) -> Any:
    """Split and name of an image, where it has none out of its URL."""
    url = image.get("coco_url")
    if "file_name" in image or not isinstance(url, str):
        return image.get("file_name")
    return "/".join(PurePosixPath(urlsplit(url).path).parts[-2:])


def _stems(location: str, left_out: LeftOut) -> dict[str, str]:
    """Names of images in a list by what is left of them without folders and endings: a text, or JSON. What is no name
    is left out.
    """
    if location.lower().endswith(".json"):
        listed = read_json(location)
        if not isinstance(listed, list):
            raise SourceError(f"{location} must be a list of names of images")
        names = [(f"entry {number}", name) for number, name in enumerate(listed, start=1)]
    else:
        lines = enumerate(read_text(location).split("\n"), start=1)
        names = [(f"line {number}", name) for number, line in lines for name in line.split()]
    if not names:
        raise SourceError(f"{location} lists no images")
    stems: dict[str, str] = {}
    for place, name in names:
        if isinstance(name, str) and is_unicode(name):
            stems.setdefault(_stem(name), name)
        else:
            left_out.add("no name", f"{place}, {name!r:.80}, which must be the name of an image, in UTF-8")
    if not stems:
        left_out.tell(len(names))
    return stems


def _stem(name: Any) -> str:
    return PurePosixPath(str(name)).stem
