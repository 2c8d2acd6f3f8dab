"""A shard of a run, computed and committed: what goes into the record, the log, and what a second attempt leaves."""

import dataclasses
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_method import BrightnessDepth, draw_photos, tiny_method

from pipeline.cli import main
from pipeline.engine.shard_job import ShardJob, ledger_of
from pipeline.engine.shard_worker import ShardWorker
from pipeline.errors import ImageError, StoreError
from pipeline.images.manifest import Manifest, Shard
from pipeline.images.sources import list_images
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.registry import describe
from pipeline.runs.info import info_lines, info_of
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.runs.verify import verify_run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos", 4)
    return tmp_path / "photos"


def job_at(photos: Path, method: CutsMethod | None = None, until: str | None = None) -> tuple[ShardJob, Shard]:
    """The run of these photos in one shard, made or opened."""
    method = method or tiny_method()
    folder = RunFolder.create_or_open(
        photos.parent / "run", method.config(), Manifest(list_images(str(photos)).refs, 100)
    )
    (shard,) = folder.manifest.shards()
    return ShardJob(folder, until, ShardWorker(method, 4)), shard


def log_lines(job: ShardJob, folder: str = "logs") -> list[list[dict[str, object]]]:
    files = job.folder.files
    return [[json.loads(line) for line in files.read_bytes(name).splitlines()] for name in files.list_files(folder)]


def test_the_record_says_who_and_how_long(photos: Path) -> None:
    job, shard = job_at(photos)
    before = time.monotonic()
    result = job.compute(shard)
    after = time.monotonic()
    assert not job.folder.ledger.is_committed(shard.key)
    time.sleep(0.3)  # as long as it waits to be committed, say while the next one is computed
    waited = time.monotonic() - after
    assert job.commit(shard, result)
    passed = time.monotonic() - before
    commit = job.folder.ledger.read(shard.key)
    assert commit.worker == f"{socket.gethostname()}:{os.getpid()}"
    assert sum(commit.seconds.values()) + waited <= commit.wall <= passed
    assert sum(commit.seconds.values()) <= after - before
    assert commit.counts == result.counts
    assert verify_run(job.folder) == []
    (slowest,) = status_of(job.folder.url).slowest
    assert (slowest.key, slowest.seconds, slowest.worker) == (shard.key, commit.wall, commit.worker)


def test_the_log_of_a_shard(photos: Path) -> None:
    job, shard = job_at(photos)
    given_up = {"002.png": ImageError("hung", "no worker that looked at it came to an end")}
    result = job.compute(shard, given_up=given_up)
    job.commit(shard, result)
    commit = job.folder.ledger.read(shard.key)
    ((head, *images),) = log_lines(job)
    assert head == {
        "shard": shard.key,
        "attempt": commit.attempt,
        "counts": result.counts,
        "seconds": result.seconds,
    }
    assert [line["image"] for line in images] == [ref.id for ref in shard.refs]
    assert images[2] == {
        "image": "002.png",
        "status": "quarantined",
        "reason": "hung",
        "detail": "no worker that looked at it came to an end",
    }
    assert sum(int(str(line.get("masks", 0))) for line in images) == result.counts["masks"] > 0
    (quarantined,) = RunReader(job.folder).quarantined()
    assert (quarantined.id, quarantined.reason) == ("002.png", "hung")


def test_of_two_attempts_the_first_counts(photos: Path) -> None:
    job, shard = job_at(photos)
    one, other = job.compute(shard), job.compute(shard)
    assert one.data == other.data
    assert job.commit(shard, one)
    first = job.folder.ledger.read(shard.key)
    assert not job.commit(shard, other)
    assert job.folder.ledger.read(shard.key) == first
    assert verify_run(job.folder) == []


def test_a_commit_that_cannot_be_written_says_so_and_may_be_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, shard = job_at(photos)
    result = job.compute(shard)

    def full(name: str, data: bytes) -> None:
        raise StoreError(f"cannot write {name}: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(job.folder.files, "write_atomic", full)
        with pytest.raises(StoreError, match="no space left"):
            job.commit(shard, result)
    assert not job.folder.ledger.is_committed(shard.key)
    assert job.commit(shard, result)
    assert verify_run(job.folder) == []


def test_a_stage_has_its_own_ledger_and_log_and_is_taken_in_later(photos: Path) -> None:
    kept, shard = job_at(photos, until="localcut")
    assert kept.commit(shard, kept.compute(shard))
    assert ledger_of(kept.folder, "localcut").is_committed(shard.key)
    assert not kept.folder.ledger.is_committed(shard.key)
    assert len(log_lines(kept, "stages/localcut/logs")) == 1
    assert log_lines(kept) == []
    job, _ = job_at(photos)
    assert "localcut" not in job.compute(shard).seconds


def test_a_probe_leaves_no_trace(photos: Path) -> None:
    class Notes(BrightnessDepth):
        ids: tuple[str, ...] = ()

        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            self.ids += tuple(ids)
            return super().predict(images, ids)

    depth = Notes()
    job, shard = job_at(photos, dataclasses.replace(tiny_method(), depth=depth))
    before = sorted(path for path in (photos.parent / "run").rglob("*"))
    job.probe(shard, (3, 1))
    assert sorted(path for path in (photos.parent / "run").rglob("*")) == before
    assert sorted(depth.ids) == ["001.png", "003.png"]


def test_a_full_gpu_is_on_record_and_everybody_can_read_that(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            if len(ids) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(images, ids)

    job, shard = job_at(photos, dataclasses.replace(tiny_method(), depth=Full()))
    assert job.commit(shard, job.compute(shard))
    assert job.folder.ledger.read(shard.key).counts["gpu_out_of_memory"] == 3  # 4, and twice 2 images
    ((head, *_),) = log_lines(job)
    assert head["counts"]["gpu_out_of_memory"] == 3  # type: ignore[index]
    assert verify_run(job.folder) == []
    assert status_of(job.folder.url).complete
    assert info_of(job.folder.url)["committed_images"] == 4
    assert any("masks" in line for line in info_lines(info_of(job.folder.url), describe))
    for command in (["status"], ["status", "--json"], ["info"], ["info", "--json"], ["verify"]):
        main([command[0], job.folder.url, *command[1:]], standalone_mode=False)
    assert capsys.readouterr().err == ""
