"""What a run of semantic labels knows about one image: a class and a confidence per pixel, compressed.

H, W pixels of the image · h, w its cells of confidence · C classes
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np

from pipeline.errors import StoreError
from pipeline.results.kinds import Counts, Failed, same_fields
from pipeline.results.semantic_codes import decoded, encoded, grid_of
from pipeline.storage.files import VERIFY_HINT

OK, NO_LABELS = "ok", "no_labels"
NONE = 255  # what a pixel without a class holds
MOST_CLASSES = NONE


@dataclass(frozen=True)
class Classes:
    """What the labels of a run mean: label c is class (or cluster) c.

    names: unique, not empty.
    colours: of each class red, green, blue, 0..255.

    Raises ValueError for none or more than 255 of them, and for names or colours that are not as above.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MOST_CLASSES:
            raise ValueError(f"there must be 1 to {MOST_CLASSES} classes, not {len(self.names)}")
        if not all(isinstance(name, str) and name for name in self.names) or len(set(self.names)) != len(self.names):
            raise ValueError(f"names of classes must be texts, each one another: {self.names}")
        if len(self.colours) != len(self.names):
            raise ValueError(f"{len(self.names)} classes need as many colours, not {len(self.colours)}")
        for colour in self.colours:
            if len(colour) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in colour):
                raise ValueError(f"a colour must be red, green and blue, 0..255 each, not {colour}")

    @classmethod
    def named(cls, names: Sequence[str]) -> Self:
        """Classes of these names, in the colours of `class_colours`."""
        return cls(tuple(names), class_colours(len(names)))

    @classmethod
    def clusters(cls, count: int) -> Self:
        """Clusters, which have numbers for names: "cluster 0", ..."""
        return cls.named([f"cluster {c}" for c in range(count)])

    def __len__(self) -> int:
        """C."""
        return len(self.names)

    def to_json(self) -> list[dict[str, Any]]:
        """One dict per class, "name" and "colour", as shard files and exports have it."""
        return [{"name": n, "colour": list(c)} for n, c in zip(self.names, self.colours, strict=True)]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The opposite of `to_json`. ValueError for anything else."""
        try:
            return cls(tuple(one["name"] for one in value), tuple(tuple(one["colour"]) for one in value))
        except (TypeError, KeyError) as error:
            raise ValueError(f"classes must be a list of names and colours ({error!r})") from error


@dataclass(frozen=True, eq=False)
class SemanticRecord:
    """A class and a confidence per pixel of one image. Made by `of`; labels are decoded when they are asked for.

    id: of the image.
    size: height, width of the original image after EXIF rotation.
    classes: what labels mean, the same for all images of a run.
    code: the labels, compressed, see `semantic_codes`.
    pixels: of each class how many pixels it has, (C,).
    cells: uint8 (h, w), confidence in cells that cover the image evenly, 255 = 1.0; h, w = `grid_of(size)`.
    """

    id: str
    size: tuple[int, int]
    classes: Classes
    code: bytes
    pixels: tuple[int, ...]
    cells: np.ndarray

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("SemanticRecord.id must not be empty")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"{self.id}: SemanticRecord.size must be (height, width) in pixels, not {self.size}")
        if len(self.pixels) != len(self.classes) or min(self.pixels) < 0 or sum(self.pixels) > self.n_pixels:
            raise ValueError(
                f"{self.id}: SemanticRecord.pixels must count some of {self.n_pixels} pixels for each of "
                f"{len(self.classes)} classes, not {self.pixels}"
            )
        if self.cells.dtype != np.uint8 or self.cells.shape != grid_of(self.size):
            raise ValueError(
                f"{self.id}: SemanticRecord.cells must be uint8 {grid_of(self.size)}, "
                f"not {self.cells.dtype} {self.cells.shape}"
            )

    @classmethod
    def of(cls, id_: str, labels_HW: np.ndarray, confidence: np.ndarray, classes: Classes) -> Self:
        """The record of an image.

        labels_HW: uint8 at the image's size: 0..C-1, or `NONE` (255) for a pixel without a class.
        confidence: float 0..1 of any shape (h, w) that covers the image, best (H, W); means over the cells are kept.

        Raises ValueError for other shapes, types and values.
        """
        if labels_HW.dtype != np.uint8 or labels_HW.ndim != 2 or not labels_HW.size:
            raise ValueError(f"{id_}: labels must be uint8 (H, W), not {labels_HW.dtype} {labels_HW.shape}")
        counts = np.bincount(labels_HW.ravel(), minlength=NONE + 1)
        if counts[len(classes) : NONE].any():
            wrong = len(classes) + int(counts[len(classes) : NONE].nonzero()[0][0])
            raise ValueError(f"{id_}: label {wrong} is none of the {len(classes)} classes, nor {NONE}")
        size = int(labels_HW.shape[0]), int(labels_HW.shape[1])
        pixels = tuple(counts[: len(classes)].tolist())
        return cls(id_, size, classes, encoded(labels_HW), pixels, cells_of(id_, confidence, size))

    @property
    def labels(self) -> np.ndarray:
        """uint8 (H, W): 0..C-1, `NONE` for pixels without a class. StoreError when the code is damaged."""
        try:
            return decoded(self.code, self.size)
        except ValueError as error:
            raise StoreError(f"the code of {self.id} is damaged: {error}", VERIFY_HINT) from error

    @property
    def confidence(self) -> np.ndarray:
        """float32 (H, W), 0..1: the cells, interpolated bilinearly."""
        from PIL import Image

        map_ = Image.fromarray(self.cells.astype(np.float32) / 255)
        return np.asarray(map_.resize(self.size[::-1], Image.Resampling.BILINEAR))

    @property
    def n_pixels(self) -> int:
        """H · W."""
        return self.size[0] * self.size[1]

    @property
    def shares(self) -> np.ndarray:
        """float64 (C,): the share of each class in the image's pixels, 0..1."""
        return np.array(self.pixels) / self.n_pixels

    @property
    def unlabelled(self) -> int:
        """Pixels without a class."""
        return self.n_pixels - sum(self.pixels)

    @property
    def mean_confidence(self) -> float:
        """0..1, over all pixels."""
        return float(self.cells.mean() / 255)

    @property
    def status(self) -> str:
        """ "ok", or "no_labels" where no pixel has a class."""
        return OK if any(self.pixels) else NO_LABELS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SemanticRecord) and same_fields(self, other)


def relabelled(record: SemanticRecord, table: np.ndarray, classes: Classes) -> SemanticRecord:
    """The record with other classes in place of its own: of label l is now `table[l]`. table: uint8 (256,)."""
    pixels = np.zeros(NONE + 1, np.int64)
    np.add.at(pixels, table[: len(record.classes)], record.pixels)
    code, counts = encoded(table[record.labels]), tuple(pixels[: len(classes)].tolist())
    return replace(record, classes=classes, code=code, pixels=counts)


def cells_of(id_: str, confidence: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Confidence, float 0..1 (h, w) of any shape, as the means over the cells of an image of this size: uint8, 255 = 1.

    Raises ValueError for other shapes, types and values.
    """
    from PIL import Image

    if confidence.ndim != 2 or not confidence.size or confidence.dtype.kind != "f":
        raise ValueError(f"{id_}: confidence must be float (h, w), not {confidence.dtype} {confidence.shape}")
    if not (confidence.min() >= 0 and confidence.max() <= 1):  # NaN is neither
        raise ValueError(f"{id_}: confidence must be in 0..1")
    map_ = Image.fromarray(np.ascontiguousarray(confidence, np.float32))
    means = np.asarray(map_.resize(grid_of(size)[::-1], Image.Resampling.BOX))
    return np.rint(means * 255).astype(np.uint8)


def counts_of(results: Iterable[SemanticRecord | Failed]) -> Counts:
    """Counts for a commit record: images; pixels by name of the class, without zeros; unlabelled, pixels that have
    none; quarantined.
    """
    images = failed = unlabelled = 0
    pixels: dict[str, int] = {}
    for result in results:
        images += 1
        if isinstance(result, Failed):
            failed += 1
            continue
        unlabelled += result.unlabelled
        add_pixels(pixels, result.classes, result.pixels)
    return {"images": images, "pixels": pixels, "unlabelled": unlabelled, "quarantined": failed}


def add_pixels(total: dict[str, int], classes: Classes, pixels: Sequence[int]) -> None:
    """Add an image's pixels of each class to those by name of the class, which have no zeros."""
    for name, count in zip(classes.names, pixels, strict=True):
        if count:
            total[name] = total.get(name, 0) + count


def by_pixels(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names with their pixels, the most first."""
    return sorted(counts.items(), key=lambda pair: -pair[1])


@lru_cache
def class_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for up to 255 classes, each as far as may be from all before it, from black, which stands for no class,
    and from white. Colour c is the same whatever the count, so that legends of different runs agree.

    Distances are Euclidean in OKLab (Björn Ottosson, 2020), among 18³ colours that are neither dark nor pale.
    """
    levels = np.arange(0, 256, 15)
    rgb_N3 = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab_N3 = _oklab(rgb_N3)
    rgb_N3, lab_N3 = (table[(lab_N3[:, 0] > 0.42) & (lab_N3[:, 0] < 0.92)] for table in (rgb_N3, lab_N3))
    nearest_N = np.min([_distances(lab_N3, _oklab(np.full((1, 3), grey))) for grey in (0, 255)], axis=0)
    chosen = []
    for _ in range(count):
        best = int(np.argmax(nearest_N))
        chosen.append((int(rgb_N3[best, 0]), int(rgb_N3[best, 1]), int(rgb_N3[best, 2])))
        nearest_N = np.minimum(nearest_N, _distances(lab_N3, lab_N3[best]))
    return tuple(chosen)


def _distances(lab_N3: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Rounded, so that the last digits of a machine do not decide between two colours that are equally far."""
    return np.linalg.norm(lab_N3 - one, axis=1).round(6)


def _oklab(rgb_N3: np.ndarray) -> np.ndarray:
    srgb = rgb_N3 / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
