"""A photo with its classes and the boundaries of its instances on it, and a legend below, for people.

H, W pixels of the picture · M instances
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.results.instance_overlay import Labels, deepest
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.semantic_overlay import coloured, edges, shown_map, shown_size, with_legend
from pipeline.wording import counted

_INSTANCE, _REST = 0.75, 0.4  # strength of the colours over the photo
_LINE = np.array((255, 255, 255), np.uint8)  # no class has this colour


def draw_overlay(
    rgb_HW3: np.ndarray, record: PanopticRecord, things: Sequence[bool] | np.ndarray | None = None
) -> Image.Image:
    """The photo, (H, W, 3) uint8, in grey, its pixels in the colours of their classes, those of instances stronger. A
    white line around each instance, its confidence on it where that hides little; below, the classes of the image with
    their shares and instances, the largest first.

    things: of each class whether it is one, which the legend says; None where nobody knows.
    """
    size = shown_size(record.size)
    labels_HW, ids_HW = shown_map(record.labels, size), shown_map(record.instance_ids, size)
    strength_HW = np.where(ids_HW > 0, _INSTANCE, np.where(edges(labels_HW), 1.0, _REST))
    canvas_HW3 = coloured(rgb_HW3, labels_HW, strength_HW, record.semantic)
    canvas_HW3[boundaries(ids_HW, max(1, round(max(size) / 500)))] = _LINE
    picture = Image.fromarray(canvas_HW3)
    labels = Labels(picture)
    for k in sorted(range(len(record.instances)), key=lambda k: record.instances[k].area):  # small ones have less room
        one, mask_HW = record.instances[k], ids_HW == k + 1
        text = f"{one.confidence:.2f}"
        if mask_HW.sum() >= labels.room(text):
            labels.write(deepest(mask_HW), text, record.classes.colours[one.class_])
    if not record.instances:
        labels.write((0, 0), f"no instances: {record.why_empty.replace('_', ' ')}", (255, 255, 255))
    return with_legend(picture, record.semantic, legend_notes(record, things))


def legend_notes(record: PanopticRecord, things: Sequence[bool] | np.ndarray | None = None) -> dict[int, str]:
    """What the legend says of a class beside its share; things: see `draw_overlay`."""
    found = Counter(one.class_ for one in record.instances)
    notes = {}
    for c in range(len(record.classes)):
        kind = "" if things is None else ", thing" if things[c] else ", stuff"
        notes[c] = kind + (f", {counted(found[c], 'instance')}" if found[c] else "")
    return notes


def boundaries(ids_HW: np.ndarray, width: int = 1) -> np.ndarray:
    """bool (H, W): pixels of instances with a pixel that is not theirs, or none at all, at most `width` away in their
    row or column.
    """
    height, across = ids_HW.shape
    padded_HW = np.pad(ids_HW, width)
    found_HW = np.zeros(ids_HW.shape, bool)
    for step in (s for s in range(-width, width + 1) if s):
        for down, right in ((step, 0), (0, step)):
            top, left = width + down, width + right
            found_HW |= padded_HW[top : top + height, left : left + across] != ids_HW
    return found_HW & (ids_HW > 0)
