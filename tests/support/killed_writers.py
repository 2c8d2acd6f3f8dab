"""Each way to write that `pipeline.storage.atomic` and `LocalFiles` offer, killed before every call it makes into C.

    python killed_writers.py WRITER FOLDER

SIGKILL runs no `finally` and flushes no buffer. Prints as JSON what was found after each death, in their order, and at
last without one: [what is under the name, names beside it].
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.storage.atomic import folder_made_whole, path_written_whole, written_whole
from pipeline.storage.local_files import LocalFiles

OLD, NEW = "old", "new" * 50_000  # more than a buffer holds


def text(path: Path) -> None:
    with written_whole(path) as file:
        file.write(NEW[:100_000])
        file.write(NEW[100_000:])


def data(path: Path) -> None:
    with written_whole(path, "wb") as file:
        file.write(NEW[:100_000].encode())
        file.write(NEW[100_000:].encode())


def by_path(path: Path) -> None:
    with path_written_whole(path) as own, own.open("w") as file:
        file.write(NEW)


def folder(path: Path) -> None:
    with folder_made_whole(path) as own:
        for name in "ab":
            (own / name).write_text(NEW)


def atomic(path: Path) -> None:
    LocalFiles(path.parent).write_atomic(path.name, NEW.encode())


def exclusive(path: Path) -> None:
    LocalFiles(path.parent).create_exclusive(path.name, NEW.encode())


WRITERS: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer for writer in (text, data, by_path, folder, atomic, exclusive)
}


def killed_before(call: int, writer: Callable[[Path], None], path: Path) -> bool:
    """Whether the writer, in a process of its own, came as far as its `call`-th call into C, and died there."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = call

    def look(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event == "c_call":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(look)
    writer(path)
    sys.setprofile(None)
    os._exit(0)


def found(path: Path) -> list[Any]:
    """[what is under the name, names beside it]"""
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
    contents = {file.name: file.read_text() for file in files}
    whole = contents in ({path.name: NEW}, {"a": NEW, "b": NEW})
    content = "new" if whole else "old" if contents in ({path.name: OLD}, {}) else f"torn: {contents!r:.200}"
    return [content, sorted(p.name for p in path.parent.iterdir() if p != path)]


def main(name: str, root: str) -> None:
    """Print what is found after each death."""
    told, call, died = [], 0, True
    while died:
        path = Path(root, "folder", "name")
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        if name not in ("folder", "exclusive"):
            path.write_text(OLD)
        died = killed_before(call, WRITERS[name], path)
        told.append(found(path))
        call += 1
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
