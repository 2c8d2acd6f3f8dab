"""Rows of the plain arrays of an array file, by mapping it into memory: only what is looked at is read, and a row costs
one copy. See `write_arrays(..., plain=...)`. Neither zarr nor the rest of the file is needed for that.
"""

import json
import mmap
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.storage.array_file import damaged

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a ZIP's member: signature, lengths of its name and of the extra field
_DTYPES = {"float16": "<f2", "float32": "<f4"}


class Place(NamedTuple):
    """Where a plain array begins in its file, in bytes, and what it is."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


class MappedFile:
    """An array file on the local disk, mapped.

    places: of its plain arrays that will be read, as `places` finds them.

    Raises StoreError when the file is missing.
    """

    def __init__(self, path: Path, places: dict[str, Place]) -> None:
        self._places = places
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: it is empty
            raise damaged(str(path), error) from error

    def announce(self, name: str, rows: list[int]) -> None:
        """That these rows are read soon: the system fetches them together, while others are copied."""
        place = self._places[name]
        row = _row_bytes(place)
        for start in (place.offset + i * row for i in rows):
            page = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, start + row - page)

    def rows(self, name: str) -> np.ndarray:
        """The array as uint8 (rows, bytes of a row): an array need not be aligned in its file, and a copy of bytes does
        not mind.
        """
        place = self._places[name]
        row = _row_bytes(place)
        return np.frombuffer(self._map, np.uint8, place.shape[0] * row, place.offset).reshape(-1, row)


def places(path: Path, names: tuple[str, ...]) -> dict[str, Place]:
    """Where these plain arrays lie in a file; StoreError when it is missing or damaged, or has one of them not."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            found = {}
            for name in names:
                about = json.loads(archive.read(f"{name}/zarr.json"))
                shape = tuple(int(length) for length in about["shape"])
                place = Place(0, shape, np.dtype(_DTYPES[about["data_type"]]))
                if [codec["name"] for codec in about["codecs"]] != ["bytes"]:
                    raise ValueError(f"array {name} is compressed")
                chunk = archive.getinfo("/".join([name, "c", *("0" * len(shape))]))
                if chunk.file_size != shape[0] * _row_bytes(place):
                    raise ValueError(f"array {name} has {chunk.file_size} bytes, not {shape[0] * _row_bytes(place)}")
                file.seek(chunk.header_offset)
                _, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                offset = chunk.header_offset + _LOCAL_HEADER.size + name_length + extra_length
                found[name] = place._replace(offset=offset)
            return found
    except (OSError, ValueError, KeyError, TypeError, struct.error, zipfile.BadZipFile, EOFError) as error:
        raise damaged(str(path), error) from error


def _row_bytes(place: Place) -> int:
    return int(np.prod(place.shape[1:], dtype=np.int64)) * place.dtype.itemsize
