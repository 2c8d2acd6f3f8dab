"""Truths in COCO's JSON files: segments of stuff and things, and panoptic maps.

H, W pixels
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.same_images import is_turned, same_images
from pipeline.evaluation.semantic_truth.class_maps import COCO_27, COCO_CATEGORIES, IGNORED, check_names
from pipeline.evaluation.semantic_truth.panoptic_json import PanopticFile, categories_of, entry_id
from pipeline.evaluation.semantic_truth.truth import TrueLabels
from pipeline.evaluation.truth.coco import Truth, list_of
from pipeline.images.coco import whole_number
from pipeline.images.manifest import ImageRef

_FIRST_STUFF = 92  # of COCO's category ids


class CocoSegments:
    """A `truth.SemanticTruth` of annotations with masks: COCO-Stuff's, instances, or both.

    Where masks overlap, things are above stuff, and the smaller one is on top; a crowd counts as its class.

    files: COCO documents of the same images by name; those that all of them list count.
    classes: supercategories that count.
    """

    numbering, open_ended = "", False

    def __init__(self, name: str, files: Mapping[str, Any], classes: tuple[str, ...], benchmark: str) -> None:
        self.name, self.classes, self.benchmark = name, classes, benchmark
        self._truth = Truth(_joined(files), name)
        self.paths: Mapping[int, str] = {id_: str(image["file_name"]) for id_, image in self._truth.images.items()}
        self._class_of: dict[int, int] = {}
        for document in files.values():
            self._class_of |= classes_by_id(categories_of(document), classes)
        if not self._class_of:
            raise SourceError(f"{name}: no category is one of {', '.join(classes)}, as COCO's supercategories are")

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `truth.SemanticTruth`."""
        return same_images(
            {ref.id: ref.id for ref in refs}, self.paths, self.name, {ref.id: ref.coco_id for ref in refs}
        )

    def labels(self, number: int, ref: ImageRef, size: tuple[int, int]) -> TrueLabels:
        """See `truth.SemanticTruth`."""
        self._truth.is_of_size(number, size, partial(is_turned, ref))  # which puts right what is swapped
        labels_HW = np.full(self._truth.size(number), IGNORED, np.uint8)
        for segment in sorted(self._truth.objects(number), key=_height):
            index = self._class_of.get(segment["category"], IGNORED)
            labels_HW[coco_mask.decode(segment["segmentation"]) > 0] = index
        return TrueLabels(labels_HW, {})


class CocoPanoptic:
    """A `truth.SemanticTruth` of a panoptic JSON and its maps.

    folder: of the maps; None is the one beside the file that has its name.
    classes: 133, all of the file's categories, or 27, their supercategories.
    """

    numbering, open_ended, benchmark = "", False, ""

    def __init__(self, name: str, location: str, folder: str | None, classes: int | None = None) -> None:
        self.name = name
        need_panoptic_classes(name, classes)
        self._file = PanopticFile(name, location, folder, "say where they are, coco-panoptic:JSON:FOLDER")
        self.classes, self._class_of = panoptic_classes(self._file, location, classes)
        self.paths = self._file.paths

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `truth.SemanticTruth`."""
        return self._file.matched(refs)

    def labels(self, number: int, ref: ImageRef, size: tuple[int, int]) -> TrueLabels:
        """See `truth.SemanticTruth`."""
        map_, categories = self._file.map(number), self._file.images[number].categories
        classes = [self._class_of.get(categories.get(id_, 0), IGNORED) for id_ in map_.ids.tolist()]
        return TrueLabels(np.array(classes, np.uint8)[map_.places], self._file.strange(number, map_))


def need_panoptic_classes(name: str, classes: int | None) -> None:
    """ConfigError for a number of classes that panoptic files do not have."""
    if classes not in (None, 133, 27):
        raise ConfigError(f"--classes {classes}: {name} has 133 or 27 classes")


def panoptic_classes(file: PanopticFile, location: str, classes: int | None) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of classes, and the class of each category that has one; SourceError for names that cannot be scored.

    classes: 133 or None, all of the file's categories, or 27, their supercategories.
    """
    if classes == 27:
        names, class_of = COCO_27, classes_by_id(file.categories, COCO_27)
    else:
        names = tuple(str(one.get("name", id_)) for id_, one in file.categories.items())
        class_of = {id_: index for index, id_ in enumerate(file.categories)}
    check_names(names, location)
    return names, class_of


def _height(segment: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """Sort key of masks, the lowest first."""
    category = segment["category"]
    return isinstance(category, int) and category < _FIRST_STUFF, not segment["iscrowd"], -segment["area"]


def _joined(files: Mapping[str, Any]) -> dict[str, Any]:
    """One document of several."""
    first, *others = files
    images = list_of(files[first], "images", first)
    annotations = list(list_of(files[first], "annotations", first))
    for other in others:
        theirs = {entry_id(image) for image in list_of(files[other], "images", other)}
        images = [image for image in images if entry_id(image) in theirs]
        annotations += list_of(files[other], "annotations", other)
    if not images:
        raise SourceError(f"{' and '.join(files)} have no image id in common: give files of the same images")
    kept = {entry_id(image) for image in images}
    if others:
        annotations = [
            one
            for one in annotations
            if not isinstance(one, Mapping) or whole_number(one.get("image_id")) in kept or "image_id" not in one
        ]
    return {"images": images, "annotations": annotations}


def classes_by_id(categories: Mapping[int, Mapping[str, Any]], classes: tuple[str, ...]) -> dict[int, int]:
    """Of each category its class, by its supercategory; where the file names none, by COCO's own ids."""
    index = {supercategory: i for i, supercategory in enumerate(classes)}
    above = {id_: one.get("supercategory") for id_, one in categories.items()}
    if not any(above.values()):
        above = dict(COCO_CATEGORIES)
    return {id_: index[str(one)] for id_, one in above.items() if str(one) in index}
