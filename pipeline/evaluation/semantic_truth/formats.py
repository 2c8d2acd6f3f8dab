"""Semantic truths by name, FORMAT:PATH.

    cityscapes:FOLDER          gtFine: *_gtFine_labelIds.png, else instanceIds; 27, 19 or 7 classes
    kitti-semantics:FOLDER     training/semantic, with Cityscapes' ids; 27, 19 or 7 classes
    coco-stuff:FOLDER          stuffthingmaps, or the pixel maps of the stuff challenge; 27 classes
    coco-stuff:JSON[+JSON]     COCO-Stuff's annotations, with COCO's instances after the "+"
    coco-things:JSON           the 12 thing classes of these 27, of COCO instances; all else is ignored
    coco-panoptic:JSON[:FOLDER]     the folder of its PNG maps, if not beside it; 133 or 27 classes
    ade20k:FOLDER              the 150 classes of SceneParsing
    potsdam:FOLDER             ISPRS' labels, in colours or as numbers; 3 or 6 classes
    maps:FOLDER                maps of your own: 0 to 254 are classes, 255 counts for nothing; those of `cuts3d export
                               --semantic` have names

Maps are found by the frame's name, anywhere below the folder; a pattern with one "*" in the place of that name says how
files are called: maps:labels/*_labelTrainIds.png.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.semantic_truth.class_maps import (
    ADE20K,
    CITYSCAPES,
    COCO_27,
    COCO_STUFF,
    COCO_THINGS,
    IGNORED,
    POTSDAM,
    POTSDAM_COLOURS,
    ClassMap,
    check_names,
    numbered,
)
from pipeline.evaluation.semantic_truth.folders import ANY_ENDING, MapFolder, MapFormat
from pipeline.evaluation.semantic_truth.segments import CocoPanoptic, CocoSegments
from pipeline.evaluation.semantic_truth.truth import SemanticTruth
from pipeline.storage.locations import absolute, asking, filesystem, read_json

_LEFT = ("_leftImg8bit",)
_KITTI_OFFSET = (5, 18)  # by which its maps are larger than photos that are cut to a rectified part
_JSON_AND_FOLDER = re.compile(r"(.+\.json):(.+)", re.IGNORECASE)


def _cityscapes_ids(values: np.ndarray) -> np.ndarray:
    """Of maps of instances, too, where an object of class 26 is 26000 and up."""
    if values.max() < 1000:
        return values
    return np.where((values >= 1000) & (values < 65535), values // 1000, values)


def _kitti_ids(values: np.ndarray) -> np.ndarray:
    """Of maps of instances, too, where an object of class 26 is 26 · 256 and up."""
    return values // 256 if values.max() > 255 else values


def _kitti_fitted(labels_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    larger = (labels_HW.shape[0] - size[0], labels_HW.shape[1] - size[1])
    return labels_HW[_KITTI_OFFSET[0] :, _KITTI_OFFSET[1] :] if larger == _KITTI_OFFSET else labels_HW


FOLDERS: dict[str, MapFormat] = {
    "cityscapes": MapFormat(
        "Cityscapes",
        {number: (one,) for number, one in CITYSCAPES.items()},
        (
            tuple(f"_{kind}_{what}.png" for what in ("labelIds", "instanceIds") for kind in ("gtFine", "gtCoarse")),
            ("_labelIds.png",),
        ),
        photo_endings=_LEFT,
        numbers=_cityscapes_ids,
    ),
    "kitti-semantics": MapFormat(
        "",
        {number: (one,) for number, one in CITYSCAPES.items()},
        ((".png",),),
        folders=("semantic",),
        numbers=_kitti_ids,
        fitted=_kitti_fitted,
    ),
    "coco-stuff": MapFormat("COCO-Stuff", COCO_STUFF, ((".png",),)),
    "ade20k": MapFormat("", {number: (one,) for number, one in ADE20K.items()}, ((".png",),), folders=("annotations",)),
    "potsdam": MapFormat(
        "Potsdam",
        POTSDAM,
        (("_label.tif", "_label_noBoundary.tif"), ANY_ENDING[0]),
        folders=("ann_dir", "labels"),
        photo_endings=("_RGB", "_RGBIR", "_IRRG"),
        colours=POTSDAM_COLOURS,
    ),
    "maps": MapFormat("", {255: (numbered(),)}, ANY_ENDING, photo_endings=_LEFT, open_ended=True),
}


def read_semantic_truth(spec: str, classes: int | None = None) -> SemanticTruth:
    """Read FORMAT:PATH, see the top of this module; path or fsspec URL. Maps themselves are read when they are needed.

    classes: how many, of formats that have several lists of them; None is the format's default.

    Raises:
        ConfigError: the format has no list of so many classes.
        SourceError: the format is unknown, or what it needs is missing or not in that format; the message names it.
    """
    name, path = format_and_path(spec, FORMATS)
    return FORMATS[name](spec, path, classes)


def format_and_path(spec: str, formats: Collection[str]) -> tuple[str, str]:
    """The parts of FORMAT:PATH. SourceError for anything else, and for a format that is none of these."""
    name, colon, path = spec.partition(":")
    if not colon or path.startswith("//") or "/" in name:
        raise SourceError(f"{spec}: say in what format it is, FORMAT:PATH; known: {', '.join(formats)}")
    if name not in formats:
        raise SourceError(f"{spec}: there is no format {name!r}; known: {', '.join(formats)}")
    if not path:
        raise SourceError(f"{spec}: say where the file or folder is, {name}:PATH")
    return name, path


def json_and_folder(path: str) -> tuple[str, str | None]:
    """The parts of JSON[:FOLDER]."""
    parts = _JSON_AND_FOLDER.fullmatch(path)
    return (parts[1], parts[2]) if parts and not Path(path).exists() else (path, None)


def _folder(name: str) -> Callable[[str, str, int | None], SemanticTruth]:
    def read(spec: str, path: str, classes: int | None) -> SemanticTruth:
        return MapFolder(spec, path, FOLDERS[name], classes)

    return read


def _maps(spec: str, path: str, classes: int | None) -> SemanticTruth:
    _need(spec, classes, (255,))
    form, names = FOLDERS["maps"], _exported_names(path.rpartition("/")[0] if "*" in path else path)
    if names:
        known = ClassMap(names, {number: number for number in range(len(names))}, frozenset((IGNORED,)))
        form = replace(form, classes={len(names): (known,)}, open_ended=False)
    return MapFolder(spec, path, form)


def _exported_names(folder: str) -> tuple[str, ...]:
    """Of the classes of maps that `cuts3d export --semantic` has written, by the legend beside them; () for others."""
    location = f"{absolute(folder)}/labels.json"
    files, path = filesystem(location)
    with asking(folder):
        document = read_json(location) if files.exists(path) else None
    if not isinstance(document, Mapping) or document.get("schema") != "cuts3d-labels/1":
        return ()
    try:
        names = {one["label"]: str(one["name"]) for one in document["classes"]}
        classes = tuple(names[number] for number in range(len(names)))
    except (KeyError, TypeError) as error:
        raise SourceError(f'{location} is damaged: "classes" must have label and name each; export it again') from error
    check_names(classes, location)
    return classes


def _coco_stuff(spec: str, path: str, classes: int | None) -> SemanticTruth:
    if ".json" not in path.lower():
        return MapFolder(spec, path, FOLDERS["coco-stuff"], classes)
    _need(spec, classes, (27,))
    files = [path] if Path(path).exists() else path.split("+")
    return CocoSegments(spec, {file: read_json(absolute(file)) for file in files}, COCO_27, "COCO-Stuff-27")


def _coco_things(spec: str, path: str, classes: int | None) -> SemanticTruth:
    _need(spec, classes, (12,))
    return CocoSegments(spec, {path: read_json(absolute(path))}, COCO_THINGS, "")


def _coco_panoptic(spec: str, path: str, classes: int | None) -> SemanticTruth:
    return CocoPanoptic(spec, *json_and_folder(path), classes)


def _need(spec: str, classes: int | None, known: tuple[int, ...]) -> None:
    if classes is not None and classes not in known:
        what = " or ".join(map(str, known)) if known != (255,) else "as many as its maps have"
        raise ConfigError(f"--classes {classes}: {spec} has {what} classes; leave it out")


FORMATS: dict[str, Callable[[str, str, int | None], SemanticTruth]] = {
    "cityscapes": _folder("cityscapes"),
    "kitti-semantics": _folder("kitti-semantics"),
    "coco-stuff": _coco_stuff,
    "coco-things": _coco_things,
    "coco-panoptic": _coco_panoptic,
    "ade20k": _folder("ade20k"),
    "potsdam": _folder("potsdam"),
    "maps": _maps,
}
