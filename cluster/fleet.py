"""What a driver and its workers say to each other. Nothing here knows whether workers are Ray's or simulated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.errors import ImageError
from pipeline.images.manifest import Shard


@dataclass(frozen=True)
class Task:
    """One shard for one worker.

    probe: positions of images to try without committing anything, to find out which one kills its worker; None for the
        whole shard.
    given_up: by id, images that are set aside without being looked at.
    attempt: tells tasks of one shard apart.
    """

    shard: Shard
    attempt: int
    probe: tuple[int, ...] | None = None
    given_up: Mapping[str, ImageError] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images the worker looks at."""
        return len(self.shard.refs) - len(self.given_up) if self.probe is None else len(self.probe)


@dataclass(frozen=True)
class Joined:
    """A worker is ready. facts: where it is and what it has, for the log."""

    worker: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Computed:
    """The worker is free for its next task; what this one gave is being committed."""

    worker: str
    task: Task


@dataclass(frozen=True)
class Done:
    """The task is over: committed (by this worker or, where `won` is False, by another one before), or probed.

    counts, seconds, wall: as the commit has them; empty for probes.
    reasons: of the images set aside, counted.
    """

    worker: str
    task: Task
    won: bool = True
    counts: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    wall: float = 0.0


@dataclass(frozen=True)
class Failed:
    """The task raised an error; the worker lives, and is free."""

    worker: str
    task: Task
    error: str


@dataclass(frozen=True)
class Lost:
    """The worker is gone, and with it what it was doing. node_lost: its whole node went, so no image is to blame."""

    worker: str
    node_lost: bool
    detail: str


Event = Joined | Computed | Done | Failed | Lost


class Fleet(Protocol):
    """The workers of a run. It starts as many as there is room for and replaces those that go.

    `events` raises when no worker can ever come: CutsError when none can be placed, what a worker raised when none can
    be started.
    """

    def assign(self, worker: str, task: Task) -> None:
        """Give a free worker its next task."""

    def events(self, timeout: float) -> Sequence[Event]:
        """What happened; waits up to `timeout` seconds for something to happen."""
        ...

    def kill(self, worker: str) -> None:
        """End a worker whatever it does; a Lost follows."""

    def close(self) -> None:
        """End all workers."""
