"""The simulation of a cluster: the driver loses no image whatever the fleet goes through, and wastes little time.

Its fleet does what others do not: workers of very different speed, commits that never end, events that come late.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import simulate_cluster
from simulate_cluster import SCENARIOS, check, manifest_of, simulate
from simulated_fleet import SimulatedFleet, World, ideal_end

from cluster.driver import Driver, Rules
from cluster.fleet import Task
from pipeline.images.manifest import Shard

WORKERS = 16


@pytest.fixture(scope="module")
def shards() -> list[Shard]:
    """13 for each of 16 workers."""
    return manifest_of(208 * 50, 208).shards()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "cluster")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_every_image_is_once_in_the_ledger(shards: list[Shard], seed: int) -> None:
    world = replace(SCENARIOS["everything"], deaths=20.0, node_losses=20.0, errors=0.05, stuck_commits=0.01)
    row = simulate("everything", world, shards, WORKERS, seed)  # raises unless the ledger is right
    assert row.set_aside == 8
    assert row.deaths > 5
    assert row.errors > 0
    assert row.redone > 20


def test_without_faults_nothing_is_done_twice_and_no_worker_waits(shards: list[Shard]) -> None:
    row = simulate("even", World(), shards, WORKERS)
    assert row.whole_shards == 1.0
    assert row.efficiency > 0.95
    assert (row.redone, row.deaths, row.set_aside) == (0, 0, 0)


def test_slow_workers_do_not_hold_up_the_end(shards: list[Shard]) -> None:
    world = World(slow_workers=0.2, stalls=0.02)
    twins, alone = (simulate("uneven", world, shards, WORKERS, 1, rules) for rules in (Rules(), Rules(slow=1000.0)))
    assert alone.redone == 0 < twins.redone
    assert twins.efficiency > alone.efficiency + 0.1
    assert twins.efficiency > 0.85


def test_workers_without_a_gpu_are_not_taken_for_hung(shards: list[Shard]) -> None:
    """Their shards take over seven minutes where others take 15 s, and 5 minutes are the least deadline."""
    world = World(image=0.3, cpu_workers=0.25)
    fleet = SimulatedFleet(world, shards, 4)
    driver = Driver(fleet, shards, clock=fleet.clock)
    killed = []
    fleet.kill = killed.append  # type: ignore[method-assign]
    assert driver.run() == {}
    assert killed == []
    assert fleet.now > 900, "long enough for a worker to be ended"
    assert sorted(change for _, change in fleet.tally.capacity) == pytest.approx([1 / 30, 1.0, 1.0, 1.0])
    assert simulate("mixed", world, shards, WORKERS).efficiency > 0.9


def test_many_workers_leave_a_right_ledger() -> None:
    shards = manifest_of(2048 * 10, 2048).shards()
    row = simulate("faults", SCENARIOS["faults"], shards, 512)
    assert (row.shards, row.workers) == (2048, 512)
    assert row.deaths > 0


def test_a_driver_that_takes_too_much_of_a_processor_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_cluster, "MOST_US_A_SHARD", 0)
    arguments = ["--images", "40", "--shards", "8", "--workers", "2", "--scenarios", "even"]
    monkeypatch.setattr(sys, "argv", ["simulate_cluster.py", *arguments, "--out", str(tmp_path / "out.csv")])
    with pytest.raises(SystemExit, match="µs of processor time a shard: at most 0"):
        simulate_cluster.main()


def test_a_seed_gives_one_run(shards: list[Shard]) -> None:
    rows = [simulate("faults", SCENARIOS["faults"], shards, WORKERS, seed) for seed in (3, 3, 4)]
    assert rows[0].took_s == rows[1].took_s
    assert rows[0].redone == rows[1].redone
    assert rows[0].took_s != rows[2].took_s


@pytest.mark.parametrize("fault", ["twice", "never", "innocent"])
def test_a_wrong_ledger_is_found(shards: list[Shard], fault: str) -> None:
    fleet = SimulatedFleet(World(), shards, WORKERS)
    keys = (shards[3].key,)
    commit = fleet.ledger.commit

    def wrong(task: Task, now: float) -> bool:
        won = commit(task, now)
        if task.shard.key in keys:
            first = fleet.ledger.first[task.shard.key]
            fleet.ledger.done[first] = {"twice": 2, "never": 0, "innocent": 0}[fault]
            fleet.ledger.aside[first] = fault == "innocent"
        return won

    fleet.ledger.commit = wrong  # type: ignore[method-assign]
    failed = Driver(fleet, shards, clock=fleet.clock).run()
    expected = "^0 images are not exactly once in the ledger, 1 " if fault == "innocent" else "^1 images are not"
    with pytest.raises(RuntimeError, match=expected):
        check(fleet, shards, failed, len(shards))


def test_ideal_end() -> None:
    assert ideal_end([(2.0, 1.0), (12.0, 1.0)], 30.0) == 22.0
    assert ideal_end([(0.0, 2.0), (5.0, -1.0), (8.0, 1.0)], 10.0) == 5.0
    assert ideal_end([(0.0, 1.0), (5.0, -1.0)], 10.0) == float("inf")


@pytest.mark.slow
def test_the_table_has_a_line_for_each_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: Sequence[str] = (
        "--images",
        "400",
        "--shards",
        "8",
        "20",
        "--workers",
        "2",
        "4",
        "--scenarios",
        "even",
        "--seeds",
        "7",
    )
    monkeypatch.setattr(sys, "argv", ["simulate_cluster.py", *arguments, "--out", str(tmp_path / "out.csv")])
    simulate_cluster.main()
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith("scenario,shards,workers,seed,took_s,ideal_s,efficiency,")
    assert [line.split(",")[:4] for line in lines[1:]] == [
        ["even", shards, workers, "7"] for shards in ("8", "20") for workers in ("2", "4")
    ]
