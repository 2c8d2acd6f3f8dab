"""What commands write for people: where nothing can be written, that is said before anything long, in one message."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StoreAccessError, StoreError
from pipeline.storage.outputs import REMEDY, need_file, need_folder, output_file, writing


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("")
    return path


def test_what_can_be_written(tmp_path: Path, file: Path) -> None:
    for path in (file, tmp_path / "new", tmp_path / "a" / "b" / "new", "relative"):
        need_file(path)
    for folder in (tmp_path, tmp_path / "a" / "b"):
        need_folder(folder)
    assert sorted(tmp_path.iterdir()) == [file], "asking makes nothing"


def test_a_file_in_the_place_of_a_folder(tmp_path: Path, file: Path) -> None:
    for path in (file / "x.json", file / "deep" / "x.json"):
        with pytest.raises(
            StoreAccessError, match=rf"^cannot write {path}: Not a directory: {file} is a file\. {REMEDY}$"
        ):
            need_file(path)
        with pytest.raises(StoreAccessError, match=rf"cannot write {path}: .*\. {REMEDY}$"), output_file(path):
            pass
    with pytest.raises(StoreAccessError, match="Not a directory"):
        need_folder(file)
    with pytest.raises(StoreAccessError, match=rf"cannot write {tmp_path}: it is a directory"):
        need_file(tmp_path)


def test_a_folder_that_nothing_can_be_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount; permissions do not hold for the superuser, who may run this."""

    def refused(**given: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    for check, path in ((need_file, tmp_path / "x.json"), (need_folder, tmp_path / "a" / "b"), (need_folder, tmp_path)):
        with pytest.raises(StoreAccessError, match=rf"cannot write {path}: Read-only file system\."):
            check(path)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(StoreAccessError, match="File name too long"), output_file(tmp_path / ("x" * 300) / "y"):
        pass
    for check in (need_file, need_folder):
        with pytest.raises(ConfigError, match="s3://bucket/x is a URL: this is written to a path of this machine"):
            check("s3://bucket/x")


def test_a_disk_that_is_full_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    message = rf"cannot write {path}: No space left on device\. {REMEDY}"
    with pytest.raises(StoreAccessError, match=message), output_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match=r"^torn$"), writing(path):
        raise StoreError("torn")


def test_a_device_is_not_taken_away(tmp_path: Path) -> None:
    """A file takes the place of what was there: of a pipe, of a link to a stream, for the superuser of a device."""
    pipe, stream = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    stream.symlink_to("/proc/self/fd/1")
    for path in (pipe, stream, Path("/dev/null")):
        with pytest.raises(StoreAccessError, match=rf"cannot write {path}: it is a device or a pipe"):
            need_file(path)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    need_file(tmp_path / "link")
