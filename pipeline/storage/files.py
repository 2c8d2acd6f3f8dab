"""Files of a run folder, local or behind an fsspec URL, with the two operations that the commit protocol rests on.

`write_atomic`: the file is there as a whole or not at all, also after a crash. `create_exclusive`: in addition, of any
number of processes on any number of machines exactly one succeeds. Locally (and on NFS) both are made of temporary
files, fsync, rename and hard links; an object store offers them itself, the second as a conditional put.
"""

import re
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pipeline.errors import StoreAccessError, StoreError

TEMPORARY_SUFFIX = ".tmp"
_TEMPORARY = re.compile(r"\..*-[0-9a-f]+\.tmp")

# Network file systems and object stores take their time over each file, so that many are asked for at once.
READERS = 32
FEW_FILES = 4

# How every message about damage ends.
VERIFY_HINT = "`cuts3d verify` lists all damage of a run and says how to mend it."


@dataclass(frozen=True)
class FileFacts:
    """bytes: length of a file.
    modified: its last write, in seconds since 1970 by the clock of whatever holds it.
    tag: what changes with the content, where a store says so, else "".
    """

    bytes: int
    modified: float
    tag: str = ""


class RunFiles(ABC):
    """Files below one root, named by relative paths with "/" separators.

    Every method raises ValueError for a name that would leave the root, FileNotFoundError for a file that is not there,
    and StoreError, naming the file and the remedy, when a file cannot be read or written.
    """

    url: str
    each_read_is_a_request: ClassVar[bool] = False  # to a server, some milliseconds each

    def need_writable(self) -> None:  # noqa: B027  a store need not tell before it is written to
        """StoreError when nothing can be written below the root, where that shows without leaving anything."""

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """The whole file."""

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Several whole files, by name, many at a time. A file that goes away meanwhile is left out."""

        def read(name: str) -> bytes | None:
            try:
                return self.read_bytes(name)
            except FileNotFoundError:
                return None

        names = list(names)
        if len(names) < FEW_FILES:
            contents = [read(name) for name in names]
        else:
            with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
                contents = list(pool.map(read, names))
        return {name: data for name, data in zip(names, contents, strict=True) if data is not None}

    @abstractmethod
    def write_atomic(self, name: str, data: bytes) -> None:
        """Write or replace the file: whole and durable when this returns, as it was before when it raises."""

    @abstractmethod
    def create_exclusive(self, name: str, data: bytes) -> bool:
        """Write the file if there is none of that name; False if there is one: somebody else was first.

        In an object store False can also follow a request that won, was repeated because its answer was lost, and then
        met itself: who must know reads the file and looks whose it is.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    @abstractmethod
    def facts(self, name: str) -> FileFacts:
        """Length and age of the file."""

    def size(self, name: str) -> int:
        """Bytes of the file."""
        return self.facts(name).bytes

    def modified(self, name: str) -> float:
        """Time of the last write, see `FileFacts`."""
        return self.facts(name).modified

    def now(self) -> float:
        """That same clock now, read off a file written for it, so that ages are right when nodes' clocks differ."""
        probe = f".clock-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        self.write_atomic(probe, b"0")
        try:
            return self.modified(probe)
        finally:
            self.delete(probe)

    def list_files(self, folder: str = "") -> list[str]:
        """Sorted names, from the root, of the files directly in a folder; [] if there is no such folder."""
        return self._list(folder, folders=False)

    @abstractmethod
    def list_facts(self, folder: str = "") -> dict[str, FileFacts]:
        """The same with the facts of each file, at the cost of one listing."""

    def list_folders(self, folder: str = "") -> list[str]:
        """Sorted names, from the root, of the folders directly in a folder; [] if there is no such folder."""
        return self._list(folder, folders=True)

    @abstractmethod
    def _list(self, folder: str, *, folders: bool) -> list[str]: ...

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the file; no error if it is gone already."""

    @contextmanager
    def open_local_or_download(self, name: str) -> Iterator[Path]:
        """A local path with the file's bytes, for libraries that want one: here a copy that goes away afterwards."""
        with tempfile.TemporaryDirectory(prefix="cuts3d-") as folder:
            copy = Path(folder, PurePosixPath(name).name)
            copy.write_bytes(self.read_bytes(name))
            yield copy

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn the system's word on a failed read into one that says which file and what to do."""
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except OSError as error:
            raise StoreAccessError(
                f"cannot read {name or 'the listing'} in {self.url}: {error.strerror or error}. "
                "Check permissions and the disk, and try again."
            ) from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """The same for a failed write."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise StoreAccessError(
                f"cannot write {name} in {self.url}: {error.strerror or error}. Check space, quota and permissions "
                "and start the run again: committed shards are kept."
            ) from error


def is_temporary(name: str) -> bool:
    """Whether a file, by its name without folder, is one that a write here left behind, and not somebody else's."""
    return bool(_TEMPORARY.fullmatch(name))


def checked(name: str) -> str:
    """`name`, if it can only mean something below the root; names also come from files that others may have written."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
        raise ValueError(f"not a file name inside a run folder: {name!r} (relative, '/' between parts, no '..')")
    return name
