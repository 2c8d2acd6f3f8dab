"""Workers as Ray actors: placed, started, replaced, and told apart from the nodes that they die with."""

import itertools
import logging
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from cluster.fleet import Computed, Done, Event, Failed, Joined, Lost, Task
from cluster.sent_errors import SentError
from cluster.worker import Answer, Made, OpenRun, Worker, WorkerSpec
from pipeline.errors import ConfigError, CutsError
from pipeline.wording import counted

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0  # seconds between looks at what the cluster has
SAY_AFTER = 30.0  # seconds without a worker after which the log says why
START_PAUSE = 60.0  # seconds after a worker could not start before another one is tried
NODE_DIED = ("its node has died", "node was terminated")  # as Ray words it
START_FAILURES = 3  # workers that could not start, while none could, before the run is stopped
START_DEATHS = 10  # the same for workers that died while they started, which may be anybody's doing


@dataclass(frozen=True)
class Kind:
    """Workers of one kind.

    gpus, cpus: of each.
    count: how many; None: as many as the cluster has room for.
    """

    spec: WorkerSpec
    gpus: float
    cpus: int
    count: int | None

    def fits(self, resources: dict[str, float]) -> int:
        """How many of these a node with these resources holds."""
        by_cpu = resources.get("CPU", 0.0) // self.cpus
        return int(by_cpu if not self.gpus else min(by_cpu, resources.get("GPU", 0.0) // self.gpus))

    def __str__(self) -> str:
        return f"{self.gpus:g} GPU and {self.cpus} CPU" if self.gpus else f"{self.cpus} CPU"


@dataclass
class _Actor:
    """A worker and where it stands.

    facts: empty until it was placed on a node.
    joined: it works on the run.
    """

    name: str
    kind: Kind
    handle: Any
    facts: dict[str, Any] = field(default_factory=dict)
    joined: bool = False


class RayFleet:
    """The `Fleet` of a connected Ray.

    patience: seconds to wait for resources that no node has; None waits for ever, as suits a cluster that grows.
    most: there is no use in more workers than this.
    """

    def __init__(self, kinds: Sequence[Kind], most: int, patience: float | None) -> None:
        self._kinds = kinds
        self._most = most
        self._patience = patience
        self._run: OpenRun | None = None
        self._numbers = itertools.count(1)
        self._actors: dict[str, _Actor] = {}
        self._waits: dict[Any, tuple[str, str, Task | None]] = {}  # reference -> worker, method, task
        self._loaded: deque[str] = deque()  # workers that wait for the run to be opened
        self._happened: list[Event] = []
        self._looked = float("-inf")
        self._lonely_since = time.monotonic()
        self._said = self._lonely_since
        self._start_failures = 0
        self._not_before = 0.0
        self._made: Made | None = None

    # --- what a driver asks for ---------------------------------------------------------------------------------------

    def open(self, run: OpenRun) -> None:
        """From now on workers work on this run."""
        self._run = run

    def first_made(self) -> Made:
        """How the run is made, as the first worker that has loaded its models knows it; waits for that."""
        while self._made is None:
            self._turn(1.0)
        return self._made

    def assign(self, worker: str, task: Task) -> None:
        self._call(worker, "compute", task, task)

    def events(self, timeout: float) -> Sequence[Event]:
        self._turn(timeout)
        happened, self._happened = self._happened, []
        return happened

    def kill(self, worker: str) -> None:
        self._lose(worker, "it was ended by the driver", node_lost=False)

    def close(self) -> None:
        for name in list(self._actors):
            self._drop(name)

    # --- turns --------------------------------------------------------------------------------------------------------

    def _turn(self, timeout: float) -> None:
        """Look after the workers once, and wait for something to happen."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._look(now)
        while self._run is not None and self._loaded:
            name = self._loaded.popleft()
            if name in self._actors:
                self._call(name, "open", None, self._run)
        if self._happened:
            timeout = 0.0
        if not self._waits:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(list(self._waits), num_returns=1, timeout=timeout)
        while ready:
            for reference in ready:
                if reference in self._waits:
                    self._take(reference, *self._waits.pop(reference))
            ready, _ = ray.wait(list(self._waits), num_returns=len(self._waits), timeout=0) if self._waits else ([], [])

    def _call(self, name: str, method: str, task: Task | None, *arguments: Any) -> None:
        reference = getattr(self._actors[name].handle, method).remote(*arguments)
        self._waits[reference] = name, method, task

    def _take(self, reference: Any, name: str, method: str, task: Task | None) -> None:
        """What came of a call."""
        try:
            answer: Answer = ray.get(reference)
        except RayTaskError as error:  # not the work itself, which answers for its errors: what was sent cannot be read
            answer = Answer(error=SentError(str(error)))
        except RayError as error:  # the process is gone, killed for its memory for instance, or cannot be reached
            self._died(name, error)
            return
        actor = self._actors[name]
        if method in ("hello", "load", "open"):
            self._started(actor, method, answer)
        elif answer.error and task is not None:
            self._happened.append(Failed(name, task, answer.error.text))
        elif method == "compute" and task is not None and task.probe is None:
            self._happened.append(Computed(name, task))
            self._call(name, "commit", task, task.shard.key, task.attempt)
        elif task is not None:
            self._happened.append(Done(name, task, **(answer.value or {})))

    def _started(self, actor: _Actor, method: str, answer: Answer) -> None:
        if answer.error:
            self._could_not_start(actor.name, answer.error.error(), START_FAILURES, START_PAUSE)
        elif method == "hello":
            actor.facts = answer.value
            self._call(actor.name, "load", None)
        elif method == "load":
            actor.facts |= answer.value["facts"]
            self._made = self._made or answer.value["made"]
            self._loaded.append(actor.name)
        else:
            actor.joined = True
            self._start_failures = 0
            self._happened.append(Joined(actor.name, actor.facts))

    def _could_not_start(self, name: str, error: Exception, most: int, pause: float) -> None:
        """One bad node must not stop the others, but when none can start there is no point in continuing."""
        self._drop(name)
        self._start_failures += 1
        if not any(actor.joined for actor in self._actors.values()) and (
            self._start_failures >= most or (isinstance(error, CutsError) and error.fatal)
        ):
            raise error
        log.warning("a worker could not start, the next one is tried in %.0f s: %s", pause, error)
        self._not_before = time.monotonic() + pause

    # --- gains and losses ---------------------------------------------------------------------------------------------

    def _died(self, name: str, error: Exception) -> None:
        actor = self._actors[name]
        detail = _said(error)
        node_lost = _node_is_gone(actor.facts.get("node", ""), error)
        if actor.joined:
            self._lose(name, detail, node_lost)
        elif node_lost:
            self._drop(name)
        else:
            self._could_not_start(name, CutsError(f"a worker died while it started: {detail}"), START_DEATHS, 1.0)

    def _lose(self, name: str, detail: str, node_lost: bool) -> None:
        self._drop(name)
        self._happened.append(Lost(name, node_lost, detail))
        self._looked = float("-inf")  # replaced at once

    def _drop(self, name: str) -> None:
        actor = self._actors.pop(name)
        self._waits = {reference: wait for reference, wait in self._waits.items() if wait[0] != name}
        ray.kill(actor.handle)

    def _look(self, now: float) -> None:
        """Start workers that there is room for, end those that wait for room that has gone."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for kind in self._kinds:
            room = sum(kind.fits(resources) for resources in nodes)
            wanted = min(self._most, room if kind.count is None else kind.count)
            own = [actor for actor in self._actors.values() if actor.kind is kind]
            if now >= self._not_before:
                for _ in range(wanted - len(own)):
                    self._start(kind)
            waiting = [actor for actor in own if not actor.facts]
            for actor in waiting[: max(0, len(own) - wanted)]:
                self._drop(actor.name)
        if any(actor.joined for actor in self._actors.values()):
            self._lonely_since = self._said = now
        elif now - self._said >= SAY_AFTER or (self._patience is not None and not self._possible(nodes)):
            self._said = now
            self._complain(nodes, now - self._lonely_since)

    def _start(self, kind: Kind) -> None:
        name = f"worker-{next(self._numbers)}"
        # Ray repeats nothing by itself: one crashing image would take the calls queued behind it with it.
        options: Any = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"commit": 1}}
        actor: Any = ray.remote(num_cpus=kind.cpus, num_gpus=kind.gpus, **options)(Worker)
        self._actors[name] = _Actor(name, kind, actor.remote(kind.spec))
        self._call(name, "hello", None)

    def _possible(self, nodes: Sequence[dict[str, float]]) -> bool:
        return any(kind.fits(resources) for kind in self._kinds for resources in nodes)

    def _complain(self, nodes: Sequence[dict[str, float]], waited: float) -> None:
        """Say why there is no worker; ConfigError when there will never be one."""
        gpus, cpus = (sum(resources.get(name, 0.0) for resources in nodes) for name in ("GPU", "CPU"))
        has = f"the cluster has {counted(len(nodes), 'node')} with {gpus:g} GPU and {cpus:g} CPU in all"
        wants = " or ".join(map(str, self._kinds))
        loading = sum(bool(actor.facts) for actor in self._actors.values())
        if loading:
            log.warning("no worker yet after %.0f s: %d are loading their models", waited, loading)
            return
        if self._possible(nodes):
            log.warning(
                "no worker yet after %.0f s: one takes %s, and %s; its process is starting, or others use these",
                *(waited, wants, has),
            )
            return
        without = "--device cpu or " if any(kind.gpus for kind in self._kinds) else ""
        message = f"no node has room for a worker, which takes {wants}: {has}. Use {without}--cpus-per-worker"
        if self._patience is not None and waited >= self._patience:
            raise ConfigError(message + ", or add nodes")
        log.warning("%s, or wait for nodes that have", message)


def _said(error: Exception) -> str:
    """All that Ray says of a death, but for its advice, which fills a screen."""
    if isinstance(error, OutOfMemoryError):
        return "its node ran low on memory, and Ray ended it"
    why = re.split("The actor (?:is dead|died) because ", str(error))[-1]
    return why.partition("Some common causes")[0].strip()


def _node_is_gone(node: str, error: Exception) -> bool:
    """Whether a worker died with its node, so that nothing that it did is to blame."""
    if getattr(error, "preempted", False) or any(sign in str(error) for sign in NODE_DIED):
        return True
    return any(known["NodeID"] == node and not known["Alive"] for known in ray.nodes())
