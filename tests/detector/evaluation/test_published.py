"""Published figures are those of the collected facts, and stand beside ours where they belong."""

import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

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


@pytest.fixture(scope="module")
def facts(assets: Path) -> str:
    file = assets.parent / "methods.md"
    if not file.is_file():
        pytest.skip(f"no collected facts at {file}")
    return file.read_text(encoding="utf-8")


def values(figures: tuple[Figure, ...]) -> dict[tuple[str, str, str], float]:
    found = {(f.method, f.dataset, f.metric): f.value for f in figures}
    assert len(found) == len(figures), "each figure is there once"
    return found


def test_every_figure_is_in_the_facts_and_the_other_way_round(facts: str) -> None:
    expected: dict[tuple[str, str, str], float] = {}

    def expect(method: str, dataset: str, metric: str, text: str) -> None:
        if text != "-":
            expected[method, dataset, metric] = float(text)

    # 1.7, "| CutLER | 9.7 / 18.9 | 10.0 / 19.6 |"; ProMerge+ is of one round (2.2), CutLER's after self-training (6)
    zero_shot = facts[facts.index("Zero-shot instance segmentation, mask AP / AP50") :].split("Ablation")[0]
    for method, *cells in re.findall(r"\| ([\w+]+) \| ([\d.]+) / ([\d.-]+) \| ([\d.]+) / ([\d.-]+) \|", zero_shot):
        named = {"CutLER": "CutLER, self-trained", "ProMerge+": "ProMerge+, 1 round"}.get(method, method)
        for dataset, (ap, ap50) in zip(("COCO val2017", "COCO20K"), (cells[:2], cells[2:]), strict=True):
            expect(named, dataset, "mask_AP", ap)
            expect(named, dataset, "mask_AP50", ap50)

    # 2.3, "| ProMerge+ | 8.9 | 9.0 | 4.0 | 5.4 | 12.2 | 7.8 |"
    readme = facts[facts.index("2.3 Results [CODE README], mask AP") :].split("Average gain")[0]
    datasets = ("COCO val2017", "COCO20K", "LVIS", "KITTI", "Objects365", "SA-1B")
    lines = re.findall(r"^\| ([A-Z].*?) \|((?: [\d.]+ \|){6})$", readme, re.MULTILINE)
    assert len(lines) == 4
    for method, cells in lines:
        named = {
            "MaskCut (training-free)": "MaskCut, no training",
            "ProMerge (training-free)": "ProMerge, no training",
            "CutLER (1 round)": "CutLER, 1 round",
            "ProMerge+": "ProMerge+, 1 round",
        }[method]
        for dataset, value in zip(datasets, cells.replace("|", " ").split(), strict=True):
            kind = "box" if dataset in ("KITTI", "Objects365") else "mask"
            expect(named, dataset, f"{kind}_AP", value)

    # 5.5, "COCO 21.9|32.7, COCO20K 22.4|33.1, ..."
    (boxes,) = re.findall(r"README box AP50\|AR cascade: (.*?)\. Mask AP", facts)
    pairs = [re.fullmatch(r"(\w+) ([\d.]+)\|([\d.]+)", pair) for pair in boxes.split(", ")]
    assert len(pairs) == 11
    for pair in pairs:
        assert pair is not None
        dataset = {"COCO": "COCO val2017", "O365": "Objects365"}.get(pair[1], pair[1])
        expect("CutLER, self-trained", dataset, "box_AP50", pair[2])
        expect("CutLER, self-trained", dataset, "box_AR", pair[3])

    # 1.7, the last line of the ablation is the result
    last = re.search(r'\+self-training\("3 rounds"\) ([\d.]+)/([\d.]+)/', facts)
    assert last is not None
    expect("CutS3D", "COCO val2017", "box_AP50", last[1])
    expect("CutS3D", "COCO val2017", "box_AP", last[2])
    assert values(PUBLISHED) == expected


def test_ablations_are_those_of_the_facts(facts: str) -> None:
    (line,) = re.findall(r"^Ablation \(box50 / box / mask50 / mask\): (.*)$", facts, re.MULTILINE)
    found = [[float(value) for value in re.findall(r"[\d.]+", part.split(" ")[-1])] for part in line.split("; ")]
    metrics = ("box_AP50", "box_AP", "mask_AP50", "mask_AP")
    methods = list(dict.fromkeys(figure.method for figure in ABLATION))
    ours = values(ABLATION)
    assert [[ours[method, "COCO val2017", metric] for metric in metrics] for method in methods] == found
    (line,) = re.findall(r"^SC components \(mask AP\): (.*?)  ", facts, re.MULTILINE)
    assert [figure.value for figure in CONFIDENCE_ABLATION] == [float(v) for v in re.findall(r"\d+\.\d", line)]


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
