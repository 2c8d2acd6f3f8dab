"""Runs on a real Ray: several nodes on this machine, real processes, real signals.

Whatever is killed, afterwards every image is in exactly one commit or set aside with a reason, and the store equals,
mask for mask, that of a run that nobody disturbed.

Where something is killed, all but the first images are held until that is done, so that no run is through before.
"""

import os
import signal
from pathlib import Path

import pytest
from support.ray_nodes import Nodes
from support.ray_processes import HELD, assert_equal_stores, commits, end, finish, warm_driver
from support.waiting import wait_for

from pipeline.faults import HOLD_VARIABLE, IMAGE_VARIABLE, ONCE_VARIABLE, VARIABLE
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(90)]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nodes that are added from here on hold the images HELD until there is this file."""
    file = tmp_path / "go"
    monkeypatch.setenv(IMAGE_VARIABLE, HELD)
    monkeypatch.setenv(HOLD_VARIABLE, str(file))
    return file


def test_a_worker_killed_by_a_signal(
    tmp_path: Path, nodes: Nodes, go: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    nodes.add()
    nodes.add()
    out = tmp_path / "run"
    driver = warm_driver(out, launch, "--ray", nodes.address)
    try:
        wait_for(lambda: len(commits(out)) >= 2, "two commits", driver)
        first, *_ = RunFolder.open(out).ledger.committed().values()
        os.kill(int(first.worker.rpartition(":")[2]), signal.SIGKILL)
        go.touch()
        said = finish(driver)
    finally:
        end(driver)
    assert "is gone" in said
    assert_equal_stores(RunFolder.open(out), undisturbed)


def test_nodes_that_leave_and_come(
    tmp_path: Path, nodes: Nodes, go: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    leaves = nodes.add()
    out = tmp_path / "run"
    driver = warm_driver(out, launch, "--ray", nodes.address)
    try:
        wait_for(lambda: len(commits(out)) >= 2, "two commits", driver)
        nodes.kill(leaves)
        nodes.add()
        go.touch()
        said = finish(driver)
    finally:
        end(driver)
    assert " is gone" in said
    assert "looking for the image" not in said
    folder = RunFolder.open(out)
    assert_equal_stores(folder, undisturbed)
    assert len({commit.worker for commit in folder.ledger.committed().values()}) == 2


def test_a_driver_killed_and_started_again(
    tmp_path: Path, nodes: Nodes, go: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    nodes.add()
    out = tmp_path / "run"
    driver = warm_driver(out, launch, "--ray", nodes.address)
    wait_for(lambda: len(commits(out)) >= 2, "two commits", driver)
    driver.kill()
    driver.communicate()
    assert len(commits(out)) < 12
    go.touch()
    said = finish(warm_driver(out, None, "--ray", nodes.address))
    assert "12 done, 0 missing" in said
    assert_equal_stores(RunFolder.open(out), undisturbed)
    wait_for(lambda: nodes.workers() == [], "the workers of both drivers to end")


def test_every_crash_point_in_one_run(
    tmp_path: Path, nodes: Nodes, launch: Launch, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "before_write:00001,mid_write:00003,after_write:00005,after_commit:00007"
    once, out = tmp_path / "once", tmp_path / "run"
    once.mkdir()
    monkeypatch.setenv(VARIABLE, points)
    monkeypatch.setenv(ONCE_VARIABLE, str(once))
    nodes.add(cpus=2)
    said = finish(
        warm_driver(out, launch, "--ray", nodes.address, "--workers", "2", "--cpus-per-worker", "1"),
    )
    assert sorted(file.name for file in once.iterdir()) == sorted(points.split(","))
    assert said.count("is gone") == 4
    assert_equal_stores(RunFolder.open(out), undisturbed)
