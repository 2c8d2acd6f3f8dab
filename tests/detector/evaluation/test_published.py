"""Published figures are those of their sources, and stand beside ours where they belong."""

import csv
import io
import math

import pytest
from rich.console import Console
from support import ROOT

from detector.evaluation.published import (
    ABLATION,
    CONFIDENCE_ABLATION,
    PUBLISHED,
    Figure,
    Row,
    markdown,
    our_row,
    print_tables,
    tables,
)
from pipeline.evaluation.scores import Estimate, Evaluation
from pipeline.evaluation.truth.formats import FORMATS

# Copied from the sources themselves, apart from the program's own table: table, method, dataset, metric, percent, tag
# (explained in docs/method.md), where it stands.
FIGURES = ROOT / "tests" / "data" / "published_figures.csv"


@pytest.mark.parametrize(
    ("table", "figures"),
    [("results", PUBLISHED), ("ablation", ABLATION), ("confidence", CONFIDENCE_ABLATION)],
    ids=["results", "ablation", "confidence"],
)
def test_every_figure_is_in_the_sources_and_the_other_way_round(table: str, figures: tuple[Figure, ...]) -> None:
    with FIGURES.open(encoding="utf-8", newline="") as file:
        expected = [
            Figure(line["method"], line["dataset"], line["metric"], float(line["percent"]), line["tag"])
            for line in csv.DictReader(file)
            if line["table"] == table
        ]
    assert expected
    assert sorted(figures, key=repr) == sorted(expected, key=repr)


def test_every_figure_is_there_once() -> None:
    for figures in (PUBLISHED, ABLATION, CONFIDENCE_ABLATION):
        places = [(figure.method, figure.dataset, figure.metric) for figure in figures]
        assert len(set(places)) == len(places)


def test_all_data_sets_can_be_read() -> None:
    assert {figure.dataset for figure in PUBLISHED} == {benchmark for benchmark, _ in FORMATS.values()}


def evaluation(**metrics: float) -> Evaluation:
    estimates = {name: Estimate(value, value - 0.01, value + 0.01) for name, value in metrics.items()}
    return Evaluation(estimates, 5000, "own", 100, 0, 300 if "box_AR300" in metrics else 100)


def test_ours_beside_the_published() -> None:
    coco = evaluation(mask_AP=0.0812, mask_AP50=0.165, box_AP=0.1, box_AP50=0.201, box_AR100=0.3, box_AR10=0.2)
    lvis = evaluation(mask_AP=0.03, mask_AP50=0.06, box_AP50=0.07, box_AR100=0.1, box_AR300=0.19)
    rows = [our_row("ours", "COCO val2017", coco), our_row("ours", "LVIS", lvis)]
    boxes, masks = tables(rows)
    assert boxes.header == ("method", "COCO val2017", "LVIS", "source")
    assert boxes.lines == (
        ("CutLER, self-trained", "21.9 / 32.7", "8.4 / 21.8", "CODE"),
        ("CutS3D", "24.3 / –", "–", "INF"),
        (
            "ours (5000 images)",
            "20.1 [19.1, 21.1] / 30.0 [29.0, 31.0]",
            "7.0 [6.0, 8.0] / 19.0 [18.0, 20.0]",
            "measured",
        ),
    )
    assert boxes.ours == {2}
    by_method = {line[0]: line[1:] for line in masks.lines}
    assert by_method["CutS3D"] == ("10.7 / 20.8", "–", "NOTE")
    assert by_method["ProMerge+, 1 round"] == ("8.9 / –", "4.0 / –", "CODE")
    assert by_method["ours (5000 images)"][0] == "8.1 [7.1, 9.1] / 16.5 [15.5, 17.5]"
    assert list(by_method)[-1] == "ours (5000 images)"
    text = markdown([boxes, masks])
    assert "| method | COCO val2017 | LVIS | source |\n| --- | --- | --- | --- |\n" in text
    assert "| CutS3D | 24.3 / – | – | INF |" in text
    console = Console(file=io.StringIO(), width=160)
    print_tables([boxes, masks], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Masks: AP / AP50" in printed
    assert "20.1 [19.1, 21.1] / 30.0 [29.0, 31.0]" in printed


def test_data_of_ones_own_have_nothing_beside() -> None:
    row = Row("a|b", "", {"box_AP50": Estimate(0.5), "box_AR": Estimate(math.nan)})
    (table,) = tables([row])
    assert table.header == ("method", "own data", "source")
    assert table.lines == (("a|b", "50.0 / –", "measured"),)
    assert "| a\\|b | 50.0 / – | measured |" in markdown([table])
    assert tables([]) == []
