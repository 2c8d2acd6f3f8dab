"""Weights that are published as one file at a URL, in this user's cache: fetched once, and looked at on every use.

Where no digest is published, that of the file as it was when it was first used is kept beside it, so that at least
what happens to it later is noticed. torch.hub's own download will not do: it waits for a silent server without end, and
takes a file that was cut short for whole.
"""

import hashlib
import logging
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.storage.atomic import path_written_whole, written_whole
from pipeline.storage.cache import cache_folder

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0  # without a byte


@dataclass(frozen=True)
class PublishedFile:
    """about: what it is, for messages.
    folder: of the cache.
    sha256: as published, or its beginning; None where it is not.

    check: raises WeightsError or OSError for a file that is not what it should be, such as a server's error page.
    instead: what else there is to do where it cannot be had, for the message: "or ...".
    """

    about: str
    url: str
    folder: str
    megabytes: int
    check: Callable[[Path], object]
    instead: str
    sha256: str | None = None

    @property
    def path(self) -> Path:
        """Where it is looked for, and kept once it was fetched. Need not exist."""
        return cache_folder() / self.folder / self.url.rpartition("/")[2]

    def ready(self) -> Path:
        """The file, fetched if it is not there.

        Raises WeightsError, which says what to do, when it cannot be had, or has another digest than it had.
        """
        if not self.path.is_file():
            self._fetch()
        digest = _digest(self.path)
        expected = self.sha256 or self._recorded()
        if expected is None:
            self._record(digest)
        elif not digest.startswith(expected):
            raise WeightsError(
                f"{self.path} is corrupt (sha256 {digest}, {'published' if self.sha256 else 'at first it was'} "
                f"{expected}): delete it to have it fetched again"
            )
        return self.path

    def _fetch(self) -> None:
        logger.info("getting %s (%d MB)", self.url, self.megabytes)
        try:
            self._record_path.unlink(missing_ok=True)  # of a file that was deleted since
            with path_written_whole(self.path) as temporary:
                _download(self.url, temporary)
                self.check(temporary)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{self.about} cannot be had from {self.url} ({error}): get it elsewhere and put it at {self.path}, "
                f"{self.instead}"
            ) from error

    @property
    def _record_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.sha256")

    def _recorded(self) -> str | None:
        if not self._record_path.is_file():
            return None
        words = self._record_path.read_text(encoding="utf-8", errors="replace").split()
        return words[0] if words else None

    def _record(self, digest: str) -> None:
        """As `sha256sum` writes it, and checks it with -c."""
        try:
            with written_whole(self._record_path) as file:
                file.write(f"{digest}  {self.path.name}\n")
        except OSError as error:
            logger.info("the digest of %s cannot be kept beside it: %s", self.path, error)


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file)
        expected = answer.headers.get("Content-Length")
        if expected is not None and int(expected) != file.tell():
            raise OSError(f"it ended after {file.tell()} of {expected} bytes")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
