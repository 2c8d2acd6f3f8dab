"""COCO JSON, mask files and overlays of a run."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

from pipeline.engine import run as runner
from pipeline.errors import StoreError
from pipeline.evaluation.report import evaluate_runs
from pipeline.evaluation.truth.coco import Truth
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.export import export_coco, export_masks, export_overlays
from pipeline.views.picture_files import output_path, picture_names


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Six photos in two folders with the same names in both, and one that is none."""
    root = tmp_path_factory.mktemp("export")
    draw_photos(root / "photos" / "a", 3)
    draw_photos(root / "photos" / "b", 3, seed=1)
    (root / "photos" / "broken.jpg").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        in_place_of_models(patch, lambda launch: tiny_method(launch.recipe))
        runner.run(root / "run", Launch(images=str(root / "photos"), shard_size=4))
    return RunFolder.open(root / "run")


def test_coco_json_is_what_the_store_holds(run: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "out" / "pseudo.json"
    n = export_coco(run, file)
    coco = COCO(str(file))
    records = {record.id: record for record in RunReader(run) if record.status != "quarantined"}
    assert len(coco.anns) == n == sum(len(record.instances) for record in records.values()) > 0
    assert {image["file_name"] for image in coco.imgs.values()} == records.keys()
    assert len(records) == 6, "same basenames in different folders stay two images; the broken one is left out"
    for image in coco.imgs.values():
        record = records[image["file_name"]]
        assert (image["height"], image["width"]) == record.size
        assert image["width"] == 80, "width and height are not swapped"
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(annotations) == len(record.instances)
        for annotation, instance in zip(annotations, record.instances, strict=True):
            mask = coco.annToMask(annotation)
            assert mask.shape == record.size
            assert mask.sum() == annotation["area"] == instance.area
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            np.testing.assert_allclose(annotation["bbox"], box)
            assert annotation["score"] == pytest.approx(instance.score, abs=1e-6)
            inside = instance.confidence[instance.confidence > 0]
            assert annotation["mean_confidence"] == pytest.approx(inside.mean() / 255, abs=1e-5)
    assert [category["name"] for category in coco.cats.values()] == ["foreground"]
    fields = ("image_id", "category_id", "segmentation", "score")
    results = coco.loadRes([{name: annotation[name] for name in fields} for annotation in coco.anns.values()])
    assert len(results.anns) == n, "pycocotools takes them as detections too"


def test_scores_of_a_tree_reach_export_and_evaluation(run: RunFolder, tmp_path: Path) -> None:
    """Stored with all their parts, their product ranks the masks: the first of each image is what AR1 looks at."""
    records = [record for record in RunReader(run) if record.status == "ok"]
    for record in records:
        scores = [instance.score for instance in record.instances]
        products = [math.prod(dataclasses.astuple(instance.parts)) for instance in record.instances]
        assert scores == pytest.approx(products, rel=1e-5)
        assert scores[0] == max(scores) > 0
    export_coco(run, tmp_path / "pseudo.json")
    truth = json.loads((tmp_path / "pseudo.json").read_text())
    ranked = sorted(truth["annotations"], key=lambda annotation: -annotation["score"])
    best = {annotation["image_id"]: annotation for annotation in reversed(ranked)}
    assert len(best) == len(records) < len(ranked)
    evaluation = evaluate_runs(Truth(truth | {"annotations": list(best.values())}), run, bootstrap=0).evaluations[0]
    values = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    assert values["mask_AR1"] == pytest.approx(1), "the mask with the best score is the object"
    assert values["object_best_iou"] == pytest.approx(1)
    assert values["masks_per_image"] == pytest.approx(len(ranked) / len(truth["images"]))


def test_nothing_half_written_stays_behind(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.results.instance_coco.mean_confidences", lambda record: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_coco(run, tmp_path / "pseudo.json")
    assert list(tmp_path.iterdir()) == []


def test_ids_of_a_coco_list_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_photos(tmp_path / "images", 3)
    images = [{"id": 700 + i, "file_name": f"{i:03d}.png", "height": 64 + i, "width": 80} for i in range(3)]
    (tmp_path / "list.json").write_text(json.dumps({"images": images, "annotations": []}))
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe))
    runner.run(tmp_path / "run", Launch(images=str(tmp_path / "list.json")))
    export_coco(RunFolder.open(tmp_path / "run"), tmp_path / "pseudo.json")
    assert set(COCO(str(tmp_path / "pseudo.json")).imgs) == {700, 701, 702}


def test_mask_files_hold_the_numbers_of_the_masks(run: RunFolder, tmp_path: Path) -> None:
    assert export_masks(run, tmp_path) == 6
    assert (tmp_path / "a" / "000.png").is_file()
    for record in RunReader(run):
        if record.status == "quarantined":
            continue
        labels = np.asarray(Image.open(tmp_path / record.id))
        assert labels.shape == record.size
        assert set(np.unique(labels)) - {0} <= set(range(1, len(record.instances) + 1))
        assert (labels > 0).any() == bool(record.instances)


def test_overlays_colour_the_masks_and_leave_the_rest(run: RunFolder, tmp_path: Path) -> None:
    files = export_overlays(run, tmp_path, limit=4)
    assert len(files) == 4
    record = next(record for record in RunReader(run) if record.id == "a/000.png")
    drawn = np.asarray(Image.open(tmp_path / "a" / "000.png").convert("RGB")).astype(int)
    photo = np.asarray(Image.open(str(next(ref.uri for ref in run.manifest.refs if ref.id == record.id)))).astype(int)
    assert drawn.shape == photo.shape
    changed = np.abs(drawn - photo).max(axis=2) > 30
    assert changed.any()
    assert changed.mean() < 0.95


def test_a_photo_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_photos(tmp_path / "photos", 2)
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe))
    runner.run(tmp_path / "run", Launch(images=str(tmp_path / "photos")))
    (tmp_path / "photos" / "001.png").unlink()
    with pytest.raises(StoreError, match=r"photo 001\.png of the run cannot be read any more"):
        export_overlays(RunFolder.open(tmp_path / "run"), tmp_path / "overlays")


def test_endings_are_kept_only_where_they_tell_images_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in draw_photos(tmp_path / "photos", 2):
        Image.open(file).convert("RGB").save(file.with_suffix(".jpg"))
    (tmp_path / "photos" / "001.jpg").unlink()
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe))
    runner.run(tmp_path / "run", Launch(images=str(tmp_path / "photos")))
    assert picture_names(RunFolder.open(tmp_path / "run")) == {
        "000.jpg": "000.jpg.png",
        "000.png": "000.png.png",
        "001.png": "001.png",
    }


@pytest.mark.parametrize("hostile", ["../evil", "a/../../evil", "/etc/evil"])
def test_no_id_leaves_the_folder(tmp_path: Path, hostile: str) -> None:
    with pytest.raises(StoreError, match="outside"):
        output_path(tmp_path / "out", hostile)
