"""Runs on one machine: start, resume, refuse, retry; stage targets; settings that are remembered."""

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import environment
from support.tiny_method import BrightnessDepth, draw_photos, in_place_of_models, tiny_method
from support.waiting import wait_for
from support.warm import WarmProcess

from pipeline.engine import run as runner
from pipeline.engine.run import LANES, local_worker, retry_quarantined, run
from pipeline.errors import ConfigError, CutsError, RunMismatchError, SourceError, StoreError
from pipeline.faults import IMAGE_VARIABLE
from pipeline.methods.cuts.method import CutsMethod
from pipeline.models.device import pick_device
from pipeline.runs.launch import Launch, last_launch
from pipeline.runs.lease import LEASE_FILE, Lease, LeaseError, read_lease
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.runs.verify import verify_run
from pipeline.storage.files import RunFiles
from pipeline.storage.local_files import LocalFiles


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every launch gets the tiny method of its recipe, with its overrides."""
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe, launch.overrides))


def errors_of(out: Path) -> list[str]:
    return [problem.message for problem in verify_run(RunFolder.open(out)) if problem.severity == "error"]


def test_a_run_from_photos_to_a_verified_store(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = run(out, Launch(images=str(photos), shard_size=4))
    assert summary.complete
    assert (summary.done, summary.images, summary.quarantined) == (2, 6, 0)
    assert errors_of(out) == []
    records = list(RunReader(RunFolder.open(out)))
    assert [record.id for record in records] == [f"{i:03d}.png" for i in range(6)]
    assert sum(len(record.instances) for record in records) == summary.counts["masks"] > 0
    lines = [json.loads(line) for log in sorted(out.glob("logs/*.jsonl")) for line in log.read_text().splitlines()]
    assert [line["shard"] for line in lines if "shard" in line] == ["00000", "00001"]
    assert sum(line.get("masks", 0) for line in lines) == summary.counts["masks"]


def test_a_second_launch_does_only_what_is_missing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = Launch(images=str(photos), shard_size=2)
    run(out, launch)
    shards = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert run(out, launch).images == 0
    (out / "commits" / "00001.json").unlink()
    summary = run(out, launch)
    assert summary.images == 2
    left = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert shards.items() <= left.items()
    assert len(left) == 4, "the orphan of the lost commit is still there until gc"
    assert errors_of(out) == []


def test_a_run_goes_on_without_repeating_its_settings(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, Launch(images=str(photos), shard_size=2, overrides=("local_cut.k=7",)))
    assert last_launch(out).overrides == ("local_cut.k=7",)
    (out / "commits" / "00002.json").unlink()
    for photo in photos.glob("000*"):
        photo.unlink()  # of a shard that is done: the manifest is the run's, the folder is not listed again
    assert run(out).images == 2


def test_other_settings_are_refused_by_name(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = Launch(images=str(photos), shard_size=2)
    run(out, launch)
    before = sorted(out.rglob("*"))
    with pytest.raises(RunMismatchError, match=r"recipe\.local_cut\.k: run has 10, now 7"):
        run(out, dataclasses.replace(launch, overrides=("local_cut.k=7",)))
    with pytest.raises(RunMismatchError, match=r"recipe\.tree\.depth: run has 4, now 2"):
        run(out, dataclasses.replace(launch, overrides=("tree.depth=2",)))
    with pytest.raises(RunMismatchError, match=r"recipe\.select\.masks: run has 10, now 3"):
        run(out, dataclasses.replace(launch, overrides=("select.masks=3",)))
    for other in ("maskcut", "cuts3d_rounds"):
        with pytest.raises(RunMismatchError, match=r"recipe\.name"):
            run(out, dataclasses.replace(launch, recipe=other))
    draw_photos(photos / "more", 1)
    with pytest.raises(RunMismatchError, match=r"more/000\.png"):
        run(out, launch)
    assert sorted(out.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        *(("cuts3d", stage) for stage in ("depth", "features", "ncut", "localcut", "confidence")),
        *(("cuts3d_rounds", stage) for stage in ("ncut", "localcut", "confidence")),
    ],
)
def test_a_stage_target_keeps_its_output_for_later_ones(photos: Path, tmp_path: Path, recipe: str, stage: str) -> None:
    launch = Launch(images=str(photos), shard_size=4, recipe=recipe)
    fused = tmp_path / "fused"
    run(fused, launch)
    out = tmp_path / "run"
    summary = run(out, launch, until=stage)
    assert (summary.complete, summary.until) == (True, stage)
    assert len(list((out / "stages" / stage / "shards").iterdir())) == 2
    assert status_of(out).kept == {stage: 2}
    assert not status_of(out).complete
    assert run(out, launch, until=stage).images == 0
    later = run(out, launch)
    assert stage not in later.seconds
    assert errors_of(out) == []
    for one, other in zip(RunReader(RunFolder.open(out)), RunReader(RunFolder.open(fused)), strict=True):
        assert one == other


class FailsOnce(BrightnessDepth):
    """Breaks on one image until it is mended."""

    broken = True

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        if self.broken and "002.png" in ids:
            raise RuntimeError("flaky driver")
        return super().predict(images, ids)


def test_quarantined_images_can_be_tried_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = FailsOnce()

    def method(launch: Launch, device: str, until: str) -> CutsMethod:
        return dataclasses.replace(tiny_method(launch.recipe), depth=depth)

    monkeypatch.setattr(runner, "load_method", method)
    (photos / "bad.png").write_bytes(b"")
    out = tmp_path / "run"
    summary = run(out, Launch(images=str(photos), shard_size=4))
    assert summary.complete
    assert summary.quarantined == 2
    reader = RunReader(RunFolder.open(out))
    assert {image.id: image.reason for image in reader.quarantined()} == {"002.png": "failed", "bad.png": "zero_byte"}

    depth.broken = False
    again = retry_quarantined(out)
    assert (again.images, again.quarantined) == (2, 1)
    reader = RunReader(RunFolder.open(out))
    assert [image.id for image in reader.quarantined()] == ["bad.png"]
    records = {record.id: record for record in reader}
    assert len(records) == 7
    assert records["002.png"].status != "quarantined"
    assert status_of(out).quarantined == 1
    assert errors_of(out) == []
    depth.broken = True
    run(tmp_path / "whole", Launch(images=str(photos), shard_size=4))
    assert retry_quarantined(out).images == 1


def test_nothing_to_retry(photos: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", Launch(images=str(photos)))
    assert retry_quarantined(tmp_path / "run").images == 0


def test_a_run_on_any_fsspec_url(photos: Path) -> None:
    url = "memory://runner-test/run"
    assert run(url, Launch(images=str(photos), shard_size=3)).complete
    assert run(url).images == 0
    assert [p for p in verify_run(RunFolder.open(url)) if p.severity == "error"] == []


def test_bad_settings_say_what_is_wrong(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        run(tmp_path / "run", Launch(images=str(tmp_path / "nowhere")))
    with pytest.raises(StoreError, match="not a run"):
        run(tmp_path / "run")
    with pytest.raises(ConfigError, match="shard size"):
        Launch(shard_size=0)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="recipe cuts3d has no stage crf: stages of cuts are depth, features"):
        run(tmp_path / "run", Launch(images=str(photos)), until="crf")
    with pytest.raises(ConfigError, match="depth kind"):
        run(tmp_path / "run", Launch(images=str(photos), settings={"depth_kind": "disparity"}))
    with pytest.raises(ConfigError, match="recipe cuts3d has no setting 'dept': it has features, depth, depth_kind"):
        run(tmp_path / "run", Launch(images=str(photos), settings={"dept": "fastdepth"}))
    with pytest.raises(ConfigError, match="does not look at depth"):
        run(tmp_path / "run", Launch(images=str(photos), recipe="maskcut"), until="depth", device="cpu")
    assert not (tmp_path / "run").exists()


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="unknown device"):
        pick_device("gpu")
    with pytest.raises(ConfigError, match="is not there"):
        pick_device("cuda:99")


# --- one driver at a time ---------------------------------------------------------------------------------------------


class Between(BrightnessDepth):
    """Does something whenever a batch comes along."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        self.what(ids)
        return super().predict(images, ids)


def with_depth(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    method = dataclasses.replace(tiny_method(), depth=Between(what))
    in_place_of_models(monkeypatch, lambda launch: method)


def test_a_run_holds_its_lease_while_it_works(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, owners = tmp_path / "run", set()

    def look(ids: Sequence[str]) -> None:
        lease = read_lease(LocalFiles(out))
        owners.add(lease and lease.pid)

    with_depth(monkeypatch, look)
    run(out, Launch(images=str(photos), shard_size=2))
    assert owners == {os.getpid()}
    assert not (out / LEASE_FILE).exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_fails_gives_its_lease_back(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(ids: Sequence[str]) -> None:
        raise error

    with_depth(monkeypatch, fail)
    with pytest.raises((CutsError, KeyboardInterrupt)):
        run(tmp_path / "run", Launch(images=str(photos), shard_size=2))
    assert not (tmp_path / "run" / LEASE_FILE).exists()


@pytest.mark.slow
def test_a_run_that_another_works_on_is_left_alone(photos: Path, tmp_path: Path) -> None:
    """By whatever command: also quarantined images are tried again by one driver at a time."""
    out = tmp_path / "run"
    (photos / "bad.png").write_bytes(b"")
    launch = Launch(images=str(photos), shard_size=2)
    run(out, launch)
    (out / "commits" / "00001.json").unlink()
    with Lease(LocalFiles(out), 5.0):
        for command in (partial(run, out, launch), partial(retry_quarantined, out)):
            with pytest.raises(LeaseError, match=f"being worked on by process {os.getpid()}"):
                command()
    assert not (out / "commits" / "00001.json").exists()
    assert run(out, launch).complete
    assert errors_of(out) == []


@pytest.mark.slow
def test_a_driver_whose_run_was_taken_over_stops_and_loses_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been suspended, longer than its lease lasts, in its second shard."""
    out, drivers = tmp_path / "run", list[Lease]()
    taken = json.dumps({**vars(Lease(LocalFiles(out))._record), "host": "elsewhere", "machine": "another"})

    def lease(files: RunFiles) -> Lease:
        drivers.append(Lease(files, lifetime=1.0))
        return drivers[-1]

    def suspended(ids: Sequence[str]) -> None:
        while "002.png" in ids and not drivers[0]._lost:  # a renewal that had begun may replace what is written once
            LocalFiles(out).write_atomic(LEASE_FILE, taken.encode())
            time.sleep(0.1)

    with_depth(monkeypatch, suspended)
    monkeypatch.setattr(runner, "Lease", lease)
    with pytest.raises(LeaseError, match=r"taken over by process .* on elsewhere"):
        run(out, Launch(images=str(photos), shard_size=2))
    assert sorted(path.stem for path in (out / "commits").iterdir()) == ["00000", "00001"], "what was begun is finished"
    assert (out / LEASE_FILE).read_text() == taken
    (out / LEASE_FILE).unlink()
    assert run(out).images == 2
    assert errors_of(out) == []


# The command line on the tiny method, with a lease that is renewed often.
COMMAND = """
import sys
from functools import partial
from pathlib import Path
import pytest
from support.tiny_method import in_place_of_models, tiny_method
from pipeline.engine import run as runner
from pipeline.cli import main
in_place_of_models(pytest.MonkeyPatch(), lambda launch: tiny_method(launch.recipe, launch.overrides))
runner.Lease = partial(runner.Lease, lifetime=float(sys.argv.pop(1)))
main(prog_name="cuts3d")
"""


def cuts3d(lifetime: float, *arguments: object, **variables: str) -> WarmProcess:
    return WarmProcess(["-c", COMMAND, lifetime, *arguments], environment(**variables))


@pytest.mark.slow
def test_a_second_command_on_a_run_that_is_at_work(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start = ("run", "--images", photos, "--out", out, "--shard-size", 2, "--device", "cpu")
    first = cuts3d(600.0, *start, **{IMAGE_VARIABLE: "hang:003.png"})
    try:
        wait_for((out / "commits" / "00000.json").exists, "a commit", first)
        held = json.loads((out / LEASE_FILE).read_text())
        assert held["pid"] == first.pid
        second = cuts3d(2.0, "run", "--out", out, "--device", "cpu")
        said = second.stderr.readline()
        while "being worked on" not in said and said:
            said = second.stderr.readline()
        assert f"{out} is being worked on by process {first.pid} on {held['host']}" in said
        assert "to see whether that driver is alive" in said
        (out / LEASE_FILE).write_text(json.dumps({**held, "renewals": 1}))  # which otherwise takes two minutes
        _, refusal = second.communicate()
        assert second.returncode == 2
        assert refusal.startswith("cuts3d: ")
        assert "Let it finish, or stop it and start again: nothing committed is lost" in refusal
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    third = cuts3d(600.0, "run", "--out", out, "--device", "cpu")
    said, log = third.communicate()
    assert third.returncode == 0, log
    assert "3 done, 0 missing" in said
    assert "4 images in" in said
    assert "being worked on" not in log
    assert errors_of(out) == []


# --- who does the work ------------------------------------------------------------------------------------------------


def test_without_a_gpu_the_cores_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = workers_made(monkeypatch)
    local_worker(tiny_method(), None, 8)
    local_worker(tiny_method(), 5, 8)
    assert made == [{"batch_size": 2}, {"batch_size": 5}]


def test_without_a_gpu_processes_have_the_cores_of_a_method_that_works_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = workers_made(monkeypatch)
    monkeypatch.setattr(runner, "cpu_pool", lambda n: f"pool of {n}")
    method = tiny_method()
    object.__setattr__(method, "in_processes", True)
    for cores, batch_size in ((2, None), (16, None), (16, 5)):
        local_worker(method, batch_size, cores)
    pooled = {"decode_threads": 4, "pool": "pool of 16"}
    assert made == [{"batch_size": 2}, {"batch_size": 32, **pooled}, {"batch_size": 5, **pooled}]


@pytest.mark.parametrize(("cores", "processes", "decode"), [(1, None, 2), (2, 1, 2), (16, 15, 4)])
def test_beside_a_gpu_the_cores_are_a_pools(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int | None, decode: int
) -> None:
    made = workers_made(monkeypatch)
    monkeypatch.setattr(runner, "cpu_pool", lambda n: f"pool of {n}")
    monkeypatch.setattr(runner, "fitting_batch_size", lambda method, lanes: 7 * lanes)
    method = dataclasses.replace(tiny_method(), device=torch.device("cuda"))
    local_worker(method, None, cores)
    local_worker(method, 5, cores)
    pool = None if processes is None else f"pool of {processes}"
    common = {"decode_threads": decode, "lanes": LANES, "pool": pool}
    assert made == [{"batch_size": 7 * LANES, **common}, {"batch_size": 5, **common}]


def workers_made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ShardWorkers are asked for from now on, without the method."""
    made: list[dict[str, Any]] = []
    names = ("batch_size", "decode_threads", "lanes", "pool")
    monkeypatch.setattr(
        runner,
        "ShardWorker",
        lambda method, *options, **named: made.append(dict(zip(names, options, strict=False)) | named),
    )
    return made


def test_the_processes_of_a_run_end_with_it(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Worker(runner.ShardWorker):
        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(runner, "ShardWorker", Worker)
    run(tmp_path / "run", Launch(images=str(photos), shard_size=4))
    assert len(closed) == 1

    def fail(ids: Sequence[str]) -> None:
        raise RuntimeError("no")

    with_depth(monkeypatch, fail)
    with pytest.raises(CutsError):
        run(tmp_path / "other", Launch(images=str(photos), shard_size=4))
    assert len(closed) == 2
