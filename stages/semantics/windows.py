"""Windows of a photo whose features are taken, and the shares of clusters that their codes give at any points of it.

H, W pixels of the photo · V windows · h, w patch grid of a window · K width of the codes · C clusters · R, T rows and
columns of points
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from stages.depth import DepthKind, check_kind
from stages.late import torch
from stages.semantics import Reading

if TYPE_CHECKING:
    from stages.semantics.clusters import ClusterProbe


_LONGEST = 16  # times as long as wide that a photo is covered by squares


class Window(NamedTuple):
    """A rectangle in pixels of the photo. It may reach beyond the photo."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class WindowConfig:
    """Windows that see a photo from nearer, and how their labels are mixed with those of the whole photo.

    side: of a window, a square, as a share of the photo's short side, 0.25..1.
    overlap: windows over each point along an axis, 1..4; 2 moves them by half a side.
    whole_share: of the whole photo's labels in the mix, 0..1; none makes it 1 / (1 + depth in metres) at each pixel,
        by stored maps (--depth maps:FOLDER) or, of a clip, by its disparity.
    metres: that a stored depth of 1 stands for, above 0 (0.001 for millimetres). With --depth-kind inverse_depth, for
        disparities: focal length in pixels × baseline in metres.
    reading: paper keeps the windows inside the photo, and takes their labels alone where depth is infinite or missing;
        released is what CUPS's code does: windows reach over the upper and left border, and a depth or disparity of 0
        takes the labels of the whole photo.
    """

    side: float = 0.5
    overlap: int = 2
    whole_share: float | None = None
    metres: float = 1.0
    reading: Reading = "paper"

    def __post_init__(self) -> None:
        if not 0.25 <= self.side <= 1:
            raise ValueError(f"windows.side must be in 0.25..1, got {self.side}")
        if not 1 <= self.overlap <= 4:
            raise ValueError(f"windows.overlap must be in 1..4, got {self.overlap}")
        if self.whole_share is not None and not 0 <= self.whole_share <= 1:
            raise ValueError(f"windows.whole_share must be in 0..1 or none, got {self.whole_share}")
        if not 0 < self.metres < math.inf:
            raise ValueError(f"windows.metres must be finite and above 0, got {self.metres}")
        if self.reading not in get_args(Reading):
            raise ValueError(f"windows.reading must be one of {', '.join(get_args(Reading))}, got {self.reading!r}")


def covering_windows(height: int, width: int, overlap: float = 0.0) -> list[Window]:
    """Squares of the photo's short side, spread evenly over it: as few as cover it and overlap their neighbours by this
    share of their side at least, in [0, 1). Of a photo that is more than 16 times as long as wide, windows whose long
    side is a 16th of its own.
    """
    sides = _extents(height, width)
    rows, columns = (_spread(length, side, overlap) for length, side in zip((height, width), sides, strict=True))
    return [Window(top, left, *sides) for top in rows for left in columns]


def _spread(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))  # at most, of pixels
    gaps = -(-(length - side) // step)
    return [(length - side) * gap // gaps for gap in range(gaps + 1)]


def near_windows(height: int, width: int, config: WindowConfig) -> list[Window]:
    """The windows of a configuration, row by row; they cover the photo. They are squares, but in photos as above."""
    starts = _starts if config.reading == "paper" else _released_starts
    axes, sides = [], []
    for length, extent in zip((height, width), _extents(height, width), strict=True):
        step = max(1, int(extent * config.side / config.overlap))
        sides.append(min(step * config.overlap, length))
        axes.append(starts(length, sides[-1], step))
    return [Window(top, left, sides[0], sides[1]) for top in axes[0] for left in axes[1]]


def _extents(height: int, width: int) -> tuple[int, int]:
    """Height and width of what is looked at as one: the short side, or a 16th of a side that is very long."""
    short = min(height, width)
    return max(short, math.ceil(height / _LONGEST)), max(short, math.ceil(width / _LONGEST))


def _starts(length: int, side: int, step: int) -> list[int]:
    return [*range(0, length - side, step), length - side]


def _released_starts(length: int, side: int, step: int) -> list[int]:
    """A border is laid around the photo, on both sides as wide as it lacks to a multiple of the step; since the windows
    are a multiple of the step, too, the last ends with the photo.
    """
    return list(range(-(-length % step), length - side + 1, step))


def cut_out(image_HW3: np.ndarray, window: Window, beyond: Sequence[int]) -> np.ndarray:
    """A window of a photo, uint8 RGB (height, width, 3). beyond: the colour of what lies outside."""
    top, left = max(window.top, 0), max(window.left, 0)
    inside = image_HW3[top : window.top + window.height, left : window.left + window.width]
    if inside.shape[:2] == (window.height, window.width):
        return inside
    whole = np.empty((window.height, window.width, 3), np.uint8)
    whole[:] = np.asarray(beyond, np.uint8)
    y, x = top - window.top, left - window.left
    whole[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return whole


def centres(length: int, count: int) -> np.ndarray:
    """float64 (count,): centres of `count` equal pieces of an axis of `length` pixels, in pixels."""
    return (np.arange(count) + 0.5) * (length / count)


def resampled(maps_Chw: torch.Tensor, y_R: np.ndarray, x_T: np.ndarray) -> torch.Tensor:
    """Maps at points, (C, R, T), bilinear; beyond the outermost centres they stay constant.

    y_R, x_T: coordinates as shares of the map's height and width. Those of the centres of any number of equal pieces
        give what `torch.nn.functional.interpolate` does for that size.
    """
    maps_CRw = _lerp(maps_Chw, y_R, 1)
    if np.allclose(x_T, centres(1, len(x_T)), rtol=0, atol=1e-9):  # which is the rule, and torch's own is faster
        size = len(y_R), len(x_T)
        return torch.nn.functional.interpolate(maps_CRw[None], size, mode="bilinear", align_corners=False)[0]
    return _lerp(maps_CRw, x_T, 2)


def _lerp(maps: torch.Tensor, places: np.ndarray, axis: int) -> torch.Tensor:
    size = maps.shape[axis]
    at = np.clip(places * size - 0.5, 0, size - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    weight = torch.from_numpy((at - low).astype(np.float32)).to(maps.device)
    weight = weight.view(-1, 1) if axis == 1 else weight
    below, above = (maps.index_select(axis, torch.from_numpy(index).to(maps.device)) for index in (low, high))
    return below.lerp_(above, weight)


def log_shares(
    windows: Sequence[Window],
    codes_VKhw: torch.Tensor,
    probe: ClusterProbe,
    y_R: np.ndarray,
    x_T: np.ndarray,
    blended: bool = False,
) -> torch.Tensor:
    """Logarithms of the shares of the clusters, (C, R, T) float32: at each point the mean over all windows that it lies
    in.

    codes_VKhw: float32, of each window. They are interpolated, and then compared with the centroids.
    y_R, x_T: points in pixels of the photo, rising, each in one of the windows at least.
    blended: a window counts the less the nearer a point is to its border, so that nothing jumps where another begins.
    """
    total_CRT = codes_VKhw.new_zeros(len(probe.centroids), len(y_R), len(x_T))
    weight_RT = codes_VKhw.new_zeros(len(y_R), len(x_T))
    for window, codes_Khw in zip(windows, codes_VKhw, strict=True):
        rows, columns = _within(y_R, window.top, window.height), _within(x_T, window.left, window.width)
        y, x = (y_R[rows] - window.top) / window.height, (x_T[columns] - window.left) / window.width
        if len(y) and len(x):
            logs = probe.log_probabilities(resampled(codes_Khw, y, x)[None])[0]
            weight = weight_RT.new_ones(len(y), len(x))
            if blended:
                weight.copy_(torch.from_numpy(_from_border(y)[:, None] * _from_border(x)))
            total_CRT[:, rows, columns] += logs.mul_(weight)
            weight_RT[rows, columns] += weight
    return total_CRT.div_(weight_RT)


def _from_border(places: np.ndarray) -> np.ndarray:
    """Distance of points of a window from its nearer border, in sides: above 0, since a point may lie in no other."""
    nearest: np.ndarray = np.minimum(places, 1 - places)
    return nearest.clip(1e-6)


def _within(places: np.ndarray, start: int, length: int) -> slice:
    first, last = np.searchsorted(places, (start, start + length))
    return slice(int(first), int(last))


def whole_shares(depth: np.ndarray, kind: DepthKind, config: WindowConfig) -> np.ndarray:
    """Share of the whole photo's labels in the mix, 1 / (1 + depth in metres): float32 of the shape of `depth`, 0..1.

    depth: as it is stored, real numbers, in units of `config.metres`. What is NaN, infinite or not above 0 was not
        measured, or is infinitely far (a disparity of 0): its share is 0 in the reading paper. In released its depth
        counts as 0, and its share is 1, but for an infinite depth.
    kind: "inverse_depth" for disparities.
    """
    values = depth.astype(np.float64)
    measured = np.isfinite(values) & (values > 0)
    with np.errstate(divide="ignore", over="ignore"):
        distance = config.metres / values if check_kind(kind) == "inverse_depth" else config.metres * values
    known = np.where(measured, distance, np.inf)
    if config.reading == "released":
        known[~measured & (values != np.inf)] = 0
    return (1 / (1 + known)).astype(np.float32)


def at_points(map_hw: np.ndarray, y_R: np.ndarray, x_T: np.ndarray) -> np.ndarray:
    """A map at points, (R, T), by the nearest pixel. y_R, x_T: shares of its height and width, in [0, 1)."""
    rows, columns = ((places * size).astype(np.int64) for places, size in zip((y_R, x_T), map_hw.shape, strict=True))
    found: np.ndarray = map_hw[rows[:, None], columns]
    return found
