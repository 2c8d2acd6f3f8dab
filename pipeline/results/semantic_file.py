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

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

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

_DIMS: dict[str, tuple[str, ...]] = {
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
_READ_LATER = frozenset({"images/confidence"})
_TEXTS = frozenset({"byte", "code_byte", "cell"})  # dimensions of what is one after the other, of any length


def write_shard(results: Sequence[SemanticRecord | Failed], classes: Classes, attributes: Mapping[str, Any]) -> bytes:
    """The shard as the bytes of its file; the same bytes for the same content.

    results: one for each image of the shard, in the manifest's order.
    classes: of the run.
    attributes: JSON-able, for people who find this file alone: recipe, digests, versions.

    Raises ValueError for a record of other classes.
    """
    ids = [result.id.encode() for result in results]
    records = [None if isinstance(result, Failed) else result for result in results]
    for record in records:
        if record is not None and record.classes != classes:
            raise ValueError(f"{record.id}: its classes are not those of the run: {record.classes.names}")
    codes = [record.code if record else b"" for record in records]
    cells = [record.cells.ravel() if record else np.empty(0, np.uint8) for record in records]
    none = (0,) * len(classes)
    arrays = {
        "images/id": joined(ids),
        "images/id_offsets": offsets(ids),
        "images/size": np.array([result.size for result in results], np.int32).reshape(-1, 2),
        "images/status": np.array([STATUSES.index(result.status) for result in results], np.uint8),
        "images/pixels": np.array([record.pixels if record else none for record in records], np.int64).reshape(
            len(records), len(classes)
        ),
        "images/labels": joined(codes),
        "images/label_offsets": offsets(codes),
        "images/confidence": np.concatenate([np.empty(0, np.uint8), *cells]),
        "images/confidence_offsets": offsets(cells),
    }
    return write_arrays(
        arrays,
        _DIMS,
        {
            **attributes,
            "schema": SCHEMA,
            "version": VERSION,
            "classes": classes.to_json(),
            "quarantine": reasons(results),
        },
        {"images/status": {"names": list(STATUSES)}},
    )


class SemanticShard(ReadShard):
    """A shard, read. Labels stay compressed until a record is asked for them; confidence is read when it is needed.

    Attributes: `ids` (tuple of str), `classes`, `attributes` (dict), `size` int32 (B, 2), `status` uint8 (B),
    `pixels` int64 (B, C).
    """

    def __init__(self, file: ArrayFile) -> None:
        self.attributes = file.attributes
        check_schema(file, SCHEMA, VERSION)
        self.name = file.name
        self._file = file
        try:
            self.classes = Classes.from_json(self.attributes.get("classes"))
        except ValueError as error:
            raise damaged(file.name, error) from error
        arrays = {name: file.read(name) for name in _DIMS if name not in _READ_LATER}
        self.size = arrays["images/size"]
        self.status = arrays["images/status"]
        self.pixels = arrays["images/pixels"]
        self._codes, self._code_offsets = arrays["images/labels"], arrays["images/label_offsets"]
        self._cell_offsets = arrays["images/confidence_offsets"]
        self._check_shapes(arrays)
        check_offsets(self.name, "images/label_offsets", self._code_offsets, len(self._codes))
        n_cells = file["images/confidence"].shape[0]
        check_offsets(self.name, "images/confidence_offsets", self._cell_offsets, n_cells)
        self.ids = ids_in(self.name, arrays["images/id"], arrays["images/id_offsets"])

    @property
    def done(self) -> np.ndarray:
        """bool (B,): images that have a record, and did not fail."""
        return self.status != STATUSES.index(QUARANTINED)

    @cached_property
    def confidence(self) -> np.ndarray:
        """uint8, the cells of all images, one after the other, 255 = 1.0."""
        return self._file.read("images/confidence")

    def cells_of(self, image: int) -> np.ndarray:
        """uint8 (h·w,): the cells of image 0..B-1; none where it failed."""
        return self.confidence[self._cell_offsets[image] : self._cell_offsets[image + 1]]

    def result(self, image: int) -> SemanticRecord | Failed:
        """Image `image` of this shard, as it was written. StoreError where it is damaged."""
        if not self.done[image]:
            size = int(self.size[image, 0]), int(self.size[image, 1])
            return failed(self.attributes["quarantine"], image, self.ids[image], size)
        return self.record(image)

    def record(self, image: int) -> SemanticRecord:
        """The same of an image that did not fail."""
        size = int(self.size[image, 0]), int(self.size[image, 1])
        code = self._codes[self._code_offsets[image] : self._code_offsets[image + 1]].tobytes()
        pixels = tuple(self.pixels[image].tolist())
        cells = self.cells_of(image)
        try:
            record = SemanticRecord(self.ids[image], size, self.classes, code, pixels, cells.reshape(grid_of(size)))
            if record.status != STATUSES[self.status[image]]:
                raise ValueError(f"{record.id}: status {STATUSES[self.status[image]]!r} does not go with its pixels")
        except ValueError as error:
            raise damaged(self.name, error) from error
        return record

    def results(self) -> Iterator[SemanticRecord | Failed]:
        """All images, in the shard's order."""
        return map(self.result, range(len(self)))

    def _check_shapes(self, arrays: Mapping[str, np.ndarray]) -> None:
        n_images = len(self.status)
        lengths = {"image": n_images, "image_edge": n_images + 1, "height_width": 2, "class": len(self.classes)}
        for name, array in arrays.items():
            expected = tuple(lengths.get(dim) for dim in _DIMS[name])
            if not _TEXTS.intersection(_DIMS[name]) and array.shape != expected:
                raise damaged(self.name, f"{name} has shape {array.shape}, not {expected}")
        if (self.status >= len(STATUSES)).any():
            raise damaged(self.name, f"images/status must be below {len(STATUSES)}")
