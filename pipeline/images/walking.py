"""All files below a folder, local or remote, but hidden ones."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.storage.locations import is_local


def walk(fs: Any, root: str, skipped: Counter[str]) -> Iterator[str]:
    """Paths of the files, in any order.

    fs, root: of `pipeline.storage.locations.filesystem`, for a folder that is there.
    skipped: counts what is passed over: "(hidden)", "(broken link)" and their like.

    Raises SourceError for a local folder that cannot be listed.
    """
    return _local(Path(root), skipped) if is_local(fs) else _remote(fs, root, skipped)


def _remote(fs: Any, root: str, skipped: Counter[str]) -> Iterator[str]:
    prefix = root.rstrip("/") + "/"
    for path in fs.find(root):
        if any(part.startswith(".") and part != ".." for part in path.removeprefix(prefix).split("/")):
            skipped["(hidden)"] += 1
        else:
            yield path


def _local(root: Path, skipped: Counter[str]) -> Iterator[str]:
    """Files below `root`. A folder is listed once: under its own name if it lies below root, else by its first link."""
    folders, links, seen = deque([str(root)]), deque[str](), set[tuple[int, int]]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        try:
            stat = Path(folder).stat()
            if (stat.st_dev, stat.st_ino) in seen:
                skipped["(folder already listed)"] += 1
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            raise SourceError(
                f"{folder} cannot be listed: {error.strerror}; mend its permissions or move it"
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                skipped["(hidden)"] += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif entry.is_file():
                yield entry.path
            else:
                skipped["(broken link)" if entry.is_symlink() else "(not a regular file)"] += 1
