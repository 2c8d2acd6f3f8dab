"""How fast a run goes and how long it has left, from its commit records.

Clocks of nodes differ, so a commit's time is told by whatever holds its record (`commit_times`), and a pace is made of
differences of such times alone. Only "how long ago" needs the clock of the one who asks; it is never below 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

WINDOW = 300.0  # seconds that a pace looks back, or
WINDOW_SHARDS = 3  # this many times what a shard takes, if that is longer
PAUSE = 60.0  # seconds without any shard in work, beyond which what was before says nothing of the pace now


@dataclass(frozen=True)
class TimedCommit:
    """What the pace needs of a commit.

    finished: ISO 8601 by the clock of `host`.
    written: of its record, seconds since 1970 by the clock of whatever holds it.
    wall: seconds that the shard took, an estimate where none is recorded.
    """

    images: int
    host: str
    finished: str
    written: float
    wall: float


@dataclass(frozen=True)
class Pace:
    """images_per_s over the `window` seconds before the last commit, which was `idle` seconds ago.

    left: seconds for what is missing at that pace; None when there is no pace, or nothing has been committed for so
    long that no driver seems to be at work.
    """

    images_per_s: float | None
    window: float
    idle: float
    left: float | None


def commit_times(commits: Sequence[TimedCommit]) -> list[float]:
    """When each commit happened, in seconds since 1970 by the clock of whatever holds the records.

    The time of a record in the store would do, had nobody ever copied a run: a copy is as old as the copying. So the
    nodes' own times are taken, each node's shifted by what its clock lags behind the store at least: copies keep their
    distances then, and a node's wrong clock does not show.
    """
    own = [datetime.fromisoformat(commit.finished).timestamp() for commit in commits]
    shift: dict[str, float] = {}
    for commit, finished in zip(commits, own, strict=True):
        lag = commit.written - finished
        shift[commit.host] = min(lag, shift.get(commit.host, lag))
    return [finished + shift[commit.host] for commit, finished in zip(commits, own, strict=True)]


def pace_of(commits: Sequence[TimedCommit], times: Sequence[float], images_left: int, now: float) -> Pace | None:
    """The pace at the end of `commits`, None when there are none.

    times: see `commit_times`.
    now: seconds since 1970 by the same clock.
    """
    if not commits:
        return None
    latest = sorted(zip(times, commits, strict=True), key=lambda pair: pair[0], reverse=True)
    last = latest[0][0]
    usual = median(commit.wall for _, commit in latest[:100])
    images, start = _worked(latest, last - max(WINDOW, WINDOW_SHARDS * usual))
    window, idle = last - start, max(0.0, now - last)
    rate = images / window if window > 0 else None
    is_going = idle < max(PAUSE, WINDOW_SHARDS * usual)
    return Pace(rate, window, idle, images_left / rate if rate and is_going else None)


def _worked(latest: Sequence[tuple[float, TimedCommit]], start: float) -> tuple[int, float]:
    """Images committed after `start`, or since the last pause in the work, and which of the two it was."""
    images, began = 0, latest[0][0]  # since `began` somebody was at work
    for time, commit in latest:
        if time < began - PAUSE:
            break
        if time <= start:
            return images, start
        images += commit.images
        began = min(began, time - commit.wall)
    return images, max(start, began)
