"""One shard of a run in one file: class and confidence per pixel of its images, and what is known of each image.

    images/id                  uint8 (bytes)   UTF-8, id i is id[id_offsets[i]:id_offsets[i+1]]
    images/id_offsets          int64 (B+1)
    images/size                int32 (B, 2)    height, width; 0, 0 when unknown
    images/status              uint8 (B)       index in the array's attribute "names"
    images/pixels              int64 (B, C)    pixels of each class
    images/labels              uint8 (bytes)   codes, see `semantic_codes`; of image i labels[label_offsets[i]:...]
    images/label_offsets       int64 (B+1)
    images/confidence          uint8 (cells)   255 = 1.0; of image i confidence[confidence_offsets[i]:...], row by row,
                                               ceil(H / 8) rows of ceil(W / 8)
    images/confidence_offsets  int64 (B+1)

The file's attribute "classes" has name and colour (red, green, blue, 0..255) of each class.

Dimension letters: B images of the shard, C classes, H, W pixels, h, w cells.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from pipeline.results.kinds import QUARANTINED, Failed
from pipeline.results.semantic import NO_LABELS, OK, Classes, SemanticRecord
from pipeline.results.semantic_codes import grid_of
from pipeline.results.shard_arrays import (
    ReadShard,
    check_offsets,
    check_schema,
    failed,
    ids_in,
    joined,
    offsets,
    reasons,
)
from pipeline.storage.array_file import ArrayFile, damaged, write_arrays

SCHEMA = "cuts3d-semantic"
VERSION = 1
STATUSES = (OK, NO_LABELS, QUARANTINED)


class _Labelled(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def status(self) -> str: ...


DIMS: dict[str, tuple[str, ...]] = {
    "images/id": ("byte",),
    "images/id_offsets": ("image_edge",),
    "images/size": ("image", "height_width"),
    "images/status": ("image",),
    "images/pixels": ("image", "class"),
    "images/labels": ("code_byte",),
    "images/label_offsets": ("image_edge",),
    "images/confidence": ("cell",),
    "images/confidence_offsets": ("image_edge",),
}
Record = TypeVar("Record", bound=_Labelled)

_READ_LATER = frozenset({"images/confidence"})
_TEXTS = frozenset({"byte", "code_byte", "cell"})  # dimensions of what is one after the other, of any length


def write_shard(results: Sequence[SemanticRecord | Failed], classes: Classes, attributes: Mapping[str, Any]) -> bytes:
    """The shard as the bytes of its file; the same bytes for the same content.

    results: one for each image of the shard, in the manifest's order.
    classes: of the run.
    attributes: JSON-able, for people who find this file alone: recipe, digests, versions.

    Raises ValueError for a record of other classes.
    """
    records = [None if isinstance(result, Failed) else result for result in results]
    arrays = arrays_of(results, records, classes, STATUSES)
    head = {"schema": SCHEMA, "version": VERSION, "classes": classes.to_json(), "quarantine": reasons(results)}
    return write_arrays(arrays, DIMS, {**attributes, **head}, {"images/status": {"names": list(STATUSES)}})


def arrays_of(
    results: Sequence[Any], records: Sequence[SemanticRecord | None], classes: Classes, statuses: Sequence[str]
) -> dict[str, np.ndarray]:
    """The arrays of the table above.

    results: of any kind, for ids, sizes and statuses.
    records: the labels of each, None of one that failed.

    Raises ValueError for labels of other classes.
    """
    for record in records:
        if record is not None and record.classes != classes:
            raise ValueError(f"{record.id}: its classes are not those of the run: {record.classes.names}")
    ids = [result.id.encode() for result in results]
    codes = [record.code if record else b"" for record in records]
    cells = [record.cells.ravel() if record else np.empty(0, np.uint8) for record in records]
    none = (0,) * len(classes)
    pixels = np.array([record.pixels if record else none for record in records], np.int64)
    return {
        "images/id": joined(ids),
        "images/id_offsets": offsets(ids),
        "images/size": np.array([result.size for result in results], np.int32).reshape(-1, 2),
        "images/status": np.array([statuses.index(result.status) for result in results], np.uint8),
        "images/pixels": pixels.reshape(len(records), len(classes)),
        "images/labels": joined(codes),
        "images/label_offsets": offsets(codes),
        "images/confidence": np.concatenate([np.empty(0, np.uint8), *cells]),
        "images/confidence_offsets": offsets(cells),
    }


class LabelShard(ReadShard, Generic[Record]):
    """The labels of a shard whose file has the arrays of the table above, whatever else it has; they stay compressed
    until a record is asked for them, and confidence is read when it is needed.

    Attributes: `ids` (tuple of str), `classes`, `attributes` (dict), `size` int32 (B, 2), `status` uint8 (B),
    `pixels` int64 (B, C).
    """

    schema: tuple[str, int]
    """Name and version of the file."""
    statuses: Sequence[str]
    """What `status` counts, the last one of images that failed."""
    dims: Mapping[str, tuple[str, ...]]
    """Dimensions of all arrays of the file."""
    later: frozenset[str] = _READ_LATER
    """Arrays that are not read at once."""
    texts: frozenset[str] = _TEXTS
    """Dimensions of any length."""

    def __init__(self, file: ArrayFile) -> None:
        self.attributes = file.attributes
        check_schema(file, *self.schema)
        self.name = file.name
        self._file = file
        try:
            self.classes = Classes.from_json(self.attributes.get("classes"))
        except ValueError as error:
            raise damaged(file.name, error) from error
        self._arrays = {name: file.read(name) for name in self.dims if name not in self.later}
        self.size = self._arrays["images/size"]
        self.status = self._arrays["images/status"]
        self.pixels = self._arrays["images/pixels"]
        self._check_shapes()
        self._check_offsets("images/label_offsets", len(self._arrays["images/labels"]))
        self._check_offsets("images/confidence_offsets", file["images/confidence"].shape[0])
        self.ids = ids_in(self.name, self._arrays["images/id"], self._arrays["images/id_offsets"])

    @property
    def done(self) -> np.ndarray:
        """bool (B,): images that have a record, and did not fail."""
        return self.status != self.statuses.index(QUARANTINED)

    @cached_property
    def confidence(self) -> np.ndarray:
        """uint8, the cells of all images, one after the other, 255 = 1.0."""
        return self._file.read("images/confidence")

    def cells_of(self, image: int) -> np.ndarray:
        """uint8 (h·w,): the cells of image 0..B-1; none where it failed."""
        return self._part(self.confidence, "images/confidence_offsets", image)

    def result(self, image: int) -> Record | Failed:
        """Image `image` of this shard, as it was written. StoreError where it is damaged."""
        if not self.done[image]:
            return failed(self.attributes["quarantine"], image, self.ids[image], self._size(image))
        return self.record(image)

    def record(self, image: int) -> Record:
        """The same of an image that did not fail."""
        try:
            record = self._record(image)
            if record.status != self.statuses[self.status[image]]:
                told = self.statuses[self.status[image]]
                raise ValueError(f"{record.id}: status {told!r} does not go with its pixels")
        except ValueError as error:
            raise damaged(self.name, error) from error
        return record

    def results(self) -> Iterator[Record | Failed]:
        """All images, in the shard's order."""
        return map(self.result, range(len(self)))

    @abstractmethod
    def _record(self, image: int) -> Record:
        """Image `image` of this shard; ValueError where its parts do not fit each other."""

    def _labels(self, image: int) -> SemanticRecord:
        size = self._size(image)
        code = self._part(self._arrays["images/labels"], "images/label_offsets", image).tobytes()
        pixels = tuple(self.pixels[image].tolist())
        cells = self.cells_of(image).reshape(grid_of(size))
        return SemanticRecord(self.ids[image], size, self.classes, code, pixels, cells)

    def _size(self, image: int) -> tuple[int, int]:
        return int(self.size[image, 0]), int(self.size[image, 1])

    def _part(self, array: np.ndarray, edges: str, image: int) -> np.ndarray:
        """What an array holds of an image."""
        return array[self._arrays[edges][image] : self._arrays[edges][image + 1]]

    def _lengths(self) -> dict[str, int]:
        """Of dimensions that are not `texts`."""
        n_images = len(self.status)
        return {"image": n_images, "image_edge": n_images + 1, "height_width": 2, "class": len(self.classes)}

    def _check_offsets(self, name: str, end: int) -> None:
        check_offsets(self.name, name, self._arrays[name], end)

    def _check_shapes(self) -> None:
        lengths = self._lengths()
        for name, array in self._arrays.items():
            expected = tuple(lengths.get(dim) for dim in self.dims[name])
            if not self.texts.intersection(self.dims[name]) and array.shape != expected:
                raise damaged(self.name, f"{name} has shape {array.shape}, not {expected}")
        if (self.status >= len(self.statuses)).any():
            raise damaged(self.name, f"images/status must be below {len(self.statuses)}")


class SemanticShard(LabelShard[SemanticRecord]):
    """A shard of semantic labels, read."""

    schema, statuses, dims = (SCHEMA, VERSION), STATUSES, DIMS

    def _record(self, image: int) -> SemanticRecord:
        return self._labels(image)
