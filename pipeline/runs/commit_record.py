"""One commit record and what it may hold. It is read from a folder that others can write to, so it is checked."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.runs.record_fields import is_count, is_duration, is_text, require

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CommittedFile:
    """A file that a commit names: name from the run folder's root, length, sha256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        require(isinstance(self.name, str), "name", self.name)
        require(is_count(self.bytes), "bytes", self.bytes)
        require(isinstance(self.sha256, str) and bool(_SHA256.fullmatch(self.sha256)), "sha256", self.sha256)


@dataclass(frozen=True)
class Commit:
    """One commit record, as read.

    counts: images, masks, drops (by reason), quarantined; of a kept stage at least images.
    seconds: by stage.
    finished: ISO 8601, UTC.
    quarantine: None when no image was set aside.
    worker: process that did it, "host:pid".
    wall: seconds from its first image to its commit. Records of earlier versions lack these two.

    Raises ValueError, naming the field, for what cannot be: text that is not printable, counts and times below 0, ...
    """

    key: str
    attempt: str
    fingerprint: str
    digest: str
    shard: CommittedFile
    quarantine: CommittedFile | None
    counts: dict[str, Any]
    seconds: dict[str, float]
    host: str
    finished: str
    versions: dict[str, str]
    worker: str = ""
    wall: float = 0.0

    @property
    def files(self) -> tuple[CommittedFile, ...]:
        """All that it names."""
        return (self.shard,) if self.quarantine is None else (self.shard, self.quarantine)

    def __post_init__(self) -> None:
        for name in ("key", "attempt", "fingerprint", "digest", "host", "worker", "finished"):
            require(is_text(getattr(self, name)), name, getattr(self, name))
        for name in ("counts", "seconds", "versions"):
            value = getattr(self, name)
            require(isinstance(value, dict) and all(map(is_text, value)), name, value)
        require("images" in self.counts, "counts", self.counts)
        for name, count in self.counts.items():
            by_reason = isinstance(count, dict) and all(map(is_text, count))
            require(all(map(is_count, count.values())) if by_reason else is_count(count), f"counts.{name}", count)
        for name, value in {**self.seconds, "wall": self.wall}.items():
            require(is_duration(value), name, value)
        require(all(map(is_text, self.versions.values())), "versions", self.versions)
        require(datetime.fromisoformat(self.finished).tzinfo is not None, "finished", self.finished)
