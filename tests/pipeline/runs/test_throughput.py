"""How fast a run goes, where clocks are wrong, records are copied and work pauses."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipeline.runs.throughput import PAUSE, WINDOW, TimedCommit, commit_times, pace_of

START = 1_800_000_000.0


def done(time: float, host: str = "a", *, images: int = 10, wall: float = 20.0, skew: float = 0.0) -> TimedCommit:
    """A shard finished `time` seconds after the start, by the store's clock, on a node whose clock is `skew` ahead."""
    own = datetime.fromtimestamp(START + time + skew, UTC).isoformat(timespec="milliseconds")
    return TimedCommit(images, host, own, START + time + 0.25, wall)


def pace(commits: list[TimedCommit], left: int = 1000, idle: float = 0.0):
    return pace_of(commits, times := commit_times(commits), left, max(times) + idle)


def test_no_commit_no_pace() -> None:
    assert pace_of([], [], 10, START) is None


def test_one_shard_is_a_pace() -> None:
    found = pace([done(20)], left=100)
    assert (found.images_per_s, found.window, found.left) == pytest.approx((0.5, 20, 200))


def test_two_workers_do_twice_as_much() -> None:
    commits = [done(20 * i, host) for i in range(1, 200) for host in ("a", "b")]
    found = pace(commits)
    assert (found.images_per_s, found.window) == pytest.approx((1.0, WINDOW))
    assert found.left == pytest.approx(1000)


def test_slow_shards_widen_the_window() -> None:
    found = pace([done(600 * i, wall=600) for i in range(1, 10)])
    assert (found.images_per_s, found.window) == pytest.approx((10 / 600, 1800))


@pytest.mark.parametrize("skew", [-7200.0, -30.0, 30.0, 7200.0])
def test_a_node_with_a_wrong_clock_changes_nothing(skew: float) -> None:
    true = [done(20 * i, host) for i in range(1, 30) for host in ("a", "b")]
    wrong = [done(20 * i, host, skew=skew * (host == "b")) for i in range(1, 30) for host in ("a", "b")]
    assert commit_times(wrong) == pytest.approx(commit_times(true))
    assert pace(wrong).images_per_s == pytest.approx(pace(true).images_per_s)
    assert pace(wrong).idle == pace(true).idle == 0


def test_a_copied_run_keeps_its_pace() -> None:
    commits = [done(20 * i) for i in range(1, 30)]
    copied = [replace(commit, written=START + 1e6 + i / 1000) for i, commit in enumerate(commits)]
    assert pace(copied).images_per_s == pytest.approx(0.5)


def test_a_night_between_two_launches_does_not_count() -> None:
    evening = [done(20 * i) for i in range(1, 30)]
    morning = [done(40_000 + 5 * i, images=10, wall=5) for i in range(1, 4)]
    found = pace(evening + morning)
    assert (found.images_per_s, found.window) == pytest.approx((2.0, 15))


def test_a_short_pause_counts() -> None:
    commits = [done(20), done(20 + PAUSE - 1 + 20)]
    assert pace(commits).images_per_s == pytest.approx(20 / (40 + PAUSE - 1))


def test_nobody_at_work_no_promise() -> None:
    commits = [done(20 * i) for i in range(1, 30)]
    assert pace(commits, idle=50).left is not None
    found = pace(commits, idle=3600)
    assert (found.left, found.idle) == (None, pytest.approx(3600))
    assert found.images_per_s == pytest.approx(0.5), "what it was is still told"


def test_a_clock_that_is_behind_gives_no_negative_age() -> None:
    assert pace([done(20)], idle=-500).idle == 0


def test_records_without_a_duration() -> None:
    found = pace([done(20, wall=0)])
    assert (found.images_per_s, found.left) == (None, None)
