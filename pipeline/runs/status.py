"""What is done of a run, from its commit records alone: no shard is opened, and nothing needs to be running."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.exit_status import exit_status
from pipeline.results.kinds import Counts
from pipeline.results.registry import kind_named
from pipeline.runs.ledger import Commit, is_retry
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.standing import standing_by
from pipeline.runs.throughput import WINDOW, Pace, TimedCommit, commit_times, pace_of
from pipeline.storage.files import FileFacts
from pipeline.wording import counted, duration

SHOWN = 5  # slowest shards and latest workers that people are shown; programs get all workers


@dataclass(frozen=True)
class SlowShard:
    """A shard that took long: its key, seconds from its first image to its commit, and who did it."""

    key: str
    seconds: float
    worker: str


@dataclass(frozen=True)
class WorkerSeen:
    """A process that committed shards: "host:pid", or the host where no process is recorded; how many shards and
    images, and how many seconds ago the last.
    """

    worker: str
    shards: int
    images: int
    idle: float


@dataclass
class RunStatus:
    """The status of a run.

    run, recipe, result: where it is, what makes it, and the kind of what it holds.
    shards, images: of the manifest.
    done_shards, done_images: committed.
    counts: of all commits, as the kind of result counts.
    quarantined: images that no later retry has processed.
    seconds: by stage, summed.
    last: when the last shard was committed, ISO 8601, by the store's clock.
    pace: recent images per second, and what is left.
    usual_seconds: what a shard takes, median.
    slowest, workers: worst and latest first.
    kept: shards committed, by kept stage.
    damaged: commits that do not count, with the reason: their records, or the lengths of their files, are not right.
    """

    run: str
    recipe: str
    result: str
    shards: int
    images: int
    done_shards: int = 0
    done_images: int = 0
    counts: Counts = field(default_factory=dict)
    quarantined: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    last: str = ""
    pace: Pace | None = None
    usual_seconds: float = 0.0
    slowest: list[SlowShard] = field(default_factory=list)
    workers: list[WorkerSeen] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every shard is committed, and legibly so."""
        return self.done_shards == self.shards and not self.damaged

    @property
    def exit_status(self) -> int:
        """See `pipeline.exit_status`."""
        return exit_status(not self.complete, self.quarantined)

    def as_dict(self) -> dict[str, Any]:
        """For programs: all of it as JSON-able values, and `complete`."""
        listed = {"slowest": [*map(asdict, self.slowest)], "workers": [*map(asdict, self.workers)]}
        own = {name: value for name, value in self.counts.items() if name not in ("images", "quarantined")}
        plain = {name: value for name, value in vars(self).items() if name != "counts"}
        return {**plain, **own, **listed, "pace": asdict(self.pace) if self.pace else None, "complete": self.complete}

    def line(self) -> str:
        """The progress in one line."""
        parts = [
            f"{self.done_shards} of {counted(self.shards, 'shard')}",
            f"{self.done_images} of {counted(self.images, 'image')}",
        ]
        if self.pace is not None and not self.complete:
            parts += [self._rate(self.pace), f"time left {self._left(self.pace)}"]
        if self.quarantined:
            parts.append(f"{self.quarantined} set aside")
        return ", ".join([*parts, *(["complete"] if self.complete else [])])

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"run          {self.run} ({self.recipe})",
            f"shards       {self.done_shards} of {self.shards} done",
            f"images       {self.done_images} of {self.images} done"
            + (f", {self.quarantined} of them set aside" if self.quarantined else ""),
        ]
        if self.pace is not None and not self.complete:
            lines.append(f"pace         {self._rate(self.pace)}, last commit {duration(self.pace.idle)} ago")
            lines.append(f"time left    {self._left(self.pace)}")
        if self.done_images:
            lines += [f"{word:<12} {value}" for word, value in kind_named(self.result).summary(self.counts)]
            seconds = ", ".join(f"{stage} {value / self.done_images:.3f}" for stage, value in self.seconds.items())
            lines.append(f"s/image      {seconds}")
            lines.append(f"last commit  {self.last}")
        if self.slowest:
            slowest = ", ".join(f"{s.key} {duration(s.seconds)} ({s.worker})" for s in self.slowest)
            lines.append(f"a shard      {duration(self.usual_seconds)} usually; slowest: {slowest}")
        lines += self._worker_lines()
        if self.quarantined:
            commands = "`cuts3d info` says why, `cuts3d retry-quarantined` tries again"
            lines.append(f"set aside    {counted(self.quarantined, 'image')}: {commands}")
        lines += [
            f"kept         {stage}: {done} of {counted(self.shards, 'shard')}" for stage, done in self.kept.items()
        ]
        lines += [f"damaged      {problem}" for problem in self.damaged]
        return lines

    def _worker_lines(self) -> Iterator[str]:
        if not self.workers:
            return
        newest = min(worker.idle for worker in self.workers)
        lately = sum(worker.idle - newest <= WINDOW for worker in self.workers)
        yield f"workers      {len(self.workers)} seen, {lately} in the {duration(WINDOW)} before the last commit"
        for seen in self.workers[:SHOWN]:
            last = "" if self.complete else f", last {duration(seen.idle)} ago"
            yield f"             {seen.worker}: {counted(seen.shards, 'shard')}, {counted(seen.images, 'image')}{last}"
        if len(self.workers) > SHOWN:
            yield f"             and {len(self.workers) - SHOWN} more, see --json"

    def _rate(self, pace: Pace) -> str:
        if pace.images_per_s is None:
            return "no pace yet"
        return f"{pace.images_per_s:.2f} images/s over {duration(pace.window)}"

    def _left(self, pace: Pace) -> str:
        if pace.left is not None:
            return duration(pace.left)
        return f"unknown: nothing committed for {duration(pace.idle)}, is anybody at work?" if pace.idle else "unknown"


@dataclass(frozen=True)
class _Row:
    """What is kept of a commit. is_timed: whether the record says how long the shard took."""

    done: TimedCommit
    is_timed: bool
    worker: str
    counts: Counts
    seconds: dict[str, float]


class StatusReader:
    """Status of a run, as often as asked; a commit record is read once, however often that is.

    Raises StoreError when there is no run at `url`.
    """

    def __init__(self, url: str | Path) -> None:
        self.run = RunFolder.open(url)
        self._facts: dict[str, FileFacts] = {}
        self._commits: dict[str, _Row] = {}
        self._damaged: dict[str, str] = {}
        self._clock_offset = 0.0
        self._asked: float | None = None

    def read(self) -> RunStatus:
        """The status now."""
        run = self.run
        asked = time.time()
        facts = run.ledger.commit_facts()
        for gone in self._facts.keys() - facts.keys():
            self._commits.pop(gone, None)
            self._damaged.pop(gone, None)
        new = {key: fact for key, fact in facts.items() if self._facts.get(key) != fact}
        commits, problems = run.ledger.survey(new)
        for key in new:
            self._commits.pop(key, None)
            self._damaged.pop(key, None)
        cut = run.ledger.cut_files(commits)
        for key, commit in commits.items():
            if key in cut:
                self._damaged[key] = f"{cut[key]}. {run.ledger.remedy([key])}"
            elif run.is_planned(key) or is_retry(key):
                self._commits[key] = _row(commit, facts[key])
            else:
                self._damaged[key] = f"commit record {key}.json is of no shard of this run: move that file away"
        self._damaged |= {key: str(problem) for key, problem in problems.items()}
        # A record that went away between listing and reading is asked for again.
        self._facts = {key: fact for key, fact in facts.items() if key in self._commits or key in self._damaged}
        self._correct_clock(asked, [self._commits[key].done for key in commits if key in self._commits])
        return self._status(asked + self._clock_offset)

    def _correct_clock(self, asked: float, new: list[TimedCommit]) -> None:
        """Between two readings a new record tells the store's clock: written after the one, before the other."""
        if new:
            newest = max(done.written for done in new)
            earliest = newest - asked
            latest = float("inf") if self._asked is None else newest - self._asked
            self._clock_offset = min(max(self._clock_offset, earliest), latest)
        self._asked = asked

    def _status(self, now: float) -> RunStatus:
        run = self.run
        status = RunStatus(run.url, run.recipe, run.result, run.n_shards, run.n_images)
        rows = dict(sorted(self._commits.items()))
        standing = standing_by(run, {key: row.counts for key, row in rows.items()})
        status.done_shards, status.done_images = standing.done, standing.done_images
        status.quarantined, status.counts = standing.set_aside, standing.counts
        for row in rows.values():
            status.seconds.update(row.seconds)
        done = [row.done for row in rows.values()]
        times = commit_times(done)
        status.pace = pace_of(done, times, run.n_images - status.done_images, now)
        if times:
            status.last = datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds")
        timed = [SlowShard(key, row.done.wall, row.worker) for key, row in rows.items() if row.is_timed]
        status.slowest = sorted(timed, key=lambda shard: -shard.seconds)[:SHOWN]
        status.usual_seconds = median(shard.seconds for shard in timed) if timed else 0.0
        status.workers = _workers(rows.values(), times, now)
        for stage in run.kept_stages():
            status.kept[stage] = len(run.stage_ledger(stage).committed_keys())
        status.damaged = [self._damaged[key] for key in sorted(self._damaged)]
        return status


def status_of(url: str | Path) -> RunStatus:
    """The status of a run folder; StoreError when there is none."""
    return StatusReader(url).read()


def _row(commit: Commit, facts: FileFacts) -> _Row:
    counts = commit.counts
    # Records of earlier versions do not say how long the shard took; the stages' seconds are less, but not much.
    wall = commit.wall or sum(commit.seconds.values())
    return _Row(
        done=TimedCommit(counts["images"], commit.host, commit.finished, facts.modified, wall),
        is_timed=commit.wall > 0,
        worker=commit.worker or commit.host,
        counts=counts,
        seconds=commit.seconds,
    )


def _workers(rows: Iterable[_Row], times: Iterable[float], now: float) -> list[WorkerSeen]:
    shards, images, last = Counter[str](), Counter[str](), dict[str, float]()
    for row, time_ in zip(rows, times, strict=True):
        shards[row.worker] += 1
        images[row.worker] += row.done.images
        last[row.worker] = max(time_, last.get(row.worker, time_))
    return [
        WorkerSeen(worker, shards[worker], images[worker], max(0.0, now - time_))
        for worker, time_ in sorted(last.items(), key=lambda pair: -pair[1])
    ]
