"""RunFiles, on a local folder and on fsspec's memory file system."""

import errno
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import ConfigError, StoreError
from pipeline.storage.files import RunFiles
from pipeline.storage.files_at import files_at
from pipeline.storage.local_files import LocalFiles

HOSTILE = ["../x", "a/../../x", "/etc/passwd", "", ".", "a//b", "a/./b", "a\\b", "..", "a/..", "a\0b", "a\nb", "a/"]


@pytest.fixture(params=["local", "file-url", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> RunFiles:
    if request.param == "memory":
        return files_at(f"memory://test-{secrets.token_hex(4)}/run/")
    return files_at(tmp_path / "run" if request.param == "local" else f"file://{tmp_path}/run")


def test_round_trip(files: RunFiles) -> None:
    assert files.list_files("shards") == []
    files.write_atomic("shards/b", b"two")
    files.write_atomic("shards/b", b"three")
    files.write_atomic("shards/a", b"")
    files.write_atomic("top", b"x")
    assert files.read_bytes("shards/b") == b"three"
    assert files.read_many(["shards/a", "shards/b", "shards/none"]) == {"shards/a": b"", "shards/b": b"three"}
    assert files.read_many([]) == {}
    assert files.list_files("shards") == ["shards/a", "shards/b"]
    assert (files.list_files(), files.list_folders()) == (["top"], ["shards"])
    assert files.size("shards/b") == 5
    assert files.exists("shards/b")
    assert not files.exists("shards")
    with files.open_local_or_download("shards/b") as path:
        assert path.read_bytes() == b"three"
    files.delete("shards/b")
    files.delete("shards/b")
    assert not files.exists("shards/b")


def test_facts_of_a_listing_are_those_of_its_files(files: RunFiles) -> None:
    assert files.list_facts("commits") == {}
    files.write_atomic("commits/b", b"two")
    files.write_atomic("commits/a", b"")
    files.write_atomic("commits/deeper/c", b"not listed")
    listed = files.list_facts("commits")
    assert list(listed) == ["commits/a", "commits/b"]
    assert listed == {name: files.facts(name) for name in listed}
    assert (listed["commits/b"].bytes, files.size("commits/b")) == (3, 3)
    with pytest.raises(FileNotFoundError):
        files.facts("commits/none")


def test_missing_file(files: RunFiles) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_bytes("none")
    with pytest.raises(FileNotFoundError), files.open_local_or_download("none"):
        pass


def test_modified_and_now_are_of_one_clock(files: RunFiles) -> None:
    files.write_atomic("first", b"1")
    now = files.now()
    assert 0 <= now - files.modified("first") < 60
    assert files.list_files() == ["first"], "the probe was left behind"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_the_folder(files: RunFiles, name: str) -> None:
    for operation in (files.read_bytes, files.exists, files.size, files.delete, files.modified):
        with pytest.raises(ValueError, match="not a file name inside"):
            operation(name)
    for write in (files.write_atomic, files.create_exclusive):
        with pytest.raises(ValueError, match="not a file name inside"):
            write(name, b"x")
    if name:
        with pytest.raises(ValueError, match="not a file name inside"):
            files.list_files(name)


def test_exclusive_create_has_one_winner(files: RunFiles) -> None:
    contents = [bytes([65 + i]) * 1000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda data: files.create_exclusive("commits/1.json", data), contents))
    assert sum(won) == 1
    assert files.read_bytes("commits/1.json") == contents[won.index(True)]
    assert files.list_files("commits") == ["commits/1.json"], "temporary files were left behind"


def test_link_whose_answer_was_lost_counts_as_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # NFS repeats the request, and finds the name taken by itself

    monkeypatch.setattr(os, "link", link_twice)
    files = LocalFiles(tmp_path)
    assert files.create_exclusive("a", b"mine")
    monkeypatch.undo()
    assert not files.create_exclusive("a", b"other")
    assert files.read_bytes("a") == b"mine"


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    files = LocalFiles(tmp_path)
    assert files.create_exclusive("a", b"mine")
    assert not files.create_exclusive("a", b"other")
    assert files.read_bytes("a") == b"mine"
    assert files.list_files() == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_failed_write_says_what_to_do_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    files = LocalFiles(tmp_path)
    files.write_atomic("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    for write, name in ((files.write_atomic, "a"), (files.create_exclusive, "b")):
        with pytest.raises(StoreError, match=rf"cannot write {name} in .*{os.strerror(code)}.*start the run again"):
            write(name, b"new")
    assert files.list_files() == ["a"]
    assert files.read_bytes("a") == b"old"


def test_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if not os.path.isfile(f"/proc/self/fd/{descriptor}"):  # noqa: PTH113
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    files = LocalFiles(tmp_path)
    files.write_atomic("new/folder/a", b"x")
    assert files.create_exclusive("new/folder/b", b"y")
    assert files.list_files("new/folder") == ["new/folder/a", "new/folder/b"]


def test_commit_is_refused_where_nothing_is_exclusive() -> None:
    class Plain(MemoryFileSystem):
        protocol = "plain"

    fsspec.register_implementation("plain", Plain, clobber=True)
    files = files_at("plain://server/run")
    with pytest.raises(StoreError, match=r"plain:// has no exclusive create.*s3"):
        files.create_exclusive("commits/1.json", b"x")


@pytest.mark.parametrize("url", ["nonsense://bucket/run", "oss://bucket/run"])
def test_url_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot open .*://bucket/run: .*(?i:install|known)"):
        files_at(url)
