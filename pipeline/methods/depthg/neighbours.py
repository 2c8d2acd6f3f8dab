"""The crops most like each crop: exact, of any number of crops, in memory that does not grow with it.

Likeness is the cosine of two crops' features, each the mean over the crop's grid. STEGO computes them with dropout
switched on, by an oversight; here the features are as in evaluation. A neighbour may be a crop of the same photo, as in
STEGO: the centre of a photo overlaps its corners.

Cosines come from float32 products of blocks, whose last bits depend on the blocks. What comes near the best is
therefore computed once more, in float64 and in one order of summation, and that decides: results depend neither on
blocks nor on threads, and of two crops with equal cosines the lower number comes first.

N crops · R rows and C columns of a block · D feature width · K neighbours that are kept
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError, StoreError
from pipeline.faults import crash_point
from pipeline.storage.atomic import make_folder, path_written_whole
from pipeline.storage.file_lock import lock
from stages.late import torch

log = logging.getLogger(__name__)

KEPT = 30  # of each crop, itself first
ROWS = 4096  # of a part, after which work is kept

_BLOCK_ROWS, _BLOCK_COLUMNS = 1024, 16384  # of products at a time: 64 MiB
_PAIRS = 4096  # that are computed again at a time: 13 MB each side at 384 numbers
_EPSILON = 2.0**-24  # largest relative rounding of a float32


def find_neighbours(
    folder: Path,
    digest: str,
    crops: int,
    means: Callable[[], Iterator[np.ndarray]],
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """The neighbours of all crops: int32 (N, K), memory-mapped, K = 30, or N where there are fewer crops. Row i begins
    with i, then come the others with falling cosines.

    folder: where they are kept as DIGEST.npy. What is there already is read; what was begun goes on where it stopped;
        what another process of this machine is about to finish is waited for.
    digest: of whatever decides the means.
    crops: N.
    means: gives the crops' means, float32 (any number, D), block after block, all N of them.
    on_rows: told how many rows of how many are done.

    Raises ConfigError for a single crop, StoreError for a file that is damaged or cannot be written.
    """
    if crops < 2:
        raise ConfigError(
            "there is one crop, which has no neighbour: train on more images, or on five crops of it "
            "(--set crops.layout=five)"
        )
    path, kept = folder / f"{digest}.npy", min(KEPT, crops)
    if not path.exists():
        try:
            with _alone_in(folder):
                if not path.exists():
                    _compute(path, crops, kept, means, on_rows)
        except OSError as error:
            raise StoreError(f"neighbours cannot be written to {folder}: {error.strerror or error}") from error
    return _opened(path, (crops, kept))


def nearest(units: np.ndarray, rows: range, kept: int) -> np.ndarray:
    """For some of the crops the K most like them, see `find_neighbours`: int32 (len(rows), K).

    units: float32 (N, D), of length 1 or 0; may be memory-mapped.
    """
    best = _Best(units, rows, kept)
    own = torch.from_numpy(np.array(units[rows.start : rows.stop]))
    for start in range(0, len(units), _BLOCK_COLUMNS):
        block = torch.from_numpy(np.array(units[start : start + _BLOCK_COLUMNS]))
        best.add(start, own @ block.T)
    return best.columns.reshape(len(rows), kept).astype(np.int32)


class _Best:
    """The best columns so far of each row, itself first: sorted by row, then falling cosine, then column."""

    def __init__(self, units: np.ndarray, rows: range, kept: int) -> None:
        self._units, self._start, self._kept = units, rows.start, kept
        # of a float32 product of two vectors of length 1 from the true one, however it is summed
        self._error = 1.01 * _EPSILON * (units.shape[1] + 2)
        self.rows = np.arange(len(rows))
        self.columns = np.arange(rows.start, rows.stop)
        self.cosines = np.full(len(rows), np.inf)

    def add(self, start: int, products_RC: torch.Tensor) -> None:
        """Take in the columns from `start` on; products_RC: their float32 cosines."""
        found = torch.nonzero(products_RC >= self._floors(products_RC)).numpy()
        rows, columns = found[:, 0], found[:, 1] + start
        others = columns != rows + self._start
        rows, columns = rows[others], columns[others]
        self.rows = np.concatenate([self.rows, rows])
        self.columns = np.concatenate([self.columns, columns])
        self.cosines = np.concatenate([self.cosines, self._exact(rows, columns)])
        self._keep_best()

    def _floors(self, products_RC: torch.Tensor) -> torch.Tensor:
        """float32 (R, 1): columns with a product below have no chance."""
        count = len(products_RC)
        if len(self.rows) == count * self._kept:  # the last of each row is known
            last = torch.from_numpy(self.cosines.reshape(count, self._kept)[:, -1:] - self._error)
            return torch.nextafter(last.float(), torch.tensor(-torch.inf))
        if products_RC.shape[1] < self._kept:
            return torch.full((count, 1), -torch.inf)
        return products_RC.topk(self._kept, dim=1).values[:, -1:] - 2.02 * self._error

    def _exact(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """float64 cosines of pairs, each summed in the same order."""
        cosines = np.empty(len(rows))
        for i in range(0, len(rows), _PAIRS):
            pairs = slice(i, i + _PAIRS)
            own = self._units[rows[pairs] + self._start].astype(np.float64)
            cosines[pairs] = (own * self._units[columns[pairs]]).sum(axis=1)
        return cosines

    def _keep_best(self) -> None:
        order = np.lexsort((self.columns, -self.cosines, self.rows))
        rows = self.rows[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        best = order[rank < self._kept]
        self.rows, self.columns, self.cosines = self.rows[best], self.columns[best], self.cosines[best]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While no other process of this machine is at work there: trainings of several seeds begin together."""
    make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, f"another process is finding the neighbours in {folder}: waiting for it")
        yield
    finally:
        os.close(descriptor)


def _compute(
    path: Path, crops: int, kept: int, means: Callable[[], Iterator[np.ndarray]], on_rows: Callable[[int, int], None]
) -> None:
    """Write the file, part after part: parts that are there are not computed again."""
    parts = path.with_suffix(".parts")
    units = _units(parts / "units.npy", crops, means)
    spans = [range(start, min(start + ROWS, crops)) for start in range(0, crops, ROWS)]
    places = [parts / f"{rows.start}-{rows.stop}.npy" for rows in spans]
    for rows, place in zip(spans, places, strict=True):
        if not place.exists():
            found = [
                nearest(units, range(i, min(i + _BLOCK_ROWS, rows.stop)), kept)
                for i in range(rows.start, rows.stop, _BLOCK_ROWS)
            ]
            with path_written_whole(place) as temporary:
                np.save(temporary, np.concatenate(found))
            crash_point("after_neighbours", place.stem)
        on_rows(rows.stop, crops)
    with path_written_whole(path) as temporary:
        whole = np.lib.format.open_memmap(temporary, "w+", np.int32, (crops, kept))
        for rows, place in zip(spans, places, strict=True):
            whole[rows.start : rows.stop] = np.load(place, allow_pickle=False)
        whole.flush()
    shutil.rmtree(parts, ignore_errors=True)


def _units(path: Path, crops: int, means: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """The means scaled to length 1, float32 (N, D), memory-mapped; a mean of zeros stays as it is."""
    if not path.exists():
        with path_written_whole(path) as temporary:
            start, units = 0, None
            for block in means():
                if units is None:
                    units = np.lib.format.open_memmap(temporary, "w+", np.float32, (crops, block.shape[1]))
                wide = block.astype(np.float64)
                lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
                units[start : start + len(block)] = wide / np.where(lengths > 0, lengths, 1)
                start += len(block)
            if units is None or start != crops:
                raise ValueError(f"there are means of {start} crops, not of {crops}")
            units.flush()
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _opened(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.shape != shape or found.dtype != np.int32:
            raise ValueError(f"it holds {found.dtype} {found.shape}, not int32 {shape}")
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path} is damaged: {error}", "Delete it: neighbours are computed again.") from error
    return found
