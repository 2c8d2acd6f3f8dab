"""Files of a run folder on a local or network file system, see `pipeline.storage.files`."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.errors import StoreError
from pipeline.faults import crash_point
from pipeline.storage.atomic import durable, probe_folder, sync_folder, temporary_beside, written_whole
from pipeline.storage.files import FileFacts, RunFiles, checked

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class LocalFiles(RunFiles):
    """A folder of a local or network file system."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self.url = str(self._root)

    def _path(self, name: str) -> Path:
        return self._root / checked(name)

    def need_writable(self) -> None:
        try:
            probe_folder(self._root)
        except OSError as error:
            why = error.strerror or error
            raise StoreError(
                f"{self.url} cannot be written: {why}. Make room or mend it, or give another place"
            ) from error

    def read_bytes(self, name: str) -> bytes:
        path = self._path(name)
        with self._reading(name):
            return path.read_bytes()

    def write_atomic(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with self._writing(name), written_whole(path, "wb") as file:
            _write(file, data, path.name)

    def create_exclusive(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with self._writing(name), temporary_beside(path) as temporary:
            with durable(temporary, "xb") as file:
                _write(file, data, path.name)
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
            sync_folder(path.parent)
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


def _facts(stat: os.stat_result) -> FileFacts:
    return FileFacts(stat.st_size, stat.st_mtime)


def _write(file: IO[bytes], data: bytes, name: str) -> None:
    half = len(data) // 2
    file.write(data[:half])
    file.flush()
    crash_point("mid_write", name)
    file.write(data[half:])


def _create_without_links(path: Path, data: bytes) -> bool:
    """Exclusive, but a crash can leave a torn file under the final name; its reader must notice and say so."""
    try:
        with durable(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True
