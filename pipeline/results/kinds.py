"""What a run can hold: results of any kind that can write, read, count, check and describe themselves.

Runs, engine, command line and pages ask the kind and know no masks. Kinds that are there: `pipeline.results.registry`.

B images of a shard · H, W pixels
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

QUARANTINED = "quarantined"

Counts = dict[str, Any]
"""Integers by name, and below some names again integers by name: images, quarantined, and what a kind adds."""


@dataclass(frozen=True)
class Failed:
    """An image that could not be used, in the place of its result.

    id: of the image.
    reason: one word, for programs.
    detail: a sentence, for people.
    size: height and width of the image, (0, 0) where they are not known.
    """

    id: str
    reason: str
    detail: str
    size: tuple[int, int] = (0, 0)

    status = QUARANTINED

    def __post_init__(self) -> None:
        if not self.id or not self.reason:
            raise ValueError(f"Failed needs the image's id and a reason, not {self.id!r} and {self.reason!r}")


class ResultShard(Protocol):
    """The file of a shard's results, opened."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Of its images, in the manifest's order."""

    @property
    def done(self) -> np.ndarray:
        """bool (B,): the images that have a result, and are not `Failed`."""

    def __len__(self) -> int:
        """B."""

    def result(self, image: int) -> Any:
        """What there is of image 0..B-1: a result of the kind, or `Failed`. ValueError or StoreError when damaged."""


class ResultFile(Protocol):
    """How the results of a shard are written, and what a commit counts of them: all that is asked of kept stages."""

    @property
    def name(self) -> str:
        """Of the kind, as run.json has it; of a kept stage "method/stage"."""

    def write(self, results: Sequence[Any], attributes: Mapping[str, Any]) -> bytes:
        """The file of a shard: the same bytes for the same results.

        results: one an image in the manifest's order, `Failed` for those that could not be used.
        attributes: JSON-able, for people who find the file alone.
        """

    def open(self, source: bytes | Path, name: str = "") -> Any:
        """Read a shard's file. `name` is what messages call it. StoreError when it is damaged, RunMismatchError when it
        is of another schema.
        """

    def counts(self, results: Iterable[Any]) -> Counts:
        """Of these results: images, quarantined, and what the kind adds."""

    def log(self, result: Any) -> dict[str, Any]:
        """What the shard's log says of one image: its status, and a few facts."""


class ResultKind(ResultFile, Protocol):
    """A kind of result. An image's result has at least `id`, and `status`, a word that is not "quarantined"."""

    schema: str
    """Name and version of the files."""

    def open(self, source: bytes | Path, name: str = "") -> ResultShard:
        """See `ResultFile.open`."""

    def check(self, shard: Any) -> Iterator[str]:
        """What is wrong with the shard's results, a sentence each; their number is checked by the caller."""

    def summary(self, counts: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """What counts say to people: a word of at most 11 letters, and its value."""

    def brief(self, counts: Mapping[str, Any]) -> str:
        """The same for a progress bar: a few words, or ""."""

    def survey(self, parts: Iterable[tuple[Any, np.ndarray]]) -> dict[str, Any]:
        """Figures of a whole run, JSON-able. parts: its shards, each with bool (B,), the images that count."""

    def survey_lines(self, survey: Mapping[str, Any]) -> Sequence[str]:
        """The same for people, below the lines of `summary`."""

    def draw(self, rgb_HW3: np.ndarray, result: Any) -> Any:
        """The photo, uint8 (H, W, 3), with the result on it, as a PIL image of any size."""

    def facts(self, result: Any) -> Mapping[str, float | int | str]:
        """What a page shows of an image beside its picture, and sorts by: few, the same names for all images."""


def quarantine_of(results: Iterable[Any]) -> list[dict[str, str]]:
    """The failed among the results, as the commit keeps them: dicts of id, reason and detail."""
    return [{"id": r.id, "reason": r.reason, "detail": r.detail} for r in results if isinstance(r, Failed)]


def basic_counts(results: Iterable[Any]) -> Counts:
    """What is counted of results of any kind: images, and how many of them failed."""
    failed = [isinstance(result, Failed) for result in results]
    return {"images": len(failed), "quarantined": sum(failed)}


def added(total: Mapping[str, Any], counts: Mapping[str, Any]) -> Counts:
    """The sum of two counts, name by name; names below names in alphabetical order."""
    names = [*total, *(name for name in counts if name not in total)]
    return {name: _sum(total.get(name), counts.get(name)) for name in names}


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        both = Counter(one or {})
        both.update(other or {})
        return dict(sorted(both.items()))
    return (one or 0) + (other or 0)


def same_fields(first: Any, second: Any) -> bool:
    """Whether two dataclasses are equal field by field, arrays as a whole (the equality of dataclasses fails there: an
    array has no single truth value).
    """
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b
        for a, b in ((getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    )
