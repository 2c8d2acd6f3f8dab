"""One shard of a run in one file: class and confidence per pixel of its images, and their instances.

The arrays of `semantic_file`, and

    images/instance_map          uint8 (bytes)   codes of maps of ids, see `semantic_codes`: 0 none, k the image's k-th
                                                 instance; 8 bits for up to 255 instances, else 16; of image i
                                                 instance_map[instance_map_offsets[i]:...]
    images/instance_map_offsets  int64 (B+1)
    images/instance_offsets      int64 (B+1)     image i has the instances instance_offsets[i]:instance_offsets[i+1]
    images/reason                uint16 (B)      why there is no instance: index in the attribute "names", 0 = ""
    images/reliable              float32 (B)     share of pixels with reliable motion, 0..1; NaN where nobody says
    instances/class              uint8 (M)       0..C-1
    instances/confidence         float32 (M)     0..1
    instances/area               int64 (M)       pixels
    instances/box                int32 (M, 4)    x, y, width, height, pixels

The file's attribute "things" says of each class whether it is a thing, where the maker of the labels knows, else null.

Dimension letters: B images of the shard, C classes, M instances of all of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.results.kinds import QUARANTINED, Failed
from pipeline.results.panoptic import NO_INSTANCES, PanopticInstance, PanopticRecord
from pipeline.results.semantic import NO_LABELS, OK, Classes
from pipeline.results.semantic_file import DIMS as LABEL_DIMS
from pipeline.results.semantic_file import LabelShard, arrays_of
from pipeline.results.shard_arrays import joined, offsets, reasons
from pipeline.storage.array_file import ArrayFile, damaged, write_arrays

SCHEMA = "cuts3d-panoptic"
VERSION = 1
STATUSES = (OK, NO_INSTANCES, NO_LABELS, QUARANTINED)

_DIMS: dict[str, tuple[str, ...]] = {
    **LABEL_DIMS,
    "images/instance_map": ("instance_byte",),
    "images/instance_map_offsets": ("image_edge",),
    "images/instance_offsets": ("image_edge",),
    "images/reason": ("image",),
    "images/reliable": ("image",),
    "instances/class": ("instance",),
    "instances/confidence": ("instance",),
    "instances/area": ("instance",),
    "instances/box": ("instance", "x_y_width_height"),
}


def write_shard(
    results: Sequence[PanopticRecord | Failed],
    classes: Classes,
    things: Sequence[bool] | None,
    attributes: Mapping[str, Any],
) -> bytes:
    """The shard as the bytes of its file; the same bytes for the same content.

    results: one for each image of the shard, in the manifest's order.
    classes: of the run.
    things: of each class whether it is a thing; None where nobody knows.
    attributes: JSON-able, for people who find this file alone: recipe, digests, versions.

    Raises ValueError for a record of other classes.
    """
    records = [None if isinstance(result, Failed) else result for result in results]
    labels = [record.semantic if record else None for record in records]
    codes = [record.code if record else b"" for record in records]
    of_image = [record.instances if record else () for record in records]
    instances = [one for own in of_image for one in own]
    words = ["", *sorted({record.reason for record in records if record and record.reason})]
    arrays = {
        **arrays_of(results, labels, classes, STATUSES),
        "images/instance_map": joined(codes),
        "images/instance_map_offsets": offsets(codes),
        "images/instance_offsets": offsets(of_image),
        "images/reason": np.array([words.index(record.reason if record else "") for record in records], np.uint16),
        "images/reliable": np.array([_number(record) for record in records], np.float32),
        "instances/class": np.array([one.class_ for one in instances], np.uint8),
        "instances/confidence": np.array([one.confidence for one in instances], np.float32),
        "instances/area": np.array([one.area for one in instances], np.int64),
        "instances/box": np.array([one.box for one in instances], np.int32).reshape(-1, 4),
    }
    head = {"schema": SCHEMA, "version": VERSION, "classes": classes.to_json(), "quarantine": reasons(results)}
    known = None if things is None else [bool(thing) for thing in things]
    names = {"images/status": {"names": list(STATUSES)}, "images/reason": {"names": words}}
    return write_arrays(arrays, _DIMS, {**attributes, **head, "things": known}, names)


class PanopticShard(LabelShard[PanopticRecord]):
    """A shard of panoptic labels, read.

    Attributes beside those of `LabelShard`: `things` (tuple of bool, or None), `reasons` (tuple of words, one an
    image), `reliable` float32 (B,), and of all instances `instance_class` (M,), `instance_confidence` (M,),
    `instance_area` (M,), `instance_box` (M, 4), those of an image in `instances_of`.
    """

    schema, statuses, dims = (SCHEMA, VERSION), STATUSES, _DIMS
    texts = LabelShard.texts | {"instance_byte"}

    def __init__(self, file: ArrayFile) -> None:
        super().__init__(file)
        self._check_offsets("images/instance_map_offsets", len(self._arrays["images/instance_map"]))
        self._check_offsets("images/instance_offsets", len(self._arrays["instances/class"]))
        self.things = self._known_things()
        self.reliable = self._arrays["images/reliable"]
        self.instance_class = self._arrays["instances/class"]
        self.instance_confidence = self._arrays["instances/confidence"]
        self.instance_area = self._arrays["instances/area"]
        self.instance_box = self._arrays["instances/box"]
        try:
            words = file.array_attributes("images/reason")["names"]
            self.reasons = tuple(str(words[reason]) for reason in self._arrays["images/reason"])
        except (KeyError, IndexError, TypeError) as error:
            raise damaged(self.name, f"images/reason has no names for its numbers ({error!r})") from error

    def instances_of(self, image: int) -> slice:
        """Where the instances of image 0..B-1 are in the arrays of instances."""
        first, end = self._arrays["images/instance_offsets"][image : image + 2]
        return slice(int(first), int(end))

    def _record(self, image: int) -> PanopticRecord:
        own = self.instances_of(image)
        columns = (self.instance_class, self.instance_confidence, self.instance_area, self.instance_box)
        rows = zip(*(column[own].tolist() for column in columns), strict=True)
        instances = tuple(PanopticInstance(class_, sure, area, tuple(box)) for class_, sure, area, box in rows)
        code = self._part(self._arrays["images/instance_map"], "images/instance_map_offsets", image).tobytes()
        reliable = float(self.reliable[image])
        known = None if math.isnan(reliable) else reliable
        return PanopticRecord(self._labels(image), instances, code, self.reasons[image], known)

    def _lengths(self) -> dict[str, int]:
        return {**super()._lengths(), "instance": len(self._arrays["instances/class"]), "x_y_width_height": 4}

    def _known_things(self) -> tuple[bool, ...] | None:
        things = self.attributes.get("things")
        if things is None:
            return None
        is_list = isinstance(things, list) and all(isinstance(thing, bool) for thing in things)
        if not is_list or len(things) != len(self.classes):
            raise damaged(self.name, f'"things" must be true or false for each of {len(self.classes)} classes, or null')
        return tuple(things)


def _number(record: PanopticRecord | None) -> float:
    return math.nan if record is None or record.reliable is None else record.reliable
