"""Files and folders that appear whole or not at all, also when the process or the machine dies meanwhile.

What is written lies beside its place under a temporary name, is brought to the disk, and then takes its place in one
step. What a death leaves behind, `is_temporary` knows by its name. Permissions are those that the umask leaves.
"""

import errno
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, overload

from pipeline.storage.files import TEMPORARY_SUFFIX

_NO_FOLDER_FSYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
_LONGEST = 120  # bytes of a name that its temporary name repeats, since names end at 255


@overload
def written_whole(path: Path, mode: Literal["w"] = "w") -> AbstractContextManager[IO[str]]: ...
@overload
def written_whole(path: Path, mode: Literal["wb"]) -> AbstractContextManager[IO[bytes]]: ...
def written_whole(path: Path, mode: str = "w") -> AbstractContextManager[IO[Any]]:
    """A file to write to, text in UTF-8 ("w") or bytes ("wb"), which is at `path` when the block has ended well.

    What was at `path` before stays there until then, and when the block raises. Folders above are made.
    """
    return _written_whole(path, mode)


@contextmanager
def _written_whole(path: Path, mode: str) -> Iterator[IO[Any]]:
    with temporary_beside(path) as temporary:
        with durable(temporary, mode.replace("w", "x")) as file:
            yield file
        _take_place(temporary, path)


@contextmanager
def path_written_whole(path: Path) -> Iterator[Path]:
    """The same for what opens its file by itself: a path with the name of `path`, since endings tell formats."""
    with temporary_beside(path) as folder:
        folder.mkdir()
        temporary = folder / path.name
        yield temporary
        _sync_file(temporary)
        _take_place(temporary, path)


@contextmanager
def folder_made_whole(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which is at `path` when the block has ended well; OSError when a folder that is not
    empty is there then.
    """
    with temporary_beside(path) as temporary:
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync_file(Path(folder, name))
            sync_folder(Path(folder))
        temporary.rename(path)
        sync_folder(path.parent)


def leftovers(path: Path) -> list[Path]:
    """Temporary files and folders for `path`: of processes that died, or are at it now, which the caller must know."""
    beginning = _beginning(path)
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(p for p in found if p.name.startswith(beginning) and p.name.endswith(TEMPORARY_SUFFIX))


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name, not yet taken, in the folder of `path`, which is made. What is there when the block ends is removed."""
    make_folder(path.parent)
    # Hidden, and told apart by host and process: the folder may be shared by many nodes.
    own = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{_beginning(path)}{own}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def durable(path: Path, mode: str) -> Iterator[IO[Any]]:
    """A file opened in this mode, on the disk when the block has ended well. Its name may not be: `sync_folder`."""
    with path.open(mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """A folder and those above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder and are synchronous about names anyway.
        if error.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(descriptor)


def _take_place(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _beginning(path: Path) -> str:
    """What all temporary names for `path` begin with."""
    return f".{path.name.encode()[:_LONGEST].decode(errors='ignore')}."


def probe_folder(path: Path) -> None:
    """OSError unless a folder is there and can be written to, or can be made; nothing is left behind."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name has a zero byte")
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"Not a directory: {there} is a file", str(there))
    longest = os.pathconf(there, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in path.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    Path(tempfile.mkdtemp(prefix=".cuts3d-", suffix=TEMPORARY_SUFFIX, dir=there)).rmdir()
