"""What a shard usually takes: of each kind of worker, since a worker without a GPU may take fifty times as long, and of
each worker, since one of a kind may sit on a slow machine.
"""

import statistics
from collections import defaultdict, deque

RECENT = 101  # shards whose times say what is usual
FEW = 3  # shards that have to be done before anything is usual


class UsualTimes:
    """Seconds from the beginning of a shard to its commit, the median of the last ones, by kind of worker."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._medians: dict[str, float] = {}

    def add(self, kind: str, seconds: float) -> None:
        """A shard was done; it counts from the next `update` on."""
        self._seconds[kind].append(seconds)

    def update(self) -> None:
        """Called now and then: medians of hundreds of times a second would say the same."""
        self._medians = {
            kind: statistics.median(seconds) for kind, seconds in self._seconds.items() if len(seconds) >= FEW
        }

    def of(self, kind: str) -> float | None:
        """None while too few were done."""
        return self._medians.get(kind)


class RecentTimes:
    """Of one worker, its last three shards: the least of them, so that one odd shard does not count."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=3)

    def add(self, seconds: float) -> None:
        """A shard was computed."""
        self._seconds.append(seconds)

    @property
    def least(self) -> float:
        """In seconds; 0 before the first shard."""
        return min(self._seconds, default=0.0)
