"""The coarse grid on which motions are sought, and how far a point of it speaks for its surroundings.

Gh, Gw rows and columns of the grid · N = Gh·Gw its points in row-major order · K objects · H, W pixels · n pixels

Source: SF2SE3 (arXiv 2209.08532), as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.special

from stages.motion.camera import Camera

Weight = Callable[[np.ndarray], np.ndarray]

REACH = 4  # cells to each side in which an object's points speak for a place


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells of equal size, each with the pixel at its centre.

    rows, columns: int, that pixel's row and column, of each row and column of cells.
    size: height and width in pixels.
    """

    rows: np.ndarray
    columns: np.ndarray
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Gh, Gw."""
        return len(self.rows), len(self.columns)

    @property
    def count(self) -> int:
        """N."""
        return len(self.rows) * len(self.columns)

    def pixels(self, cell_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pixels of cells, by their place in the grid."""
        return self.rows[cell_N // len(self.columns)], self.columns[cell_N % len(self.columns)]

    def between(self, axis: int, first: int, last: int) -> slice:
        """The pixels' rows (axis 0) or columns (1) in the cells from `first` to before `last`, cut to the picture."""
        cells, pixels = self.shape[axis], self.size[axis]
        start, stop = (min(max(-(-cell * pixels // cells), 0), pixels) for cell in (first, last))
        return slice(start, stop)

    def sampled(self, map_: np.ndarray) -> np.ndarray:
        """The values of a map (H, W, …) at the grid's points, (N, …)."""
        return map_[self.rows[:, None], self.columns].reshape(-1, *map_.shape[2:])


def make_grid(size: tuple[int, int], share: float) -> Grid:
    """`share` of the rows and columns of a picture, at least one of each."""
    rows, columns = (_centres(side, max(1, int(share * side))) for side in size)
    return Grid(rows, columns, size)


def _centres(side: int, count: int) -> np.ndarray:
    return ((np.arange(count) + 0.5) * side / count).astype(int)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """How well the points of objects speak for places around them.

    A point speaks for its own cell and those up to four away: the less, the farther off in normalised image
    coordinates, in x and in y by a normal distribution of deviation `extent` each.
    """

    grid: Grid
    camera: Camera
    extent: float

    def shares(self, assigned_KN: np.ndarray) -> np.ndarray:
        """At the points of the grid: the largest two-sided probability, in x times in y, of an assigned point; float32
        (K, N), 0 where none is within reach.
        """
        rows, columns = self.grid.rows, self.grid.columns
        best_KGT = self._along_rows(assigned_KN, columns, self._log_share)
        best_KTG = self._along(best_KGT.swapaxes(1, 2), 0, rows, self._log_share)
        return np.exp(best_KTG.swapaxes(1, 2).reshape(assigned_KN.shape))

    def log_density(self, assigned_KN: np.ndarray, rows_n: np.ndarray, columns_n: np.ndarray) -> np.ndarray:
        """At pixels: the largest logarithm of the normal density of an assigned point; float32 (K, n), -inf where none
        is within reach.
        """
        best_KGW = self._along_rows(assigned_KN, np.arange(self.grid.size[1]), self._log_density)
        padded_KGW = np.pad(best_KGW, ((0, 0), (REACH, REACH), (0, 0)), constant_values=-np.inf)
        found_Kn = np.full((len(assigned_KN), len(rows_n)), -np.inf, np.float32)
        for shift, weight_H in self._weights(0, np.arange(self.grid.size[0]), self._log_density):
            cell_H = self._cells(0, np.arange(self.grid.size[0])) + shift
            np.maximum(found_Kn, padded_KGW[:, cell_H[rows_n], columns_n] + weight_H[rows_n], out=found_Kn)
        return found_Kn

    def _along_rows(self, assigned_KN: np.ndarray, columns: np.ndarray, weight: Weight) -> np.ndarray:
        """The best of each row of cells at columns of pixels, (K, Gh, columns)."""
        values_KGG = np.where(assigned_KN, np.float32(0), np.float32(-np.inf)).reshape(-1, *self.grid.shape)
        return self._along(values_KGG, 1, columns, weight)

    def _along(self, values: np.ndarray, axis: int, places: np.ndarray, weight: Weight) -> np.ndarray:
        """The largest of a row's values, each less what its distance costs: (…, cells) becomes (…, places)."""
        padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(REACH, REACH)], constant_values=-np.inf)
        found = np.full((*values.shape[:-1], len(places)), -np.inf, np.float32)
        cells = self._cells(axis, places)
        for shift, weights in self._weights(axis, places, weight):
            np.maximum(found, padded[..., cells + shift] + weights, out=found)
        return found

    def _weights(self, axis: int, places: np.ndarray, weight: Weight) -> Iterator[tuple[int, np.ndarray]]:
        """What each of the nine cells in reach costs at places, by its place in a padded row."""
        centres = np.pad((self.grid.rows, self.grid.columns)[axis].astype(np.float64), REACH, constant_values=np.inf)
        focal = (self.camera.fy, self.camera.fx)[axis]
        for shift in range(2 * REACH + 1):
            offset = (centres[self._cells(axis, places) + shift] - places) / focal
            yield shift, weight(offset).astype(np.float32)

    def _cells(self, axis: int, places: np.ndarray) -> np.ndarray:
        """The cell of rows (axis 0) or columns (axis 1) of pixels."""
        return places * self.grid.shape[axis] // self.grid.size[axis]

    def _log_density(self, offset: np.ndarray) -> np.ndarray:
        return -0.5 * np.square(offset / self.extent) - math.log(self.extent * math.sqrt(2 * math.pi))

    def _log_share(self, offset: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(scipy.special.erfc(np.abs(offset) / (self.extent * math.sqrt(2))))
