"""A run on a Ray that the run itself starts, on this machine, closed to others."""

import shutil
from pathlib import Path

import psutil
import pytest
from support.ray_processes import HELD, assert_equal_stores, commits, end, finish, start_driver, warm_driver
from support.waiting import wait_for

from pipeline.faults import HOLD_VARIABLE, IMAGE_VARIABLE
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(80)]


def open_to(driver: int) -> set[str]:
    """Addresses that a process and those below it listen at."""
    found = set()
    for process in [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]:
        try:
            sockets = process.net_connections("inet")
        except psutil.Error:
            continue
        found |= {c.laddr.ip.removeprefix("::ffff:") for c in sockets if c.status == psutil.CONN_LISTEN}
    return found


def test_a_local_run_goes_on_on_ray_where_nobody_else_reaches_it_and_the_other_way_round(
    tmp_path: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    out, go = tmp_path / "run", tmp_path / "go"
    shutil.copytree(undisturbed.url, out)
    for key in sorted(commits(out))[3:]:
        (out / "commits" / f"{key}.json").unlink()
    held = {IMAGE_VARIABLE: HELD, HOLD_VARIABLE: str(go)}
    driver = start_driver(out, None, "--ray", "--workers", "1", "--cpus-per-worker", "1", **held)
    try:
        wait_for(lambda: len(commits(out)) > 3, "a commit", driver)
        listens_at = open_to(driver.pid)
        go.touch()
        said = finish(driver)
    finally:
        end(driver)
    assert listens_at, "Ray listens somewhere, or this looks at the wrong processes"
    assert listens_at <= {"127.0.0.1", "::1"}
    assert "12 done, 0 missing" in said
    assert "18 images" in said
    assert_equal_stores(RunFolder.open(out), undisturbed)
    (out / "commits" / "00005.json").unlink()
    assert "2 images" in finish(warm_driver(out, None))
    assert_equal_stores(RunFolder.open(out), undisturbed)
