"""Drivers, nodes and workers as real processes that a test can kill."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import psutil

from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run
from support import environment
from support.warm import WarmProcess

CUTS3D = Path(sys.executable).with_name("cuts3d")
# For CUTS3D_IMAGE_FAULT: of the images of tests/cluster/conftest.py all but four shards.
HELD = ",".join(f"hold:{i:03}.png" for i in range(8, 24))
WITHOUT_TOKEN = {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}


def words_of(launch: Launch | None) -> list[str]:
    """The launch as options of `cuts3d run`."""
    if launch is None:
        return []
    words = ["--images", str(launch.images), "--shard-size", str(launch.shard_size)]
    words += [word for name, value in launch.settings.items() for word in (f"--{name}", value)]
    return words + [word for override in launch.overrides for word in ("--set", override)]


def start_driver(
    out: Path, launch: Launch | None, *options: str, stdout: IO[bytes] | int = subprocess.PIPE, **more: str
) -> subprocess.Popen[str]:
    """`cuts3d run` in a process of its own; its output is kept, or goes to a file."""
    return subprocess.Popen(
        [str(CUTS3D), *_run(out, launch, *options)],
        env=os.environ | WITHOUT_TOKEN | more,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def warm_driver(out: Path, launch: Launch | None, *options: str) -> WarmProcess:
    """The same in a process that starts quickly."""
    env = environment(**WITHOUT_TOKEN)
    return WarmProcess(["-m", "pipeline.cli", *_run(out, launch, *options)], env, merged=True)


def _run(out: Path, launch: Launch | None, *options: str) -> list[str]:
    return ["run", "--out", str(out), *words_of(launch), *options]


def finish(driver: subprocess.Popen[str] | WarmProcess, status: int = 0) -> str:
    """What the driver said, when it has ended with this status: 1 where images are set aside."""
    try:
        said, _ = driver.communicate()
    finally:
        end(driver)
    assert driver.returncode == status, said
    return said


def end(driver: subprocess.Popen[str] | WarmProcess) -> None:
    """End a driver and all processes below it."""
    try:
        family = [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]
    except psutil.NoSuchProcess:
        family = []
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    driver.wait()
    if driver.stdout is not None:
        driver.stdout.close()


def worker_pids(ancestor: int) -> list[int]:
    """Processes of Worker actors below a process."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Worker"):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def commits(out: Path) -> set[str]:
    """Keys committed so far, also while there is no run yet."""
    folder = out / "commits"
    return {file.stem for file in folder.glob("*.json")} if folder.is_dir() else set()


def assert_equal_stores(run: RunFolder, undisturbed: RunFolder, set_aside: dict[str, str] | None = None) -> None:
    """Every image in exactly one commit, mask for mask what the undisturbed run has; or set aside for the reason."""
    set_aside = set_aside or {}
    run.gc(min_age_s=0)
    assert verify_run(run) == []
    assert list(run.ledger.committed()) == list(undisturbed.ledger.committed())
    found, expected = RunReader(run), {record.id: record for record in RunReader(undisturbed)}
    records = list(found)
    assert [record.id for record in records] == [ref.id for ref in run.manifest.refs]
    assert {record.id: record.reason for record in records if record.status == "quarantined"} == set_aside
    for record in records:
        assert record.id in set_aside or record == expected[record.id], record.id
    if not set_aside:
        theirs = undisturbed.ledger.committed()
        for key, commit in run.ledger.committed().items():
            assert commit.shard.sha256 == theirs[key].shard.sha256, "byte for byte"
