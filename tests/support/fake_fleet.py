"""A fleet on a virtual clock: what each shard and each image does to a worker is said by the test."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Sequence

from cluster.fleet import Computed, Done, Event, Failed, Joined, Lost, Task
from pipeline.images.manifest import ImageRef, Shard

START = 5.0  # seconds until a worker is ready
COMMIT = 0.5  # seconds of a commit


def some_shards(n: int, images: int = 8) -> list[Shard]:
    return [
        Shard(f"{i:05d}", tuple(ImageRef(f"{i:05d}/{k}.jpg", f"/data/{i}/{k}.jpg") for k in range(images)))
        for i in range(n)
    ]


class FakeFleet:
    """`workers` workers that take a second an image.

    deadly, hanging: ids of images that kill or hold every worker. seconds: of an image for a worker; by default 1.
    word: seconds that a worker's word of its commit is on its way; by default 0.
    error: asked at each task, the error that it raises or None. kills: at these times the worker of that name dies,
    with its node when True. joins: workers that come later, at these times.

    Keeps what a run folder would: `commits`, who committed each shard and which images were given up.
    """

    def __init__(
        self,
        workers: int,
        *,
        deadly: Sequence[str] = (),
        hanging: Sequence[str] = (),
        seconds: Callable[[str], float] = lambda worker: 1.0,
        word: Callable[[str], float] = lambda worker: 0.0,
        error: Callable[[Task], str | None] = lambda task: None,
        kills: Sequence[tuple[float, str, bool]] = (),
        joins: Sequence[float] = (),
    ) -> None:
        self.now = 0.0
        self.deadly, self.hanging = set(deadly), set(hanging)
        self.seconds, self.error, self.word = seconds, error, word
        self.commits: dict[str, tuple[str, frozenset[str]]] = {}
        self.assigned: list[tuple[float, str, Task]] = []
        self.lost: Counter[str] = Counter()
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], list[Event]]]] = []
        self._names = itertools.count(1)
        self._alive: set[str] = set()
        self._killed: list[Event] = []
        for _ in range(workers):
            self._start(START)
        for when in joins:
            self._start(when)
        for when, name, with_node in kills:
            self._at(when, lambda name=name, with_node=with_node: self._die(name, with_node, "killed"))

    def clock(self) -> float:
        return self.now

    def assign(self, worker: str, task: Task) -> None:
        assert worker in self._alive, f"{worker} is gone"
        self.assigned.append((self.now, worker, task))
        error = self.error(task)
        positions = range(len(task.shard.refs)) if task.probe is None else task.probe
        took = 0.0
        for position in positions:
            image = task.shard.refs[position].id
            if image in task.given_up:
                continue
            took += self.seconds(worker)
            if image in self.deadly:
                self._at(self.now + took, lambda: self._die(worker, False, "crash"))
                return
            if image in self.hanging:
                return
        if error is not None:
            self._at(self.now + took, lambda: [Failed(worker, task, error)] if worker in self._alive else [])
        elif task.probe is not None:
            self._at(self.now + took, lambda: [Done(worker, task)] if worker in self._alive else [])
        else:
            self._at(self.now + took, lambda: self._computed(worker, task, took))

    def events(self, timeout: float) -> Sequence[Event]:
        if self._killed:
            happened, self._killed = self._killed, []
            return happened
        end = self.now + timeout
        while self._events and self._events[0][0] <= end:
            self.now, _, happens = heapq.heappop(self._events)
            if happened := happens():
                return happened
        self.now = end
        return []

    def kill(self, worker: str) -> None:
        self._killed += self._die(worker, False, "killed by the driver")

    def close(self) -> None:
        self._alive.clear()

    def die_at(self, when: float, worker: str) -> None:
        """The worker dies then, whatever it does."""
        self._at(when, lambda: self._die(worker, False, "killed"))

    def _at(self, when: float, happens: Callable[[], list[Event]]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _start(self, when: float) -> None:
        name = f"w{next(self._names)}"

        def join() -> list[Event]:
            self._alive.add(name)
            return [Joined(name, {})]

        self._at(when, join)

    def _computed(self, worker: str, task: Task, took: float) -> list[Event]:
        if worker not in self._alive:
            return []

        def commit() -> list[Event]:
            if worker not in self._alive:
                return []
            won = task.shard.key not in self.commits
            if won:
                self.commits[task.shard.key] = worker, frozenset(task.given_up)
            counts = {"images": len(task.shard.refs), "quarantined": len(task.given_up)}
            done = Done(worker, task, won, counts, seconds={"refine": took}, wall=took + COMMIT)
            if won and self.word(worker) > 0:
                self._at(self.now + self.word(worker), lambda: [done] if worker in self._alive else [])
                return []
            return [done]

        self._at(self.now + COMMIT, commit)
        return [Computed(worker, task)]

    def _die(self, worker: str, with_node: bool, detail: str) -> list[Event]:
        if worker not in self._alive:
            return []
        self._alive.discard(worker)
        self.lost[detail] += 1
        self._start(self.now + START)
        return [Lost(worker, with_node, detail)]
