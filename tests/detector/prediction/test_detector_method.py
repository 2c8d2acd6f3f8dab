"""Runs whose method is a detector: made, resumed and frozen like all runs."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from support import ROOT
from support.sample_run import drops_of, masks_of
from support.tiny_detector import detector_launch as launch
from support.tiny_detector import write_tiny
from support.tiny_method import in_place_of_models, photos_and_a_broken_one, tiny_method

from detector.model.checkpoints import DetectorCheckpoint
from detector.prediction.method import DetectorMethod, absolute_launch, load
from detector.prediction.options import DetectorOptions, detector_options, overrides_of
from pipeline.engine import run as runner
from pipeline.errors import ConfigError, RunMismatchError, WeightsError
from pipeline.images.photos import Photo
from pipeline.methods.protocol import Batch
from pipeline.results.instance_file import write_shard
from pipeline.results.instances import ImageRecord, counts_of
from pipeline.runs.launch import Launch
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> DetectorCheckpoint:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "detector.safetensors")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_and_a_broken_one(tmp_path_factory.mktemp("photos"), 7)


@pytest.fixture(scope="module")
def previous(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A complete run of cuts over the photos, on another grid and in other shards."""
    out = tmp_path_factory.mktemp("previous") / "run"
    with pytest.MonkeyPatch.context() as patch:
        in_place_of_models(patch, lambda launch: tiny_method("maskcut"))
        runner.run(out, Launch(str(photos), recipe="maskcut", shard_size=4))
    return RunFolder.open(out)


def records_of(out: Path) -> dict[str, ImageRecord]:
    return {record.id: record for record in RunReader(RunFolder.open(out))}


def errors_of(out: Path) -> list[str]:
    return [problem.message for problem in verify_run(RunFolder.open(out)) if problem.severity == "error"]


def test_a_run_of_predictions(checkpoint: DetectorCheckpoint, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = runner.run(out, launch(checkpoint, photos, min_score=0.6, max_per_image=8))
    assert summary.complete
    assert (summary.images, summary.quarantined) == (8, 1)
    assert summary.seconds.keys() == {"detect", "masks"}
    assert errors_of(out) == []
    method = load([f"detector.checkpoint={checkpoint.path}"], CPU)
    for id_, record in records_of(out).items():
        if id_ == "broken.png":
            assert record.status == "quarantined"
            continue
        rgb = np.asarray(Image.open(photos / id_))
        (everything,) = method.outputs(Batch(None, [0], [Photo(id_, rgb)]))
        expected = [i for i in everything.instances if i.score > 0.6 and i.round < 8]
        assert record.size == rgb.shape[:2]
        assert [i.round for i in masks_of(record)] == [i.round for i in expected]
        assert [i.score for i in masks_of(record)] == pytest.approx([i.score for i in expected], abs=1e-4)
        assert all(i.confidence.shape == (60, 60) for i in masks_of(record))
    config = RunFolder.open(out).config
    assert config["detector"] == {"name": "tiny_random", "sha256": checkpoint.sha256}
    assert config["recipe"]["min_score"] == 0.6
    assert str(photos.parent) not in str(config), "where the checkpoint lies decides nothing"


def test_it_goes_on_and_refuses_other_settings(checkpoint: DetectorCheckpoint, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = launch(checkpoint, photos, max_per_image=3, grid=4)
    runner.run(out, first)
    before = records_of(out)
    (out / "commits" / "00001.json").unlink()
    assert runner.run(out).images == 3
    assert records_of(out) == before
    with pytest.raises(RunMismatchError, match=r"recipe.max_per_image: run has 3, now 4"):
        runner.run(out, launch(checkpoint, photos, max_per_image=4, grid=4))
    other = write_tiny(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(RunMismatchError, match=r"detector.sha256"):
        runner.run(out, launch(other, photos, max_per_image=3, grid=4))


def test_the_round_before_is_merged(
    checkpoint: DetectorCheckpoint, photos: Path, previous: RunFolder, tmp_path: Path
) -> None:
    """In shards of another size and order of processing, and with an image that comes later by a retry."""
    options = {"min_score": 0.7, "max_per_image": 2}
    plain, merged = tmp_path / "plain", tmp_path / "merged"
    runner.run(plain, launch(checkpoint, photos, grid=8, **options))
    runner.run(merged, launch(checkpoint, photos, previous=previous.url, **options))
    old, new, both = records_of(Path(previous.url)), records_of(plain), records_of(merged)
    assert sum(len(masks_of(record)) for record in old.values()) > 3
    stayed = 0
    for id_, record in both.items():
        n = len(masks_of(new[id_]))
        assert masks_of(record)[:n] == masks_of(new[id_])
        rest = [i for i in masks_of(old[id_]) if not n or _iou(i, new[id_]) < 0.5]
        assert list(masks_of(record)[n:]) == rest
        assert drops_of(record).get("replaced", 0) == len(masks_of(old[id_])) - len(rest)
        stayed += len(rest)
    assert stayed > 0
    assert errors_of(merged) == []
    assert RunFolder.open(merged).config["previous"]["fingerprint"] == previous.fingerprint
    assert RunFolder.open(merged).config["recipe"]["grid"] == [8, 8], "that of the round before"


def _iou(instance: Any, record: ImageRecord) -> float:
    codes = [{"size": list(record.size), "counts": i.rle} for i in masks_of(record)]
    return float(coco_mask.iou([{"size": list(record.size), "counts": instance.rle}], codes, [0] * len(codes)).max())


def test_retried_images_find_their_old_masks(
    checkpoint: DetectorCheckpoint, previous: RunFolder, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in photos.iterdir():
        (folder / file.name).write_bytes(b"" if file.name == "005.png" else file.read_bytes())
    out = tmp_path / "run"
    runner.run(out, launch(checkpoint, folder, previous=previous.url, min_score=1.0))
    assert records_of(out)["005.png"].status == "quarantined"
    (folder / "005.png").write_bytes((photos / "005.png").read_bytes())
    runner.retry_quarantined(out)
    assert records_of(out)["005.png"].instances == records_of(Path(previous.url))["005.png"].instances


def test_an_unfinished_round_before_is_refused(checkpoint: DetectorCheckpoint, photos: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    runner.run(unfinished, launch(checkpoint, photos, max_per_image=1))
    (unfinished / "commits" / "00002.json").unlink()
    with pytest.raises(ConfigError, match="lacks 1 of 3 shards"):
        runner.run(tmp_path / "run", launch(checkpoint, photos, previous=str(unfinished)))


def test_boxes_of_the_detector(checkpoint: DetectorCheckpoint, photos: Path, tmp_path: Path) -> None:
    tight, loose = tmp_path / "tight", tmp_path / "loose"
    runner.run(tight, launch(checkpoint, photos, max_per_image=5))
    runner.run(loose, launch(checkpoint, photos, max_per_image=5, boxes="detector"))
    assert errors_of(tight) == errors_of(loose) == []
    pairs = [
        (a, b)
        for one, other in zip(records_of(tight).values(), records_of(loose).values(), strict=True)
        for a, b in zip(masks_of(one), masks_of(other), strict=True)
    ]
    assert all(a.rle == b.rle for a, b in pairs)
    assert any(b.box[2] > a.box[2] + 2 for a, b in pairs)


def test_verify_finds_boxes_that_do_not_hold_their_masks(
    checkpoint: DetectorCheckpoint, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    runner.run(run, launch(checkpoint, photos, max_per_image=5, boxes="detector"))
    folder = RunFolder.open(run)
    shard = RunReader(folder).open_shard("00000")
    (run / "commits" / "00000.json").unlink()
    wrong = []
    for record in shard.results():
        moved = [replace(i, box=(i.box[0], i.box[1], i.box[2] / 2, i.box[3])) for i in masks_of(record)]
        wrong.append(replace(record, instances=tuple(moved)))
    data = write_shard(wrong, shard.grid, shard.attributes)
    folder.ledger.commit("00000", new_attempt(), Outcome(data, counts_of(wrong)))
    assert any("does not hold it" in error for error in errors_of(run))


def test_noise_has_no_round_before(checkpoint: DetectorCheckpoint, previous: RunFolder) -> None:
    """Batches of no shard, by which memory is measured on a GPU."""
    method = DetectorMethod(DetectorOptions(str(checkpoint.path), previous=previous.url), checkpoint, CPU)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    (record,) = method.outputs(Batch(None, range(1), [Photo("noise", noise)]))
    assert drops_of(record).get("replaced", 0) == 0


class Pickling(ThreadPoolExecutor):
    """Like a pool of processes, all that goes to it and comes back is pickled; and starts in no time."""

    def submit(self, call: Any, /, *arguments: Any, **options: Any) -> Any:
        call, arguments, options = pickle.loads(pickle.dumps((call, arguments, options)))
        return super().submit(lambda: pickle.loads(pickle.dumps(call(*arguments, **options))))


def test_a_pool_shares_the_work_on_masks(checkpoint: DetectorCheckpoint) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8)
    photos = [Photo(str(i), rgb) for i, rgb in enumerate(noise)]
    method = load([f"detector.checkpoint={checkpoint.path}"], CPU)
    here = method.outputs(Batch(None, range(3), photos))
    with Pickling(2) as pool:
        there = method.outputs(Batch(None, range(3), photos, pool=pool))
    assert here == there


def test_processes_of_a_pool_load_no_mmdetection() -> None:
    code = "import sys; sys.modules.update(mmdet=None, mmcv=None, mmengine=None); import detector.prediction.merging"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("amp", [False, True])
def test_a_gpu_finds_the_same(checkpoint: DetectorCheckpoint, amp: bool) -> None:
    """Threads share the method there, as lanes do."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 16, 3), np.uint8).repeat(10, 1).repeat(10, 2)
    overrides = [f"detector.checkpoint={checkpoint.path}", "detector.grid=4", "detector.max_per_image=5"]
    on_cpu = load(overrides, CPU)
    on_gpu = load([*overrides, f"detector.amp={amp}"], torch.device("cuda"))

    def best(method: DetectorMethod, i: int) -> ImageRecord:
        return method.outputs(Batch(None, [0], [Photo(str(i), noise[i])]))[0]

    expected = [best(on_cpu, i) for i in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: best(on_gpu, i), range(8)))
    for ours, theirs in zip(expected, found, strict=True):
        scores = [[i.score for i in masks_of(record)][:1] for record in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=0.05 if amp else 1e-2)


def test_options_and_overrides() -> None:
    options = DetectorOptions("a=b.pth", min_score=0.25, nms_iou=0.4, previous="s3://b/run", amp=True, boxes="detector")
    assert detector_options(overrides_of(options)) == options
    assert overrides_of(DetectorOptions("c.pth")) == ("detector.checkpoint=c.pth",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "needs a trained detector"),
        (["detector.checkpoint=x", "local_cut.tau_knn=1"], "no option 'local_cut.tau_knn'"),
        (["detector.checkpoint=x", "detector.minscore=1"], "no option 'detector.minscore'"),
        (["detector.checkpoint=x", "detector.min_score=high"], "min_score is a number"),
        (["detector.checkpoint=x", "detector.boxes=round"], "mask, detector"),
        (["detector.checkpoint=x", "detector.grid=0"], r"1\.\.1024"),
        (["detector.checkpoint=x", "detector.keep_iou=0"], "keep_iou"),
    ],
)
def test_wrong_options_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(overrides, CPU)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing"):
        load([f"detector.checkpoint={tmp_path / 'nothing.pth'}"], CPU)


def test_a_launch_keeps_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("detector.checkpoint=work/tiny.pth", "detector.previous=s3://bucket/run", "detector.min_score=0.5")
    assert absolute_launch(Launch(recipe="detector", overrides=asked)).overrides == (
        f"detector.checkpoint={tmp_path}/work/tiny.pth",
        *asked[1:],
    )
    plain = ("detector.previous=none",)
    assert absolute_launch(Launch(recipe="detector", overrides=plain)).overrides == plain
    assert load.absolute is absolute_launch  # type: ignore[attr-defined]  # which the registry looks for
