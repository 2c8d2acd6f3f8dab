"""Panoptic labels as COCO has them: a PNG of segment ids in colours, and what each segment is.

H, W pixels
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from pipeline.results import semantic_coco
from pipeline.results.panoptic_segments import VOID, Segments
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import Classes

# Steps between colours of one class, and how far they lead away from its own at the most.
_COARSE, _FINE, _NEAR = (0, 11, -11, 22, -22), (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5), 27


def categories_of(split: ThingSplit) -> list[dict[str, Any]]:
    """The categories: class c is category c + 1."""
    ours = semantic_coco.categories_of(split.classes)
    return [{**one, "isthing": int(thing)} for one, thing in zip(ours, split.things, strict=True)]


def coloured_segments(found: Segments, classes: Classes) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The picture of an image, uint8 (H, W, 3), and its "segments_info", in the order of the segments.

    The id of a segment is R + 256 G + 65536 B of its pixels; 0, black, is void. Ids are chosen so that colours are
    those of the classes, those of instances of one class a little apart. Beside COCO's fields each segment has score,
    its confidence.
    """
    from scipy import ndimage

    ids = _ids(found, classes)
    boxes = ndimage.find_objects(found.ids_HW, len(found.segments))
    table = np.array([VOID, *ids], np.uint32)
    colours_N3 = np.stack([table & 255, table >> 8 & 255, table >> 16], axis=-1).astype(np.uint8)
    segments = [
        {
            "id": id_,
            "category_id": one.class_ + 1,
            "iscrowd": 0,
            "bbox": [across.start, down.start, across.stop - across.start, down.stop - down.start],
            "area": one.area,
            "score": round(one.confidence, 6),
        }
        for id_, one, (down, across) in zip(ids, found.segments, boxes, strict=True)
    ]
    return colours_N3[found.ids_HW], segments


def _ids(found: Segments, classes: Classes) -> list[int]:
    """Of each segment; all of an image differ, and none is `VOID`."""
    free = {c: _colours(classes.colours[c]) for c in {one.class_ for one in found.segments}}
    ids: list[int] = []
    used = {VOID}
    for one in found.segments:
        id_ = next(id_ for r, g, b in free[one.class_] if (id_ := r + 256 * g + 65536 * b) not in used)
        used.add(id_)
        ids.append(id_)
    return ids


def _colours(colour: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """More colours than an image has instances, each another but for the first: the class's own, then such near it."""
    yield colour
    red, green, blue = (min(max(value, _NEAR), 255 - _NEAR) for value in colour)
    for fine in product(_FINE, repeat=3):
        for coarse in product(_COARSE, repeat=3):
            r, g, b = map(sum, zip(fine, coarse, strict=True))
            yield red + r, green + g, blue + b
