"""Arrays that are written row by row, without all of them in memory."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.lib import format as npy


class ArrayWriter:
    """.npy files in a folder that grow by rows; their headers are right once they are closed. A context manager."""

    def __init__(self, folder: Path, arrays: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self._arrays = arrays
        self.rows = dict.fromkeys(arrays, 0)
        with ExitStack() as stack:
            self._files = {name: stack.enter_context((folder / f"{name}.npy").open("w+b")) for name in arrays}
            for name in arrays:
                self._write_header(name)
            self._open = stack.pop_all()
        for name in arrays:
            if name.endswith("_offsets"):
                self.append(name, np.zeros(1, np.int64))
        self._ends = dict.fromkeys(arrays, 0)

    def append(self, name: str, rows: np.ndarray | bytes) -> None:
        """Rows of one array, or bytes."""
        dtype, row = self._arrays[name]
        data = np.frombuffer(rows, np.uint8) if isinstance(rows, bytes) else np.ascontiguousarray(rows, dtype)
        if data.shape[1:] != row:
            raise ValueError(f"{name}: rows of shape {data.shape[1:]}, not {row}")
        self._files[name].write(data.data)  # not tofile, which says nothing of a disk that is full at its end
        self.rows[name] += len(data)

    def append_lengths(self, name: str, lengths: np.ndarray) -> None:
        """Continue an array of offsets by the lengths of what comes next."""
        ends = self._ends[name] + np.cumsum(lengths, dtype=np.int64)
        self.append(name, ends)
        if len(ends):
            self._ends[name] = int(ends[-1])

    def _write_header(self, name: str) -> None:
        """The header, rewritten: numpy leaves room in it for the first length to grow."""
        dtype, row = self._arrays[name]
        file = self._files[name]
        file.seek(0)
        facts = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (self.rows[name], *row)}
        npy.write_array_header_1_0(file, facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._open:
            if kind is None:
                for name in self._arrays:
                    self._write_header(name)
