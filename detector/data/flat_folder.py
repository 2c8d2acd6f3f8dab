"""Folders of arrays that are made once, by one process at a time, appear as a whole, and are mapped by all."""

import errno
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RunMismatchError, StoreError
from pipeline.storage.atomic import folder_made_whole, leftovers
from pipeline.storage.file_lock import lock

log = logging.getLogger(__name__)

_META_FILE = "meta.json"


def make(folder: Path, arrays: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Let `write` fill the folder, unless that is done already, by one process at a time; it appears as a whole."""
    if _is_whole(folder, arrays):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock")) as alone:
            if _is_whole(folder, arrays):
                return
            if alone:
                for left in leftovers(folder):
                    shutil.rmtree(left)  # of a process that was killed
            _write_whole(folder, arrays, write)
    except (StoreError, RunMismatchError):
        raise  # of the run, which are OSErrors, too
    except OSError as error:
        raise StoreError(
            f"the cache {folder.parent} cannot be written ({error.strerror or error}): make room, or name another "
            "folder (`cache` of the data set, or CUTS3D_CACHE)"
        ) from error


def _write_whole(folder: Path, arrays: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    begun = time.monotonic()
    try:
        with folder_made_whole(folder) as temporary:
            write(temporary)
            if folder.exists() and not _is_whole(folder, arrays):
                log.warning("%s is damaged and is rebuilt", folder)
                shutil.rmtree(folder)
    except OSError as error:
        # Without locks another process may have been first, with the same content.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_whole(folder, arrays):
            raise
    log.info("%s written in %.1f s", folder, time.monotonic() - begun)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock among the processes that see this file; False where the file system has none."""
    with path.open("w") as file:
        alone = lock(file, f"waiting for another process, which is writing {path.parent}")
        if not alone:
            log.warning("%s: no locks here, so every process consolidates for itself", path.parent)
        yield alone


def _is_whole(folder: Path, arrays: Mapping[str, Any]) -> bool:
    try:
        mapped(folder, arrays)
    except StoreError:
        return False
    return True


def write_meta(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write meta.json, the last file of a folder; `rows` among its facts: of each array, how many."""
    (folder / _META_FILE).write_text(json.dumps(facts, ensure_ascii=False, indent=1))


def mapped(
    folder: Path, arrays: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays of a folder, mapped read-only, and its meta.json; StoreError unless all are there as they were written."""
    try:
        meta = json.loads((folder / _META_FILE).read_bytes())
        mapped = {}
        for name, (dtype, row) in arrays.items():
            # As plain arrays: each slice of a memmap costs a Python object with a life of its own.
            mapped[name] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
            expected = np.dtype(dtype), (meta["rows"][name], *row)
            if (mapped[name].dtype, mapped[name].shape) != expected:
                raise ValueError(f"{name} is {mapped[name].dtype} {mapped[name].shape}, not {expected}")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise StoreError(
            f"{folder} is not the flat store that was there ({error}): open the runs again to rebuild it"
        ) from error
    return mapped, meta
