"""Comparisons of runs: agreement against brute force, intervals paired, what is left out."""

import csv
import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from support.tiny_method import draw_photos

from pipeline.errors import ConfigError, RunMismatchError, SourceError
from pipeline.evaluation.comparison import compare_runs, matched_iou
from pipeline.evaluation.comparison_report import comparison_csv, comparison_json, comparison_lines
from pipeline.evaluation.report import evaluate_runs
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import Manifest
from pipeline.images.sources import list_images
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord, Instance, counts_of
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder

SIZE = (40, 60)


def code(*boxes: tuple[int, int, int, int]) -> list[dict]:
    masks = []
    for top, left, height, width in boxes:
        mask = np.zeros(SIZE, np.uint8, order="F")
        mask[top : top + height, left : left + width] = 1
        masks.append(coco_mask.encode(mask))
    return masks


def record(id_: str, masks: list[dict]) -> ImageRecord:
    sure = np.full((1, 1), 255, np.uint8)
    instances = tuple(
        Instance(
            one["counts"], tuple(coco_mask.toBbox(one).tolist()), int(coco_mask.area(one)), 1 - 0.01 * k, sure, round=k
        )
        for k, one in enumerate(masks)
    )
    return ImageRecord(id_, SIZE, "ok" if instances else "no_masks", instances, {}, None)


def store(url: Path, photos: Path, results: list[ImageRecord | Failed], shard_size: int = 2) -> RunFolder:
    refs = list_images(str(photos)).refs[: len(results)]
    run = RunFolder.create_or_open(url, {"recipe": {"name": url.name}}, Manifest(refs, shard_size))
    by_id = {result.id: result for result in results}
    for shard in run.manifest.shards():
        own = [by_id[ref.id] for ref in shard.refs]
        data = InstanceKind(grid=(1, 1)).write(own, {})
        outcome = Outcome(data, counts_of(own), quarantine_of(own), {"features": 2.0, "refine": 1.0})
        run.ledger.commit(shard.key, new_attempt(), outcome)
    return run


TRUE = [(2, 2, 10, 10), (20, 30, 15, 20), (2, 40, 8, 8)]
FOUND = {
    "one": [[TRUE[0]], TRUE, [], [TRUE[1]], [TRUE[0]]],
    "two": [[TRUE[0]], TRUE[:2], [], [(20, 32, 15, 20), TRUE[0]], []],
}


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, RunFolder]:
    """Five images; the last one was set aside by the second run."""
    photos = tmp_path / "photos"
    draw_photos(photos, 5)
    made = {}
    for name, images in FOUND.items():
        results = [record(f"{i:03d}.png", code(*boxes)) for i, boxes in enumerate(images)]
        if name == "two":
            results[4] = Failed("004.png", "failed", "it broke", SIZE)
        made[name] = store(tmp_path / name, photos, results)
    return made


@pytest.fixture
def truth() -> Truth:
    annotations = [
        {"image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": mask, "area": float(coco_mask.area(mask))}
        for i in range(1, 6)
        for mask in code(*TRUE)
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
        annotation["bbox"] = coco_mask.toBbox(annotation["segmentation"]).tolist()
        counts = annotation["segmentation"]["counts"].decode()
        annotation["segmentation"] = {"size": list(SIZE), "counts": counts}
    images = [{"id": i, "file_name": f"{i - 1:03d}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(1, 6)]
    return Truth({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]})


def brute_force(masks: list[dict], others: list[dict]) -> float:
    """The best of all ways to match them one to one."""
    if len(masks) > len(others):
        masks, others = others, masks
    iou = np.zeros((len(masks), len(others)))
    for i, j in itertools.product(range(len(masks)), range(len(others))):
        a, b = (coco_mask.decode(one).astype(bool) for one in (masks[i], others[j]))
        iou[i, j] = (a & b).sum() / (a | b).sum()
    ways = itertools.permutations(range(len(others)), len(masks))
    best = max(sum(iou[i, j] for i, j in enumerate(way)) for way in ways)
    return 2 * best / (len(masks) + len(others)) if len(masks) + len(others) else 1.0


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_matched_as_well_as_they_can_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sets = [
        code(*((*rng.integers(0, 20, 2), *rng.integers(5, 20, 2)) for _ in range(rng.integers(0, 6)))) for _ in range(2)
    ]
    assert matched_iou(*sets) == pytest.approx(brute_force(*sets), abs=1e-12)
    assert matched_iou(*sets) == pytest.approx(matched_iou(*sets[::-1]), abs=1e-12)
    assert matched_iou(sets[0], sets[0]) == 1


def test_without_truth_nothing_is_said_of_quality(runs: dict[str, RunFolder]) -> None:
    found = compare_runs(runs, bootstrap=50)
    assert (found.images, found.scored, found.truth) == (4, 0, "")
    assert found.left_out == ("004.png",)
    assert [run.set_aside for run in found.runs] == [(), ("004.png",)]
    one, two = found.runs
    assert set(one.metrics) == {"masks_per_image"}
    assert one.metrics["masks_per_image"].value == (1 + 3 + 0 + 1) / 4, "without the image that is left out"
    assert two.metrics["masks_per_image"].value == (1 + 2 + 0 + 2) / 4
    assert two.difference["masks_per_image"].value == 0
    assert two.difference["masks_per_image"].low < 0 < two.difference["masks_per_image"].high
    assert (one.difference["masks_per_image"].low, one.difference["masks_per_image"].high) == (0, 0)
    agreements = [1, 2 * 2 / 5, 1, 2 * (18 / 22) / 3]
    assert list(found.differing.values()) == pytest.approx([1 - a for a in agreements], abs=1e-4)
    assert two.agreement[0].value == one.agreement[1].value == pytest.approx(np.mean(agreements), abs=1e-6)
    assert one.agreement[0].value == 1
    assert one.seconds == {"features": pytest.approx(6 / 5, abs=1e-3), "refine": pytest.approx(3 / 5, abs=1e-3)}
    text = "\n".join(comparison_lines(found))
    assert "AP" not in text
    assert "4 compared, 1 set aside and left out for all (1 by two)" in text


def test_with_truth_each_figure_is_that_of_evaluate(runs: dict[str, RunFolder], truth: Truth) -> None:
    found = compare_runs(runs, truth, bootstrap=60, seed=3)
    assert (found.images, found.scored, found.missing) == (4, 4, 1)
    report = evaluate_runs(truth, runs["two"], runs["one"], bootstrap=60, seed=3)
    one, two = found.runs
    for name, estimate in report.columns["run"].items():
        pairs = [
            (two.metrics[name], estimate),
            (one.metrics[name], report.columns["other"][name]),
            (two.difference[name], report.columns["difference"][name]),
        ]
        assert all(str(ours) == str(theirs) for ours, theirs in pairs), name  # nan, too
    assert one.metrics["mask_recall50_small"].value == 5 / 12, "all objects are small"
    assert math.isnan(one.metrics["mask_recall50_large"].value)
    assert two.metrics["mask_AR1000"].value == two.metrics["mask_AR100"].value


def test_tables_for_people_and_programs(runs: dict[str, RunFolder], truth: Truth) -> None:
    found = compare_runs(runs, truth, bootstrap=20)
    text = "\n".join(comparison_lines(found))
    for name in ("mask_AP", "mask_AP50", "mask_AR1000", "mask_recall50_small", "masks_per_image", "seconds per image"):
        assert f"\n{name} " in text
    assert "mask_AP_large" in text
    assert "box_AP" not in text
    facts = json.loads(comparison_json(found))
    assert facts["runs"][1]["agreement"].keys() == {"one", "two"}
    assert facts["runs"][0]["metrics"]["mask_AP_large"]["value"] is None
    rows = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    cells = {(row["recipe"], row["metric"]): row for row in rows}
    assert float(cells["two", "mask_AP"]["difference"]) == found.runs[1].difference["mask_AP"].value
    assert cells["one", "mask_AP_large"]["value"] == ""
    assert float(cells["one", "seconds_per_image"]["value"]) == found.runs[0].total_seconds
    assert "nan" not in comparison_csv(found)


def test_what_cannot_be_compared_is_refused(runs: dict[str, RunFolder], truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bootstrap is -1"):
        compare_runs(runs, truth, bootstrap=-1)
    fewer = store(tmp_path / "fewer", tmp_path / "photos", [record("000.png", [])])
    with pytest.raises(RunMismatchError, match="other images"):
        compare_runs({"one": runs["one"], "fewer": fewer})
    bad = [Failed(f"{i:03d}.png", "failed", "it broke", SIZE) for i in range(5)]
    none = store(tmp_path / "none", tmp_path / "photos", bad)
    with pytest.raises(SourceError, match="every image was set aside by one of"):
        compare_runs({"one": runs["one"], "none": none})
