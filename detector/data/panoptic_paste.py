"""Copy-paste in a batch (CUPS, Hahn et al., CVPR 2025): instances are cut out of images and pasted into others.
Functions on arrays; where the instances come from is up to the caller.

H, W pixels of an image · h, w of a cut-out · M instances of an image · K cut-outs
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from detector.data.confidence_masks import CERTAIN
from detector.data.paste import Patch, paste_pixels
from pipeline.errors import ConfigError

SOME_THING = 0  # what the semantic head calls a pixel of any thing


@dataclass(frozen=True, eq=False)
class PanopticSample:
    """An image of a batch and what is to be learnt of it.

    image_3HW: uint8.
    values_MHW: uint8, 0 outside each instance, 255 inside.
    labels_M: int64, 0..T-1, thing classes of the instances.
    boxes_M4: float32, x1, y1, x2, y2 in pixels.
    seg_HW: uint8, classes of the semantic head: 0 some thing, 1..S stuff, 255 ignored.
    pasted: instances that were pasted, which are the last ones.
    """

    image_3HW: np.ndarray
    values_MHW: np.ndarray
    labels_M: np.ndarray
    boxes_M4: np.ndarray
    seg_HW: np.ndarray
    pasted: int = 0


@dataclass(frozen=True, eq=False)
class CutOut:
    """One instance, cut out along its box; a copy, which nothing that is pasted later changes.

    image_hw3: uint8, the image inside the box, channels as in the image.
    inside_hw: uint8, 255 inside the instance, else 0.
    label: 0..T-1.
    """

    image_hw3: np.ndarray
    inside_hw: np.ndarray
    label: int


@dataclass(frozen=True)
class PasteOptions:
    """What is pasted, and how; the defaults are CUPS'.

    instances: fewest and most that an image gets, drawn uniformly; at most as many as there are.
    scale: range of an instance's size, in sizes of the original.
    flip: probability that it is turned over.
    min_side: instances are pasted whose box is longer than this on both sides, in pixels.

    Raises ConfigError for values out of range.
    """

    instances: tuple[int, int] = (1, 8)
    scale: tuple[float, float] = (0.25, 1.5)
    flip: float = 0.5
    min_side: float = 32

    def __post_init__(self) -> None:
        self._check("instances", 1 <= self.instances[0] <= self.instances[1], "two rising whole numbers from 1")
        self._check("scale", 0 < self.scale[0] <= self.scale[1], "two rising numbers above 0")
        self._check("flip", 0 <= self.flip <= 1, "in 0..1")
        self._check("min_side", self.min_side >= 0, "at least 0 pixels")

    def _check(self, name: str, holds: bool, legal: str) -> None:
        if not holds:
            raise ConfigError(f"copy-paste: {name} must be {legal}, not {getattr(self, name)}")


def cut_outs(
    image_3HW: np.ndarray, values_MHW: np.ndarray, labels_M: Sequence[int] | np.ndarray, min_side: float = 32
) -> Iterator[CutOut]:
    """The instances of an image whose box is longer than `min_side` on both sides, each with its own label.

    image_3HW: uint8. values_MHW: uint8, not 0 inside. labels_M: 0..T-1.

    (The released code leaves small instances out of its list of masks, but not out of that of classes: after the first
    small one, what it pastes has its neighbour's class.)
    """
    for value_HW, label in zip(values_MHW, labels_M, strict=True):
        x, y, width, height = cv2.boundingRect(value_HW)
        if min(width, height) > max(min_side, 0):
            window = slice(y, y + height), slice(x, x + width)
            inside_hw = np.where(value_HW[window], np.uint8(CERTAIN), np.uint8(0))
            yield CutOut(np.ascontiguousarray(image_3HW[:, *window].transpose(1, 2, 0)), inside_hw, int(label))


def paste_batch(
    batch: Sequence[PanopticSample], source: Sequence[CutOut], options: PasteOptions, rng: np.random.Generator
) -> list[PanopticSample]:
    """New samples with some of the source pasted into each; nothing that is given is written to.

    An instance that does not fit is cut to the image. It goes anywhere inside, as it is, without blending. What lies
    below loses these pixels, and is gone without any; boxes are those of what is left to see, also of instances that
    later ones cover. The semantic class there is `SOME_THING`. Without a source the samples are as they were.
    """
    return [_pasted_into(sample, _chosen(source, options, rng), options, rng) for sample in batch]


def _chosen(source: Sequence[CutOut], options: PasteOptions, rng: np.random.Generator) -> list[CutOut]:
    low, high = options.instances
    count = min(int(rng.integers(low, high + 1)), len(source))
    return [source[k] for k in rng.permutation(len(source))[:count]]


def _pasted_into(
    sample: PanopticSample, chosen: Sequence[CutOut], options: PasteOptions, rng: np.random.Generator
) -> PanopticSample:
    if not chosen:
        return sample
    count, size = len(sample.labels_M), sample.seg_HW.shape
    image_3HW, seg_HW = sample.image_3HW.copy(), sample.seg_HW.copy()
    values_NHW = np.zeros((count + len(chosen), *size), np.uint8)
    for value_HW, old_HW, box in zip(values_NHW, sample.values_MHW, sample.boxes_M4.tolist(), strict=False):
        window = _around(box)
        value_HW[window] = old_HW[window]  # most of the pages of an array of zeros are never touched
    boxes_N4 = np.zeros((len(values_NHW), 4), np.float32)
    boxes_N4[:count] = sample.boxes_M4
    for n, cut in enumerate(chosen, count):
        image_hw3, patch = _placed(cut, size, options, rng)
        paste_pixels(image_3HW.transpose(1, 2, 0), image_hw3, patch, blend=False)
        np.copyto(seg_HW[patch.window], SOME_THING, where=patch.union_hw > 0)
        _carve(values_NHW[:n], boxes_N4[:n], patch)
        values_NHW[n, *patch.window] = patch.union_hw
        boxes_N4[n] = _box(values_NHW[n], *patch.window)
    keep_N = np.logical_and(boxes_N4[:, 2] > boxes_N4[:, 0], boxes_N4[:, 3] > boxes_N4[:, 1])
    return PanopticSample(
        image_3HW,
        values_NHW if keep_N.all() else values_NHW[keep_N],
        np.concatenate([sample.labels_M, [cut.label for cut in chosen]]).astype(np.int64)[keep_N],
        boxes_N4[keep_N],
        seg_HW,
        sample.pasted + int(keep_N[count:].sum()),
    )


def _carve(values_MHW: np.ndarray, boxes_M4: np.ndarray, patch: Patch) -> None:
    """Take from the masks, and from their boxes, what the patch hides, in place."""
    rows, columns = patch.window
    for m, box in enumerate(boxes_M4.tolist()):
        down, across = _around(box)
        if across.start >= columns.stop or across.stop <= columns.start:
            continue
        if down.start >= rows.stop or down.stop <= rows.start:
            continue
        below_hw = values_MHW[m, rows, columns]
        if cv2.countNonZero(cv2.bitwise_and(below_hw, patch.union_hw)):
            np.copyto(below_hw, 0, where=patch.union_hw > 0)
            boxes_M4[m] = _box(values_MHW[m], down, across)


def _around(box: Sequence[float]) -> tuple[slice, slice]:
    """Rows and columns in which all of a mask lies: a box that was scaled with its image may be a pixel beside it."""
    left, top, right, bottom = box
    return (
        slice(max(math.floor(top) - 1, 0), math.ceil(bottom) + 1),
        slice(max(math.floor(left) - 1, 0), math.ceil(right) + 1),
    )


def _box(value_HW: np.ndarray, rows: slice, columns: slice) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around what a mask has in a window, zeros where it has nothing."""
    x, y, width, height = cv2.boundingRect(value_HW[rows, columns])
    left, top = (columns.start + x, rows.start + y) if width else (0, 0)
    return left, top, left + width, top + height


def _placed(
    cut: CutOut, size: tuple[int, int], options: PasteOptions, rng: np.random.Generator
) -> tuple[np.ndarray, Patch]:
    """The cut-out's pixels and mask as they look in an image of this height and width, in their place."""
    scale, flipped = rng.uniform(*options.scale), rng.random() < options.flip
    sides = [max(1, round(side * scale)) for side in cut.inside_hw.shape]
    image_hw3 = cv2.resize(cut.image_hw3, sides[::-1], interpolation=cv2.INTER_LINEAR)
    inside_hw = cv2.resize(cut.inside_hw, sides[::-1], interpolation=cv2.INTER_NEAREST)
    if flipped:
        image_hw3, inside_hw = cv2.flip(image_hw3, 1), cv2.flip(inside_hw, 1)
    (top, rows), (left, columns) = (_span(side, most, rng) for side, most in zip(sides, size, strict=True))
    return image_hw3[rows, columns], Patch(top, left, inside_hw[None, rows, columns])


def _span(side: int, most: int, rng: np.random.Generator) -> tuple[int, slice]:
    """Where a side of so many pixels begins in an image of `most`, and which part of it fits."""
    length = min(side, most)
    start, cut = int(rng.integers(most - length + 1)), int(rng.integers(side - length + 1))
    return start, slice(cut, cut + length)
