"""What files of shards have in common, whatever kind of result they hold: schema, ids, and lists of parts of any length
that lie one after the other in one array.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.errors import RunMismatchError, StoreError
from pipeline.results.kinds import Failed
from pipeline.storage.array_file import ArrayFile, damaged
from pipeline.storage.files import VERIFY_HINT


class ReadShard(ABC):
    """A shard's file, read by a class that is made of an `ArrayFile`. ids: of its images, in the shard's order."""

    ids: tuple[str, ...]

    @abstractmethod
    def __init__(self, file: ArrayFile) -> None: ...

    @classmethod
    def open(cls, source: bytes | Path, name: str = "") -> Self:
        """Read bytes, or a local file as a whole. `name` is what messages call it; default: the path.

        Raises:
            StoreError: the file is missing, torn or inconsistent.
            RunMismatchError: the file is of another schema.
        """
        return cls(_opened(source, name))

    def __len__(self) -> int:
        """Images of the shard."""
        return len(self.ids)


def _opened(source: bytes | Path, name: str) -> ArrayFile:
    if isinstance(source, Path):
        name = name or str(source)
        try:
            source = source.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read shard {name}: {error}", VERIFY_HINT) from error
    return ArrayFile.open(source, name or "shard")


def check_schema(file: ArrayFile, schema: str, version: int) -> None:
    """RunMismatchError when the file is of another schema."""
    found = file.attributes.get("schema"), file.attributes.get("version")
    if found != (schema, version):
        raise RunMismatchError(
            f"{file.name} has schema {found[0]} version {found[1]}, cuts3d reads {schema} version {version}: "
            "use the cuts3d that wrote it, or make the run again in another folder"
        )


def joined(parts: Sequence[bytes]) -> np.ndarray:
    """All parts, one after the other, uint8."""
    return np.frombuffer(b"".join(parts), np.uint8)


def offsets(parts: Sequence[Any]) -> np.ndarray:
    """Where each part begins, and the last one ends, int64 (parts + 1)."""
    return np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)]).astype(np.int64)


def check_offsets(file: str, name: str, offsets: np.ndarray, end: int) -> None:
    """StoreError, naming the file and its array, when offsets do not rise from 0 to the end of what they cut."""
    if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise damaged(file, f"{name} must rise from 0 to {end}")


def ids_in(file: str, text: np.ndarray, edges: np.ndarray) -> tuple[str, ...]:
    """The ids of a shard's images, from images/id and images/id_offsets. StoreError when they are damaged."""
    check_offsets(file, "images/id_offsets", edges, len(text))
    try:
        return tuple(text[start:end].tobytes().decode() for start, end in pairwise(edges))
    except UnicodeDecodeError as error:
        raise damaged(file, f"images/id is no UTF-8 ({error})") from error


def reasons(results: Sequence[Any]) -> dict[str, list[str]]:
    """Of the results that failed, why, by their place in the shard: rare, so that JSON will do."""
    return {str(i): [r.reason, r.detail] for i, r in enumerate(results) if isinstance(r, Failed)}


def failed(reasons: dict[str, list[str]], image: int, id_: str, size: tuple[int, int]) -> Failed:
    """The opposite of `reasons`, for one image."""
    reason, detail = reasons.get(str(image), ("", ""))
    return Failed(id_, reason, detail, size)
