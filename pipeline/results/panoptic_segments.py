"""The segments of an image: what its classes and instances come to under a run's split into things and stuff.

H, W pixels of the image · M instances
"""

from dataclasses import dataclass

import numpy as np

from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import NONE

VOID = 0


@dataclass(frozen=True)
class Segment:
    """One segment of an image.

    id: of its pixels, from 1.
    class_: 0..C-1.
    is_thing: whether it is an instance of a thing class, or all stuff of its class.
    instance: place in the record's instances, from 0; None for stuff.
    area: pixels, at least 1.
    confidence: 0..1, of the instance; of stuff the mean of its pixels'.
    """

    id: int
    class_: int
    is_thing: bool
    instance: int | None
    area: int
    confidence: float


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of an image.

    ids_HW: int32 (H, W), of each pixel its segment; `VOID` (0) for none.
    segments: ids ascending from 1 without gaps: stuff by class, then instances in the record's order.
    """

    ids_HW: np.ndarray
    segments: tuple[Segment, ...]


def segments_of(record: PanopticRecord, split: ThingSplit) -> Segments:
    """The segments of an image under a split of its run's classes.

    A stuff class is one segment, instances of it included. Of a thing class each instance is one; its other pixels are
    void, as are pixels without a class. ValueError for a split of other classes.
    """
    if record.classes != split.classes:
        raise ValueError(f"{record.id}: the split is of other classes: {split.classes.names}")
    labels_HW = record.labels
    id_of_label = np.full(NONE + 1, VOID, np.int32)
    segments: list[Segment] = []
    present = [c for c in split.stuff_classes if record.semantic.pixels[c]]
    confidence_HW = record.confidence if present else None
    for c in present:
        id_of_label[c] = len(segments) + 1
        assert confidence_HW is not None
        sure = float(confidence_HW[labels_HW == c].mean(dtype=np.float64))
        segments.append(Segment(len(segments) + 1, c, False, None, record.semantic.pixels[c], min(sure, 1.0)))
    ids_HW = id_of_label[labels_HW]
    id_of_instance = np.zeros(len(record.instances) + 1, np.int32)
    for k, one in enumerate(record.instances):
        if split.things[one.class_]:
            segments.append(Segment(len(segments) + 1, one.class_, True, k, one.area, one.confidence))
            id_of_instance[k + 1] = len(segments)
    if id_of_instance.any():
        own_HW = id_of_instance[record.instance_ids]
        ids_HW = np.where(own_HW > 0, own_HW, ids_HW)
    return Segments(ids_HW, tuple(segments))
