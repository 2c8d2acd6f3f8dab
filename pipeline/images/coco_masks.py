"""Masks of foreign COCO files: checked before pycocotools, which reads past the end of what is no code, sees any of
them, and in its own canonical form of run-length codes.

H, W pixels · S symbols of a compressed code · C counts
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

# No photo has such coordinates; pycocotools allocates a point for every pixel of an outline.
_FARTHEST = 100_000
_SYMBOLS = 12  # of 5 bits that a count may have: 60 bits
_CORNERS = "a polygon must have x, y of at least three corners"


class StoredMask(NamedTuple):
    """rle: compressed COCO counts in canonical form (no empty runs, no idle symbols).
    area: pixels.
    box: x, y, width, height.
    """

    rle: bytes
    area: int
    box: tuple[float, float, float, float]


class UnusableMaskError(ValueError):
    """A mask that cannot be stored. reason: "empty", "malformed", "no_mask" or "other_size"; the text says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type["UnusableMaskError"], tuple[str, str]]:
        """How it goes from process to process."""
        return type(self), (self.reason, str(self))


def stored_mask(segmentation: Any, size: tuple[int, int]) -> StoredMask:
    """The mask of an annotation: polygons, or run-length codes, compressed or not.

    size: height and width of the image. Raises UnusableMaskError, also for a mask without a pixel.
    """
    if isinstance(segmentation, list) and not segmentation:
        raise UnusableMaskError("empty", "it has no polygon")
    counts_C = _counts(segmentation, size)
    area = int(counts_C[1::2].sum())
    if not area:
        raise UnusableMaskError("empty", "no pixel belongs to it")
    rle = _encoded(counts_C, size)
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    return StoredMask(rle["counts"], area, (x, y, width, height))


def checked_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The same as {"size": [H, W], "counts": bytes}, for pycocotools. A mask may be empty, a list of polygons not."""
    if isinstance(segmentation, list):
        return _polygons(segmentation, size)
    return _encoded(_counts(segmentation, size), size)


def rle_size(segmentation: Any) -> tuple[int, int] | None:
    """Height and width that run-length codes say they have; None for polygons and whatever is no code."""
    size = segmentation.get("size") if isinstance(segmentation, Mapping) else None
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(side) is int for side in size):
        return None
    return size[0], size[1]


def _encoded(counts_C: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    rle: dict[str, Any] = coco_mask.frPyObjects({"size": list(size), "counts": counts_C.tolist()}, *size)
    return rle


def _counts(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Counts without empty runs, which cover the image, int64 (C,)."""
    height, width = size
    if segmentation is None:
        raise UnusableMaskError("no_mask", "it has no segmentation")
    if isinstance(segmentation, list):
        counts_C = _symbols_to_counts(_polygons(segmentation, size)["counts"])
    elif isinstance(segmentation, Mapping):
        counts_C = _given_counts(segmentation, size)
    else:
        raise UnusableMaskError("malformed", "segmentation must be polygons or run-length codes")
    if (counts_C < 0).any() or counts_C.sum() != height * width:
        raise UnusableMaskError("malformed", f"its runs do not add up to {height} × {width} pixels")
    return _without_empty_runs(counts_C)


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


def _polygons(polygons: list[Any], size: tuple[int, int]) -> dict[str, Any]:
    """Run-length codes of what polygons cover."""
    if not polygons:
        raise UnusableMaskError("malformed", f"{_CORNERS}, and there is none")
    for polygon in polygons:
        try:
            corners = np.asarray(polygon, np.float64)
        except (TypeError, ValueError) as error:
            raise UnusableMaskError("malformed", "a polygon must be a list of numbers") from error
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            raise UnusableMaskError("malformed", _CORNERS)
        if not (np.abs(corners) <= _FARTHEST).all():
            raise UnusableMaskError("malformed", f"a polygon has a corner beyond ±{_FARTHEST} pixels")
    rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    return rle
