"""Training from end to end on painted photos: what it leaves, how it goes on, what it refuses."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.painted_run import painted_run, write_truth
from support.small_training import SMALL, small_training
from support.stored_run import StoredRun

from detector.model.build import build_model
from detector.model.checkpoints import read_detector, read_tensors
from detector.training.config import read_config, set_options, set_runs
from detector.training.folder import training_at
from detector.training.hooks import CheckLoss, StartFrom, estimate_batch_norms
from detector.training.import_detector import import_detector
from detector.training.loop import SeededTrainLoop, seed_step
from detector.training.optimizer import ClippingOptimWrapper, clip_each
from detector.training.train import Training, train
from detector.training.validation import TruthPhotos
from detector.training.validation_truth import read_validation
from detector.training.wanted import check_training
from pipeline.errors import ConfigError, RunMismatchError, SourceError, StoreError, TrainingError, WeightsError
from pipeline.evaluation.scores import score_detections
from pipeline.evaluation.truth.coco import Truth
from pipeline.runs.lease import Lease, LeaseError
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.files_at import files_at

pytestmark = pytest.mark.usefixtures("module_cache")


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return painted_run(tmp_path_factory.mktemp("painted"))


@pytest.fixture(scope="module")
def run(painted: StoredRun) -> str:
    return painted.url


@pytest.fixture(scope="module")
def straight(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing interrupted. Not to be written to."""
    folder = tmp_path_factory.mktemp("straight") / "work"
    assert train(small_training(run, folder)) == folder / "detector.safetensors"
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_tensors(path)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def losses(folder: Path) -> list[float]:
    """Of all iterations, over all launches."""
    lines = [line for file in sorted(folder.glob("*/vis_data/scalars.json")) for line in file.read_text().splitlines()]
    return [json.loads(line)["loss"] for line in lines]


def interrupt_after(iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ctrl-C does in the middle of the next iteration."""
    run_iter = SeededTrainLoop.run_iter

    def interrupted(self: Any, batch: Any) -> None:
        if self._iter == iteration:
            raise KeyboardInterrupt
        run_iter(self, batch)

    monkeypatch.setattr(SeededTrainLoop, "run_iter", interrupted)


def test_what_a_training_leaves(straight: Path, run: str) -> None:
    left = {path.name for path in straight.iterdir() if path.is_file()}
    assert left == {
        *("training.json", "detector.json", "detector.safetensors", "iter_3.pth", "iter_6.pth"),
        *("last_checkpoint", "tiny.py"),
    }
    detector = read_detector(straight / "detector.safetensors")
    assert detector.trained_on["runs"][0]["url"] == run
    assert (detector.trained_on["iterations"], detector.trained_on["images"]) == (6, 12)
    assert {"mmcv": "2.1.0", "mmcv-lite": "2.1.0"}.items() & detector.trained_on["versions"].items()
    assert detector.config["resize"] == {"short": 64, "long": 96}
    assert_same(dict(detector.state_dict), weights(straight / "iter_6.pth"))
    assert len(losses(straight)) == 6
    assert list(straight.glob("*/vis_data/events.out.tfevents*"))


def test_every_checkpoint_is_a_detector(straight: Path) -> None:
    model = build_model(read_detector(straight / "iter_3.pth"))
    assert_same(dict(model.state_dict()), weights(straight / "iter_3.pth"))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights(straight / "iter_6.pth").values(), model.state_dict().values(), strict=True)
    )


def test_a_resumed_training_is_the_one_that_was_not_interrupted(
    straight: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = small_training(run, tmp_path / "work")
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)
        with pytest.raises(KeyboardInterrupt):
            train(wanted)
    train(dataclasses.replace(wanted, resume=True))
    work = tmp_path / "work"
    assert_same(weights(work / "detector.safetensors"), weights(straight / "detector.safetensors"))
    assert (work / "detector.safetensors").read_bytes() == (straight / "detector.safetensors").read_bytes()
    optimizers = [torch.load(folder / "iter_6.pth")["optimizer"] for folder in (work, straight)]
    torch.testing.assert_close(*optimizers, rtol=0, atol=0)
    resumed = losses(work)
    assert resumed == [*losses(straight)[:4], *losses(straight)[3:]]


@pytest.mark.slow
def test_batches_that_were_trained_on_are_not_loaded_again(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detector.data.dataset import StoreDataset

    wanted = small_training(run, tmp_path / "work", "custom_hooks.2.batches=0")
    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(wanted)
    asked = []
    get = StoreDataset.__getitem__
    monkeypatch.setattr(StoreDataset, "__getitem__", lambda self, draw: (asked.append(draw), get(self, draw))[1])
    train(dataclasses.replace(wanted, resume=True))
    assert len(asked) == 6  # three batches of two


@pytest.mark.slow
def test_loading_in_other_processes_changes_nothing(straight: Path, run: str, tmp_path: Path) -> None:
    train(small_training(run, tmp_path / "work", "train_dataloader.num_workers=2"))
    assert_same(weights(tmp_path / "work" / "detector.safetensors"), weights(straight / "detector.safetensors"))


@pytest.mark.slow
def test_another_seed_is_another_training(straight: Path, run: str, tmp_path: Path) -> None:
    train(small_training(run, tmp_path / "work", seed=1, iterations=2))
    assert losses(tmp_path / "work")[0] != losses(straight)[0]


def test_a_finished_training_only_makes_its_detector_anew(run: str, straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "moved")
    (tmp_path / "moved" / "detector.safetensors").unlink()
    train(small_training(run, tmp_path / "moved", resume=True))
    assert_same(weights(tmp_path / "moved" / "detector.safetensors"), weights(straight / "detector.safetensors"))
    assert len(losses(tmp_path / "moved")) == 6


@pytest.mark.slow
def test_a_checkpoint_torn_by_a_crash_is_passed_over(
    run: str, straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(straight, tmp_path / "work")
    torn = tmp_path / "work" / "iter_6.pth"
    torn.write_bytes(torn.read_bytes()[:5000])
    with caplog.at_level(logging.WARNING):
        train(small_training(run, tmp_path / "work", resume=True))
    assert "iter_6.pth cannot be read, using the one before it" in caplog.text
    assert_same(weights(tmp_path / "work" / "detector.safetensors"), weights(straight / "detector.safetensors"))


def test_a_folder_is_one_trainings(run: str, straight: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    with pytest.raises(RunMismatchError, match="add --resume"):
        train(small_training(run, straight))
    with pytest.raises(RunMismatchError, match=r"seed: before 0, now 5") as caught:
        train(small_training(run, straight, "model.backbone.depth=34", seed=5, resume=True))
    assert "model.backbone.depth: before 18, now 34" in str(caught.value)
    other = painted_run(tmp_path, count=8).url
    with pytest.raises(RunMismatchError, match="masks: before"):
        train(small_training(other, straight, resume=True))
    with pytest.raises(TrainingError, match="no training to resume"):
        train(small_training(run, tmp_path / "new", resume=True))
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


@pytest.mark.slow
def test_what_never_got_to_a_checkpoint_gives_way(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(small_training(run, tmp_path / "work", seed=5))
    wanted = small_training(run, tmp_path / "work", iterations=1)
    with pytest.raises(RunMismatchError, match="seed: before 5, now 0"):
        train(dataclasses.replace(wanted, resume=True))
    train(wanted)
    assert read_detector(tmp_path / "work" / "detector.safetensors").trained_on["seed"] == 0


@pytest.mark.slow
def test_one_process_at_a_time(run: str, tmp_path: Path) -> None:
    wanted = small_training(run, tmp_path / "work", iterations=1)
    with Lease(files_at(tmp_path / "work"), lifetime=5), pytest.raises(LeaseError, match="is being worked on by"):
        train(wanted)
    assert train(wanted).exists()
    assert not (tmp_path / "work" / "lease.json").exists()


def test_nothing_is_written_into_a_folder_that_another_took_over(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "check", raise_lost)
    with pytest.raises(LeaseError, match="taken over"):
        train(small_training(run, tmp_path / "work"))
    assert not list(tmp_path.glob("work/*.pth"))


def raise_lost(lease: Lease) -> None:
    raise LeaseError("taken over")


@pytest.mark.slow
def test_resume_none_does_what_there_is_to_do(run: str, straight: Path, tmp_path: Path) -> None:
    wanted = small_training(run, tmp_path / "work", resume=None)
    train(wanted)
    assert train(wanted) == tmp_path / "work" / "detector.safetensors"
    assert_same(weights(tmp_path / "work" / "detector.safetensors"), weights(straight / "detector.safetensors"))


def test_paths_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Training(("a", "s3://b/run"), "mine.py", "work", init_from="d.pth", val_truth="t.json", backbone="b.pth")
    there = here.anywhere()
    assert there.runs == (str(tmp_path / "a"), "s3://b/run")
    assert (there.config, there.work_dir) == (str(tmp_path / "mine.py"), str(tmp_path / "work"))
    assert (there.init_from, there.val_truth, there.val_images) == (
        str(tmp_path / "d.pth"),
        str(tmp_path / "t.json"),
        None,
    )
    assert there.backbone == str(tmp_path / "b.pth")
    named = Training(("a",), "tiny", "work", backbone="random").anywhere()
    assert (named.config, named.backbone) == ("tiny", "random")


def test_foreign_folders(tmp_path: Path) -> None:
    (tmp_path / "iter_5.pth").touch()
    with pytest.raises(RunMismatchError, match="of another program"):
        training_at(tmp_path).claim({}, resume=True)
    for text, kind in (("{", TrainingError), ('{"schema": "x"}', RunMismatchError)):
        (tmp_path / "training.json").write_text(text)
        with pytest.raises(kind):
            training_at(tmp_path).claim({}, resume=None)


@pytest.mark.slow
def test_a_run_that_grew_is_another_one(tmp_path: Path, run: str) -> None:
    """Its committed shards decide, not where it lies."""
    url = painted_run(tmp_path / "whole", count=8).url
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    part = RunFolder.open(str(tmp_path / "part" / "run"))
    (tmp_path / "part" / "run" / "commits" / "00001.json").unlink()
    train(small_training(part.url, tmp_path / "work", iterations=3))
    shutil.copytree(tmp_path / "part", tmp_path / "moved")
    train(small_training(str(tmp_path / "moved" / "run"), tmp_path / "work", iterations=3, resume=True))
    with pytest.raises(RunMismatchError, match="masks: before"):
        train(small_training(url, tmp_path / "work", iterations=3, resume=True))


def test_a_detector_to_start_from(run: str, straight: Path, tmp_path: Path) -> None:
    frozen = ("optim_wrapper.optimizer.lr=0.0", "custom_hooks.3.checkpoint=None")
    wanted = small_training(
        run, tmp_path / "work", *frozen[:1], iterations=3, init_from=str(straight / "detector.safetensors")
    )
    train(wanted)
    ours, theirs = weights(tmp_path / "work" / "detector.safetensors"), weights(straight / "detector.safetensors")
    assert [
        name
        for name in ours
        if "running" not in name and "num_batches" not in name and not torch.equal(ours[name], theirs[name])
    ] == []


def test_a_detector_of_another_model_is_no_start(run: str, straight: Path, tmp_path: Path) -> None:
    wanted = small_training(
        run, tmp_path / "work", "model.rpn_head.feat_channels=8", init_from=str(straight / "detector.safetensors")
    )
    with pytest.raises(WeightsError, match="of another model"):
        train(wanted)
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        train(small_training(run, tmp_path / "other", init_from=str(tmp_path / "none.pth")))
    with pytest.raises(WeightsError, match="needs a checkpoint"):
        StartFrom(None).before_train(type("Runner", (), {"iter": 0})())


@pytest.mark.slow
def test_validation_by_the_evaluation_of_pseudo_masks(
    painted: StoredRun, run: str, straight: Path, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.json"
    write_truth(painted, truth)
    photos = str(Path(run).parent / "photos")
    wanted = small_training(run, tmp_path / "work", "train_cfg.val_interval=3", val_truth=str(truth), val_images=photos)
    train(wanted)
    assert_same(
        weights(tmp_path / "work" / "detector.safetensors"), weights(straight / "detector.safetensors")
    )  # it changes nothing
    lines = [
        json.loads(line)
        for file in (tmp_path / "work").glob("*/vis_data/scalars.json")
        for line in file.read_text().splitlines()
    ]
    validated = [line for line in lines if "val/mask_AP" in line]
    assert [line["step"] for line in validated] == [3, 6]
    # The same figure from the detector itself, by the test step of MMDetection.
    detections, model = [], build_model(read_detector(tmp_path / "work" / "detector.safetensors"))
    for image in Truth.read(str(truth)).images.values():
        detections += detect(model, Path(photos) / image["file_name"], image["id"])
    expected = score_detections(
        Truth.read(str(truth)), detections, [d["image_id"] for d in detections], iou_types=("segm", "bbox")
    )
    assert validated[-1]["val/mask_AR100"] == pytest.approx(expected["mask_AR100"], abs=1e-6)
    assert validated[-1]["val/box_AP"] == pytest.approx(expected["box_AP"], abs=1e-6)


def detect(model: Any, path: Path, image_id: int) -> list[dict[str, Any]]:
    import cv2
    from mmdet.structures import DetDataSample
    from pycocotools import mask as coco_mask

    photo = cv2.imread(str(path))
    height, width = photo.shape[:2]
    scale = min(96 / max(height, width), 64 / min(height, width))
    resized = cv2.resize(photo, (int(width * scale + 0.5), int(height * scale + 0.5)))
    sample = DetDataSample(
        metainfo={
            "img_shape": resized.shape[:2],
            "ori_shape": (height, width),
            "scale_factor": (resized.shape[1] / width, resized.shape[0] / height),
        }
    )
    with torch.no_grad():
        found = model.test_step({"inputs": [torch.from_numpy(resized).permute(2, 0, 1)], "data_samples": [sample]})[
            0
        ].pred_instances
    boxes = found.bboxes.numpy().astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rles = [coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in found.masks]
    return [
        {"image_id": image_id, "bbox": box, "score": score, "segmentation": rle}
        for box, score, rle in zip(boxes.tolist(), found.scores.tolist(), rles, strict=True)
        if coco_mask.area(rle)
    ]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"runs": ("nowhere",)}, StoreError, "is not a run"),
        ({"runs": ()}, ConfigError, "give --run"),
        ({"config": "cuts3d_r51"}, ConfigError, "one of cups_r50_fpn"),
        ({"device": "cuda:7"}, ConfigError, "device cuda:7 is not there"),
        ({"device": "tpu"}, ConfigError, "unknown device"),
        ({"amp": True, "device": "cpu"}, ConfigError, "for GPUs"),
        ({"backbone": "nowhere.pth"}, WeightsError, "there are no backbone weights"),
        ({"settings": ("model.backbone.typ=X", *SMALL)}, ConfigError, "cannot be built.*typ"),
        ({"settings": ("model.rpn_head.type=NoSuchHead", *SMALL)}, ConfigError, "cannot be built.*NoSuchHead"),
        ({"settings": (*SMALL, "train_dataloader.dataset.filters={'min_score': 2.0}")}, ConfigError, "min_score"),
        ({"settings": (*SMALL, "train_dataloader.sampler={'type': 'InfiniteSampler'}")}, ConfigError, "SeededSampler"),
        ({"val_truth": "t.json"}, ConfigError, "go together"),
        ({"settings": (*SMALL, "optim_wrapper.optimizer.foo=1")}, ConfigError, "cannot be built.*foo"),
        (
            {"settings": (*SMALL, "optim_wrapper.optimizer.lr='x'")},
            ConfigError,
            "lr is 0.01: it must be a value of that kind, not 'x'",
        ),
        ({"settings": (*SMALL, "optim_wrapper.foo=1")}, ConfigError, "cannot be built.*foo"),
        ({"settings": (*SMALL, "param_scheduler.0.foo=1")}, ConfigError, "cannot be built.*foo"),
        ({"settings": (*SMALL, "default_hooks.logger.foo=1")}, ConfigError, "cannot be built.*foo"),
        ({"settings": (*SMALL, "train_dataloader.dataset.pipeline.0.foo=1")}, ConfigError, "cannot be built"),
        ({"settings": (*SMALL, "test_pipeline.0.foo=1")}, ConfigError, "cannot be built"),
        ({"settings": (*SMALL, "model.data_preprocessor.mean=1")}, ConfigError, "mean|cannot be built"),
        (
            {"settings": (*SMALL, "default_hooks.checkpoint.interval='a'")},
            ConfigError,
            "interval is 50: it must be a value of that kind",
        ),
        ({"settings": (*SMALL, "train_cfg.val_interval=0")}, ConfigError, "val_interval is 0: it must be a whole"),
        ({"settings": (*SMALL, "train_cfg.max_iters=-1")}, ConfigError, "max_iters is -1: it must be a whole"),
        ({"settings": (*SMALL, "train_dataloader.batch_size=0")}, ConfigError, "batch_size is 0: it must be a whole"),
    ],
)
def test_what_cannot_be_trained(run: str, tmp_path: Path, change: dict[str, Any], kind: type, message: str) -> None:
    wanted = small_training(run, tmp_path / "work")
    with pytest.raises(kind, match=message):
        train(dataclasses.replace(wanted, **change))
    assert not list(tmp_path.glob("work/*.pth"))


@pytest.mark.parametrize("processes", [0, 1])
def test_photos_that_are_gone_end_it_in_a_sentence(processes: int, tmp_path: Path) -> None:
    painted = painted_run(tmp_path, count=4)
    for photo in (tmp_path / "photos").iterdir():
        photo.unlink()
    with pytest.raises(
        StoreError, match=r"^\d+ of the \d+ photos read are gone or broken .*: mount the photos where .+$"
    ):
        train(small_training(painted.url, tmp_path / "work", f"train_dataloader.num_workers={processes}"))


def test_photos_to_validate_with_have_to_be_there(painted: StoredRun, tmp_path: Path) -> None:
    write_truth(painted, tmp_path / "truth.json")
    with pytest.raises(SourceError, match=r"none of 12 images looked for .*; say with --val-images"):
        TruthPhotos(str(tmp_path / "truth.json"), str(tmp_path), []).full_init()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [a.update(iscrowd="maybe") for a in d["annotations"]], "iscrowd: 'maybe' is neither yes nor no"),
        (lambda d: [a.update(segmentation=[[1, 2, 3, 4]]) for a in d["annotations"]], r"none of its \d+ annotations"),
        (lambda d: [a.pop("segmentation") for a in d["annotations"]], "no_mask"),
        (
            lambda d: [i.update(height=1000) for i in d["images"]],
            r"none of its \d+ annotations .* other_size, .* 1000 × ",
        ),
    ],
)
def test_a_truth_to_validate_with_is_checked_before_the_training(
    painted: StoredRun, run: str, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    truth, photos = tmp_path / "truth.json", str(Path(run).parent / "photos")
    write_truth(painted, truth)
    change(document := json.loads(truth.read_text()))
    truth.write_text(json.dumps(document))
    wanted = small_training(run, tmp_path / "work", val_truth=str(truth), val_images=photos)
    for attempt in (train, check_training):
        with pytest.raises(SourceError, match=message):
            attempt(wanted)
    assert not list(tmp_path.glob("work/*"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["images"][0].update(file_name="gone.png"), "1 of 12 photos left out: 1 missing, such as"),
        (lambda d: d["images"][0].update(file_name="a" * 5000), "1 of 12 photos left out: 1 "),
        (lambda d: d["images"][0].update(file_name="../a.png"), "1 of 12 photos left out: 1 odd_entry, such as"),
        (lambda d: d["images"][0].update(height=1000), "1 of 12 photos left out: 1 other_size, such as"),
        (lambda d: d["images"][0].update(id=d["images"][1]["id"]), "1 of 12 images left out: 1 odd, such as image"),
    ],
)
def test_an_odd_photo_to_validate_with_costs_no_other(
    painted: StoredRun,
    run: str,
    tmp_path: Path,
    change: Callable[[Any], Any],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As `evaluate-detector` has it: hours of training are not refused for one photo of thousands."""
    truth, photos = tmp_path / "truth.json", str(Path(run).parent / "photos")
    write_truth(painted, truth)
    change(document := json.loads(truth.read_text()))
    truth.write_text(json.dumps(document))
    check_training(small_training(run, tmp_path / "work", val_truth=str(truth), val_images=photos))
    assert len(TruthPhotos(str(truth), photos, [])) == 11
    assert caplog.text.count(says) == 1  # it is read once for both


def test_sizes_of_a_truth_to_validate_with_need_not_be_listed(painted: StoredRun, run: str, tmp_path: Path) -> None:
    truth, photos = tmp_path / "truth.json", str(Path(run).parent / "photos")
    write_truth(painted, truth)
    document = json.loads(truth.read_text())
    sizes = {image["id"]: (image.pop("height"), image.pop("width")) for image in document["images"]}
    for annotation in document["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    truth.write_text(json.dumps(document))
    found = read_validation(str(truth), photos)
    assert {id_: found.truth.size(id_) for id_ in found.photos} == sizes


def test_sizes_of_a_truth_to_validate_with_may_be_swapped(painted: StoredRun, run: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    write_truth(painted, truth)
    straight = json.loads(truth.read_text())
    swapped = json.loads(truth.read_text())
    for image in swapped["images"]:
        image["height"], image["width"] = image["width"], image["height"]
    truth.write_text(json.dumps(swapped))
    found = read_validation(str(truth), str(Path(run).parent / "photos")).truth
    assert [found.size(image["id"]) for image in straight["images"]] == [
        (image["height"], image["width"]) for image in straight["images"]
    ]


def test_names_of_a_truth_to_validate_with_may_be_in_the_other_form_of_unicode(
    painted: StoredRun, run: str, tmp_path: Path
) -> None:
    truth, photos = tmp_path / "truth.json", tmp_path / "photos"
    write_truth(painted, truth)
    document = json.loads(truth.read_text())
    shutil.copytree(Path(run).parent / "photos", photos)
    first = document["images"][0]
    (photos / first["file_name"]).rename(photos / "Cafe\u0301.png")
    first["file_name"] = "Caf\u00e9.png"
    truth.write_text(json.dumps(document))
    assert len(read_validation(str(truth), str(photos)).photos) == len(document["images"])


def test_a_loss_that_is_no_number_ends_the_training(run: str, tmp_path: Path) -> None:
    wanted = small_training(run, tmp_path / "work", "optim_wrapper.optimizer.lr=1e30", "optim_wrapper.max_norm=1e30")
    with pytest.raises(TrainingError, match=r"the loss of iteration \d is not finite"):
        train(wanted)
    CheckLoss().after_train_iter(None, 0, outputs={"loss": torch.tensor(1.0), "acc": torch.tensor([50.0])})


def test_each_parameters_gradient_is_clipped_as_torch_would() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(n) * 10**scale for n, scale in ((3, 1), (50, -2), (7, 0), (1, 0))] + [torch.zeros(4)]
    expected = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        expected.append(parameter.grad)
    largest = max(gradient.norm() for gradient in gradients)
    assert clip_each(gradients, 1.0) == largest
    torch.testing.assert_close(gradients, expected)


def test_options_of_the_clipping_wrapper() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(ConfigError, match="above 0"):
        ClippingOptimWrapper(0.0, optimizer=torch.optim.SGD(parameters, 0.1))
    with pytest.raises(ConfigError, match="does not go with max_norm"):
        ClippingOptimWrapper(1.0, optimizer=torch.optim.SGD(parameters, 0.1), clip_grad={"max_norm": 3})


def test_seeds_of_steps_and_ranks() -> None:
    drawn = {}
    for step in range(20):
        for rank in range(3):
            seed_step(4, step, rank)
            drawn[step, rank] = (torch.rand(1).item(), float(np.random.rand()))  # noqa: NPY002
    assert len(set(drawn.values())) == 60
    seed_step(4, 7, 2)
    assert drawn[7, 2][0] == torch.rand(1).item()


def test_batch_norms_get_the_mean_over_all_batches() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = torch.nn.BatchNorm2d(2)
            self.frozen = torch.nn.BatchNorm2d(2).eval()

        def data_preprocessor(self, batch: Any, training: bool) -> Any:
            return {"inputs": batch}

        def forward(self, inputs: torch.Tensor, mode: str) -> torch.Tensor:
            out: torch.Tensor = self.frozen(self.bn(inputs))
            return out

    torch.manual_seed(0)
    batches = [torch.randn(4, 2, 3, 3) * (i + 1) + i for i in range(5)]
    net = Net()
    net.bn.running_mean += 5
    estimate_batch_norms(net, iter(batches), len(batches))
    torch.testing.assert_close(net.bn.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    variances = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in batches])
    torch.testing.assert_close(net.bn.running_var, variances.mean(0))
    assert net.bn.momentum == 0.1
    assert torch.equal(net.frozen.running_mean, torch.zeros(2))


def own_project(run: str, folder: Path) -> Path:
    """A configuration file of plain MMDetection's kind, out of ours."""
    config = read_config("tiny")
    set_options(config, (*SMALL, "train_dataloader.persistent_workers=False"))
    set_runs(config, [run])
    config.train_dataloader.batch_size = 2
    config.default_hooks.checkpoint.interval = 3
    (folder / "mine.py").write_text(config.pretty_text)
    return folder / "mine.py"


@pytest.mark.slow
def test_mmdetections_own_script_trains_our_configurations(run: str, tmp_path: Path) -> None:
    """Which imports MMDetection, and with it mmcv's operators, before it reads the configuration."""
    import mmdet

    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    words = [own_project(run, tmp_path), "--work-dir", tmp_path / "work", "--cfg-options", "train_cfg.max_iters=3"]
    done = subprocess.run([sys.executable, script, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(tmp_path / "work")) == 3


@pytest.mark.slow
def test_mmengines_own_runner_trains_and_resumes_our_configurations(run: str, straight: Path, tmp_path: Path) -> None:
    """As a project of one's own does: no code of ours but what custom_imports registers."""
    script = f"""
from mmengine.config import Config
from mmengine.runner import Runner
for resume, iterations in ((False, 3), (True, 5)):
    config = Config.fromfile({str(tmp_path / "mine.py")!r})
    config.work_dir, config.resume = {str(tmp_path / "work")!r}, resume
    config.train_cfg.max_iters, config.experiment_name = iterations, f"to_{{iterations}}"
    Runner.from_cfg(config).train()
"""
    own_project(run, tmp_path)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"iter_3.pth", "iter_5.pth"} <= {path.name for path in (tmp_path / "work").iterdir()}
    assert len(losses(tmp_path / "work")) == 5
    import_detector(tmp_path / "work" / "iter_5.pth", str(tmp_path / "work" / "mine.py"), tmp_path / "mine.safetensors")
    assert_same(weights(tmp_path / "mine.safetensors"), weights(tmp_path / "work" / "iter_5.pth"))


@pytest.mark.slow
def test_two_processes_train_as_one(run: str, straight: Path, tmp_path: Path) -> None:
    """torchrun on two CPUs: the same images per step; losses differ by batch norms, which are over one image each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    wanted = small_training(run, tmp_path / "work")
    settings = [word for setting in wanted.settings for word in ("--set", setting)]
    command += [
        "-m",
        "detector.training",
        "--",
        "--run",
        run,
        "--config",
        "tiny",
        "--work-dir",
        wanted.work_dir,
        *settings,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*command, "--batch-size", "2", "--iterations", "6"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    detector = read_detector(tmp_path / "work" / "detector.safetensors")
    assert (detector.trained_on["batch"], detector.trained_on["iterations"]) == (2, 6)
    assert losses(tmp_path / "work")[0] == pytest.approx(losses(straight)[0], rel=0.1)
    # In this process, as one, the very same training can be resumed.
    assert train(dataclasses.replace(wanted, resume=True)) == tmp_path / "work" / "detector.safetensors"


def test_training_is_described_by_plain_values() -> None:
    assert json.loads(json.dumps(dataclasses.asdict(Training(("a",), "tiny", "w")))) == {
        **dataclasses.asdict(Training(("a",), "tiny", "w")),
        "runs": ["a"],
        "settings": [],
    }
