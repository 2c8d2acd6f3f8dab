"""What a run of panoptic labels knows about one image: a class per pixel, and which pixels are one instance.

Which classes are things and which stuff is no matter of one image: see `panoptic_split`. What segments an image has
follows from both: see `panoptic_segments`.

H, W pixels of the image · h, w its cells of confidence · C classes · M instances
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from pipeline.errors import StoreError
from pipeline.results.kinds import Counts, Failed, same_fields
from pipeline.results.semantic import NO_LABELS, NONE, OK, Classes, SemanticRecord, add_pixels
from pipeline.results.semantic import relabelled as labels_replaced
from pipeline.results.semantic_codes import decoded, encoded
from pipeline.storage.files import VERIFY_HINT

NO_INSTANCES = "no_instances"
# Why an image has no instance: its maker gives no reason; those that it had are of clusters that stand for no class.
UNKNOWN_REASON, NO_CLASS = "none_found", "no_class"
MOST_INSTANCES = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class PanopticInstance:
    """One instance of an image.

    class_: 0..C-1, of all its pixels.
    confidence: 0..1, larger is better: the agreement of the runs that found it, or a detector's score.
    area: pixels, at least 1.
    box: x, y, width, height in pixels, the smallest that holds all of it.
    """

    class_: int
    confidence: float
    area: int
    box: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:  # NaN is neither
            raise ValueError(f"PanopticInstance.confidence must be in 0..1, not {self.confidence}")
        if self.class_ < 0 or self.area < 1 or min(self.box[:2]) < 0 or min(self.box[2:]) < 1:
            raise ValueError(
                "PanopticInstance needs a class from 0, an area from 1, and a box of x, y, width, height in pixels, "
                f"not {self.class_}, {self.area}, {self.box}"
            )
        if self.area > self.box[2] * self.box[3]:
            raise ValueError(f"PanopticInstance.area, {self.area}, is more than its box {self.box} holds")


@dataclass(frozen=True, eq=False)
class PanopticRecord:
    """Classes and instances of one image. Made by `of`; maps are decoded when they are asked for.

    semantic: class and confidence of every pixel.
    instances: instance k is 1-based in maps of ids.
    code: ids of instances, compressed, see `semantic_codes`; as many bits as `ids_type` says.
    reason: one word for why there is no instance; "" where there is one, or where nobody knows.
    reliable: share of the pixels whose motion was reliable, 0..1; None for labels that do not come from motion.
    """

    semantic: SemanticRecord
    instances: tuple[PanopticInstance, ...]
    code: bytes
    reason: str = ""
    reliable: float | None = None

    def __post_init__(self) -> None:
        if self.reason and (self.instances or not self.reason.isidentifier()):
            raise ValueError(
                f"{self.id}: PanopticRecord.reason is one word for why there is no instance, "
                f"not {self.reason!r} with {len(self.instances)} instances"
            )
        if self.reliable is not None and not 0 <= self.reliable <= 1:
            raise ValueError(f"{self.id}: PanopticRecord.reliable must be in 0..1, not {self.reliable}")
        height, width = self.size
        for one in self.instances:
            x, y, wide, high = one.box
            if one.class_ >= len(self.classes) or x + wide > width or y + high > height:
                raise ValueError(f"{self.id}: {one} does not fit {len(self.classes)} classes in {width} x {height}")
        if (over := np.array(self.inside) > self.semantic.pixels).any():
            name = self.classes.names[int(over.nonzero()[0][0])]
            raise ValueError(f"{self.id}: instances of {name} have more pixels than the class")

    @classmethod
    def of(
        cls,
        id_: str,
        labels_HW: np.ndarray,
        confidence: np.ndarray,
        instance_ids_HW: np.ndarray,
        instance_confidence_M: Sequence[float] | np.ndarray,
        classes: Classes,
        reason: str = "",
        reliable: float | None = None,
    ) -> Self:
        """The record of an image.

        labels_HW: uint8, 0..C-1, or 255 for a pixel without a class.
        confidence: of the labels, float 0..1 of any shape (h, w) that covers the image, best (H, W).
        instance_ids_HW: whole numbers, 0 for none; each of 1..M occurs, in pixels of one class.
        instance_confidence_M: 0..1, of instance 1, 2, ...
        reason, reliable: see the class.

        Raises ValueError for other shapes, types and values.
        """
        semantic = SemanticRecord.of(id_, labels_HW, confidence, classes)
        n = len(instance_confidence_M)
        ids_HW = _checked(id_, instance_ids_HW, labels_HW.shape, n)
        try:
            found = measured(ids_HW, labels_HW, n)
        except ValueError as error:
            raise ValueError(f"{id_}: {error}") from error
        sure = [float(np.float32(confidence)) for confidence in instance_confidence_M]
        instances = [PanopticInstance(one[0], c, *one[1:]) for one, c in zip(found, sure, strict=True)]
        return cls(
            semantic,
            tuple(instances),
            encoded(ids_HW),
            reason,
            None if reliable is None else float(np.float32(reliable)),
        )

    @property
    def id(self) -> str:
        """Of the image."""
        return self.semantic.id

    @property
    def size(self) -> tuple[int, int]:
        """Height, width of the original image after EXIF rotation."""
        return self.semantic.size

    @property
    def classes(self) -> Classes:
        """What labels mean, the same for all images of a run."""
        return self.semantic.classes

    @property
    def labels(self) -> np.ndarray:
        """uint8 (H, W): 0..C-1, 255 for pixels without a class. StoreError when the code is damaged."""
        return self.semantic.labels

    @property
    def confidence(self) -> np.ndarray:
        """float32 (H, W), 0..1, of the labels; see `SemanticRecord.confidence`."""
        return self.semantic.confidence

    @property
    def instance_ids(self) -> np.ndarray:
        """uint16 (H, W): 0 none, k for `instances[k - 1]`. StoreError when the code is damaged."""
        try:
            return decoded(self.code, self.size, ids_type(len(self.instances))).astype(np.uint16)
        except ValueError as error:
            raise StoreError(f"the code of the instances of {self.id} is damaged: {error}", VERIFY_HINT) from error

    @property
    def inside(self) -> tuple[int, ...]:
        """Of each class its pixels that lie inside instances, (C,)."""
        pixels = [0] * len(self.classes)
        for one in self.instances:
            pixels[one.class_] += one.area
        return tuple(pixels)

    @property
    def why_empty(self) -> str:
        """One word for why there is no instance; "" where there is one."""
        return "" if self.instances else self.reason or UNKNOWN_REASON

    @property
    def status(self) -> str:
        """ "ok", "no_instances" where pixels have classes alone, or "no_labels" where not even that."""
        return OK if self.instances else NO_INSTANCES if self.semantic.status == OK else NO_LABELS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PanopticRecord) and same_fields(self, other)


def ids_type(n: int) -> type[np.uint8] | type[np.uint16]:
    """Of the numbers in the map of n instances, as it is stored."""
    return np.uint8 if n <= np.iinfo(np.uint8).max else np.uint16


def measured(ids_HW: np.ndarray, labels_HW: np.ndarray, n: int) -> list[tuple[int, int, tuple[int, int, int, int]]]:
    """Class, area and box of instances 1..n in a map of ids. ValueError for one that has no pixel, or several classes,
    or pixels without one.
    """
    from scipy import ndimage

    rows, columns = np.nonzero(ids_HW)
    places, labels = ids_HW[rows, columns].astype(np.intp) - 1, labels_HW[rows, columns]
    areas_M = np.bincount(places, minlength=n)
    class_M = np.zeros(n, np.int64)
    class_M[places] = labels
    if (mixed := labels != class_M[places]).any():
        k = int(places[mixed][0])
        both = sorted({int(labels[mixed][0]), int(class_M[k])})
        raise ValueError(f"instance {k + 1} has pixels of labels {both[0]} and {both[1]}, not of one class")
    if (class_M == NONE).any():
        raise ValueError(f"instance {int((class_M == NONE).argmax()) + 1} has no class: its pixels are {NONE}")
    if n and not areas_M.all():
        raise ValueError(f"instance {int(areas_M.argmin()) + 1} of {n} has no pixel")
    found = []
    for class_, area, (down, across) in zip(class_M, areas_M, ndimage.find_objects(ids_HW, n), strict=True):
        box = across.start, down.start, across.stop - across.start, down.stop - down.start
        found.append((int(class_), int(area), box))
    return found


def relabelled(record: PanopticRecord, table: np.ndarray, classes: Classes) -> PanopticRecord:
    """The record with other classes in place of its own: what was of class c is now of `table[c]`; instances that have
    none there are no instances any more. table: uint8 (256,).
    """
    kept = [k for k, one in enumerate(record.instances) if table[one.class_] != NONE]
    number = np.zeros(len(record.instances) + 1, ids_type(len(kept)))
    number[[k + 1 for k in kept]] = np.arange(1, len(kept) + 1)
    instances = tuple(replace(record.instances[k], class_=int(table[record.instances[k].class_])) for k in kept)
    return replace(
        record,
        semantic=labels_replaced(record.semantic, table, classes),
        instances=instances,
        code=encoded(number[record.instance_ids]),
        reason=NO_CLASS if record.instances and not instances else record.reason,
    )


def counts_of(results: Iterable[PanopticRecord | Failed]) -> Counts:
    """Counts for a commit record: images; by name of the class and without zeros pixels, and inside, those of them that
    lie inside instances; unlabelled, pixels that have no class; instances; empty, images without an instance by reason;
    quarantined.
    """
    images = failed = unlabelled = instances = 0
    pixels: dict[str, int] = {}
    inside: dict[str, int] = {}
    empty: dict[str, int] = {}
    for result in results:
        images += 1
        if isinstance(result, Failed):
            failed += 1
            continue
        unlabelled += result.semantic.unlabelled
        instances += len(result.instances)
        add_pixels(pixels, result.classes, result.semantic.pixels)
        add_pixels(inside, result.classes, result.inside)
        if result.why_empty:
            empty[result.why_empty] = empty.get(result.why_empty, 0) + 1
    return {
        "images": images,
        "pixels": pixels,
        "inside": inside,
        "unlabelled": unlabelled,
        "instances": instances,
        "empty": empty,
        "quarantined": failed,
    }


def _checked(id_: str, ids_HW: np.ndarray, shape: tuple[int, ...], n: int) -> np.ndarray:
    """The ids as they are stored."""
    if ids_HW.dtype.kind not in "iu" or ids_HW.shape != shape:
        raise ValueError(f"{id_}: ids of instances must be whole {shape}, not {ids_HW.dtype} {ids_HW.shape}")
    if n > MOST_INSTANCES:
        raise ValueError(f"{id_}: {n} instances are more than the {MOST_INSTANCES} that are numbered")
    if ids_HW.min() < 0 or ids_HW.max() > n:
        raise ValueError(f"{id_}: ids must be 0..{n}, one for each confidence, not {ids_HW.min()}..{ids_HW.max()}")
    return np.ascontiguousarray(ids_HW, ids_type(n))
