"""Detectors scored, held against pycocotools on what MMDetection's own test step finds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.tiny_detector import write_tiny
from support.tiny_method import draw_photos

from detector.evaluation.evaluate import evaluate_detector, metrics_json
from detector.model.checkpoints import DetectorCheckpoint
from detector.prediction.detections import PasteRule, instance_of
from detector.prediction.predictor import Predictor
from pipeline.engine import run as runner
from pipeline.errors import CutsError
from pipeline.evaluation.truth.formats import TruthSet, read_truth
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

PHOTOS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> DetectorCheckpoint:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "detector.safetensors")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> DetectorCheckpoint:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "other.safetensors", seed=1)


@pytest.fixture(scope="module")
def truth_file(tmp_path_factory: pytest.TempPathFactory, checkpoint: DetectorCheckpoint) -> Path:
    """Photos whose objects are detections of the detector itself, spoiled a little: something to find for anybody."""
    folder = tmp_path_factory.mktemp("benchmark")
    files = draw_photos(folder / "images", PHOTOS)
    rng = np.random.default_rng(0)
    dataset: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1}, {"id": 2}]}
    for number, detection in enumerate(found_in(files, checkpoint)):
        height, width = detection["segmentation"]["size"]
        if rng.random() < 0.5:
            mask = coco_mask.decode(detection["segmentation"])
            mask[rng.random(mask.shape) < rng.choice([0.05, 0.2])] = 0
            rle = coco_mask.encode(np.asfortranarray(mask))
            box = np.array(detection["bbox"]) + rng.integers(-2, 3, 4)
            annotation = {
                "id": number + 1,
                "image_id": detection["image_id"],
                "category_id": 1 + number % 2,
                "iscrowd": 0,
                "area": int(coco_mask.area(rle)),
                "bbox": box.tolist(),
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
            }
            dataset["annotations"].append(annotation)
    for i, file in enumerate(files):
        with Image.open(file) as opened:
            width, height = opened.size
        dataset["images"].append({"id": 10 + i, "file_name": file.name, "height": height, "width": width})
    (folder / "instances.json").write_text(json.dumps(dataset))
    return folder / "instances.json"


def found_in(files: list[Path], checkpoint: DetectorCheckpoint) -> list[dict[str, Any]]:
    """COCO results, without any run."""
    photos = [np.asarray(Image.open(file)) for file in files]
    results = []
    for i, (photo, found) in enumerate(zip(photos, Predictor(checkpoint, torch.device("cpu"))(photos), strict=True)):
        for mask, box, score in zip(found.masks, found.boxes, found.scores, strict=True):
            instance = instance_of(mask, box, float(score), 0, photo.shape[:2], PasteRule(0.5, (1, 1)))
            if instance is not None:
                rle = {"size": list(photo.shape[:2]), "counts": instance.rle}
                x1, y1, x2, y2 = box.tolist()
                result = {"image_id": 10 + i, "category_id": 1, "segmentation": rle, "score": float(score)}
                results.append({**result, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    return results


@pytest.fixture(scope="module")
def truth(truth_file: Path) -> TruthSet:
    return read_truth(str(truth_file))


def test_values_are_pycocotools(
    checkpoint: DetectorCheckpoint, truth: TruthSet, truth_file: Path, tmp_path: Path
) -> None:
    (scored,) = evaluate_detector(checkpoint, [truth], tmp_path / "m.json", runner.run, bootstrap=50, device="cpu")
    coco = COCO(str(truth_file))
    results = found_in(sorted((truth_file.parent / "images").iterdir()), checkpoint)
    for kind, prefix in (("segm", "mask"), ("bbox", "box")):
        # loadRes takes the boxes of masks where a result has both
        given = [{k: v for k, v in r.items() if k != ("bbox" if kind == "segm" else "segmentation")} for r in results]
        reference = COCOeval(coco, coco.loadRes(given), kind)
        reference.params.useCats = 0
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        metrics = scored.report.evaluations[0].metrics
        names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")
        for name, expected in zip(names, reference.stats, strict=False):
            value = metrics[f"{prefix}_{name}"].value
            assert (value if np.isfinite(value) else -1) == pytest.approx(expected, abs=2e-3), name
        by_area = reference.eval["recall"][0, 0, :, -1]
        for name, expected in zip(("", "_small", "_medium", "_large"), by_area, strict=True):
            value = metrics[f"{prefix}_recall50{name}"].value
            assert (value if np.isfinite(value) else -1) == pytest.approx(expected, abs=2e-3), name
        assert metrics[f"{prefix}_AR1000"].value == metrics[f"{prefix}_AR100"].value, "a hundred are kept"
        assert 0.05 < metrics[f"{prefix}_AP"].value < 1
        assert metrics[f"{prefix}_AP"].low <= metrics[f"{prefix}_AP"].value <= metrics[f"{prefix}_AP"].high
    assert scored.report.missing == 0
    assert scored.speed.images == PHOTOS
    assert scored.speed.images_per_second > 0
    assert scored.drops.keys() <= {"empty_mask"}


def test_more_detections_are_kept_for_ar1000(checkpoint: DetectorCheckpoint, truth: TruthSet, tmp_path: Path) -> None:
    out, given = tmp_path / "m.json", {"bootstrap": 0, "device": "cpu"}
    (few,) = evaluate_detector(checkpoint, [truth], out, runner.run, **given)
    (many,) = evaluate_detector(checkpoint, [truth], out, runner.run, max_per_image=1000, **given)
    metrics = [one.report.evaluations[0].metrics for one in (few, many)]
    for prefix in ("mask", "box"):
        names = [f"{prefix}_{name}" for name in ("AP", "AR100", "recall50")]
        assert [metrics[0][name].value for name in names] == [metrics[1][name].value for name in names]
        assert metrics[1][f"{prefix}_AR1000"].value >= metrics[0][f"{prefix}_AR1000"].value
    runs = sorted(path.name for path in (tmp_path / "m-runs").iterdir() if path.is_dir())
    assert [name.endswith("-1000") for name in runs] == [False, True]


@pytest.mark.slow
def test_predictions_are_made_once_and_compared(
    checkpoint: DetectorCheckpoint, other: DetectorCheckpoint, truth: TruthSet, tmp_path: Path
) -> None:
    out = tmp_path / "metrics.json"
    done: list[int] = []

    def execute(*arguments: Any, **options: Any) -> Any:
        summary = runner.run(*arguments, **options)
        done.append(summary.images)
        return summary

    alone = evaluate_detector(checkpoint, [truth], out, execute, bootstrap=20)
    (both,) = evaluate_detector(checkpoint, [truth], out, execute, other=other, bootstrap=20)
    assert done == [PHOTOS, 0, PHOTOS]
    first, second = both.report.evaluations
    before = alone[0].report.evaluations[0].metrics
    assert [str(value) for value in first.metrics.values()] == [str(value) for value in before.values()]  # nan, too
    assert first.metrics["mask_AP"].value > second.metrics["mask_AP"].value, "the truth is made of its detections"
    runs = sorted(path for path in (tmp_path / "metrics-runs").iterdir() if path.is_dir())
    assert len(runs) == 2
    assert all([p for p in verify_run(RunFolder.open(run)) if p.severity == "error"] == [] for run in runs)
    content = json.loads(metrics_json(checkpoint, other, [both]))
    assert content["schema"] == "cuts3d-detector-metrics/1"
    assert content["detector"]["sha256"] == checkpoint.sha256
    assert content["other"]["sha256"] == other.sha256
    (benchmark,) = content["benchmarks"]
    assert benchmark["run"]["box_AP"]["value"] == first.metrics["box_AP"].value
    assert benchmark["difference"].keys() == benchmark["run"].keys()
    assert benchmark["n_images"] == PHOTOS


def test_photos_that_are_missing_are_said(
    checkpoint: DetectorCheckpoint, truth_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in (truth_file.parent / "images").iterdir():
        (folder / file.name).write_bytes(b"" if file.name == "003.png" else file.read_bytes())
    truth = read_truth(str(truth_file), str(folder))
    (scored,) = evaluate_detector(checkpoint, [truth], tmp_path / "m.json", runner.run, bootstrap=0)
    assert scored.report.missing == 1
    assert scored.report.runs[0].set_aside == ("003.png",)
    assert "1 of 6 images is not scored" in caplog.text


def test_boxes_alone(checkpoint: DetectorCheckpoint, truth_file: Path, truth: TruthSet, tmp_path: Path) -> None:
    (full,) = evaluate_detector(checkpoint, [truth], tmp_path / "m.json", runner.run, bootstrap=0)
    boxes = read_truth(f"objects365:{truth_file}")
    (scored,) = evaluate_detector(checkpoint, [boxes], tmp_path / "m.json", runner.run, bootstrap=0)
    assert scored.benchmark == "Objects365"
    metrics = scored.report.evaluations[0].metrics
    assert all(name.startswith("box_") for name in metrics)
    assert metrics["box_AP50"].value == full.report.evaluations[0].metrics["box_AP50"].value


def test_lvis_takes_300(checkpoint: DetectorCheckpoint, truth: TruthSet, tmp_path: Path) -> None:
    many = replace(truth, max_detections=300)
    (scored,) = evaluate_detector(checkpoint, [many], tmp_path / "m.json", runner.run, bootstrap=0)
    assert RunFolder.open(scored.report.runs[0].url).config["recipe"]["max_per_image"] == 300
    assert "mask_AR300" in scored.report.evaluations[0].metrics


def test_missing_shards_stop_it(checkpoint: DetectorCheckpoint, truth: TruthSet, tmp_path: Path) -> None:
    def execute(*arguments: Any, **options: Any) -> Any:
        summary = runner.run(*arguments, **options)
        summary.standing = replace(summary.standing, done=summary.done - 2)
        return summary

    with pytest.raises(CutsError, match="2 shards"):
        evaluate_detector(checkpoint, [truth], tmp_path / "m.json", execute)
