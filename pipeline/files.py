"""Files of a run folder, local or behind an fsspec URL, with the two operations that the commit protocol rests on.

`write_atomic`: the file is there as a whole or not at all, also after a crash. `create_exclusive`: in addition, of any
number of processes on any number of machines exactly one succeeds. Locally (and on NFS) both are made of temporary
files, fsync, rename and hard links; an object store offers them itself, the second as a conditional put.
"""

import errno
import os
import re
import secrets
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pipeline.errors import ConfigError, StoreAccessError, StoreError
from pipeline.faults import crash_point
from pipeline.locations import redacted, secret_in

TEMPORARY_SUFFIX = ".tmp"
_TEMPORARY = re.compile(r"\..*-[0-9a-f]+\.tmp")

# Network file systems and object stores take their time over each file, so that many are asked for at once.
READERS = 32
FEW_FILES = 4

# How every message about damage ends.
VERIFY_HINT = "`cuts3d verify` lists all damage of a run and says how to mend it."

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_FOLDER_FSYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(frozen=True)
class FileFacts:
    """bytes: length of a file. modified: its last write, in seconds since 1970 by the clock of whatever holds it. tag:
    what changes with the content, where a store says so, else "".
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

    @staticmethod
    def at(url: str | Path) -> "RunFiles":
        """The files at a local folder (need not exist yet), `file://` or any other fsspec URL.

        Credentials come from fsspec's own configuration or the environment. ConfigError when the URL carries some, as
        what names a run ends up in logs, or when fsspec does not know the protocol or lacks its package.
        """
        protocol, separator, path = str(url).partition("://")
        if not separator:
            return LocalFiles(Path(url))
        if secret := secret_in(str(url)):
            raise ConfigError(
                f"{redacted(str(url))} carries {secret}: give the URL without it, and credentials through the "
                "environment or fsspec's configuration"
            )
        if protocol in ("file", "local"):
            return LocalFiles(Path(path))
        from pipeline.object_files import ObjectFiles  # which knows the class above

        return ObjectFiles(str(url))

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


class LocalFiles(RunFiles):
    """A folder of a local or network file system."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self.url = str(self._root)

    def _path(self, name: str) -> Path:
        return self._root / checked(name)

    def read_bytes(self, name: str) -> bytes:
        path = self._path(name)
        with self._reading(name):
            return path.read_bytes()

    def write_atomic(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with self._writing(name), _written_beside(path, data) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def create_exclusive(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with self._writing(name), _written_beside(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                # NFS repeats a request whose answer was lost: the name may be taken because this very link took it.
                with suppress(FileNotFoundError):  # somebody else's, deleted since
                    return temporary.samefile(path)
                return False
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                return _create_without_links(path, data)
            _sync_folder(path.parent)
            return True

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def facts(self, name: str) -> FileFacts:
        path = self._path(name)
        with self._reading(name):
            return _facts(path.stat())

    def list_facts(self, folder: str = "") -> dict[str, FileFacts]:
        with self._scanned(folder) as (prefix, entries):
            found = {}
            for entry in entries:
                # A file that goes away meanwhile was a temporary one.
                with suppress(FileNotFoundError):
                    if entry.is_file():
                        found[prefix + entry.name] = _facts(entry.stat())
            return dict(sorted(found.items()))

    def _list(self, folder: str, *, folders: bool) -> list[str]:
        with self._scanned(folder) as (prefix, entries):
            return sorted(prefix + e.name for e in entries if (e.is_dir() if folders else e.is_file()))

    @contextmanager
    def _scanned(self, folder: str) -> Iterator[tuple[str, Iterable[os.DirEntry[str]]]]:
        prefix = f"{checked(folder)}/" if folder else ""
        with self._reading(folder):
            try:
                entries = os.scandir(self._root / prefix)
            except FileNotFoundError:
                yield prefix, ()
                return
            with entries:
                yield prefix, entries

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._writing(name):
            path.unlink(missing_ok=True)

    @contextmanager
    def open_local_or_download(self, name: str) -> Iterator[Path]:
        """The file itself."""
        path = self._path(name)
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield path


def is_temporary(name: str) -> bool:
    """Whether a file, by its name without folder, is one that a write here left behind, and not somebody else's."""
    return bool(_TEMPORARY.fullmatch(name))


def _facts(stat: os.stat_result) -> FileFacts:
    return FileFacts(stat.st_size, stat.st_mtime)


def checked(name: str) -> str:
    """`name`, if it can only mean something below the root; names also come from files that others may have written."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
        raise ValueError(f"not a file name inside a run folder: {name!r} (relative, '/' between parts, no '..')")
    return name


@contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file in the folder of `path` with `data` durably in it, removed afterwards if it is still there."""
    _make_folder(path.parent)
    # Hidden, and told apart by host and process: the folder may be shared by many nodes.
    temporary = path.with_name(
        f".{path.name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    )
    try:
        with temporary.open("xb") as file:
            half = len(data) // 2
            file.write(data[:half])
            file.flush()
            crash_point("mid_write", path.name)
            file.write(data[half:])
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_without_links(path: Path, data: bytes) -> bool:
    """Exclusive, but a crash can leave a torn file under the final name; its reader must notice and say so."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    _sync_folder(path.parent)
    return True


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder and are synchronous about names anyway.
        if error.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(descriptor)
