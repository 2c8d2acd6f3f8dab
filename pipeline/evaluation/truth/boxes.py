"""Benchmarks with boxes in formats of their own, as COCO instances documents without masks.

x, y, width, height are in pixels, from the left and upper edge of the image on.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from pipeline.errors import SourceError
from pipeline.evaluation.truth.files import files_in, read_many, read_text, sizes_of
from pipeline.images.beside import first_that_holds, places_beside
from pipeline.storage.locations import filesystem

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Object:
    """category: its name.
    ignored: crowds, groups, difficult objects, regions not to care about.
    """

    category: str
    box: Box
    ignored: bool


def voc_dataset(folder: str, split: str, images: str | None) -> tuple[dict[str, Any], str]:
    """The layout of PASCAL VOC: ImageSets/Main/<split>.txt, Annotations/*.xml and JPEGImages/*.jpg. Returns the
    document, and where the photos are.

    Boxes are given there by their first and last pixel, counted from 1. What is difficult is ignored: VOC's own rule.
    split: one, or several joined by "+".
    """
    names = [name for part in split.split("+") for name in _voc_split(folder, part)]
    root = images or f"{folder}/JPEGImages"
    paths = {name: f"{folder}/Annotations/{name}.xml" for name in names}
    sizes: dict[str, tuple[int, int]] = {}
    objects: dict[str, list[_Object]] = {}
    for (name, path), data in zip(paths.items(), read_many(list(paths.values())), strict=True):
        objects[f"{name}.jpg"], size = _voc_objects(data, path)
        if size:
            sizes[f"{name}.jpg"] = size
    without = [name for name in objects if name not in sizes]
    if without:
        sizes |= {name: size[:2] for name, size in sizes_of(without, root, folder).items()}
    return _document(objects, sizes), root


def kitti_dataset(folder: str, images: str | None) -> tuple[dict[str, Any], str]:
    """KITTI's objects: label_2/*.txt and image_2/*.png, in the folder or in training/ in it. Returns the document, and
    where the photos are, whose headers give the sizes. Of type DontCare are regions, which are ignored.
    """
    labels = files_in(f"{folder}/label_2", ".txt") or files_in(f"{folder}/training/label_2", ".txt")
    if not labels:
        raise SourceError(
            f"{folder} has no label_2/*.txt: give the folder of KITTI's objects that has label_2 and image_2"
        )
    folder = labels[0].rpartition("/label_2/")[0]
    stems = [path.rpartition("/")[2].removesuffix(".txt") for path in labels]
    root, ending = _kitti_photos([images] if images else [f"{folder}/image_2", f"{folder}/JPEGImages"], stems[0])
    objects = {f"{stem}{ending}": _kitti_objects(path) for stem, path in zip(stems, labels, strict=True)}
    sizes = {name: size[:2] for name, size in sizes_of(list(objects), root, f"{folder}/label_2").items()}
    return _document(objects, sizes), root


def open_images_dataset(location: str, images: str | None) -> tuple[dict[str, Any], str]:
    """Boxes of Open Images: a CSV with a row a box, corners as fractions of the image. Returns the document, and where
    the photos, <ImageID>.jpg, are, whose headers give the sizes. What IsGroupOf marks is ignored.
    """
    rows = csv.DictReader(io.StringIO(read_text(location)))
    missing = [name for name in _OPEN_IMAGES if name not in (rows.fieldnames or ())]
    if missing:
        raise SourceError(
            f"{location} has no column {missing[0]}: it takes a file like validation-annotations-bbox.csv"
        )
    fractions: dict[str, list[_Object]] = {}
    for row in rows:
        fractions.setdefault(f"{row['ImageID']}.jpg", []).append(
            _open_images_object(row, f"{location}, line {rows.line_num}")
        )
    if not fractions:
        raise SourceError(f"{location} has no boxes")
    names = sorted(fractions)
    places = places_beside(location)
    root = images or first_that_holds(places, names) or places[0]
    sizes = {name: size[:2] for name, size in sizes_of(names, root, location).items()}
    objects = {name: [_scaled(one, sizes[name]) for one in fractions[name]] for name in sizes}
    return _document(objects, sizes), root


_OPEN_IMAGES = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")


def _document(objects: Mapping[str, Iterable[_Object]], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
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


def _voc_split(folder: str, split: str) -> list[str]:
    location = f"{folder}/ImageSets/Main/{split}.txt"
    files, path = filesystem(location)
    if not files.exists(path):
        there = [file.rpartition("/")[2].removesuffix(".txt") for file in files_in(location.rpartition("/")[0], ".txt")]
        plain = [name for name in there if "_" not in name]  # the others are of a class each
        what = (
            f"it has {', '.join(plain)}" if plain else "give the folder that has ImageSets, Annotations and JPEGImages"
        )
        raise SourceError(f"{location} is not there: {what}")
    names = [words[0] for line in read_text(location).splitlines() if (words := line.split())]
    bad = next((name for name in names if not re.fullmatch(r"[\w.-]+", name)), None)
    if bad is not None or not names:
        raise SourceError(f"{location} must list names of images, one a line" + (f", not {bad!r:.80}" if bad else ""))
    return names


def _voc_objects(data: bytes, location: str) -> tuple[list[_Object], tuple[int, int] | None]:
    """Objects of an image, and its height and width where the file has them."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise SourceError(f"{location} is not XML: {error}") from error
    height, width = (root.findtext(f"size/{side}", "") for side in ("height", "width"))
    size = (int(height), int(width)) if height.isdecimal() and width.isdecimal() else (0, 0)
    objects = []
    for number, element in enumerate(root.findall("object"), start=1):
        place = f"{location}, object {number}"
        corners = (_number(element.findtext(f"bndbox/{end}"), place, end) for end in ("xmin", "ymin", "xmax", "ymax"))
        left, top, right, bottom = corners
        box = _box((left - 1, top - 1, right, bottom), place)
        ignored = (element.findtext("difficult") or "0").strip() not in ("0", "Unspecified")
        objects.append(_Object(element.findtext("name") or "object", box, ignored))
    return objects, size if min(size) > 0 else None


def _kitti_photos(roots: list[str], stem: str) -> tuple[str, str]:
    """The folder of the photos and their ending; some have converted KITTI to the layout of VOC."""
    places = [(root, ending) for root in roots for ending in (".png", ".jpg")]
    for root, ending in places:
        files, path = filesystem(f"{root}/{stem}{ending}")
        if files.exists(path):
            return root, ending
    return places[0]


def _kitti_objects(location: str) -> list[_Object]:
    objects = []
    for number, line in enumerate(read_text(location).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        place = f"{location}, line {number}"
        if len(words) < 8:
            raise SourceError(
                f"{place}: a label has a type and at least 7 numbers, the box the last of them: {line!r:.80}"
            )
        left, top, right, bottom = (_number(word, place, "the box") for word in words[4:8])
        objects.append(_Object(words[0], _box((left, top, right, bottom), place), words[0] == "DontCare"))
    return objects


def _open_images_object(row: Mapping[str, str], place: str) -> _Object:
    if not re.fullmatch(r"[\w-]+", row["ImageID"] or ""):
        raise SourceError(f"{place}: ImageID is {row['ImageID']!r:.80}")
    corners = [_number(row[name], place, name) for name in ("XMin", "YMin", "XMax", "YMax")]
    if not all(0 <= corner <= 1 for corner in corners):
        raise SourceError(f"{place}: XMin, YMin, XMax and YMax are fractions of the image, 0 to 1, not {corners}")
    return _Object(
        row["LabelName"], _box((corners[0], corners[1], corners[2], corners[3]), place), row["IsGroupOf"] == "1"
    )


def _scaled(one: _Object, size: tuple[int, int]) -> _Object:
    x, y, width, height = one.box
    return _Object(one.category, (x * size[1], y * size[0], width * size[1], height * size[0]), one.ignored)


def _number(text: str | None, place: str, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{place}: {what} must be a number, not {text or ''!r:.40}")
    return value


def _box(corners: tuple[float, float, float, float], place: str) -> Box:
    left, top, right, bottom = corners
    if right < left or bottom < top:
        raise SourceError(f"{place}: its box ends before it begins: {left:g}, {top:g} to {right:g}, {bottom:g}")
    return left, top, right - left, bottom - top
