"""A file at a URL in the cache: fetched once and whole, and what happens to it later is noticed."""

import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import WeightsError
from pipeline.models.published_file import PublishedFile

CONTENT = b"weights" * 10_000


def check(path: Path) -> None:
    if path.read_bytes().startswith(b"<html>"):
        raise WeightsError("that is a page")


class _Server(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if "short" not in self.path:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishedFile]:
    """Served at its URL; not in the cache."""
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "net.pth").write_bytes(CONTENT)
    handler = partial(_Server, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_address[1]}/net.pth"
        yield PublishedFile("The net", url, "nets", 1, check, "or do without")
        running.shutdown()


def names(file: PublishedFile) -> list[str]:
    return sorted(path.name for path in file.path.parent.iterdir())


def test_it_is_fetched_once_and_its_digest_kept(file: PublishedFile, tmp_path: Path) -> None:
    path = file.ready()
    assert path == tmp_path / "cache" / "nets" / "net.pth"
    assert path.read_bytes() == CONTENT
    (tmp_path / "served" / "net.pth").unlink()
    assert file.ready() == path
    assert names(file) == ["net.pth", "net.pth.sha256"]
    subprocess.run(["sha256sum", "--check", "--strict", "net.pth.sha256"], cwd=path.parent, check=True)


def test_later_damage_is_noticed_and_mended_as_it_says(file: PublishedFile) -> None:
    path = file.ready()
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(WeightsError, match=r"net\.pth is corrupt \(sha256 \w+, at first it was \w+\): delete it"):
        file.ready()
    path.unlink()
    assert file.ready().read_bytes() == CONTENT


def test_a_file_that_was_put_there_by_hand_is_taken_as_it_is_then(file: PublishedFile) -> None:
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b"of one's own")
    assert file.ready().read_bytes() == b"of one's own"
    file.path.write_bytes(b"another")
    with pytest.raises(WeightsError, match="is corrupt"):
        file.ready()


def test_the_digest_goes_with_the_file_that_was_fetched(file: PublishedFile, tmp_path: Path) -> None:
    file.ready().unlink()
    (tmp_path / "served" / "net.pth").write_bytes(b"a new version")
    assert file.ready().read_bytes() == b"a new version"
    assert file.ready().read_bytes() == b"a new version"


def test_a_published_digest_is_what_counts(file: PublishedFile) -> None:
    right = replace(file, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert right.ready().read_bytes() == CONTENT
    assert names(right) == ["net.pth"]
    with pytest.raises(WeightsError, match=r"is corrupt \(sha256 \w+, published 00\)"):
        replace(file, sha256="00").ready()


def test_where_the_cache_takes_no_record_it_goes_without(
    file: PublishedFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(path: Path) -> None:
        raise OSError("Read-only file system")

    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(CONTENT)
    monkeypatch.setattr("pipeline.models.published_file.written_whole", read_only)
    with caplog.at_level("INFO"):
        assert file.ready() == file.path
    assert "cannot be kept beside it: Read-only file system" in caplog.text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("short.pth", "it ended after 100 of 70000 bytes"),
        ("page.pth", "that is a page"),
        ("absent.pth", "404"),
    ],
)
def test_what_is_not_whole_or_not_it_does_not_enter_the_cache(
    name: str, says: str, file: PublishedFile, tmp_path: Path
) -> None:
    (tmp_path / "served" / "page.pth").write_text("<html>Not today</html>")
    other = replace(file, url=file.url.replace("net.pth", name))
    with pytest.raises(WeightsError, match=rf"The net cannot be had from \S+ \(.*{says}.*put it at .*, or do without"):
        other.ready()
    assert names(other) == []
