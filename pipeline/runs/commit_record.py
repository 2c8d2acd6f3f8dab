"""One commit record and what it may hold. It is read from a folder that others can write to, so it is checked."""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 300


@dataclass(frozen=True)
class CommittedFile:
    """A file that a commit names: name from the run folder's root, length, sha256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str), "name", self.name)
        _require(_is_count(self.bytes), "bytes", self.bytes)
        _require(isinstance(self.sha256, str) and bool(_SHA256.fullmatch(self.sha256)), "sha256", self.sha256)


@dataclass(frozen=True)
class Commit:
    """One commit record, as read.

    counts: images, masks, drops (by reason), quarantined; of a kept stage at least images.
    seconds: by stage. finished: ISO 8601, UTC. quarantine: None when no image was set aside. worker: process that did
    it, "host:pid". wall: seconds from its first image to its commit. Records of earlier versions lack these two.

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

    def __post_init__(self) -> None:
        for name in ("key", "attempt", "fingerprint", "digest", "host", "worker", "finished"):
            _require(_is_text(getattr(self, name)), name, getattr(self, name))
        for name in ("counts", "seconds", "versions"):
            value = getattr(self, name)
            _require(isinstance(value, dict) and all(map(_is_text, value)), name, value)
        _require("images" in self.counts, "counts", self.counts)
        for name, count in self.counts.items():
            by_reason = name == "drops" and isinstance(count, dict) and all(map(_is_text, count))
            _require(all(map(_is_count, count.values())) if by_reason else _is_count(count), f"counts.{name}", count)
        for name, value in {**self.seconds, "wall": self.wall}.items():
            _require(_is_duration(value), name, value)
        _require(all(map(_is_text, self.versions.values())), "versions", self.versions)
        _require(datetime.fromisoformat(self.finished).tzinfo is not None, "finished", self.finished)


def _require(holds: bool, name: str, value: object) -> None:
    if not holds:
        raise ValueError(f"its {name} cannot be {value!r:.80}")


def _is_text(value: object) -> bool:
    """Short and printable: it is shown on terminals."""
    return isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
