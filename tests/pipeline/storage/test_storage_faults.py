"""Disks that are full, read-only or forbidden, for real: nothing committed is lost, nothing half-written counts, the
message says what to do, and the same command resumes afterwards.
"""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import environment
from support.sample_run import CONFIG, do_shard, launch, sample_manifest
from support.waiting import PATIENCE

from pipeline.errors import StoreError
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

REMEDY = "Check space, quota and permissions and start the run again: committed shards are kept."

# In a mount namespace of its own, where it may mount a file system of 256 kB.
ON_A_SMALL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
from support import sample_run
from pipeline.errors import StoreError
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

disk, fault = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True)
url, said = str(disk / "run"), []

def try_to_launch():
    try:
        sample_run.launch(url)
    except StoreError as error:
        said.append(str(error))
    if (disk / "run/run.json").exists():
        run = RunFolder.open(url)
        run.ledger.committed()
        left = [name for folder in ("", "shards", "commits", "quarantine") for name in run.files.list_files(folder)]
        assert not [name for name in left if name.endswith(".tmp")], left

if fault == "full":
    # With ever more space left another file is the one for which there is none.
    for free in range(0, 60, 4):
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        os.truncate(filler, max(0, filler.stat().st_size - free * 1024))
        try_to_launch()
        filler.unlink()
else:
    run = RunFolder.create_or_open(url, sample_run.CONFIG, sample_run.sample_manifest())
    sample_run.do_shard(run, run.pending()[0])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try_to_launch()
    assert run.ledger.committed_keys() == {"00000"}
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
before = RunFolder.open(url).ledger.committed() if (disk / "run/run.json").exists() else {}
run = sample_run.launch(url)
assert before.items() <= run.ledger.committed().items()
run.gc(min_age_s=0)
assert verify_run(run) == []
print(json.dumps(said))
"""


def on_a_small_disk(folder: Path, fault: str) -> list[str]:
    probe = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", folder], check=False
    )
    if probe.returncode:
        pytest.skip("no user namespaces here: a small file system cannot be mounted")
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", ON_A_SMALL_DISK, str(folder), fault]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_disk_full_at_every_file_of_a_run(tmp_path: Path) -> None:
    said = on_a_small_disk(tmp_path, "full")
    assert len(said) > 5
    assert all("No space left on device" in text and text.endswith(REMEDY) for text in said), said
    names = {text.split(" in ")[0].rpartition(" ")[2].split("-")[0] for text in said}
    assert {"run.json", "manifest.parquet"} < names
    assert any(name.startswith("shards/") for name in names)
    assert any(name.startswith("commits/") for name in names)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_disk_turns_read_only(tmp_path: Path) -> None:
    (said,) = on_a_small_disk(tmp_path, "read-only")
    assert "Read-only file system" in said
    assert said.endswith(REMEDY)


def in_a_child(work: object, *arguments: object) -> str:
    """What a forked process says of its StoreError."""
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    child = context.Process(target=_say_error, args=(said, work, *arguments))
    child.start()
    text = said.get(timeout=PATIENCE)
    child.join()
    return text


def _say_error(said: object, work: object, *arguments: object) -> None:
    try:
        work(*arguments)  # type: ignore[operator]
    except StoreError as error:
        said.put(str(error))  # type: ignore[attr-defined]
    else:
        said.put("no error")  # type: ignore[attr-defined]


def launch_with_small_files(url: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    launch(url)


@pytest.mark.parametrize(("limit", "name"), [(100, "run.json"), (1500, "manifest.parquet"), (4000, "shards/00000")])
def test_file_that_may_not_grow(tmp_path: Path, limit: int, name: str) -> None:
    """A limit on the length of files, as a quota or a FAT file system sets one."""
    said = in_a_child(launch_with_small_files, str(tmp_path), limit)
    assert said.startswith(f"cannot write {name}")
    assert os.strerror(errno.EFBIG) in said
    assert said.endswith(REMEDY)
    run = launch(str(tmp_path))
    assert verify_run(run) == []


def as_nobody(work: object, *arguments: object) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
    work(*arguments)  # type: ignore[operator]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can enter, which those of pytest are not."""
    folder = Path("/tmp") / f"cuts3d-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("lost", ["shards", "commits", "quarantine"])
def test_permission_lost_while_writing(shared_folder: Path, lost: str) -> None:
    run = RunFolder.create_or_open(shared_folder / "run", CONFIG, sample_manifest())
    first, second, _ = run.pending()
    do_shard(run, first)
    for path in ((shared_folder / "run"), *(shared_folder / "run").iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)
    folder = shared_folder / "run" / lost
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    said = in_a_child(as_nobody, do_shard, run, second)
    assert said.startswith(f"cannot write {lost}/00001")
    assert "Permission denied" in said
    assert said.endswith(REMEDY)
    assert run.ledger.committed_keys() == {"00000"}
    folder.chmod(0o777)
    again = launch(str(shared_folder / "run"))
    assert again.is_complete()
    again.gc(min_age_s=0)
    assert verify_run(again) == []


@pytest.mark.parametrize("name", ["run.json", "manifest.parquet", "commits/00000.json", "commits"])
def test_permission_lost_while_reading(shared_folder: Path, name: str) -> None:
    run = launch(str(shared_folder / "run"))
    path = shared_folder / "run" / name
    path.chmod(0)
    said = in_a_child(as_nobody, lambda: RunFolder.open(shared_folder / "run").pending())
    assert said.startswith(f"cannot read {name} in {run.url}: Permission denied")
    path.chmod(0o777)
    assert run.is_complete()


def test_truncated_shard_is_refused_wherever_it_is_read(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    path = tmp_path / run.ledger.read("00001").shard.name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=rf"{path.name} has \d+ bytes, committed were \d+.*cuts3d verify"):
        list(RunReader(run))
    (problem,) = verify_run(run)
    assert "delete commits/00001.json and start the run again" in problem.message
    (tmp_path / "commits/00001.json").unlink()
    launch(str(tmp_path)).gc(min_age_s=0)
    assert verify_run(run) == []


@pytest.mark.parametrize("skew", [-1e6, 1e6])
def test_ages_are_the_stores_whatever_this_machine_believes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    run = launch(str(tmp_path))
    (tmp_path / "shards/00001-dead.zarr.zip").write_bytes(b"in flight")
    clock = time.time
    monkeypatch.setattr("time.time", lambda: clock() + skew)
    assert run.gc() == {}
    old = clock() - 7200
    os.utime(tmp_path / "shards/00001-dead.zarr.zip", (old, old))
    assert list(run.gc()) == ["shards/00001-dead.zarr.zip"]


def test_files_from_the_future_are_spared_until_everything_is_to_go(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    path = tmp_path / "shards/00001-dead.zarr.zip"
    path.write_bytes(b"written by a node whose clock is a day ahead")
    tomorrow = time.time() + 86_400
    os.utime(path, (tomorrow, tomorrow))
    assert run.gc(min_age_s=1) == {}
    assert list(run.gc(min_age_s=0)) == ["shards/00001-dead.zarr.zip"]
