"""Runs on a real Ray: several nodes on this machine, real processes, real signals.

Whatever is killed, afterwards every image is in exactly one commit or set aside with a reason, and the store equals,
mask for mask, that of a run that nobody disturbed.

Where something is killed, all but the first images are held until that is done, so that no run is through before.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import environment
from support.ray_nodes import Nodes
from support.ray_processes import assert_equal_stores, commits, end, finish, start_driver
from support.waiting import wait_for

from pipeline.faults import HOLD_VARIABLE, IMAGE_VARIABLE
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(200)]

HELD = ",".join(f"hold:{i:03}.png" for i in range(8, 24))  # four shards can be done without them


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nodes that are added from here on hold the images HELD until there is this file."""
    file = tmp_path / "go"
    monkeypatch.setenv(IMAGE_VARIABLE, HELD)
    monkeypatch.setenv(HOLD_VARIABLE, str(file))
    return file


def test_a_local_run_goes_on_on_ray_and_the_other_way_round(
    tmp_path: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    shutil.copytree(undisturbed.url, tmp_path, dirs_exist_ok=True)
    for key in sorted(commits(tmp_path))[3:]:
        (tmp_path / "commits" / f"{key}.json").unlink()
    said = finish(start_driver(tmp_path, None, "--ray", "--cpus-per-worker", "1"))
    assert "12 done, 0 missing" in said
    assert "18 images" in said
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed)
    (tmp_path / "commits" / "00005.json").unlink()
    assert "2 images" in finish(start_driver(tmp_path, None))
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed)


def test_a_worker_killed_by_a_signal(
    tmp_path: Path, nodes: Nodes, go: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    nodes.add()
    nodes.add()
    out = tmp_path / "run"
    driver = start_driver(out, launch, "--ray", nodes.address)
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
    driver = start_driver(out, launch, "--ray", nodes.address)
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
    driver = start_driver(out, launch, "--ray", nodes.address)
    wait_for(lambda: len(commits(out)) >= 2, "two commits", driver)
    driver.kill()
    driver.communicate()
    assert len(commits(out)) < 12
    go.touch()
    said = finish(start_driver(out, None, "--ray", nodes.address))
    assert "12 done, 0 missing" in said
    assert_equal_stores(RunFolder.open(out), undisturbed)
    wait_for(lambda: nodes.workers() == [], "the workers of both drivers to end")


def test_every_crash_point_in_one_run(tmp_path: Path, launch: Launch, undisturbed: RunFolder) -> None:
    points = "before_write:00001,mid_write:00003,after_write:00005,after_commit:00007"
    once = tmp_path / "once"
    once.mkdir()
    out = tmp_path / "run"
    driver = start_driver(
        out, launch, "--ray", "--workers", "2", "--cpus-per-worker", "1",
        CUTS3D_CRASH_AT=points, CUTS3D_CRASH_ONCE=str(once),
    )  # fmt: skip
    said = finish(driver)
    assert sorted(file.name for file in once.iterdir()) == sorted(points.split(","))
    assert said.count("is gone") == 4
    assert_equal_stores(RunFolder.open(out), undisturbed)


def seconds_of_a_start() -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import pipeline.methods.cuts.load"], env=environment(), check=True)
    return time.monotonic() - started


def test_images_that_end_or_hold_their_worker_are_set_aside(
    tmp_path: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    # Far longer than a shard that is not held takes, on a machine as fast or slow as this one is now.
    deadline = max(20.0, 5 * seconds_of_a_start())
    driver = start_driver(
        tmp_path, launch, "--ray", "--workers", "2", "--cpus-per-worker", "1", "--deadline", str(deadline),
        CUTS3D_IMAGE_FAULT="exit:005.png,hang:018.png",
    )  # fmt: skip
    said = finish(driver, status=1)
    assert "2 of them set aside" in said
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed, {"005.png": "crashed", "018.png": "hung"})


def test_an_image_that_eats_memory_is_set_aside(tmp_path: Path, launch: Launch, undisturbed: RunFolder) -> None:
    """Ray's memory monitor ends the worker that takes too much."""
    memory = psutil.virtual_memory()
    threshold = 1 - memory.available / 2 / memory.total  # other tests may take the one half
    driver = start_driver(
        tmp_path, launch, "--ray", "--workers", "1", "--cpus-per-worker", "1", CUTS3D_IMAGE_FAULT="eat:018.png",
        RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="100",
    )  # fmt: skip
    finish(driver, status=1)
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed, {"018.png": "crashed"})


def test_nothing_listens_beyond_this_machine(tmp_path: Path, launch: Launch) -> None:
    out, go = tmp_path / "run", tmp_path / "go"
    held = {IMAGE_VARIABLE: HELD, HOLD_VARIABLE: str(go)}
    driver = start_driver(out, launch, "--ray", "--cpus-per-worker", "1", **held)
    try:
        wait_for(lambda: bool(commits(out)), "a commit", driver)
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        open_to = set()
        for process in family:
            try:
                sockets = process.net_connections("inet")
            except psutil.Error:
                continue
            open_to |= {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}
        go.touch()
        finish(driver)
    finally:
        end(driver)
    assert open_to, "Ray listens somewhere, or this looks at the wrong processes"
    assert {ip.removeprefix("::ffff:") for ip in open_to} <= {"127.0.0.1", "::1"}
