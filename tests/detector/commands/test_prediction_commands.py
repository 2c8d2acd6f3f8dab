"""predict, self-train and evaluate-detector as they are typed."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from support.panoptic_runs import random_panoptic, write_run
from support.ray_nodes import Nodes
from support.sample_run import masks_of
from support.tiny_detector import write_tiny
from support.tiny_method import draw_photos, in_place_of_models, tiny_method
from support.tiny_panoptic import write_panoptic

from detector.training import train as training
from detector.training.train import Training
from pipeline import cli
from pipeline.engine import run as runner
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "detector.safetensors").path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder, 4)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_predict(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    arguments = ["predict", photos, tmp_path / "broken.jpg", "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    done = call(*arguments, "--min-score", 0.7, "--max-per-image", 3, "--device", "cpu")
    assert done.exit_code == 1, "a photo was set aside"
    annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    assert f"{len(annotations)} objects in" in done.output
    assert "4 pictures in" in done.output
    assert "set aside    1 truncated, the first is broken.jpg: " in done.output or "set aside    1 " in done.output
    assert {a["score"] > 0.7 for a in annotations} == {True}
    other = call(*arguments, "--min-score", 0.8)
    assert other.exit_code == 2
    assert "recipe.min_score: run has 0.7, now 0.8" in other.output


def test_self_train(checkpoint: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        in_place_of_models(patch, lambda launch: tiny_method("maskcut"))
        runner.run(tmp_path / "run", Launch(str(photos), recipe="maskcut", shard_size=2))
    requests: list[Training] = []

    def train(wanted: Training) -> Path:
        requests.append(wanted)
        folder = Path(wanted.work_dir)
        folder.mkdir(parents=True)
        return write_tiny(folder / "detector.safetensors", seed=len(requests)).path

    monkeypatch.setattr(training, "train", train)
    tried: list[Training] = []
    monkeypatch.setattr(training, "try_out", tried.append)
    arguments = ["self-train", "--run", tmp_path / "run", "--checkpoint", checkpoint, "--work-dir", tmp_path / "rounds"]
    done = call(*arguments, "--config", "tiny", "--thresholds", "0.8,0.7", "--iterations", 5, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"detector   {tmp_path / 'rounds' / 'round-2' / 'training' / 'detector.safetensors'}" in done.output
    assert [(r.config, r.iterations, r.device, r.resume) for r in requests] == [("tiny", 5, "cpu", None)] * 2
    assert [(one.runs, one.init_from) for one in tried] == [((str(tmp_path / "run"),), checkpoint)]
    refused = call(*arguments, "--config", "tiny", "--thresholds", "0.8", "--iterations", 5)
    assert refused.exit_code == 2
    assert "thresholds: before [0.8, 0.7], now [0.8]" in refused.output


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_panoptic(tmp_path_factory.mktemp("panoptic") / "detector.safetensors").path)


def test_predict_with_a_panoptic_detector(panoptic: str, photos: Path, tmp_path: Path) -> None:
    done = call("predict", photos, "--checkpoint", panoptic, "--out", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 0, done.output
    annotations = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    segments = sum(len(one["segments_info"]) for one in annotations)
    assert f"{segments} segments in {tmp_path}/out/panoptic.json, maps in {tmp_path}/out/panoptic\n" in done.output
    assert len(list((tmp_path / "out" / "panoptic").glob("*.png"))) == len(annotations) == 4


def test_self_train_of_a_panoptic_detector(panoptic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "labels", [random_panoptic(f"{n}.png", (40, 60), n) for n in range(3)])
    requests: list[Training] = []

    def train(wanted: Training) -> Path:
        requests.append(wanted)
        folder = Path(wanted.work_dir)
        folder.mkdir(parents=True)
        torch.save({"state_dict": {}}, folder / f"iter_{wanted.rounds}.pth")
        return write_panoptic(folder / "detector.safetensors").path

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "try_out", lambda wanted: None)
    arguments = ["self-train", "--run", run.url, "--checkpoint", panoptic, "--work-dir", tmp_path / "rounds"]
    done = call(*arguments, "--config", "cups_self_tiny", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"detector   {tmp_path / 'rounds' / 'round-3' / 'training' / 'detector.safetensors'}" in done.output
    assert [(r.rounds, r.teacher, r.init_from) for r in requests] == [(n, {}, panoptic) for n in (1, 2, 3)]
    refused = call(*arguments, "--config", "cups_self_tiny", "--thresholds", "0.8", "--device", "cpu")
    assert refused.exit_code == 2
    assert "thresholds: before none, now [0.8]" in refused.output
    for option, instead in (("--ray", "--train-workers N"), ("--batch-size=2", "--train-batch-size")):
        useless = call(*arguments, "--config", "cups_self_tiny", option)
        assert useless.exit_code == 2
        assert "cups_self_tiny has a teacher that labels while training: leave it out" in useless.output
        assert instead in useless.output
    wrong = call(*arguments[:-1], tmp_path / "others", "--device", "cpu")
    assert wrong.exit_code == 2
    assert "holds panoptic labels: --config self_train_r50_fpn is for instance masks" in wrong.output
    assert "--config cups_r50_fpn" in wrong.output
    scored = call(
        "evaluate-detector", "--checkpoint", panoptic, "--truth", empty_truth(tmp_path), "--out", tmp_path / "m.json"
    )
    assert scored.exit_code == 2
    assert "is a panoptic detector, and detections of one class are scored here" in scored.output


def empty_truth(folder: Path) -> Path:
    (folder / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photos" / "a.png")
    image = {"id": 1, "file_name": "photos/a.png", "width": 8, "height": 8}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    box["segmentation"] = [[1, 1, 5, 1, 5, 5, 1, 5]]
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "is of another model than is to be trained"),
        (["--set", "optim_wrapper.foo=1"], "cannot be built"),
        (["--train-amp"], "mixed precision is for GPUs"),
    ],
)
def test_a_self_training_that_could_not_train_does_not_begin(
    checkpoint: str, photos: Path, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is of a model that `tiny` is not."""
    with monkeypatch.context() as patch:
        in_place_of_models(patch, lambda launch: tiny_method("maskcut"))
        runner.run(tmp_path / "run", Launch(str(photos), recipe="maskcut", shard_size=2))
    arguments = ["self-train", "--run", tmp_path / "run", "--checkpoint", checkpoint, "--work-dir", tmp_path / "rounds"]
    refused = call(*arguments, "--config", "tiny", "--device", "cpu", *options)
    assert refused.exit_code == 2
    assert message in refused.output
    assert not (tmp_path / "rounds").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--thresholds", "high"], "thresholds 'high' are not numbers"),
        (["--thresholds", "1.5"], "in 0..1"),
        (["--train-ray", "auto"], "--train-ray is of use with --train-workers only"),
        (["--workers", "2"], "--workers is of use with --ray only"),
    ],
)
def test_self_train_in_vain(checkpoint: str, options: list[str], message: str, tmp_path: Path) -> None:
    arguments = ["self-train", "--run", "x", "--checkpoint", checkpoint, "--work-dir", tmp_path / "rounds", *options]
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert message in refused.output


@pytest.mark.slow
def test_evaluate_detector(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.safetensors", seed=1).path
    truth = write_truth(photos, tmp_path / "instances_val2017.json")
    out, markdown = tmp_path / "metrics.json", tmp_path / "tables.md"
    arguments = ["evaluate-detector", "--checkpoint", checkpoint, "--truth", truth, "--truth", f"objects365:{truth}"]
    arguments += ["--truth-images", photos, "--images", photos, "--out", out, "--bootstrap", 20]
    done = call(*arguments, "--markdown", markdown, "--compare", other)
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    assert [b["benchmark"] for b in content["benchmarks"]] == ["COCO val2017", "Objects365"]
    assert [b["n_images"] for b in content["benchmarks"]] == [4, 4]
    assert "images/s of a worker" in done.output
    text = markdown.read_text()
    for line in ("| CutLER, self-trained | 21.9 / 32.7 | 21.6 / 34.2 |", "| CutS3D | 10.7 / 20.8 |"):
        assert line in text, "published figures stand beside ours"
    assert text.count("ours, tiny_random") == 4, "two detectors, boxes and masks"
    uneven = call(*arguments, "--images", photos)
    assert uneven.exit_code == 2
    assert "3 --truth-images for 2 --truth" in uneven.output


def write_truth(photos: Path, file: Path) -> Path:
    images, annotations = [], []
    for number, photo in enumerate(sorted(photos.iterdir()), start=1):
        with Image.open(photo) as opened:
            width, height = opened.size
        images.append({"id": number, "file_name": photo.name, "height": height, "width": width})
        box = {"bbox": [10, 10, 30, 20], "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]], "area": 600, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    categories = [{"id": 1, "name": "thing"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


@pytest.mark.parametrize("command", ["predict", "self-train", "evaluate-detector"])
def test_without_mmdetection(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)
    required = {
        "predict": ["x.jpg", "--out", tmp_path / "o"],
        "self-train": ["--run", "r", "--work-dir", tmp_path / "w"],
        "evaluate-detector": ["--truth", "t.json", "--out", tmp_path / "m.json"],
    }
    refused = call(command, "--checkpoint", "c.pth", *required[command])
    assert refused.exit_code == 2
    assert "make install-detector" in refused.output


@pytest.mark.ray
@pytest.mark.slow(20)
def test_predictions_on_ray_are_those_made_here(checkpoint: str, photos: Path, tmp_path: Path, nodes: Nodes) -> None:
    nodes.add()
    arguments = ["predict", photos, "--checkpoint", checkpoint, "--min-score", 0.7]
    on_ray = ["--ray", nodes.address, "--workers", 1, "--cpus-per-worker", 1]
    for out, options in (("here", []), ("ray", on_ray)):
        done = call(*arguments, "--out", tmp_path / out, *options)
        assert done.exit_code == 0, done.output
    here, there = (list(RunReader(RunFolder.open(tmp_path / out / "run"))) for out in ("here", "ray"))
    assert here == there
    assert any(masks_of(record) for record in here)
