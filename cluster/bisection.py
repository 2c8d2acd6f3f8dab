"""Which images of a shard kill the worker that looks at them: found by halving, in tasks that commit nothing."""

from collections import Counter
from dataclasses import dataclass, field

CONVICTED_AFTER = 2  # deaths with an image alone: one may be anybody's doing


@dataclass
class Inquest:
    """An inquiry into one shard, whose workers died again and again.

    images: positions of those that may have done it.
    open: sets of them that are yet to be tried.
    culprits: by position, how the worker ended.
    """

    images: tuple[int, ...]
    open: list[tuple[int, ...]] = field(default_factory=list)
    culprits: dict[int, str] = field(default_factory=dict)
    _trying: int = 0
    _alone: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.open = _halves(self.images)

    @property
    def over(self) -> bool:
        """Whether every set was tried."""
        return not self.open and not self._trying

    def next(self) -> tuple[int, ...]:
        """A set to try now."""
        self._trying += 1
        return self.open.pop()

    def survived(self) -> None:
        """A set that was tried did no harm."""
        self._trying -= 1

    def interrupted(self, positions: tuple[int, ...]) -> None:
        """The worker was lost through no fault of the set: it is tried again."""
        self._trying -= 1
        self.open.append(positions)

    def died(self, positions: tuple[int, ...], how: str) -> None:
        """The worker died on the set. how: "crashed" or "hung"."""
        self._trying -= 1
        if len(positions) > 1:
            self.open += _halves(positions)
            return
        (image,) = positions
        self._alone[image] += 1
        if self._alone[image] >= CONVICTED_AFTER:
            self.culprits[image] = how
        else:
            self.open.append(positions)


def _halves(positions: tuple[int, ...]) -> list[tuple[int, ...]]:
    half = len(positions) // 2
    return [part for part in (positions[half:], positions[:half]) if part]
