"""Masks by score: the same figures as an evaluation of the masks above each threshold, and what the command makes."""

import csv
import io
import json
import math
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.stored_run import StoredRun, make_run, random_record, sample_records

from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.evaluation.by_score import round_steps, score_table, table_csv, table_json, table_lines
from pipeline.evaluation.report import evaluate_runs
from pipeline.evaluation.truth.coco import Truth
from pipeline.results.kinds import Failed
from pipeline.views.export import export_coco

THRESHOLDS = (0.0, 0.25, 0.5, 0.9, 2.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return make_run(tmp_path_factory.mktemp("run"), sample_records(16))


@pytest.fixture(scope="module")
def truth(run: StoredRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every second image the run's own masks, of the others masks of its size; every seventh is a crowd."""
    records = [
        record if i % 2 or isinstance(record, Failed) else random_record(record.id, record.size, 100 + i)
        for i, record in enumerate(run.records)
    ]
    folder = tmp_path_factory.mktemp("truth")
    file = folder / "truth.json"
    export_coco(make_run(folder, records, run.refs).run, file)
    document = json.loads(file.read_text())
    for annotation in document["annotations"][::7]:
        annotation["iscrowd"] = 1
    file.write_text(json.dumps(document))
    return file


def test_each_row_is_an_evaluation_of_the_masks_above_it(run: StoredRun, truth: Path) -> None:
    table = score_table(Truth.read(str(truth)), run.run, THRESHOLDS, bootstrap=60, seed=3)
    assert [row.score for row in table.rows] == list(THRESHOLDS)
    assert table.images == 15
    for row in table.rows:
        report = evaluate_runs(Truth.read(str(truth)), run.run, min_score=row.score, bootstrap=60, seed=3)
        metrics = report.evaluations[0].metrics
        assert astuple(row.precision) == pytest.approx(astuple(metrics["mask_precision"]), nan_ok=True)
        assert astuple(row.objects_found) == pytest.approx(astuple(metrics["objects_found"]), nan_ok=True)
        assert row.per_image == pytest.approx(metrics["masks_per_image"].value)
        assert row.masks == round(row.per_image * table.images)
    values = [row.precision.value for row in table.rows]
    assert 0.2 < values[0] < 1
    assert math.isnan(values[-1]), "no mask is left"


@pytest.mark.parametrize(
    ("scores", "steps"),
    [
        (np.linspace(0, 0.17, 1000), [0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16]),
        (np.linspace(0, 1, 1000), [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (np.ones(9), [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        (np.full(3, 37.0), [0, 5, 10, 15, 20, 25, 30, 35]),
        (np.full(3, 1e-9), [i * 1e-10 for i in range(11)]),
        (np.zeros(4), [0]),
        (np.full(4, -1.0), [0]),
        (np.empty(0), [0]),
    ],
)
def test_thresholds_are_round(scores: np.ndarray, steps: list[float]) -> None:
    assert round_steps(scores) == pytest.approx(steps)


def test_a_run_without_masks_has_a_table(run: StoredRun, truth: Path, tmp_path: Path) -> None:
    empty = make_run(tmp_path, [replace(r, instances=(), status="no_masks") for r in run.records[:2]], run.refs[:2])
    table = score_table(Truth.read(str(truth)), empty.run, bootstrap=5)
    assert [(row.score, row.masks) for row in table.rows] == [(0.0, 0)]
    assert "–" in table_lines(table)[-3]
    assert json.loads(table_json(table))["rows"][0]["precision"]["value"] is None
    assert next(csv.DictReader(io.StringIO(table_csv(table))))["precision"] == ""


def cuts3d(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command(run: StoredRun, truth: Path, tmp_path: Path) -> None:
    files = [tmp_path / "new" / f"table.{ending}" for ending in ("csv", "json", "png")]
    made = cuts3d(
        *("scores", run.url, "--truth", truth, "--at", 0.5, "--at", 0, "--bootstrap", 20),
        *("--csv", files[0], "--json", files[1], "--plot", files[2]),
    )
    assert made.exit_code == 1, "one image of the run is set aside"
    table = score_table(Truth.read(str(truth)), run.run, (0, 0.5), bootstrap=20)
    assert made.stdout.splitlines() == [*table_lines(table), *(f"written {file}" for file in files)]
    rows = list(csv.DictReader(io.StringIO(files[0].read_text())))
    assert [float(row["score"]) for row in rows] == [0, 0.5]
    assert [float(row["precision_low"]) for row in rows] == [row.precision.low for row in table.rows]
    assert [row["masks"] for row in json.loads(files[1].read_text())["rows"]] == [row.masks for row in table.rows]
    with Image.open(files[2]) as picture:
        assert picture.format == "PNG"
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0, 115, 107), (181, 84, 28)} <= colours, "both lines are drawn"
    without = cuts3d("scores", run.url, "--truth", truth, "--bootstrap", 0, "--plot", tmp_path / "plain.png")
    assert without.exit_code == 1, without.output
    assert "[" not in without.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--at", "nan"), "nan is no finite number"),
        (("--plot", "{file}/plot.png"), "truth.json is a file. Mend that, or write elsewhere."),
    ],
)
def test_what_is_wrong_is_said(run: StoredRun, truth: Path, words: tuple[str, ...], says: str) -> None:
    made = cuts3d("scores", run.url, "--truth", truth, *(word.format(file=truth) for word in words))
    assert made.exit_code == 2
    assert says in made.output


def test_boxes_do_not_tell(run: StoredRun, truth: Path) -> None:
    document = json.loads(truth.read_text())
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    with pytest.raises(ConfigError, match="has boxes and no masks"):
        score_table(Truth(document, "boxes", masks=False), run.run)
