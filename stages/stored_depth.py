"""Relative depth from maps of sensors, data sets and other programs, which hold more than depths: pixels that were not
measured, and single ones that are far off.

Letters: h, w the map's pixels.
"""

import numpy as np

from stages.depth import DepthKind, relative_depth

# The largest share of a map that is filled; above it the masks get worse (benchmarks/depth_holes.py).
MOST_FILLED = 0.25
# Depths lie between these percentiles, and beyond them by their distance at most; what is farther off is an outlier. A
# plane, a slope and rooms with a window have none by this.
_PERCENTILES = (1, 99)
# A number stands apart from a map's values when the nearest of them is farther than so many of their usual steps, and
# than so much of all they span. The nearest thing that a sensor sees is some hundred steps and 2 % or more away.
_STEPS, _SPAN = 2, 0.01
_FEWEST_STEPS = 8  # distinct values that tell what step is usual; painted maps have fewer
_UNITS = 100  # that a number is apart in such maps, if they are integers of 16 bit and more: 0.1 m in millimetres


def relative_stored_depth(raw: np.ndarray, kind: DepthKind, name: str = "depth") -> np.ma.MaskedArray:
    """Relative depth as of `stages.depth.relative_depth`, of a map that may have holes and outliers.

    raw: (h, w) integers or real numbers. Not measured are NaN, infinity, the largest number of an integer type, and,
        where larger is farther, 0, as KITTI, TUM, ScanNet and NYU write it; the two numbers not where the map's other
        values run up or down to them, as those of a map that was stretched to 0..255 do. A map of nothing else has no
        depth.

    Holes take the value of the nearest pixel that was measured, outliers that of the range's end.
    Returns float32 (h, w), masked where it was filled.
    Raises ValueError, beginning with `name`, for a map that is not two-dimensional or empty, has two values only, or
    lacks more than `MOST_FILLED`.
    """
    if raw.ndim != 2 or raw.size == 0:
        raise ValueError(f"{name}: a depth map has shape (height, width), not {raw.shape}")
    if raw.dtype.kind not in "buif":
        raise ValueError(f"{name}: a depth map holds real numbers, not {raw.dtype}")
    low, high = float(raw.min()), float(raw.max())
    if low < high and ((raw == low) | (raw == high)).all():
        raise ValueError(f"{name}: it has two values only, {low:g} and {high:g}: that is a mask, not depth")
    holes = _holes(raw, kind, name)
    values = _within_range(_filled(raw.astype(np.float64), holes))
    return np.ma.MaskedArray(relative_depth(values, kind, name), holes)


def _holes(raw: np.ndarray, kind: DepthKind, name: str) -> np.ndarray:
    """bool (h, w), the pixels that were not measured; ValueError when they are too many."""
    not_finite = ~np.isfinite(raw)
    _refuse_many(not_finite, name, "NaN or infinite")
    holes = not_finite
    marks: list[float] = [0] if kind == "depth" else []  # where larger is nearer, 0 is infinitely far
    marks += [np.iinfo(raw.dtype).max] if raw.dtype.kind in "iu" else []
    for mark in marks:
        marked = raw == mark
        if marked.all() or (marked.any() and _is_apart(raw[~(holes | marked)], mark)):
            _refuse_many(marked, name, f"{mark:g}, which stands for not measured")
            holes = holes | marked
    _refuse_many(holes, name, "not measured")
    return holes


def _refuse_many(holes: np.ndarray, name: str, what: str) -> None:
    count = int(np.count_nonzero(holes))
    if count > MOST_FILLED * holes.size:
        raise ValueError(
            f"{name}: {count} of {holes.size} depth values are {what}; fill them before use (up to "
            f"{MOST_FILLED:.0%} are filled by cuts3d)"
        )


def _is_apart(others: np.ndarray, mark: float) -> bool:
    """Whether `mark` is far from the map's other values."""
    values = np.unique(others).astype(np.float64)
    if len(values) < 2:  # of a map that is constant but for it
        return False
    gap, steps = float(np.abs(values - mark).min()), np.diff(values)
    if len(values) >= _FEWEST_STEPS:
        return gap > max(_STEPS * float(np.median(steps)), _SPAN * float(np.ptp(values)))
    is_integer = others.dtype.kind in "iu"
    other_end = 0 if mark else (np.iinfo(others.dtype).max if is_integer else 1)
    if other_end in values:  # stretched
        return False
    if is_integer and others.itemsize > 1:
        return gap >= _UNITS
    return len(steps) == 1 or gap > _STEPS * float(np.median(steps))


def _filled(values: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """With the nearest measured value in the holes: edges stay sharp, which LocalCut needs."""
    if not holes.any():
        return values
    import scipy.ndimage  # for maps with holes alone

    nearest = scipy.ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
    filled: np.ndarray = values[tuple(nearest)]
    return filled


def _within_range(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, _PERCENTILES)
    if low == high:
        return values
    inside = values[(values >= low - (high - low)) & (values <= high + (high - low))]
    return np.clip(values, inside.min(), inside.max())
