"""The driver of a run: it holds the queue of shards, gives each worker one at a time, and answers for every fault.

It knows neither Ray nor files: workers are a `Fleet`, time is a clock, and what is done counts as done because a worker
says that it is committed. So a simulation of hundreds of workers drives this very code
(benchmarks/simulate_cluster.py).
"""

import heapq
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cluster.bisection import Inquest
from cluster.fleet import Computed, Done, Event, Failed, Fleet, Joined, Lost, Task
from cluster.shard_times import RecentTimes, UsualTimes
from pipeline.errors import CutsError, ImageError
from pipeline.images.manifest import Shard
from pipeline.wording import counted

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between looks at deadlines


# Why an image is set aside, by how the workers that looked at it ended.
VERDICTS = {
    "crashed": "every worker that looked at it died: the file breaks a library that reads it, or takes too much memory",
    "hung": "no worker that looked at it came to an end",
}


@dataclass(frozen=True)
class Rules:
    """How faults are answered.

    deadline: seconds a shard may take; None: 20 times what is usual by then for workers of that kind, 5 minutes at
        least, and an hour before three shards are done by that kind.
    errors: of a shard before it is given up.
    back_off: seconds before a shard that raised an error is tried again, doubled each time, a minute at most.
    crashes: of workers on a shard before its images are tried apart.
    acquittals: of all its images, before a shard whose workers die is given up.
    slow: when no shard waits, one that takes, or at its worker is about to take, this many times what an idle worker
        would need is given to that one too.
    hopeless: shards given up one after the other, with none committed in between, before the run is stopped.
    """

    deadline: float | None = None
    errors: int = 4
    back_off: float = 1.0
    crashes: int = 2
    acquittals: int = 5
    slow: float = 1.2
    hopeless: int = 3

    def __post_init__(self) -> None:
        if self.deadline is not None and self.deadline <= 0:
            raise ValueError(f"deadline must be above 0 seconds, got {self.deadline}")


class Observer:
    """Is told how the run goes; this one ignores it."""

    def joined(self, event: Joined) -> None:
        """A worker is ready."""

    def committed(self, done: Done) -> None:
        """A shard was committed by a worker of this driver."""

    def failure(self, key: str, reason: str, detail: str) -> None:
        """A shard was not done this time. reason: crashed, hung, error or node_lost."""

    def state(self, pending: int, running: int, workers: int) -> None:
        """Shards that wait, shards under way, workers; now and then."""


@dataclass
class _State:
    """One shard on its way."""

    shard: Shard
    attempts: int = 0
    errors: int = 0
    crashes: int = 0
    acquittals: int = 0
    inquest: Inquest | None = None
    given_up: dict[str, ImageError] = field(default_factory=dict)
    running: int = 0


@dataclass
class _Assignment:
    """A task at a worker.

    since: by the clock.
    killed: past its deadline.
    """

    task: Task
    since: float
    killed: bool = False

    def reason(self, lost: Lost) -> str:
        """Why it was not done, when its worker is gone."""
        return "hung" if self.killed else "node_lost" if lost.node_lost else "crashed"


@dataclass
class _Worker:
    """kind: workers of one kind are usually equally fast.
    computing: the task it works on.
    committing: those that it has computed.
    """

    kind: str
    recent: RecentTimes = field(default_factory=RecentTimes)
    computing: _Assignment | None = None
    committing: list[_Assignment] = field(default_factory=list)


class Driver:
    """Takes all shards to their commits. `run` returns the shards that were given up, by key, with the reason.

    elsewhere: keys that are committed by now, by anyone; asked now and then.
    """

    def __init__(
        self,
        fleet: Fleet,
        shards: Iterable[Shard],
        rules: Rules | None = None,
        observer: Observer | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        elsewhere: Callable[[], set[str]] | None = None,
        ask_every: float = 300.0,
    ) -> None:
        self._fleet = fleet
        self._rules = rules or Rules()
        self._observer = observer or Observer()
        self._clock = clock
        self._elsewhere = elsewhere
        self._ask_every = ask_every
        self._states = {shard.key: _State(shard) for shard in shards}
        self._ready = deque(self._states)
        self._later: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._inquests: deque[str] = deque()
        self._workers: dict[str, _Worker] = {}
        self._idle: dict[str, None] = {}  # a set that keeps its order
        self._probing = 0
        self._usual = UsualTimes()
        self._failed: dict[str, str] = {}
        self._failed_in_a_row = 0

    def run(self) -> dict[str, str]:
        """Until every shard is committed or given up.

        Raises CutsError when shard after shard fails, or no worker can be had: what is committed stays.
        """
        now = self._clock()
        looked, asked = now, now
        while self._states:
            self._hand_out(now)
            wait = TICK if not self._later else min(TICK, max(0.0, self._later[0][0] - now))
            events = self._fleet.events(wait)
            now = self._clock()
            for event in events:
                self._take(event, now)
            if now - looked >= TICK:
                looked = now
                self._usual.update()
                self._enforce_deadlines(now)
                self._observer.state(len(self._ready) + len(self._later), self._running(), len(self._workers))
            if self._elsewhere is not None and now - asked >= self._ask_every:
                asked = now
                for key in (self._elsewhere() & self._states.keys()) - self._committing():
                    self._finish(key)
        return self._failed

    def _running(self) -> int:
        return sum(worker.computing is not None for worker in self._workers.values())

    def _committing(self) -> set[str]:
        """Keys of shards that workers of this driver commit: they say themselves what comes of it."""
        return {own.task.shard.key for worker in self._workers.values() for own in worker.committing}

    # --- who does what next -------------------------------------------------------------------------------------------

    def _hand_out(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._later)[2])
        for name in sorted(self._idle, key=self._need) if len(self._idle) > 1 else list(self._idle):
            task = self._next_probe() or self._next_shard() or self._twin(name, now)
            if task is None and not self._workers[name].committing:
                return  # none of the next is faster
            if task is None:
                continue  # what it commits itself is not for it, and may be for the next one
            del self._idle[name]
            self._workers[name].computing = _Assignment(task, now)
            self._fleet.assign(name, task)

    def _next_probe(self) -> Task | None:
        """Probes kill workers: at most half of these are at it at once, so that the others get on with the run."""
        if self._probing and self._probing >= len(self._workers) // 2 and self._ready:
            return None
        for key in list(self._inquests):
            inquest = self._states[key].inquest if key in self._states else None
            if inquest is None:
                self._inquests.remove(key)
            elif inquest.open:
                self._probing += 1
                return self._task(key, inquest.next())
        return None

    def _next_shard(self) -> Task | None:
        while self._ready:
            key = self._ready.popleft()
            if key in self._states:  # not committed elsewhere meanwhile
                return self._task(key)
        return None

    def _need(self, name: str) -> float:
        """Seconds that a worker may need for a shard; infinite while unknown."""
        worker = self._workers[name]
        usual = self._usual.of(worker.kind)
        return math.inf if usual is None else max(usual, worker.recent.least)

    def _twin(self, idle: str, now: float) -> Task | None:
        """The slowest shard under way once more, when nothing else is left: the first to finish commits it.

        Again after that only when the worker who got it last is known to be slow.
        """
        slowest, longest = None, self._rules.slow * self._need(idle)
        for key, (took, left) in self._latest(now, without=idle).items():
            state = self._states.get(key)
            if state is None or state.crashes or state.inquest is not None:
                continue
            seconds = max(took, left) if state.running == 1 else left
            if seconds > longest:
                slowest, longest = key, seconds
        if slowest is None:
            return None
        log.info("shard %s is slow: an idle worker does it, too", slowest)
        return self._task(slowest)

    def _latest(self, now: float, without: str) -> dict[str, tuple[float, float]]:
        """Shards under way, without those of one worker: seconds since the last worker began, and that it has left."""
        latest: dict[str, tuple[float, float]] = {}
        for worker in self._workers.values():
            for own in (worker.computing, *worker.committing):
                if own is not None and own.task.probe is None:
                    took = now - own.since
                    left = worker.recent.least - took if own is worker.computing else 0.0
                    latest[own.task.shard.key] = min((took, left), latest.get(own.task.shard.key, (math.inf, 0.0)))
        for own in (self._workers[without].computing, *self._workers[without].committing):
            if own is not None:
                latest.pop(own.task.shard.key, None)
        return latest

    def _task(self, key: str, probe: tuple[int, ...] | None = None) -> Task:
        state = self._states[key]
        state.attempts += 1
        state.running += 1
        return Task(state.shard, state.attempts, probe, dict(state.given_up))

    # --- what became of it --------------------------------------------------------------------------------------------

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, Joined):
            self._workers[event.worker] = _Worker(str(event.facts.get("device")))
            self._idle[event.worker] = None
            self._observer.joined(event)
        elif event.worker not in self._workers:
            return  # of a worker that was counted as lost before
        elif isinstance(event, Computed):
            worker = self._workers[event.worker]
            if worker.computing is not None:
                worker.recent.add(now - worker.computing.since)
            worker.computing = None
            worker.committing.append(_Assignment(event.task, now))
            self._idle[event.worker] = None
        elif isinstance(event, Done):
            self._end(event.worker, event.task)
            if event.task.probe is not None:
                self._probed(event.task, None)
            else:
                self._done(event)
        elif isinstance(event, Failed):
            self._end(event.worker, event.task)
            if event.task.probe is not None:
                self._probed(event.task, None)  # an error is not a death
            else:
                self._error(event.task.shard.key, event.error, now)
        else:
            self._lost(event, now)

    def _end(self, name: str, task: Task) -> None:
        """The task is no longer with the worker."""
        worker = self._workers[name]
        if worker.computing is not None and worker.computing.task is task:
            worker.computing = None
            self._idle[name] = None
        else:
            worker.committing = [own for own in worker.committing if own.task is not task]
        self._let_go(task)

    def _let_go(self, task: Task) -> None:
        if task.probe is not None:
            self._probing -= 1
        state = self._states.get(task.shard.key)
        if state is not None:
            state.running -= 1

    def _done(self, event: Done) -> None:
        key = event.task.shard.key
        if event.won:
            self._usual.add(self._workers[event.worker].kind, event.wall)
            self._observer.committed(event)
        elif key in self._committing():  # a twin was first, whose own word is still on its way
            return
        if key in self._states:  # no twin was first
            self._finish(key)

    def _finish(self, key: str) -> None:
        del self._states[key]
        self._failed_in_a_row = 0

    def _error(self, key: str, error: str, now: float) -> None:
        state = self._states.get(key)
        if state is None:
            return
        self._observer.failure(key, "error", error)
        state.errors += 1
        if state.errors >= self._rules.errors:
            self._give_up(key, f"failed {counted(state.errors, 'time')}, at last with: {error}")
            return
        pause = min(self._rules.back_off * 2 ** (state.errors - 1), 60.0)
        log.warning("shard %s failed and is tried again in %.0f s: %s", key, pause, error)
        heapq.heappush(self._later, (now + pause, next(self._order), key))

    def _lost(self, event: Lost, now: float) -> None:
        worker = self._workers.pop(event.worker)
        self._idle.pop(event.worker, None)
        log.warning("worker %s is gone: %s", event.worker, event.detail)
        for own in worker.committing:
            self._let_go(own.task)
            self._again(own.task, own.reason(event), event.detail)
        if worker.computing is None:
            return
        task, reason = worker.computing.task, worker.computing.reason(event)
        self._let_go(task)
        if task.probe is not None:
            self._probed(task, reason)
            return
        state = self._states.get(task.shard.key)
        if state is not None and reason != "node_lost":
            state.crashes += 1
        self._again(task, reason, event.detail)

    def _again(self, task: Task, reason: str, detail: str) -> None:
        """A shard lost with its worker goes to the front of the queue, or its images are tried apart."""
        key = task.shard.key
        state = self._states.get(key)
        if state is None:
            return
        self._observer.failure(key, reason, detail)
        if state.running or state.inquest is not None:
            return  # a twin is at it
        if state.crashes < self._rules.crashes:
            self._ready.appendleft(key)
            return
        log.warning(
            "workers died on shard %s %s: looking for the image that does it", key, counted(state.crashes, "time")
        )
        state.inquest = Inquest(tuple(i for i, ref in enumerate(state.shard.refs) if ref.id not in state.given_up))
        self._inquests.append(key)

    def _probed(self, task: Task, died: str | None) -> None:
        """A probe is over. died: "crashed", "hung" or "node_lost"; None when its worker lives."""
        key = task.shard.key
        state = self._states.get(key)
        if state is None or state.inquest is None or task.probe is None:
            return
        inquest = state.inquest
        if died is None:
            inquest.survived()
        elif died == "node_lost":
            inquest.interrupted(task.probe)
        else:
            self._observer.failure(key, died, f"while trying {counted(len(task.probe), 'image')} apart")
            inquest.died(task.probe, died)
        if inquest.over:
            self._inquests.remove(key)
            state.inquest = None
            self._verdict(key, state, inquest)

    def _verdict(self, key: str, state: _State, inquest: Inquest) -> None:
        state.crashes = 0
        for position, how in inquest.culprits.items():
            ref = state.shard.refs[position]
            log.warning("image %s %s every worker that looked at it, and is set aside", ref.id, how)
            state.given_up[ref.id] = ImageError(how, VERDICTS[how])
        if not inquest.culprits:
            state.acquittals += 1
            if state.acquittals >= self._rules.acquittals:
                self._give_up(key, "workers die on it, and on none of its images alone: see their logs")
                return
        self._ready.append(key)  # at the back: if it was something else that killed workers, it may be over by then

    def _give_up(self, key: str, why: str) -> None:
        log.error("shard %s is given up: %s", key, why)
        self._failed[key] = why
        del self._states[key]
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._rules.hopeless:
            raise CutsError(
                f"{self._failed_in_a_row} shards in a row were given up, the last one ({key}): {why}. "
                "What is committed stays; the same command resumes from there"
            )

    def _enforce_deadlines(self, now: float) -> None:
        for name, worker in self._workers.items():
            assignments: Sequence[_Assignment] = worker.committing
            if worker.computing is not None:
                assignments = [worker.computing, *worker.committing]
            late = [
                own for own in assignments if not own.killed and now - own.since > self._limit(own.task, worker.kind)
            ]
            for own in late:
                own.killed = True
                log.warning(
                    "shard %s takes too long (%.0f s): its worker is ended", own.task.shard.key, now - own.since
                )
            if late:
                self._idle.pop(name, None)
                self._fleet.kill(name)

    def _limit(self, task: Task, kind: str) -> float:
        """Seconds a task may take; a tenth of a shard's time at least, since a worker also has to warm up."""
        limit = self._rules.deadline
        if limit is None:
            usual = self._usual.of(kind)
            limit = 3600.0 if usual is None else max(300.0, 20 * usual)
        return limit * max(0.1, task.images / max(len(task.shard.refs), 1))
