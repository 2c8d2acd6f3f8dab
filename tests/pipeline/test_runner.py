"""Runs on one machine: start, resume, refuse, retry; stage targets; settings that are remembered."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_method import BrightnessDepth, draw_photos, tiny_method

from pipeline import runner
from pipeline.batch_work import Method
from pipeline.errors import ConfigError, RunMismatchError, SourceError, StoreError
from pipeline.reader import RunReader
from pipeline.run_folder import RunFolder
from pipeline.runner import Launch, last_launch, pick_device, retry_quarantined, run
from pipeline.status import status_of
from pipeline.verify import verify_run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every launch gets the tiny method of its recipe, with its overrides."""
    monkeypatch.setattr(
        runner, "load_method", lambda launch, device, until: tiny_method(launch.recipe, launch.overrides)
    )


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
    assert sum(len(record.instances) for record in records) == summary.masks > 0
    lines = [json.loads(line) for log in sorted(out.glob("logs/*.jsonl")) for line in log.read_text().splitlines()]
    assert [line["shard"] for line in lines if "shard" in line] == ["00000", "00001"]
    assert sum(line.get("masks", 0) for line in lines) == summary.masks


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

    def method(launch: Launch, device: str, until: str) -> Method:
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
    with pytest.raises(ConfigError, match="unknown stage 'crf'"):
        run(tmp_path / "run", Launch(images=str(photos)), until="crf")
    with pytest.raises(SourceError, match="nowhere"):
        run(tmp_path / "run", Launch(images=str(tmp_path / "nowhere")))
    with pytest.raises(StoreError, match="not a run"):
        run(tmp_path / "run")
    with pytest.raises(ConfigError, match="shard size"):
        Launch(shard_size=0)
    with pytest.raises(ConfigError, match="depth kind"):
        Launch(depth_kind="disparity")
    monkeypatch.undo()
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
