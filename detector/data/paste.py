"""Pasting instances of one photo into another: place, pixels, masks and confidence. Functions on arrays.

All work on pixels is done in the window that is pasted into.

H, W pixels of the target · h, w pixels of the window · K pasted masks · M masks of the target
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from detector.data.confidence_masks import CERTAIN


class Place(NamedTuple):
    """Where a part of another photo, the source, comes to lie in the target.

    source: rows and columns of the part.
    top, left, height, width: of the window, in pixels of the target.
    flipped: left and right are swapped.
    """

    source: tuple[slice, slice]
    top: int
    left: int
    height: int
    width: int
    flipped: bool

    @classmethod
    def draw(
        cls,
        box: tuple[int, int, int, int],
        size: tuple[int, int],
        target: tuple[int, int],
        ratio: tuple[float, float],
        flip: float,
    ) -> "Place":
        """A random one, by numpy's global generator: the whole source is stretched to the target's size times a number
        from `ratio`, turned over with probability `flip`, and put anywhere inside the target.

        box: x1, y1, x2, y2 of the part.
        size, target: height and width of source and target.
        """
        scale, flipped = np.random.uniform(*ratio), np.random.rand() < flip  # noqa: NPY002 - seeded for each sample
        left, top, right, bottom = box
        rows = _Span.draw(top, bottom, size[0], target[0], scale)
        columns = _Span.draw(left, right, size[1], target[1], scale)
        start = columns.mirrored if flipped else columns.start
        part = slice(top, bottom), slice(left, right)
        return cls(part, rows.start, start, rows.length, columns.length, bool(flipped))

    def put(self, part: np.ndarray, interpolation: int) -> np.ndarray:
        """The part of an array (H, W, …) of the source, as it looks in the window: (h, w, …)."""
        placed = cv2.resize(part, (self.width, self.height), interpolation=interpolation)
        return cv2.flip(placed, 1) if self.flipped else placed


class _Span(NamedTuple):
    """One side of a place.

    start, length: in pixels of the target.
    mirrored: where it starts when turned over.
    """

    start: int
    length: int
    mirrored: int

    @classmethod
    def draw(cls, low: int, high: int, size: int, target: int, scale: float) -> "_Span":
        """low, high: of the part, in the source's `size` pixels.
        target: pixels of the target.
        """
        whole = max(1, round(scale * target))
        shift = int(np.random.randint(target - whole + 1))  # noqa: NPY002
        start = min(low * whole // size, whole - 1)
        stop = max(-(-high * whole // size), start + 1)
        return cls(shift + start, stop - start, shift + whole - stop)


@dataclass(frozen=True, eq=False)
class Patch:
    """Instances to be pasted, at the target's scale, in a window of it.

    top, left: of the window, in pixels of the target, in which all of it must lie.
    values_Khw: uint8, 0 outside the instance, its confidence inside, 1..255 for 1/255..1.0.
    """

    top: int
    left: int
    values_Khw: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the target."""
        height, width = self.values_Khw.shape[1:]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @cached_property
    def union_hw(self) -> np.ndarray:
        """uint8 (h, w): in each pixel the surest of the instances."""
        return self.values_Khw.max(axis=0)

    def select(self, keep_K: np.ndarray) -> "Patch":
        """With those of the instances that a bool array marks."""
        return self if keep_K.all() else Patch(self.top, self.left, self.values_Khw[keep_K])


def bits(values_Nhw: np.ndarray) -> np.ndarray:
    """A bit for each pixel, 1 inside the instance: uint64 (N, words)."""
    count, height, width = values_Nhw.shape
    packed_Nb = np.packbits(np.ascontiguousarray(values_Nhw).reshape(count, height * width), axis=1)
    padded_Nb = np.zeros((count, -(-packed_Nb.shape[1] // 8) * 8), np.uint8)
    padded_Nb[:, : packed_Nb.shape[1]] = packed_Nb
    return padded_Nb.view(np.uint64)


def common_pixels(bits_Kb: np.ndarray, bits_Mb: np.ndarray) -> np.ndarray:
    """int64 (K, M): pixels that two masks have in common, from the `bits` of both in the same window."""
    common_KM = np.empty((len(bits_Kb), len(bits_Mb)), np.int64)
    for common_M, bits_b in zip(common_KM, bits_Kb, strict=True):
        common_M[:] = np.bitwise_count(bits_Mb & bits_b).sum(axis=1, dtype=np.int64)
    return common_KM


def paste_pixels(image_HW3: np.ndarray, source_hw3: np.ndarray, patch: Patch, blend: bool) -> None:
    """Paste the instances of a source into the image, uint8 (H, W, 3), in place; outside of them it stays as it is.

    source_hw3: the other photo, uint8, at the target's scale in the patch's window.
    blend: SC · source + (1 − SC) · target inside, by the confidence SC of each pixel (docs/method.md), where instances
    overlap that of the surest; else the source.
    """
    target_hw3 = image_HW3[patch.window]
    if blend:
        alpha_hw = patch.union_hw * np.float32(1 / CERTAIN)
        target_hw3[:] = cv2.blendLinear(source_hw3, np.ascontiguousarray(target_hw3), alpha_hw, 1 - alpha_hw)
    else:
        target_hw3[:] = cv2.copyTo(source_hw3, patch.union_hw, np.ascontiguousarray(target_hw3))


def paste_values(values_MHW: np.ndarray, patch: Patch) -> np.ndarray:
    """uint8 (M + K, H, W): the target's masks without what is now hidden, then the pasted ones."""
    count = len(values_MHW)
    joined_NHW = np.zeros((count + len(patch.values_Khw), *values_MHW.shape[1:]), np.uint8)
    joined_NHW[:count] = values_MHW
    rows, columns = patch.window
    window_Nhw = joined_NHW[:, rows, columns]
    window_Nhw[:count] *= (patch.union_hw == 0).view(np.uint8)
    window_Nhw[count:] = patch.values_Khw
    return joined_NHW


def areas(values_MHW: np.ndarray) -> np.ndarray:
    """int64 (M,), pixels of each mask."""
    return np.array([cv2.countNonZero(value_HW) for value_HW in values_MHW], np.int64)


def boxes(values_MHW: Iterable[np.ndarray]) -> np.ndarray:
    """float32 (M, 4): x1, y1, x2, y2 around each mask, zeros around one without pixels."""
    xywh_M4 = np.array([cv2.boundingRect(value_HW) for value_HW in values_MHW], np.float32).reshape(-1, 4)
    return np.hstack([xywh_M4[:, :2], xywh_M4[:, :2] + xywh_M4[:, 2:]])
