"""Runs on a Ray that the run itself starts, on this machine: taken up, killed at each crash point, closed to others."""

import shutil
from pathlib import Path

import psutil
import pytest
from support.ray_processes import HELD, assert_equal_stores, commits, end, finish, start_driver
from support.waiting import wait_for

from pipeline.faults import HOLD_VARIABLE, IMAGE_VARIABLE
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(80)]


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
