"""Benchmarks with boxes in formats of their own, as COCO instances documents without masks.

x, y, width, height are in pixels, from the left and upper edge of the image on.
"""

import codecs
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.etree import ElementTree

from pipeline.errors import SourceError
from pipeline.evaluation.truth.files import files_in, read_many, read_text, sizes_of
from pipeline.images.beside import first_that_holds, places_beside
from pipeline.images.flags import read_flag
from pipeline.images.left_out import LeftOut
from pipeline.images.tables import read_table
from pipeline.storage.locations import contents_of, filesystem, is_unicode, line_not_utf8, text_of

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # height, width

# What follows the name of an image in VOC's lists of one class: whether it is there, not there, or difficult.
_VOC_FLAGS = ("1", "-1", "0")
_XML_DECLARATION = re.compile(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([^\"']+)[\"'][^>]*\?>")
_ROUNDING = 0.001  # by which a fraction of an image may be off: half a pixel or so


@dataclass(frozen=True)
class _Object:
    """category: its name.
    ignored: crowds, groups, difficult objects, regions not to care about.
    """

    category: str
    box: Box
    ignored: bool


class _NoObjectError(ValueError):
    """What stands at the place of an object and is none. reason: a word or two; the text names the place."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.detail


def voc_dataset(folder: str, split: str, images: str | None) -> tuple[dict[str, Any], str]:
    """The layout of PASCAL VOC: ImageSets/Main/<split>.txt, Annotations/*.xml and JPEGImages/*.jpg. Returns the
    document, and where the photos are.

    Boxes are given there by their first and last pixel, counted from 1. What is difficult is ignored: VOC's own rule.
    Names without a readable annotation, and objects without a box, are left out, and the log says so.
    split: one, or several joined by "+".
    """
    stems = {path.rpartition("/")[2].removesuffix(".xml") for path in files_in(f"{folder}/Annotations", ".xml")}
    names = dict.fromkeys(name for part in split.split("+") for name in _voc_split(folder, part, stems))
    root = images or f"{folder}/JPEGImages"
    paths = {name: f"{folder}/Annotations/{name}.xml" for name in names}
    sizes: dict[str, Size] = {}
    objects: dict[str, list[_Object]] = {}
    left_out, files = LeftOut(f"{folder}/Annotations", "objects"), LeftOut(f"{folder}/Annotations", "files")
    n_objects = 0
    for (name, path), data in zip(paths.items(), read_many(list(paths.values())), strict=True):
        try:
            if isinstance(data, SourceError):
                raise data
            annotation = _voc_annotation(data, path)
        except SourceError as error:
            files.add("unreadable", str(error))
            continue
        found = annotation.findall("object")
        n_objects += len(found)
        objects[f"{name}.jpg"] = _usable(
            (
                partial(_voc_object, element, f"{name}.xml, object {number}")
                for number, element in enumerate(found, start=1)
            ),
            left_out,
        )
        if size := _voc_size(annotation):
            sizes[f"{name}.jpg"] = size
    files.tell(len(paths))
    left_out.tell(n_objects)
    without = [name for name in objects if name not in sizes]
    if without:
        sizes |= {name: size[:2] for name, size in sizes_of(without, root, folder).items()}
    return _document(objects, sizes), root


def kitti_dataset(folder: str, images: str | None) -> tuple[dict[str, Any], str]:
    """KITTI's objects: label_2/*.txt and image_2/*.png, in the folder or in training/ in it. Returns the document, and
    where the photos are, whose headers give the sizes. Of type DontCare are regions, which are ignored. Lines and files
    that are no labels are left out, and the log says so.
    """
    labels = files_in(f"{folder}/label_2", ".txt") or files_in(f"{folder}/training/label_2", ".txt")
    if not labels:
        raise SourceError(
            f"{folder} has no label_2/*.txt: give the folder of KITTI's objects that has label_2 and image_2"
        )
    folder = labels[0].rpartition("/label_2/")[0]
    left_out, files = LeftOut(f"{folder}/label_2", "lines"), LeftOut(f"{folder}/label_2", "files")
    found: dict[str, list[_Object]] = {}
    n_lines = 0
    for path, data in zip(labels, read_many(labels), strict=True):
        try:
            if isinstance(data, SourceError):
                raise data
            lines = text_of(data, path).split("\n")
        except SourceError as error:
            files.add("unreadable", str(error))
            continue
        numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        n_lines += len(numbered)
        name = path.rpartition("/")[2]
        found[name.removesuffix(".txt")] = _usable(
            (partial(_kitti_object, line, f"{name}, line {number}") for number, line in numbered), left_out
        )
    files.tell(len(labels))
    left_out.tell(n_lines)
    root, ending = _kitti_photos([images] if images else [f"{folder}/image_2", f"{folder}/JPEGImages"], list(found))
    objects = {f"{stem}{ending}": its for stem, its in found.items()}
    sizes = {name: size[:2] for name, size in sizes_of(list(objects), root, f"{folder}/label_2").items()}
    return _document(objects, sizes), root


def open_images_dataset(location: str, images: str | None) -> tuple[dict[str, Any], str]:
    """Boxes of Open Images: a CSV with a row a box, corners as fractions of the image. Returns the document, and where
    the photos, <ImageID>.jpg, are, whose headers give the sizes. What IsGroupOf marks is ignored. Rows that are no box
    are left out, and the log says so.
    """
    table = read_table(contents_of(location), location)
    missing = [name for name in _OPEN_IMAGES if name not in table.names]
    if missing:
        raise SourceError(
            f"{location} has no column {missing[0]}: it takes a file like validation-annotations-bbox.csv"
        )
    if not table.rows:
        raise SourceError(f"{location} has no boxes")
    left_out = LeftOut(location, "rows")
    fractions: dict[str, list[_Object]] = {}
    for line, fields in table.rows:
        if isinstance(fields, SourceError):
            left_out.add("unreadable", str(fields))
            continue
        found = _usable([partial(_open_images_object, fields, f"line {line}")], left_out)
        if found:
            fractions.setdefault(f"{fields['ImageID']}.jpg", []).extend(found)
    left_out.tell(len(table.rows))
    names = sorted(fractions)
    places = places_beside(location)
    root = images or first_that_holds(places, names) or places[0]
    sizes = {name: size[:2] for name, size in sizes_of(names, root, location).items()}
    objects = {name: [_scaled(one, sizes[name]) for one in fractions[name]] for name in sizes}
    return _document(objects, sizes), root


_OPEN_IMAGES = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")


def _document(objects: Mapping[str, Iterable[_Object]], sizes: Mapping[str, Size]) -> dict[str, Any]:
    """The COCO document of objects by file name; images without a size are left out. sizes: height, width."""
    categories = sorted({one.category for found in objects.values() for one in found})
    numbers = {category: number for number, category in enumerate(categories, start=1)}
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": category} for category, number in numbers.items()],
    }
    for image_id, name in enumerate(sorted(sizes), start=1):
        height, width = sizes[name]
        document["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for one in objects[name]:
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": numbers[one.category],
                    "bbox": list(one.box),
                    "area": one.box[2] * one.box[3],
                    "iscrowd": int(one.ignored),
                }
            )
    return document


def _usable(readers: Iterable[Callable[[], _Object]], left_out: LeftOut) -> list[_Object]:
    """What they read; what is no object, or does not say whether it counts, is counted."""
    objects = []
    for read in readers:
        try:
            objects.append(read())
        except _NoObjectError as error:
            left_out.add(error.reason, str(error))
    return objects


def _voc_split(folder: str, split: str, stems: Collection[str]) -> list[str]:
    """Names that a split lists. stems: those that there are annotations of."""
    location = f"{folder}/ImageSets/Main/{split}.txt"
    files, path = filesystem(location)
    if not files.exists(path):
        there = [file.rpartition("/")[2].removesuffix(".txt") for file in files_in(location.rpartition("/")[0], ".txt")]
        plain = [name for name in there if "_" not in name]  # the others are of a class each
        what = (
            f"it has {', '.join(plain)}" if plain else "give the folder that has ImageSets, Annotations and JPEGImages"
        )
        raise SourceError(f"{location} is not there: {what}")
    text = read_text(location).split("\n")
    lines = {number: line.strip() for number, line in enumerate(text, start=1) if line.strip()}
    if not lines:
        raise SourceError(f"{location} must list names of images, one a line")
    names, left_out = [], LeftOut(location, "names")
    for number, line in lines.items():
        if not is_unicode(line):
            left_out.add("not UTF-8", str(line_not_utf8(location, number)))
            continue
        # Names may have spaces; the lists of one class have a flag after the name.
        name, flag = words if len(words := line.rsplit(maxsplit=1)) == 2 else (line, "")
        if line in stems:
            names.append(line)
        elif flag in _VOC_FLAGS and name in stems:
            names.append(name)
        elif "/" in line or "\\" in line or not line.isprintable():
            left_out.add(
                "no_name", f"{location} must list names of images, one a line, not {line!r:.80} (line {number})"
            )
        else:
            missing = f"{folder}/Annotations/{line}.xml"
            left_out.add("without an annotation", f"{missing} cannot be read: No such file or directory")
    left_out.tell(len(lines))
    return names


def _voc_annotation(data: bytes, location: str) -> ElementTree.Element:
    """The annotation in an XML file; SourceError where it holds something else, such as a web page."""
    root = _xml(data, location)
    if root.tag != "annotation":
        raise SourceError(f"{location} is no annotation of VOC: it begins with <{root.tag:.80}>, not <annotation>")
    return root


def _xml(data: bytes, location: str) -> ElementTree.Element:
    """An XML file in any encoding that it declares and Python knows; a byte order mark is right where it says other."""
    if data.startswith(codecs.BOM_UTF8) and (declaration := _XML_DECLARATION.match(data, len(codecs.BOM_UTF8))):
        data = data[declaration.end() :]
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise SourceError(f"{location} is not XML: {error}") from error
    except (ValueError, LookupError):
        pass  # an encoding with characters of several bytes, or an unknown one: the parser itself takes neither
    declaration = _XML_DECLARATION.match(data)
    encoding = declaration[1].decode("ascii", "replace") if declaration else "?"
    try:
        text = data[declaration.end() if declaration else 0 :].decode(encoding)
        return ElementTree.fromstring(text)
    except (LookupError, ValueError) as error:
        raise SourceError(f"{location} cannot be read in the encoding that it declares, {encoding}: {error}") from error
    except ElementTree.ParseError as error:
        raise SourceError(f"{location} is not XML: {error}") from error


def _voc_size(annotation: ElementTree.Element) -> Size | None:
    """Height and width of the image where the file has them."""
    sides = []
    for side in ("height", "width"):
        try:
            sides.append(float(annotation.findtext(f"size/{side}") or ""))
        except ValueError:
            return None
    if not all(0 < side < 1 << 31 and side == int(side) for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def _voc_object(element: ElementTree.Element, place: str) -> _Object:
    corners = (_number(element.findtext(f"bndbox/{end}"), place, end) for end in ("xmin", "ymin", "xmax", "ymax"))
    left, top, right, bottom = corners
    box = _box((left - 1, top - 1, right, bottom), place)
    ignored = _flag(element.findtext("difficult"), place, "difficult", {"unspecified"})
    return _Object(element.findtext("name") or "object", box, ignored)


def _kitti_photos(roots: list[str], stems: list[str]) -> tuple[str, str]:
    """The folder of the photos and their ending; some have converted KITTI to the layout of VOC."""
    places = [(root, ending) for root in roots for ending in (".png", ".jpg")]
    for root, ending in places:
        if first_that_holds([root], [f"{stem}{ending}" for stem in stems]):
            return root, ending
    return places[0]


def _kitti_object(line: str, place: str) -> _Object:
    if not is_unicode(line):
        raise _NoObjectError("not UTF-8", f"{place} is not UTF-8")
    words = line.split()
    if len(words) < 8:
        raise _NoObjectError(
            "malformed",
            f"{place}: a label has a type and at least 7 numbers, the box the last of them: {' '.join(words)!r:.80}",
        )
    left, top, right, bottom = (_number(word, place, "the box") for word in words[4:8])
    return _Object(words[0], _box((left, top, right, bottom), place), words[0].lower() == "dontcare")


def _open_images_object(row: Mapping[str, str | None], place: str) -> _Object:
    if not re.fullmatch(r"[\w-]+", row["ImageID"] or ""):
        raise _NoObjectError("no_name", f"{place}: ImageID is {row['ImageID']!r:.80}")
    corners = [_number(row[name], place, name) for name in ("XMin", "YMin", "XMax", "YMax")]
    if not all(-_ROUNDING <= corner <= 1 + _ROUNDING for corner in corners):
        raise _NoObjectError(
            "malformed", f"{place}: XMin, YMin, XMax and YMax are fractions of the image, 0 to 1, not {corners}"
        )
    left, top, right, bottom = (min(max(corner, 0.0), 1.0) for corner in corners)
    # -1 is Open Images' own word for a box that nobody asked this about.
    is_group = _flag(row["IsGroupOf"], place, "IsGroupOf", {"-1", "-1.0"})
    return _Object(row["LabelName"] or "", _box((left, top, right, bottom), place), is_group)


def _scaled(one: _Object, size: Size) -> _Object:
    x, y, width, height = one.box
    return _Object(one.category, (x * size[1], y * size[0], width * size[1], height * size[0]), one.ignored)


def _number(text: str | None, place: str, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _NoObjectError("malformed", f"{place}: {what} must be a number, not {text or ''!r:.40}")
    return value


def _flag(text: str | None, place: str, what: str, unknown: Collection[str]) -> bool:
    try:
        return read_flag(text, unknown)
    except ValueError as error:
        raise _NoObjectError("malformed", f"{place}: {what}: {error}") from error


def _box(corners: tuple[float, float, float, float], place: str) -> Box:
    left, top, right, bottom = corners
    if right < left or bottom < top:
        raise _NoObjectError(
            "malformed", f"{place}: its box ends before it begins: {left:g}, {top:g} to {right:g}, {bottom:g}"
        )
    return left, top, right - left, bottom - top
