"""Files and folders that commands write for people, outside of runs: whether they can be written is known before
anything long begins, and what fails all the same is one message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, overload

from pipeline.errors import ConfigError, CutsError, StoreAccessError
from pipeline.storage.atomic import probe_folder, written_whole
from pipeline.storage.locations import is_url

REMEDY = "Mend that, or write elsewhere."


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """StoreAccessError, naming the path and the remedy, where the system cannot write in this block."""
    try:
        yield
    except CutsError:
        raise
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


@overload
def output_file(path: str | Path, mode: Literal["w"] = "w") -> Any: ...
@overload
def output_file(path: str | Path, mode: Literal["wb"]) -> Any: ...
@contextmanager
def output_file(path: str | Path, mode: Any = "w") -> Iterator[IO[Any]]:
    """A file to write to, as of `written_whole`; errors as of `writing`."""
    with writing(path), written_whole(Path(path), mode) as file:
        yield file


def need_file(path: str | Path) -> None:
    """StoreAccessError when no file can be written there, as far as can be told without writing it."""
    with writing(path):
        if _local(path).is_dir():
            raise IsADirectoryError(None, "it is a directory")
        if _is_device(_local(path)):
            raise OSError(None, "it is a device or a pipe, and files are put in place whole")
        probe_folder(_local(path).parent)


def need_folder(path: str | Path) -> None:
    """The same of files in a folder, which need not be there yet."""
    with writing(path):
        probe_folder(_local(path))


def _is_device(path: Path) -> bool:
    """Whether a file put in its place would take away a device, a pipe, or a link to a stream, as /dev/stdout is."""
    return (path.exists() and not path.is_file()) or (path.is_symlink() and str(path.readlink()).startswith("/proc/"))


def _local(path: str | Path) -> Path:
    if is_url(str(path)):
        raise ConfigError(f"{path} is a URL: this is written to a path of this machine")
    return Path(path)


def _unwritable(path: str | Path, why: str) -> StoreAccessError:
    return StoreAccessError(f"cannot write {path}: {why}", REMEDY)
