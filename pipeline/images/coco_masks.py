"""Masks of foreign COCO files: checked before pycocotools, which reads past the end of what is no code, sees any of
them, and in its own canonical form of run-length codes.

H, W pixels · S symbols of a compressed code · C counts
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.images.flags import read_flag

log = logging.getLogger(__name__)

# No photo has such coordinates; pycocotools allocates a point for every pixel of an outline.
_FARTHEST = 100_000
_SYMBOLS = 12  # of 5 bits that a count may have: 60 bits
_NUMBERS = "a polygon must be a list of numbers, x1, y1, x2, y2 and so on, in the list of a mask's polygons"
_CORNERS = "a polygon must have x, y of at least three corners"


class StoredMask(NamedTuple):
    """rle: compressed COCO counts in canonical form (no empty runs, no idle symbols).
    area: pixels.
    box: x, y, width, height.
    bad_parts: why parts of the mask were left out, one text each.
    """

    rle: bytes
    area: int
    box: tuple[float, float, float, float]
    bad_parts: tuple[str, ...] = ()


class CheckedMask(NamedTuple):
    """A mask that pycocotools can be given.

    code: polygons, those of them that are such, or compressed run-length codes in canonical form.
    size: height, width.
    bad_parts: why parts of the mask were left out, one text each.
    """

    code: list[Any] | dict[str, Any]
    size: tuple[int, int]
    bad_parts: tuple[str, ...] = ()

    def rle(self) -> dict[str, Any]:
        """{"size": [H, W], "counts": bytes}."""
        if isinstance(self.code, dict):
            return self.code
        merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(self.code, *self.size))
        return merged


class UnusableMaskError(ValueError):
    """An annotation that cannot be used. The text says more.

    reason: "empty", "malformed", "no_mask" or "other_size".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type["UnusableMaskError"], tuple[str, str]]:
        """How it goes from process to process."""
        return type(self), (self.reason, str(self))


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is one of a crowd; UnusableMaskError when it does not say, since nobody knows whether it
    counts.
    """
    try:
        return read_flag(annotation.get("iscrowd"))
    except ValueError as error:
        raise UnusableMaskError("malformed", f"iscrowd: {error}") from error


def plain_segmentation(segmentation: Any) -> Any:
    """The same, without the list around run-length codes that some tools write."""
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], Mapping):
        return segmentation[0]
    return segmentation


def stored_mask(segmentation: Any, size: tuple[int, int]) -> StoredMask:
    """The mask of an annotation: polygons, or run-length codes, compressed or not.

    size: height and width of the image. Raises UnusableMaskError, also for a mask without a pixel.
    """
    checked = checked_mask(segmentation, size)
    rle = checked.rle()
    if isinstance(checked.code, list):  # whose codes pycocotools has made: with empty runs, where polygons overlap
        rle = _encoded(_without_empty_runs(_symbols_to_counts(rle["counts"])), size)
    area = int(coco_mask.area(rle))
    if not area:
        raise UnusableMaskError("empty", "no pixel belongs to it")
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    return StoredMask(rle["counts"], area, (x, y, width, height), checked.bad_parts)


def checked_mask(segmentation: Any, size: tuple[int, int]) -> CheckedMask:
    """The same, not yet drawn. It may be without a pixel; a list of polygons may not be empty.

    Of polygons those that are none are left out: UnusableMaskError when all of them are.
    """
    segmentation = plain_segmentation(segmentation)
    if segmentation is None:
        raise UnusableMaskError("no_mask", "it has no segmentation")
    if isinstance(segmentation, list):
        if not segmentation:
            raise UnusableMaskError("empty", "it has no polygon")
        faults = [_polygon_fault(polygon) for polygon in segmentation]
        bad = tuple(fault for fault in faults if fault)
        if len(bad) == len(faults):
            raise UnusableMaskError("malformed", bad[0])
        good = [polygon for polygon, fault in zip(segmentation, faults, strict=True) if not fault]
        return CheckedMask(good, size, bad)
    if not isinstance(segmentation, Mapping):
        raise UnusableMaskError("malformed", "segmentation must be polygons or run-length codes")
    counts_C = _given_counts(segmentation, size)
    if (counts_C < 0).any() or counts_C.sum() != size[0] * size[1]:
        raise UnusableMaskError("malformed", f"its runs do not add up to {size[0]} × {size[1]} pixels")
    return CheckedMask(_encoded(_without_empty_runs(counts_C), size), size)


def checked_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The same as {"size": [H, W], "counts": bytes}, for pycocotools."""
    return checked_mask(segmentation, size).rle()


def rle_size(segmentation: Any) -> tuple[int, int] | None:
    """Height and width that run-length codes say they have; None for polygons and whatever is no code."""
    segmentation = plain_segmentation(segmentation)
    size = segmentation.get("size") if isinstance(segmentation, Mapping) else None
    if not isinstance(size, list | tuple) or len(size) != 2:
        return None
    height, width = size
    if not all(type(side) in (int, float) and 0 < side < 1 << 31 and side == int(side) for side in size):
        return None
    return int(height), int(width)


def tell_of_swapped(name: str, swapped: int, of: int) -> None:
    """Say that so many of so many images of a file are listed with height and width swapped, if any are."""
    if swapped:
        log.warning("%s has height and width of images swapped, as CutLER writes them: %d of %d", name, swapped, of)


def _encoded(counts_C: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    rle: dict[str, Any] = coco_mask.frPyObjects({"size": list(size), "counts": counts_C.tolist()}, *size)
    return rle


def _given_counts(segmentation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Counts of run-length codes, int64 (C,)."""
    own = rle_size(segmentation)
    if own is None:
        raise UnusableMaskError("malformed", "run-length codes need a size, height and width")
    if own != size:
        raise UnusableMaskError(
            "other_size",
            f"run-length codes must be of the image's size, {size[0]} × {size[1]} pixels, not {own[0]} × {own[1]}",
        )
    counts = segmentation.get("counts")
    if isinstance(counts, list) and all(type(count) is int and 0 <= count < 1 << 31 for count in counts):
        return np.array(counts, np.int64)
    if isinstance(counts, str | bytes):
        return _symbols_to_counts(counts.encode("utf-8") if isinstance(counts, str) else counts)
    raise UnusableMaskError("malformed", "run-length codes must be text or a list of numbers from 0 up")


def _symbols_to_counts(code: bytes) -> np.ndarray:
    """Counts of a compressed code, int64 (C,).

    pycocotools' format: symbols of 6 bits as characters from "0" on, of each the 5 lower bits a part of a number, least
    first, the sixth "goes on"; bit 5 of the last part is the sign. From the fourth on a number is the difference to the
    count before the last.
    """
    symbols_S = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    if not len(symbols_S) or (symbols_S < 0).any() or (symbols_S > 63).any() or symbols_S[-1] & 32:
        raise UnusableMaskError("malformed", "counts are no compressed run-length code")
    last_C = np.flatnonzero(symbols_S & 32 == 0)
    first_C = np.concatenate([[0], last_C[:-1] + 1])
    lengths_C = last_C - first_C + 1
    if lengths_C.max() > _SYMBOLS:
        raise UnusableMaskError("malformed", "counts are no compressed run-length code: a number is too long")
    place_S = np.arange(len(symbols_S)) - np.repeat(first_C, lengths_C)
    numbers_C = np.add.reduceat((symbols_S & 31) << (5 * place_S), first_C)
    numbers_C -= np.where(symbols_S[last_C] & 16, np.int64(1) << (5 * lengths_C), 0)
    counts_C = numbers_C.copy()
    counts_C[1::2] = np.cumsum(numbers_C[1::2])
    counts_C[2::2] = np.cumsum(numbers_C[2::2])
    return counts_C


def _without_empty_runs(counts_C: np.ndarray) -> np.ndarray:
    """The same mask with no run of 0 pixels but the first, which says that the mask begins with its first pixel."""
    if (counts_C[1:] > 0).all():
        return counts_C
    inside_C = np.arange(len(counts_C)) % 2
    kept = counts_C > 0
    runs, inside = counts_C[kept], inside_C[kept]
    begins = np.concatenate([[True], inside[1:] != inside[:-1]])
    merged = np.add.reduceat(runs, np.flatnonzero(begins))
    return merged if not inside[0] else np.concatenate([[0], merged])


def _polygon_fault(polygon: Any) -> str:
    """Why this is no polygon; "" for one."""
    try:
        corners = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        return _NUMBERS
    if corners.ndim != 1:  # a segmentation that is one flat list, or has lists of points
        return _NUMBERS
    if len(corners) < 6 or len(corners) % 2:
        return _CORNERS
    if not (np.abs(corners) <= _FARTHEST).all():
        return f"a polygon has a corner beyond ±{_FARTHEST} pixels"
    return ""
