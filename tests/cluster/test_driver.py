"""The driver against a fleet on a virtual clock: every shard is committed once, whatever happens to the workers."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_fleet import COMMIT, START, FakeFleet, some_shards

from cluster.bisection import Inquest
from cluster.driver import Driver, Observer, Rules
from cluster.fleet import Done, Joined, Task
from pipeline.errors import CutsError
from pipeline.images.manifest import Shard


class Seen(Observer):
    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.committed_keys: list[str] = []
        self.workers: list[int] = []

    def joined(self, event: Joined) -> None:
        self.failures["joined"] += 1

    def committed(self, done: Done) -> None:
        self.committed_keys.append(done.task.shard.key)

    def failure(self, key: str, reason: str, detail: str) -> None:
        self.failures[reason] += 1

    def state(self, pending: int, running: int, workers: int) -> None:
        assert running <= workers
        self.workers.append(workers)


def drive(fleet: FakeFleet, shards: Sequence[Shard], rules: Rules | None = None) -> tuple[dict[str, str], Seen]:
    seen = Seen()
    failed = Driver(fleet, shards, rules, seen, clock=fleet.clock).run()
    assert sorted(seen.committed_keys) == sorted(fleet.commits), "each commit is reported once"
    return failed, seen


def quarantined(fleet: FakeFleet) -> set[str]:
    return {image for _, given_up in fleet.commits.values() for image in given_up}


def test_every_shard_is_done_once_and_commits_overlap_with_the_next_shard() -> None:
    fleet = FakeFleet(4)
    failed, _ = drive(fleet, some_shards(40))
    assert failed == {}
    assert len(fleet.commits) == len(fleet.assigned) == 40
    assert fleet.now <= START + 10 * 8 + COMMIT + 1, "ten shards of eight seconds a worker, only the last commit shows"


def test_the_word_of_a_commit_is_waited_for_when_a_twin_has_seen_it_first() -> None:
    fleet = FakeFleet(2, word=lambda worker: 60.0 if worker == "w1" else 0.0)
    failed, _ = drive(fleet, some_shards(7))  # which asserts that each commit is reported
    assert failed == {}
    assert len(fleet.assigned) > 7, "shards had twins"


def test_nothing_to_do() -> None:
    assert Driver(FakeFleet(1), []).run() == {}


@pytest.mark.parametrize("kind", ["deadly", "hanging"])
def test_an_image_that_ends_workers_is_found_and_set_aside(kind: str) -> None:
    bad = ("00003/5.jpg", "00003/6.jpg", "00017/0.jpg")
    fleet = FakeFleet(4, **{kind: bad})  # type: ignore[arg-type]
    failed, seen = drive(fleet, some_shards(30), Rules(deadline=60.0))
    assert failed == {}
    assert len(fleet.commits) == 30
    assert quarantined(fleet) == set(bad)
    reasons = {error.reason for _, _, task in fleet.assigned for error in task.given_up.values()}
    assert reasons == {"crashed" if kind == "deadly" else "hung"}
    assert seen.failures["crashed" if kind == "deadly" else "hung"] > 0
    before = [task.shard.key for _, _, task in fleet.assigned if task.probe is None]
    assert all(before.count(key) == (3 if key in ("00003", "00017") else 1) for key in set(before))


def test_a_worker_killed_from_outside_convicts_nobody() -> None:
    kills = [(7.0 + 6 * i, f"w{1 + i}", False) for i in range(12)]
    fleet = FakeFleet(3, kills=kills)
    failed, seen = drive(fleet, some_shards(40))
    assert failed == {}
    assert len(fleet.commits) == 40
    assert quarantined(fleet) == set()
    assert seen.failures["crashed"] >= 6


def test_a_lost_node_is_nobodys_fault() -> None:
    """Its shard is done again, and never tried image by image, however often it happens."""
    kills = [(9.0 + 10 * i, f"w{1 + i}", True) for i in range(8)]
    fleet = FakeFleet(1, kills=kills)
    failed, seen = drive(fleet, some_shards(3))
    assert failed == {}
    assert len(fleet.commits) == 3
    assert all(task.probe is None for _, _, task in fleet.assigned)
    assert seen.failures["node_lost"] >= 3
    assert not seen.failures["crashed"]


def test_a_shard_lost_while_it_was_committed_is_done_again() -> None:
    fleet = FakeFleet(1, kills=[(START + 8 + COMMIT / 2, "w1", False)])
    failed, _ = drive(fleet, some_shards(2))
    assert failed == {}
    assert len(fleet.commits) == 2


def test_an_error_is_tried_again_after_a_pause() -> None:
    tries: list[float] = []

    def error(task: object) -> str | None:
        tries.append(fleet.now)
        return "the disk is full" if len(tries) < 4 else None

    fleet = FakeFleet(1, error=error)
    failed, seen = drive(fleet, some_shards(1), Rules(back_off=2.0))
    assert failed == {}
    assert seen.failures["error"] == 3
    pauses = [later - earlier - 8 for earlier, later in pairwise(tries)]
    assert pauses == pytest.approx([2, 4, 8], abs=1.0)


def test_a_shard_that_fails_again_and_again_is_given_up_and_named() -> None:
    fleet = FakeFleet(2, error=lambda task: "its file is damaged" if task.shard.key == "00002" else None)
    failed, _ = drive(fleet, some_shards(12))
    assert set(failed) == {"00002"}
    assert "4 times" in failed["00002"]
    assert "its file is damaged" in failed["00002"]
    assert len(fleet.commits) == 11


def test_when_every_shard_fails_the_run_is_stopped() -> None:
    fleet = FakeFleet(2, error=lambda task: "no space left on device")
    with pytest.raises(CutsError, match=r"3 shards in a row were given up.*no space left on device"):
        drive(fleet, some_shards(100))
    assert len(fleet.assigned) < 30


def test_a_shard_on_which_workers_die_though_no_image_does_it_is_given_up() -> None:
    """As when all images together take too much memory: nobody is set aside for it."""
    fleet = FakeFleet(2)
    assign = fleet.assign

    def deadly_as_a_whole(worker: str, task: Task) -> None:
        assign(worker, task)
        if task.shard.key == "00001" and task.probe is None:
            fleet.die_at(fleet.now + 1, worker)

    fleet.assign = deadly_as_a_whole  # type: ignore[method-assign]
    failed, _ = drive(fleet, some_shards(10))
    assert set(failed) == {"00001"}
    assert "none of its images alone" in failed["00001"]
    assert quarantined(fleet) == set()
    assert len(fleet.commits) == 9


def test_images_given_up_are_not_tried_again() -> None:
    """A shard with a culprit, on which workers die for another reason, too, comes to an end."""
    fleet = FakeFleet(2, deadly=["00001/2.jpg"])
    assign = fleet.assign

    def deadly_as_a_whole(worker: str, task: Task) -> None:
        assign(worker, task)
        assert task.probe is None or not {task.shard.refs[i].id for i in task.probe} & set(task.given_up)
        if task.shard.key == "00001" and task.probe is None:
            fleet.die_at(fleet.now + 1, worker)

    fleet.assign = deadly_as_a_whole  # type: ignore[method-assign]
    failed, _ = drive(fleet, some_shards(4))
    assert set(failed) == {"00001"}


def test_the_slowest_shard_is_given_out_twice_at_the_end() -> None:
    slow = FakeFleet(4, seconds=lambda worker: 50.0 if worker == "w1" else 1.0)
    drive(slow, some_shards(40))
    key = next(task.shard.key for _, worker, task in slow.assigned if worker == "w1")
    assert [task.shard.key for _, _, task in slow.assigned].count(key) == 2
    assert slow.commits[key][0] != "w1"
    assert slow.now < START + 50 * 8 / 2, "the run ended without waiting for it"
    assert len(slow.assigned) == 41, "nothing else was done twice"


def test_workers_that_come_late_get_work_and_speed_the_run_up() -> None:
    alone, joined = FakeFleet(1), FakeFleet(1, joins=[40.0, 40.0, 40.0])
    drive(alone, some_shards(30))
    drive(joined, some_shards(30))
    assert len({worker for _, worker, _ in joined.assigned}) == 4
    assert joined.now < 0.5 * alone.now


def test_shards_that_somebody_else_commits_are_not_done() -> None:
    fleet = FakeFleet(1)
    theirs = {f"{i:05d}" for i in range(10, 20)}
    failed = Driver(
        fleet, some_shards(20), clock=fleet.clock, elsewhere=lambda: theirs if fleet.now > 30 else set(), ask_every=10
    ).run()
    assert failed == {}
    assert set(fleet.commits) == {f"{i:05d}" for i in range(10)}


def test_a_deadline_is_that_of_the_whole_shard_and_less_for_a_probe() -> None:
    fleet = FakeFleet(1, hanging=["00000/3.jpg"])
    drive(fleet, some_shards(1), Rules(deadline=80.0))
    probes = [(when, task) for when, _, task in fleet.assigned if task.probe is not None]
    alone = [when for when, task in probes if task.probe == (3,)]
    assert len(alone) == 2
    assert alone[1] - alone[0] == pytest.approx(10 + START, abs=2.0), "an eighth of the images, an eighth of the time"


def test_without_a_deadline_it_is_learnt_from_what_is_usual() -> None:
    fleet = FakeFleet(2, hanging=["00009/0.jpg"])
    _, seen = drive(fleet, some_shards(10))
    assert seen.failures["hung"] > 0
    assert quarantined(fleet) == {"00009/0.jpg"}
    assert fleet.now < 4000


def test_bad_rules_are_named() -> None:
    with pytest.raises(ValueError, match="deadline"):
        Rules(deadline=0)


@settings(max_examples=60)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=6))))
def test_an_inquest_finds_exactly_the_culprits(case: tuple[int, set[int]]) -> None:
    images, bad = case
    inquest, tried = Inquest(tuple(range(images))), 0
    while not inquest.over:
        positions = inquest.next()
        tried += 1
        if bad & set(positions):
            inquest.died(positions, "crashed")
        else:
            inquest.survived()
    assert set(inquest.culprits) == bad
    assert tried <= 2 + len(bad) * 2 * (images.bit_length() + 1)


@settings(max_examples=40)
@given(
    st.integers(1, 6),
    st.sets(st.sampled_from([f"{i:05d}/{k}.jpg" for i in range(12) for k in range(8)]), max_size=4),
    st.sets(st.sampled_from([f"{i:05d}/{k}.jpg" for i in range(12) for k in range(8)]), max_size=2),
    st.lists(st.tuples(st.floats(0, 300), st.integers(1, 30), st.booleans()), max_size=8),
)
def test_whatever_happens_every_image_is_committed_once_or_set_aside_for_a_reason(
    workers: int, deadly: set[str], hanging: set[str], kills: list[tuple[float, int, bool]]
) -> None:
    fleet = FakeFleet(
        workers,
        deadly=sorted(deadly),
        hanging=sorted(hanging),
        kills=[(when, f"w{number}", with_node) for when, number, with_node in kills],
        joins=[100.0],
    )
    failed, _ = drive(fleet, some_shards(12), Rules(deadline=40.0))
    assert failed == {}
    assert set(fleet.commits) == {f"{i:05d}" for i in range(12)}
    assert quarantined(fleet) >= deadly | hanging, "or a worker would have been held for ever"
