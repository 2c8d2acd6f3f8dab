"""The driver at moments that count to the second: a script says what happens when, and one sees what was assigned."""

import contextlib
from collections.abc import Callable, Sequence

from support.fake_fleet import some_shards

from cluster.driver import Driver, Observer, Rules
from cluster.fleet import Computed, Done, Event, Failed, Joined, Task
from pipeline.images.manifest import Shard


class End(Exception):  # noqa: N818  not an error
    """The script is over."""


class Script:
    """A fleet that does what it is told: at each time, in order, what a function makes of its tasks.

    task: by worker and key, the one that was assigned last. assigned: (time, worker, key).
    """

    def __init__(self, *steps: tuple[float, Callable[["Script"], Sequence[Event]]]) -> None:
        self.now = 0.0
        self.task: dict[tuple[str, str], Task] = {}
        self.assigned: list[tuple[float, str, str]] = []
        self.killed: list[str] = []
        self._steps = list(steps)

    def clock(self) -> float:
        return self.now

    def assign(self, worker: str, task: Task) -> None:
        assert worker not in self.killed, f"{worker} was ended"
        self.task[worker, task.shard.key[-1]] = task
        self.assigned.append((self.now, worker, task.shard.key[-1]))

    def events(self, timeout: float) -> Sequence[Event]:
        if not self._steps:
            raise End
        self.now, step = self._steps.pop(0)
        return step(self)

    def kill(self, worker: str) -> None:
        self.killed.append(worker)

    def close(self) -> None:
        """Nothing to end."""

    def drive(
        self, shards: Sequence[Shard], rules: Rules | None = None, elsewhere: Callable[[], set[str]] | None = None
    ) -> list[str]:
        """Until the script or the run is over; keys of the commits that were reported."""

        class Seen(Observer):
            def committed(self, done: Done) -> None:
                reported.append(done.task.shard.key[-1])

        reported: list[str] = []
        driver = Driver(self, shards, rules, Seen(), clock=self.clock, elsewhere=elsewhere, ask_every=60.0)
        with contextlib.suppress(End):
            driver.run()
        return reported


def join(*workers: str) -> Callable[[Script], list[Event]]:
    return lambda script: [Joined(worker, {"device": "GPU"}) for worker in workers]


def computed(worker: str, key: str) -> Callable[[Script], list[Event]]:
    return lambda script: [Computed(worker, script.task[worker, key])]


def done(worker: str, key: str, wall: float = 10.0) -> Callable[[Script], list[Event]]:
    """Computed, and committed in no time."""
    return lambda script: [
        Computed(worker, script.task[worker, key]),
        Done(worker, script.task[worker, key], wall=wall),
    ]


def committed(worker: str, key: str) -> Callable[[Script], list[Event]]:
    return lambda script: [Done(worker, script.task[worker, key], wall=10.0)]


def failed(worker: str, key: str) -> Callable[[Script], list[Event]]:
    return lambda script: [Failed(worker, script.task[worker, key], "no space left")]


def nothing(script: Script) -> list[Event]:
    return []


def both(*parts: Callable[[Script], Sequence[Event]]) -> Callable[[Script], list[Event]]:
    return lambda script: [event for part in parts for event in part(script)]


# A slow worker and a fast one, by the time that 0 to 3 are done: 30 s and 10 s a shard.
SLOW_AND_FAST = (
    (0.0, join("slow", "fast")),
    (10.0, done("fast", "1")),
    (20.0, done("fast", "2")),
    (30.0, both(done("slow", "0", 30.0), done("fast", "3"))),
)


def test_a_worker_that_was_ended_gets_nothing_more() -> None:
    """Its commit hung while it was idle, and a shard was to be had at that very moment."""
    script = Script(
        (0.0, join("w1", "w2")),
        (9.9, failed("w2", "1")),
        (10.0, computed("w1", "0")),
        (30.5, failed("w2", "1")),
        (30.6, nothing),
    )
    script.drive(some_shards(2), Rules(deadline=20.0, back_off=0.0))
    assert script.killed == ["w1"]
    assert script.assigned[-1] == (30.5, "w2", "1")


def test_a_commit_is_reported_though_it_was_listed_before_its_worker_said_so() -> None:
    script = Script((0.0, join("w1")), (5.0, computed("w1", "0")), (65.0, nothing), (66.0, committed("w1", "0")))
    assert script.drive(some_shards(1), elsewhere=lambda: {"00000"}) == ["0"]


def test_a_commit_is_reported_though_it_was_listed_while_the_worker_seemed_to_compute() -> None:
    script = Script((0.0, join("w1", "w2")), (65.0, nothing), (66.0, done("w1", "0")))
    assert script.drive(some_shards(2), elsewhere=lambda: {"00000"}) == ["0"]


def test_the_last_shard_goes_to_the_fastest_who_is_idle() -> None:
    script = Script(*SLOW_AND_FAST)
    script.drive(some_shards(5))
    assert script.assigned[-1] == (30.0, "fast", "4")


def test_a_shard_that_is_about_to_take_long_is_not_waited_for() -> None:
    """The slow worker has had it for 10 of 30 s when the fast one, who needs 10, has nothing else to do."""
    script = Script(*SLOW_AND_FAST, (40.0, done("fast", "4")), (40.1, nothing))
    script.drive(some_shards(6))
    assert script.assigned[-2:] == [(30.0, "slow", "5"), (40.0, "fast", "5")]


def test_a_slow_worker_does_nothing_twice_that_a_fast_one_ends_sooner() -> None:
    script = Script(*SLOW_AND_FAST, (44.0, nothing), (45.0, nothing))
    script.drive(some_shards(5))
    assert script.assigned[-1] == (30.0, "fast", "4"), "45 s are late for a fast one, and 36 s what the slow one needs"


def test_a_shard_is_done_a_third_time_where_the_second_worker_is_slow() -> None:
    script = Script(
        (0.0, join("slow", "fast", "odd")),
        (10.0, done("fast", "1")),
        (20.0, done("fast", "3")),
        (30.0, both(done("slow", "0", 30.0), done("fast", "4"))),
        (36.5, nothing),
        (40.0, done("fast", "5")),
        (40.1, nothing),
        (45.0, join("late")),
        (46.0, nothing),
    )
    script.drive(some_shards(6))
    assert [at for at in script.assigned if at[2] == "2"] == [
        (0.0, "odd", "2"),
        (36.5, "slow", "2"),
        (40.0, "fast", "2"),
    ]


def test_a_commit_that_hangs_is_done_by_somebody_else_and_not_by_the_same_worker() -> None:
    alone = (
        (0.0, join("w1")),
        *((10.0 * (i + 1), done("w1", str(i))) for i in range(3)),
        (40.0, computed("w1", "3")),
        (60.0, nothing),
    )
    script = Script(*alone, (61.0, nothing))
    script.drive(some_shards(4))
    assert [key for _, _, key in script.assigned] == ["0", "1", "2", "3"]
    script = Script(*alone, (61.0, join("w2")), (62.0, nothing))
    script.drive(some_shards(4))
    assert script.assigned[-1] == (61.0, "w2", "3")


def test_what_is_usual_is_known_by_kind_of_worker() -> None:
    """A worker without a GPU that has done nothing yet has an hour, whatever GPUs need."""

    def join_cpu(script: Script) -> list[Event]:
        return [Joined("cpu", {"device": "CPU"}), Joined("gpu", {"device": "GPU"})]

    steps = [(10.0 * (i + 1), done("gpu", str(i + 1))) for i in range(4)]
    script = Script((0.0, join_cpu), *steps, (3500.0, nothing), (3601.0, nothing))
    script.drive(some_shards(5), Rules(slow=1e6))
    assert script.killed == ["cpu"]
    assert script.now == 3601.0
    script = Script((0.0, join_cpu), *steps, (3500.0, nothing))
    script.drive(some_shards(5), Rules(slow=1e6))
    assert script.killed == []
