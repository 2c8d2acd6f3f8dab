"""Scoring whole runs: which image is which, and what is said, written and refused."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.cli import main
from pipeline.errors import SourceError
from pipeline.evaluation.report import evaluate_runs, report_csv, report_json
from pipeline.evaluation.run_detections import run_detections
from pipeline.evaluation.scores import METRICS
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.results.instance_file import write_shard
from pipeline.results.instances import ImageRecord, Instance, counts_of
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder
from pipeline.views.export import export_coco

GRID = (2, 3)
SIZE = (40, 60)


def rectangle(left: int, width: int = 20) -> dict[str, Any]:
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[5:35, left : left + width] = 1
    return coco_mask.encode(mask)


def record(image_id: str, lefts: list[int], size: tuple[int, int] = SIZE) -> ImageRecord:
    """An image with a mask of 20 × 30 pixels at each of these places, the first with the lowest score."""
    instances = []
    for i, left in enumerate(lefts):
        rle = rectangle(left)
        box = tuple(coco_mask.toBbox(rle).tolist())
        instances.append(Instance(rle["counts"], box, 600, 0.5 + 0.1 * i, np.full(GRID, 255, np.uint8), i))
    return ImageRecord(image_id, size, "ok" if lefts else "no_masks", tuple(instances), {}, None)


def make_run(folder: Path, records: list[ImageRecord], coco_ids: dict[str, int] | None = None) -> RunFolder:
    ids = coco_ids or {}
    manifest = Manifest([ImageRef(r.id, f"/photos/{r.id}", coco_id=ids.get(r.id)) for r in records], 8)
    run = RunFolder.create_or_open(folder, {"recipe": {"name": "sample"}}, manifest)
    by_id = {r.id: r for r in records}
    for shard in run.pending():
        part = [by_id[ref.id] for ref in shard.refs]
        data = write_shard(part, GRID, {"recipe": "sample"})
        run.ledger.commit(shard.key, new_attempt(), Outcome(data, counts_of(part), quarantine_of(part)))
    return run


def make_truth(files: dict[str, list[int]], first_id: int = 1) -> dict[str, Any]:
    """Images with an object of 20 × 30 pixels at each of these places."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, lefts) in enumerate(files.items(), start=first_id):
        images.append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for left in lefts:
            polygon = [left, 5, left + 20, 5, left + 20, 35, left, 35]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 3,
                    "iscrowd": 0,
                    "area": 600,
                    "bbox": [left, 5, 20, 30],
                    "segmentation": [polygon],
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "bar"}]}


def test_a_run_is_perfect_against_its_own_export(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [record("a/0.png", [0, 30]), record("b/0.png", [10]), record("c.png", [])])
    export_coco(run, tmp_path / "own.json")
    report = evaluate_runs(Truth.read(str(tmp_path / "own.json")), run, bootstrap=0)
    values = {name: estimate.value for name, estimate in report.evaluations[0].metrics.items()}
    assert report.missing == 0
    assert report.evaluations[0].n_images == 3, "an image without objects and masks is an image, too"
    for name in ("mask_AP", "box_AP", "mask_AR100", "object_best_iou", "mask_precision"):
        assert values[name] == pytest.approx(1), name
    assert values["masks_per_image"] == 1
    assert values["mask_AR1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("in_truth", "in_run", "coco_id"),
    [
        ("x/0.png", "x/0.png", None),
        ("train2017/0.png", "0.png", None),
        ("0.png", "some/where/0.png", None),
        ("renamed.png", "0.png", 1),
        ("0.png", "0.png", 77),  # the name tells, whatever the id
    ],
)
def test_images_are_found_by_path_name_or_id(in_truth: str, in_run: str, coco_id: int | None, tmp_path: Path) -> None:
    run = make_run(tmp_path, [record(in_run, [0])], {in_run: coco_id} if coco_id else None)
    found = run_detections(run, Truth(make_truth({in_truth: [0], "other.png": []})))
    assert list(found.by_image) == [1]
    assert found.recipe == "sample"


def test_a_path_is_more_than_a_name(tmp_path: Path) -> None:
    truth = Truth(make_truth({"a/0.png": [0], "b/0.png": [], "1.png": []}))
    run = make_run(tmp_path, [record("b/0.png", []), record("c/0.png", []), record("1.png", [])])
    found = run_detections(run, truth)
    assert sorted(found.by_image) == [2, 3]
    assert found.unlabelled == ("c/0.png",), "it may be either"


def test_what_cannot_be_scored_is_counted(tmp_path: Path) -> None:
    bad = Failed("bad.png", "truncated", "it ends too early")
    turned = ImageRecord("turned.png", SIZE[::-1], "no_masks", (), {}, None)
    run = make_run(tmp_path / "run", [record("0.png", [0]), bad, turned, record("new.png", [0])])
    truth = make_truth({"0.png": [0], "bad.png": [0], "turned.png": [], "not_run.png": [0]})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    result = cuts3d("evaluate", run.url, "--truth", tmp_path / "truth.json", "--bootstrap", 10)
    assert result.exit_code == 1, result.output
    assert (
        "images  1 scored; 3 of the truth left out: not in the run; 1 set aside; 1 of another size; " in result.output
    )
    assert "1 of the run not in the truth" in result.output
    report = evaluate_runs(Truth(truth), run, bootstrap=0)
    facts = json.loads(report_json(report))
    assert facts["missing_images"] == 3
    assert facts["runs"]["run"]["set_aside"] == ["bad.png"]
    assert facts["runs"]["run"]["other_size"] == ["turned.png"]
    assert facts["runs"]["run"]["unlabelled"] == 1


def test_own_scores_rank_and_constant_ones_keep_the_order_of_discovery(tmp_path: Path) -> None:
    """The wrong mask has the better score and was found last."""
    run = make_run(tmp_path, [record("0.png", [0, 40])])
    truth = Truth(make_truth({"0.png": [0]}))
    own, constant = (
        evaluate_runs(truth, run, scores=scores, bootstrap=0).evaluations[0].metrics["mask_AP50"].value
        for scores in ("own", "constant")
    )
    assert own == pytest.approx(0.5)
    assert constant == pytest.approx(1)


def test_two_runs_are_compared_on_the_images_of_both(tmp_path: Path) -> None:
    truth = Truth(make_truth({f"{i}.png": [0, 20] for i in range(8)}))
    good = make_run(tmp_path / "good", [record(f"{i}.png", [0, 20]) for i in range(7)])
    poor = make_run(tmp_path / "poor", [record(f"{i}.png", [0] if i % 2 else [0, 20]) for i in range(1, 8)])
    report = evaluate_runs(truth, good, poor, bootstrap=200)
    assert report.evaluations[0].n_images == 6
    assert report.missing == 2
    difference, ratio = (report.columns[what]["mask_AR100"] for what in ("difference", "ratio"))
    assert difference.value == pytest.approx(1 / 4)
    assert ratio.value == pytest.approx(4 / 3)
    assert 0 <= difference.low < 1 / 4 < difference.high <= 1 / 2
    assert report.columns["difference"]["pairs_separated"].value == pytest.approx(1 / 2)
    same = evaluate_runs(truth, good, good, bootstrap=20).columns["difference"]
    defined = [estimate for estimate in same.values() if not np.isnan(estimate.value)]
    assert len(defined) > 20
    assert {(e.value, e.low, e.high) for e in defined} == {(0.0, 0.0, 0.0)}


@pytest.mark.parametrize("turned", [False, True])
def test_swapped_sizes_of_a_truth(tmp_path: Path, turned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Polygons are right where they are, unless they were drawn on a photo that lay on its side."""
    files = {f"{i}.png": [0, 20] for i in range(3)}
    run = make_run(tmp_path / "run", [record(name, lefts) for name, lefts in files.items()])
    swapped = make_truth(files)
    for image in swapped["images"][:2]:
        image["height"], image["width"] = image["width"], image["height"]
    photo = tmp_path / "photo.jpg"
    size = SIZE if turned else SIZE[::-1]  # Pillow's are width, height
    Image.new("RGB", size).save(photo, exif=orientation(6 if turned else 1))
    run.manifest.refs = tuple(dataclasses.replace(ref, uri=str(photo)) for ref in run.manifest.refs)
    found = run_detections(run, Truth(swapped, "truth.json"))
    assert len(found.by_image) == (1 if turned else 3)
    assert found.other_size == (("0.png", "1.png") if turned else ())
    assert ("truth.json has height and width of images swapped, as CutLER writes them: 2 of 3" in caplog.text) != turned
    if not turned:
        reports = (evaluate_runs(Truth(data, "truth.json"), run, bootstrap=0) for data in (swapped, make_truth(files)))
        assert len(set(map(report_json, reports))) == 1


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    truth = Truth(make_truth({"0.png": [0], "1.png": [0]}), "truth.json")
    elsewhere = make_run(tmp_path / "elsewhere", [record("x.png", [0])])
    first, second = (make_run(tmp_path / f"run{i}", [record(f"{i}.png", [0])]) for i in (0, 1))
    with pytest.raises(SourceError, match=r"can be scored with truth\.json: 1 are not in it \(.*x\.png.*0\.png\)$"):
        evaluate_runs(truth, elsewhere)
    with pytest.raises(SourceError, match=r"run0 and .*run1 have no image of truth\.json in common"):
        evaluate_runs(truth, first, second)
    twins = make_run(tmp_path / "twins", [record("a/0.png", [0]), record("b/0.png", [0])])
    with pytest.raises(SourceError, match=r"no image of .*twins can be scored"):
        evaluate_runs(truth, twins)


def test_images_that_the_truth_does_not_tell_apart_cost_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = Truth(make_truth({"0.png": [0], "a/1.png": [0], "2.png": [0]}), "truth.json")
    names = ["a/0.png", "b/0.png", "a/1.png", "b/1.png", "2.png"]
    found = run_detections(make_run(tmp_path, [record(name, [0]) for name in names]), truth)
    assert sorted(found.by_image) == [2, 3]
    assert found.unlabelled == ("a/0.png", "b/0.png", "b/1.png")
    assert (
        "3 images of the run are not scored, since truth.json does not tell them apart: a/0.png, b/0.png may be 0.png"
    ) in caplog.text


def cuts3d(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_prints_and_writes_everything(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(make_truth({f"{i}.png": [0, 20] for i in range(6)})))
    first = make_run(tmp_path / "first", [record(f"{i}.png", [0, 20]) for i in range(6)])
    second = make_run(tmp_path / "second", [record(f"{i}.png", [0, 23][: i % 3]) for i in range(6)])
    files = ["--csv", tmp_path / "out" / "scores.csv", "--json", tmp_path / "out" / "scores.json"]
    result = cuts3d(
        *("evaluate", first.url, "--truth", tmp_path / "truth.json", "--compare", second.url),
        *("--scores", "constant", "--bootstrap", 100, "--seed", 4, *files),
    )
    assert result.exit_code == 0, result.output
    for line in ("images  6 scored", "scores  constant", "95% of 100 resamples"):
        assert line in result.output
    printed = next(line for line in result.output.splitlines() if line.startswith("pairs_separated"))
    assert "100.00 [100.00, 100.00]" in printed
    facts = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (facts["n_images"], facts["bootstrap"], facts["seed"], facts["scores"]) == (6, 100, 4, "constant")
    assert list(facts["difference"]) == [metric.name for metric in METRICS]
    assert facts["run"]["mask_AP_large"] == {"value": None, "low": None, "high": None}
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert len(rows) == 4 * len(METRICS)
    for row in rows:
        value = facts[row["what"]][row["metric"]]["value"]
        assert (float(row["value"]) if row["value"] not in ("", "inf") else None) == value
        assert (row["n_images"], row["seed"]) == ("6", "4")


def test_poor_masks_can_be_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [record("0.png", [0, 30]), record("1.png", [10])])
    export_coco(run, tmp_path / "own.json")
    least = sorted(annotation["score"] for annotation in json.loads((tmp_path / "own.json").read_text())["annotations"])
    options = ("--truth", tmp_path / "own.json", "--bootstrap", 0, "--min-score", least[-1] + 1e-3)
    result = cuts3d("evaluate", run.url, *options, "--json", tmp_path / "none.json")
    assert result.exit_code == 0, result.output
    assert f"own, of masks with {least[-1] + 1e-3:g} or more" in result.output
    facts = json.loads((tmp_path / "none.json").read_text())
    assert facts["min_score"] == least[-1] + 1e-3
    assert facts["run"]["masks_per_image"]["value"] == 0
    assert facts["run"]["mask_AP"]["value"] == 0
    result = cuts3d("export", run.url, "--coco", tmp_path / "few.json", "--min-score", least[-1] + 1e-3)
    assert result.output.startswith("0 annotations")


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    truth = Truth(make_truth({f"{i}.png": [0, 20] for i in range(5)}))
    run = make_run(tmp_path, [record(f"{i}.png", [0, 20][: i % 3]) for i in range(5)])
    first, second, other = (evaluate_runs(truth, run, bootstrap=50, seed=seed) for seed in (1, 1, 2))
    assert report_json(first) == report_json(second) != report_json(other)
    assert report_csv(first) == report_csv(second) != report_csv(other)


def test_errors_are_messages(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [record("0.png", [0])])
    (tmp_path / "bad.json").write_text("[]")
    for arguments, says in (
        ([run.url, "--truth", tmp_path / "none.json"], "none.json cannot be read"),
        ([run.url, "--truth", tmp_path / "bad.json"], 'it has no list "images"'),
        ([tmp_path, "--truth", tmp_path / "bad.json"], "is not a run"),
        ([run.url, "--truth", tmp_path / "bad.json", "--bootstrap", "-1"], "--bootstrap"),
    ):
        result = cuts3d("evaluate", *arguments)
        assert result.exit_code == 2
        assert says in result.output
        assert "Traceback" not in result.output


@pytest.mark.slow
def test_evaluating_does_without_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [record("0.png", [0])])
    (tmp_path / "truth.json").write_text(json.dumps(make_truth({"0.png": [0]})))
    code = (
        "import sys; from pipeline.cli import main\n"
        f"main({['evaluate', run.url, '--truth', str(tmp_path / 'truth.json')]!r}, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules, 'scoring takes less time than loading it'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mask_AP" in done.stdout
