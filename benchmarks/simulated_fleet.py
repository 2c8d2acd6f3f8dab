"""Workers that only take time: a `cluster.fleet.Fleet` on a clock of its own, with the faults of a real cluster.

What a worker does with a shard is a time; it can be slow, stall, raise an error, die alone or with its node, and die or
hang at an image that does that to everybody. What is committed goes into a ledger that counts every image. The clock
jumps from event to event, so hours of 512 workers pass in seconds, and one seed always gives the same run.
"""

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.fleet import Computed, Done, Event, Failed, Joined, Lost, Task
from pipeline.images.manifest import Shard

NODE = 8  # workers of one node
SLOW = 3.0  # a slow worker takes this many times as long
CPU = 30.0  # and one without a GPU
TENFOLD = 10.0  # a stall, a heavy shard


@dataclass(frozen=True)
class World:
    """How long things take, in seconds, and how often they go wrong.

    image: of a worker of speed 1. commit: from computed to committed. start: of a worker until its models are loaded.
    node: until a lost node is replaced. call: of the driver's own time, for every call to a worker and every answer.
    Both with the figures that results/ray_calls.csv has of Ray. answer: until the driver hears of what happened.
    listing: of the driver's time, for every thousand commits, when it asks what was committed elsewhere: a page of S3.
    spread: sigma of the logarithm of the shards' times, a property of the shard. heavy: share of shards that take ten
    times as long wherever they are done. stalls: share of attempts that take ten times as long.
    slow_workers, cpu_workers: share of workers that take 3 and 30 times as long. late: share of workers that join some
    time during the first half of the run.
    deaths: of a worker, by hour. node_losses: of a node with its 8 workers, by hour. errors: share of attempts that
    raise one. stuck_commits: share of commits that never end. killers, hangers: images that end or hang every worker
    that looks at them.
    """

    image: float = 0.1
    commit: float = 0.5
    start: float = 30.0
    node: float = 120.0
    call: float = 0.0015
    answer: float = 0.005
    listing: float = 0.1
    spread: float = 0.0
    heavy: float = 0.0
    stalls: float = 0.0
    slow_workers: float = 0.0
    cpu_workers: float = 0.0
    late: float = 0.0
    deaths: float = 0.0
    node_losses: float = 0.0
    errors: float = 0.0
    stuck_commits: float = 0.0
    killers: int = 0
    hangers: int = 0


class Ledger:
    """Commits by key, the first one counts; and for every image how often it was committed, and how often set aside.

    first: by key, where the shard's images begin in done and aside. times: by key, when it was committed.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        starts = itertools.accumulate((len(shard.refs) for shard in shards), initial=0)
        self.first = {shard.key: start for shard, start in zip(shards, starts, strict=False)}
        self.done = np.zeros(sum(len(shard.refs) for shard in shards), np.uint8)
        self.aside = np.zeros_like(self.done)
        self.times: dict[str, float] = {}

    def commit(self, task: Task, now: float) -> bool:
        """Whether this attempt was the first."""
        key, refs = task.shard.key, task.shard.refs
        if key in self.times:
            return False
        self.times[key] = now
        first = self.first[key]
        if not task.given_up:
            self.done[first : first + len(refs)] += 1
            return True
        for position, ref in enumerate(refs, start=first):
            (self.aside if ref.id in task.given_up else self.done)[position] += 1
        return True


@dataclass
class _Worker:
    """speed: images are done in 1/speed of their time. busy_until: of its commits, which go one after the other."""

    name: str
    place: int
    speed: float
    joined: bool = False
    gone: bool = False
    busy_until: float = 0.0


@dataclass
class Tally:
    """What happened. deaths: of workers alone. capacity: by how much the speed of all workers changed, and when."""

    deaths: int = 0
    node_losses: int = 0
    errors: int = 0
    attempts: int = 0
    probes: int = 0
    capacity: list[tuple[float, float]] = field(default_factory=list)


class SimulatedFleet:
    """`workers` workers on nodes of 8.

    now: the simulated time. cpu: seconds of this process that went into simulating. work: seconds that all shards take
    at speed 1. ledger, tally: what became of it.
    """

    def __init__(self, world: World, shards: Sequence[Shard], workers: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        n = len(shards)
        factors = rng.lognormal(-(world.spread**2) / 2, world.spread, n) * np.where(
            rng.random(n) < world.heavy, TENFOLD, 1.0
        )
        self._factor = dict(zip((shard.key for shard in shards), factors.tolist(), strict=True))
        self._lethal = _lethal(world, shards, rng)
        self.work = sum(world.image * len(shard.refs) * self._factor[shard.key] for shard in shards)
        self.ledger = Ledger(shards)
        self.tally = Tally()
        self.now = self.cpu = 0.0
        self._world = world
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._happened: list[Event] = []
        self._workers: dict[str, _Worker] = {}
        self._places = [self._speed(place, workers) for place in range(workers)]
        self._nodes = [range(first, min(first + NODE, workers)) for first in range(0, workers, NODE)]
        self._at_place: dict[int, _Worker] = {}
        half_time = self.work / sum(self._places) / 2
        for place in range(workers):
            late = self._random.random() < world.late
            self._hire(place, self._random.uniform(0, half_time) if late else 0.0)
        for node in range(len(self._nodes)):
            self._fear(world.node_losses, self._lose_node, node)

    # --- what a driver asks for ---------------------------------------------------------------------------------------

    def clock(self) -> float:
        return self.now

    def assign(self, worker: str, task: Task) -> None:
        began = time.process_time()
        self.now += self._world.call
        self._begin(self._workers[worker], task)
        self.cpu += time.process_time() - began

    def events(self, timeout: float) -> Sequence[Event]:
        began = time.process_time()
        until = self.now + timeout
        while self._agenda and self._agenda[0][0] <= (self.now if self._happened else until):
            when, _, what, arguments = heapq.heappop(self._agenda)
            self.now = max(self.now, when)
            what(*arguments)
        happened, self._happened = self._happened, []
        self.now = self.now + self._world.call * len(happened) if happened else until
        self.cpu += time.process_time() - began
        return happened

    def kill(self, worker: str) -> None:
        self._lose(self._workers.pop(worker), node_lost=False, back_in=0.0)

    def close(self) -> None:
        self._agenda.clear()

    # --- what goes on -------------------------------------------------------------------------------------------------

    def _at(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), what, arguments))

    def _fear(self, by_hour: float, what: Callable[..., None], *arguments: Any) -> None:
        if by_hour:
            self._at(self._random.expovariate(by_hour / 3600), what, *arguments)

    def _say(self, event: Event) -> None:
        self._happened.append(event)

    def _speed(self, place: int, workers: int) -> float:
        if place >= round(workers * (1 - self._world.cpu_workers)):
            return 1 / CPU
        return 1 / SLOW if self._random.random() < self._world.slow_workers else 1.0

    def _hire(self, place: int, wait: float) -> None:
        worker = _Worker(f"worker-{next(self._numbers)}", place, self._places[place])
        self._workers[worker.name] = self._at_place[place] = worker
        self._at(wait + self._world.start * self._random.uniform(0.8, 1.2), self._join, worker)

    def _join(self, worker: _Worker) -> None:
        if worker.gone:
            return
        worker.joined = True
        self.tally.capacity.append((self.now, worker.speed))
        self._say(Joined(worker.name, {"device": "CPU" if worker.speed == 1 / CPU else "GPU"}))
        self._fear(self._world.deaths, self._die, worker)

    def _die(self, worker: _Worker) -> None:
        if not worker.gone:
            self.tally.deaths += 1
            self._lose(worker, node_lost=False, back_in=0.0)

    def _lose_node(self, node: int) -> None:
        self.tally.node_losses += 1
        for place in self._nodes[node]:
            self._lose(self._at_place[place], node_lost=True, back_in=self._world.node)
        self._fear(self._world.node_losses, self._lose_node, node)

    def _lose(self, worker: _Worker, *, node_lost: bool, back_in: float) -> None:
        if worker.gone:
            return
        worker.gone = True
        if worker.joined:
            self.tally.capacity.append((self.now, -worker.speed))
            self._at(self._world.answer, self._mourn, worker, node_lost)
        self._hire(worker.place, back_in)

    def _mourn(self, worker: _Worker, node_lost: bool) -> None:
        self._workers.pop(worker.name, None)  # as a driver that has killed it knows already
        self._say(Lost(worker.name, node_lost, "simulated"))

    def _begin(self, worker: _Worker, task: Task) -> None:
        if worker.gone:
            return  # and the driver is to hear of it
        world, key = self._world, task.shard.key
        if task.probe is None:
            self.tally.attempts += 1
        else:
            self.tally.probes += 1
        positions = range(len(task.shard.refs)) if task.probe is None else task.probe
        an_image = world.image * self._factor[key] / worker.speed
        if self._random.random() < world.stalls:
            an_image *= TENFOLD
        lethal = self._lethal.get(key, {})
        given_up = [ref.id in task.given_up for ref in task.shard.refs] if lethal and task.given_up else []
        for looked_at, position in enumerate(positions):
            if position in lethal and not (given_up and given_up[position]):
                if lethal[position] == "kills":
                    self._at(looked_at * an_image, self._die, worker)
                return  # or hangs: nothing more is heard of it
            if not lethal:
                break
        if self._random.random() < world.errors:
            self._at(self._random.random() * task.images * an_image, self._fail, worker, task)
        else:
            self._at(task.images * an_image, self._computed, worker, task)

    def _fail(self, worker: _Worker, task: Task) -> None:
        if not worker.gone:
            self.tally.errors += 1
            self._at(self._world.answer, self._say, Failed(worker.name, task, "simulated"))

    def _computed(self, worker: _Worker, task: Task) -> None:
        if worker.gone:
            return
        if task.probe is not None:
            self._at(self._world.answer, self._say, Done(worker.name, task))
            return
        took = task.images * self._world.image * self._factor[task.shard.key]
        self._at(self._world.answer, self._say, Computed(worker.name, task))
        takes = self._world.commit * self._random.uniform(0.5, 1.5)
        if self._random.random() < self._world.stuck_commits:
            takes = math.inf
        worker.busy_until = max(self.now, worker.busy_until) + takes
        self._at(worker.busy_until - self.now, self._commit, worker, task, took / worker.speed)

    def _commit(self, worker: _Worker, task: Task, wall: float) -> None:
        if not worker.gone:
            won = self.ledger.commit(task, self.now)
            self._at(self._world.answer, self._say, Done(worker.name, task, won=won, wall=wall))

    def keys(self) -> set[str]:
        """Of all committed shards, as a listing gives them."""
        began = time.process_time()
        keys = set(self.ledger.times)
        self.now += self._world.listing * math.ceil(len(keys) / 1000)
        self.cpu += time.process_time() - began
        return keys

    # --- what is known in the end -------------------------------------------------------------------------------------

    def lethal_images(self) -> np.ndarray:
        """Of every image, whether it kills or hangs workers."""
        lethal = np.zeros(len(self.ledger.done), bool)
        for key, positions in self._lethal.items():
            lethal[[self.ledger.first[key] + position for position in positions]] = True
        return lethal


def ideal_end(capacity: Iterable[tuple[float, float]], work: float) -> float:
    """When so much work is done if no worker that is there ever waits, and nothing is done twice."""
    speed = now = 0.0
    for when, change in capacity:
        if speed * (when - now) >= work:
            break
        work -= speed * (when - now)
        now, speed = when, speed + change
    return now + work / speed if speed > 0 else math.inf


def _lethal(world: World, shards: Sequence[Shard], rng: np.random.Generator) -> dict[str, dict[int, str]]:
    """By key of the shard and position in it: what the image does."""
    found: dict[str, dict[int, str]] = {}
    for how, count in (("kills", world.killers), ("hangs", world.hangers)):
        for index in rng.choice(len(shards), count, replace=False):
            shard = shards[index]
            found.setdefault(shard.key, {})[int(rng.integers(len(shard.refs)))] = how
    return found
