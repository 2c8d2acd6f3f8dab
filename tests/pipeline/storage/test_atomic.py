"""What appears whole or not at all: killed at every step, interrupted, in its permissions and its names."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment, killed_writers

from pipeline.storage import atomic
from pipeline.storage.atomic import folder_made_whole, leftovers, path_written_whole, written_whole
from pipeline.storage.files import is_temporary


@pytest.mark.parametrize("writer", killed_writers.WRITERS)
def test_killed_before_every_call_it_leaves_the_old_or_the_new(writer: str, tmp_path: Path) -> None:
    command = [sys.executable, killed_writers.__file__, writer, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    contents = [content for content, _ in found]
    assert set(contents) == {"old", "new"}
    assert contents == sorted(contents, reverse=True), "once it is there it stays"
    torn = [beside for content, beside in found if content == "old" and beside]
    assert len(torn) > 2, "it died while it wrote, too"
    assert all(is_temporary(name) for _, beside in found for name in beside)
    assert found[-1] == ["new", []]


@pytest.mark.parametrize("write", [written_whole, path_written_whole, folder_made_whole])
def test_an_error_leaves_what_was_there(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "name"
    if write is not folder_made_whole:
        path.write_text("old")
    before = sorted(tmp_path.rglob("*"))

    def interrupted() -> None:
        with write(path) as out:
            fill(out)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert sorted(tmp_path.rglob("*")) == before
    assert not path.exists() or path.read_text() == "old"


def fill(out: Any) -> None:
    if not isinstance(out, Path):
        out.write("new")
    elif out.is_dir():
        (out / "a").write_text("new")
    else:
        out.write_text("new")


@pytest.mark.parametrize("write", [written_whole, path_written_whole, folder_made_whole])
def test_all_of_it_is_on_the_disk_before_it_has_its_name_and_then_the_name(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        done.append(f"sync {'folder' if synced == tmp_path else 'content'} {'after' if path.exists() else 'before'}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    path = tmp_path / "name"
    with write(path) as out:
        fill(out)
    assert done[0] == "sync content before"
    assert set(done[:-1]) == {"sync content before"}
    assert done[-1] == "sync folder after"


@pytest.fixture
def strict() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("write", "mode"), [(written_whole, 0o640), (path_written_whole, 0o640), (folder_made_whole, 0o750)]
)
def test_permissions_are_those_of_the_umask(write: Any, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "above" / "name"
    with write(path) as out:
        fill(out)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


@pytest.mark.parametrize("name", ["a", "ä.json", "x" * 250, "ö" * 120])
def test_names_as_long_as_they_can_be(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with written_whole(path) as file:
        (temporary,) = tmp_path.iterdir()
        assert is_temporary(temporary.name)
        assert leftovers(path) == [temporary]
        file.write("new")
    assert leftovers(path) == []
    assert path.read_text() == "new"


def test_endings_of_names_are_kept_for_what_knows_formats_by_them(tmp_path: Path) -> None:
    with path_written_whole(tmp_path / "clip.mp4") as path:
        assert path.name == "clip.mp4"
        path.write_bytes(b"video")
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_folder_is_not_made_over_one_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "theirs").touch()
    with pytest.raises(OSError, match="not empty"), folder_made_whole(tmp_path / "name") as folder:
        fill(folder)
    assert [p.name for p in tmp_path.rglob("*")] == ["name", "theirs"]


def test_two_at_a_time_do_not_meet(tmp_path: Path) -> None:
    first: AbstractContextManager[Any] = written_whole(tmp_path / "name")
    with first as one, written_whole(tmp_path / "name") as two:
        one.write("one")
        two.write("two")
    assert (tmp_path / "name").read_text() == "one", "the last to end"
    assert atomic.leftovers(tmp_path / "name") == []
