"""Files of a run folder, local or behind an fsspec URL, with the two operations that the commit protocol rests on.

`write_atomic`: the file is there as a whole or not at all, also after a crash. `create_exclusive`: in addition, of any
number of processes on any number of machines exactly one succeeds. Locally (and on NFS) both are made of temporary
files, fsync, rename and hard links; an object store offers them itself, the second as a conditional put.
"""

import errno
import os
import secrets
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec

from pipeline.errors import ConfigError, StoreError
from pipeline.faults import crash_point

TEMPORARY_SUFFIX = ".tmp"

# How every message about damage ends.
VERIFY_HINT = "`cuts3d verify` lists all damage of a run and says how to mend it."

# fsspec protocols whose `pipe_file(mode="create")` is one conditional request. Others check first and write then, or
# ignore the mode, and two writers could both believe that they had won.
EXCLUSIVE_PROTOCOLS = frozenset({"memory", "s3", "s3a", "gs", "gcs"})

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_FOLDER_FSYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class RunFiles(ABC):
    """Files below one root, named by relative paths with "/" separators.

    Every method raises ValueError for a name that would leave the root, FileNotFoundError for a file that is not there,
    and StoreError, naming the file and the remedy, when a write fails.
    """

    url: str

    @staticmethod
    def at(url: str | Path) -> "RunFiles":
        """The files at a local folder (need not exist yet), `file://` or any other fsspec URL.

        Credentials come from fsspec's own configuration or the environment, never from the URL. ConfigError when fsspec
        does not know the protocol or lacks its package.
        """
        protocol, separator, path = str(url).partition("://")
        if not separator:
            return LocalFiles(Path(url))
        if protocol in ("file", "local"):
            return LocalFiles(Path(path))
        return ObjectFiles(str(url))

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """The whole file."""

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Several whole files, by name. A file that goes away meanwhile is left out."""
        contents = {}
        for name in names:
            try:
                contents[name] = self.read_bytes(name)
            except FileNotFoundError:
                continue
        return contents

    @abstractmethod
    def write_atomic(self, name: str, data: bytes) -> None:
        """Write or replace the file: whole and durable when this returns, as it was before when it raises."""

    @abstractmethod
    def create_exclusive(self, name: str, data: bytes) -> bool:
        """Write the file if there is none of that name; False if there is one: somebody else was first."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of the file."""

    @abstractmethod
    def modified(self, name: str) -> float:
        """Time of the last write, in seconds since 1970 by the clock of whatever holds the file."""

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
    def _writing(self, name: str) -> Iterator[None]:
        """Turn the system's word on a failed write into one that says which file and what to do."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot write {name} in {self.url}: {error.strerror or error}. Check space, quota and permissions "
                "and start the run again: committed shards are kept."
            ) from error


class LocalFiles(RunFiles):
    """A folder of a local or network file system."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self.url = str(self._root)

    def _path(self, name: str) -> Path:
        return self._root / _checked(name)

    def read_bytes(self, name: str) -> bytes:
        return self._path(name).read_bytes()

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
                return temporary.samefile(path)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                return _create_without_links(path, data)
            _sync_folder(path.parent)
            return True

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def modified(self, name: str) -> float:
        return self._path(name).stat().st_mtime

    def _list(self, folder: str, *, folders: bool) -> list[str]:
        prefix = f"{_checked(folder)}/" if folder else ""
        try:
            with os.scandir(self._root / prefix) as entries:
                return sorted(prefix + e.name for e in entries if (e.is_dir() if folders else e.is_file()))
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    @contextmanager
    def open_local_or_download(self, name: str) -> Iterator[Path]:
        """The file itself."""
        path = self._path(name)
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield path


class ObjectFiles(RunFiles):
    """A prefix of an object store, or of anything else that fsspec reads; committing needs a conditional put."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._protocol = url.partition("://")[0]
        # Other machines write here, too: a cached listing would hide their commits.
        try:
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"cannot open {url}: {error}. Install what it names into this environment") from error
        self._root = root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{_checked(name)}"

    def read_bytes(self, name: str) -> bytes:
        return self._files.cat_file(self._path(name))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        name_of = {self._path(name): name for name in names}
        if not name_of:
            return {}
        contents = self._files.cat(list(name_of), on_error="return")
        for path, content in contents.items():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise StoreError(f"cannot read {path}: {content}. Check the connection and try again.") from content
        return {name_of[path]: content for path, content in contents.items() if isinstance(content, bytes)}

    def write_atomic(self, name: str, data: bytes) -> None:
        with self._writing(name):
            self._files.pipe_file(self._path(name), data)

    def create_exclusive(self, name: str, data: bytes) -> bool:
        if self._protocol not in EXCLUSIVE_PROTOCOLS:
            raise StoreError(
                f"cannot commit to {self.url}: {self._protocol}:// has no exclusive create, so two workers could both "
                f"commit a shard. Use a folder of a mounted file system, or {', '.join(sorted(EXCLUSIVE_PROTOCOLS))}."
            )
        with self._writing(name):
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            return True

    def exists(self, name: str) -> bool:
        return self._files.isfile(self._path(name))

    def size(self, name: str) -> int:
        return int(self._files.size(self._path(name)))

    def modified(self, name: str) -> float:
        return self._files.modified(self._path(name)).timestamp()

    def _list(self, folder: str, *, folders: bool) -> list[str]:
        prefix = f"{_checked(folder)}/" if folder else ""
        wanted = "directory" if folders else "file"
        try:
            entries = self._files.ls(f"{self._root}/{prefix}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        return sorted(prefix + PurePosixPath(e["name"]).name for e in entries if e["type"] == wanted)

    def delete(self, name: str) -> None:
        try:
            self._files.rm_file(self._path(name))
        except FileNotFoundError:
            return


def _checked(name: str) -> str:
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
