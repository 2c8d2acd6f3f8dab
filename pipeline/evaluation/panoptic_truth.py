"""True segments of images, FORMAT:PATH.

    cityscapes:FOLDER          gtFine: *_gtFine_instanceIds.png; 27, 19 or 7 classes
    kitti-semantics:FOLDER     training/instance, id · 256 + n; 27, 19 or 7 classes
    coco-panoptic:JSON[:FOLDER]     the folder of its PNG maps, if not beside it; 133 or 27 classes

Files are found, and classes numbered, as in `semantic_truth.formats`. Objects of a thing class that nobody has told
apart are a crowd: Cityscapes' groups, whose value is the id of the class, KITTI's without a number, COCO's "iscrowd".

H, W pixels · C classes · T segments of an image · U values of a map
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pipeline.errors import SourceError
from pipeline.evaluation.beside_truth import Truth
from pipeline.evaluation.panoptic_quality import TrueSegments
from pipeline.evaluation.semantic_truth.class_maps import CITYSCAPES_THINGS, COCO_THINGS, IGNORED
from pipeline.evaluation.semantic_truth.folders import MapFolder, MapFormat
from pipeline.evaluation.semantic_truth.formats import FOLDERS, format_and_path, json_and_folder
from pipeline.evaluation.semantic_truth.panoptic_json import PanopticFile, distinct
from pipeline.evaluation.semantic_truth.segments import need_panoptic_classes, panoptic_classes
from pipeline.evaluation.semantic_truth.truth import MapError
from pipeline.images.manifest import ImageRef


class PanopticTruth(Truth, Protocol):
    """True segments of images.

    benchmark: as papers call data and classes, "Cityscapes-27"; "" for data of one's own.
    classes: their names, (C,).
    things: of each class, whether it is one, (C,).
    """

    benchmark: str
    classes: tuple[str, ...]
    things: tuple[bool, ...]

    def segments(self, number: int, size: tuple[int, int]) -> TrueSegments:
        """Of one of its images.

        size: height and width of the photo, for truths that are larger.

        Raises MapError, whose detail names the file. Called by several threads at a time.
        """


@dataclass(frozen=True)
class InstanceFormat:
    """How a benchmark numbers objects.

    maps: how it lays out its maps, and their classes.
    numbered: of each value of a map, (U,), whether it stands for one object.
    least: that a map must hold somewhere, unless it is all 0: smaller ones are of classes alone.
    """

    maps: MapFormat
    numbered: Callable[[np.ndarray], np.ndarray]
    least: int = 0


def _numbered_by_cityscapes(values: np.ndarray) -> np.ndarray:
    return (values >= 1000) & (values < 65535)


def _numbered_by_kitti(values: np.ndarray) -> np.ndarray:
    return values % 256 > 0


_INSTANCE_IDS = tuple(f"_{kind}_instanceIds.png" for kind in ("gtFine", "gtCoarse"))

INSTANCE_FOLDERS: dict[str, InstanceFormat] = {
    "cityscapes": InstanceFormat(
        replace(FOLDERS["cityscapes"], endings=(_INSTANCE_IDS, ("_instanceIds.png",))), _numbered_by_cityscapes
    ),
    "kitti-semantics": InstanceFormat(
        replace(FOLDERS["kitti-semantics"], benchmark="KITTI", folders=("instance",)), _numbered_by_kitti, 256
    ),
}


class InstanceFolder:
    """A `PanopticTruth` of a folder of maps, whose things are all of Cityscapes' human and vehicle classes.

    place, classes: see `MapFolder`, whose errors it raises, too.
    """

    def __init__(self, name: str, place: str, form: InstanceFormat, classes: int | None = None) -> None:
        self.name, self._form = name, form
        self._maps = MapFolder(name, place, form.maps, classes)
        self.benchmark, self.classes, self.paths = self._maps.benchmark, self._maps.classes, self._maps.paths
        self.things = tuple(one in CITYSCAPES_THINGS for one in self.classes)

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `PanopticTruth`."""
        return self._maps.matched(refs)

    def segments(self, number: int, size: tuple[int, int]) -> TrueSegments:
        """See `PanopticTruth`."""
        values_HW = self._maps.fitted(self._maps.values(number), size)
        values_U, places_HW, pixels_U = distinct(values_HW)
        if 0 < values_U.max() < self._form.least:
            raise MapError(
                "without instances", f"{self.paths[number]}, whose map has classes alone: give instance maps"
            )
        classes_U, strange = self._maps.classified(number, values_U)
        numbers_U = self._form.maps.numbers(values_U)
        strange = {value: int(pixels_U[numbers_U == value].sum()) for value in strange}
        is_thing_U = _are_things(classes_U, self.things)
        is_alone_U = is_thing_U & self._form.numbered(values_U)
        return _joined(places_HW, classes_U, is_alone_U, is_thing_U & ~is_alone_U, strange)


class CocoPanopticSegments:
    """A `PanopticTruth` of a panoptic JSON and its maps.

    folder, classes: see `CocoPanoptic`, whose errors it raises, too.
    """

    benchmark = ""

    def __init__(self, name: str, location: str, folder: str | None, classes: int | None = None) -> None:
        self.name = name
        need_panoptic_classes(name, classes)
        self._file = PanopticFile(name, location, folder, "say where they are, coco-panoptic:JSON:FOLDER")
        self.classes, self._class_of = panoptic_classes(self._file, location, classes)
        if classes == 27:
            self.things = tuple(one in COCO_THINGS for one in self.classes)
        else:
            self.things = things_of(self._file, location)
        self.paths = self._file.paths

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `PanopticTruth`."""
        return self._file.matched(refs)

    def segments(self, number: int, size: tuple[int, int]) -> TrueSegments:
        """See `PanopticTruth`."""
        map_, image = self._file.map(number), self._file.images[number]
        numbers = map_.ids.tolist()
        classes_U = np.array([self._class_of.get(image.categories.get(id_, 0), IGNORED) for id_ in numbers], np.uint8)
        is_crowd_U = np.array([id_ in image.crowds for id_ in numbers]) & (classes_U != IGNORED)
        is_alone_U = _are_things(classes_U, self.things) | is_crowd_U
        strange = self._file.strange(number, map_)
        return _joined(map_.places, classes_U, is_alone_U, is_crowd_U, strange)


def read_panoptic_truth(spec: str, classes: int | None = None) -> PanopticTruth:
    """Read FORMAT:PATH, see the top of this module; path or fsspec URL. Maps themselves are read when they are needed.

    classes: how many, of formats that have several lists of them; None is the format's default.

    Raises:
        ConfigError: the format has no list of so many classes.
        SourceError: the format is unknown, or what it needs is missing or not in that format; the message names it.
    """
    name, path = format_and_path(spec, (*INSTANCE_FOLDERS, "coco-panoptic"))
    if name in INSTANCE_FOLDERS:
        return InstanceFolder(spec, path, INSTANCE_FOLDERS[name], classes)
    return CocoPanopticSegments(spec, *json_and_folder(path), classes)


def things_of(file: PanopticFile, location: str) -> tuple[bool, ...]:
    """Of each category of a panoptic file, whether it is a thing. SourceError where one does not say."""
    for id_, one in file.categories.items():
        if one.get("isthing") not in (0, 1):
            raise SourceError(
                f'{location}: category {id_} ({one.get("name", "")}) must have "isthing", 0 or 1, not '
                f"{one.get('isthing')!r:.40}"
            )
    return tuple(bool(one["isthing"]) for one in file.categories.values())


def _are_things(classes_U: np.ndarray, things: Sequence[bool]) -> np.ndarray:
    """bool (U,); what is ignored is none."""
    are: np.ndarray = np.append(things, False)[np.minimum(classes_U, len(things))]
    return are


def _joined(
    places_HW: np.ndarray,
    classes_U: np.ndarray,
    is_alone_U: np.ndarray,
    is_crowd_U: np.ndarray,
    strange: Mapping[int, int],
) -> TrueSegments:
    """Segments of the values of a map: each that is alone is one, others are one with those of their class.

    places_HW: of each pixel the place of its value.
    """
    counts_U = classes_U != IGNORED
    keys_U = np.where(is_alone_U, 256 + np.arange(len(classes_U)), classes_U)
    _, first, segment = np.unique(keys_U[counts_U], return_index=True, return_inverse=True)
    table_U = np.zeros(len(classes_U), np.int32)
    table_U[counts_U] = segment + 1
    return TrueSegments(table_U[places_HW], classes_U[counts_U][first], is_crowd_U[counts_U][first], strange)
