"""`make bench` says what it measured, and does not keep a disagreement to itself. No times are judged here."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import bench_report as report
import numpy as np
import pytest
from support.tiny_method import draw_photos, tiny_method

from pipeline.images.sources import list_images

METHODS = (*bench.TIMED, report.TRANSCRIPTION)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> bench.Prepared:
    """Two photos on an 8×8 grid, and a third that is none."""
    photos, folder = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("networks")
    draw_photos(photos, 2)
    (photos / "zero.png").touch()
    refs = list_images(str(photos)).refs
    return bench.prepare(tiny_method("cuts3d"), refs, folder, ["refine.size=64", "refine.crf=none"])


@pytest.fixture(scope="module")
def timed(prepared: bench.Prepared) -> tuple[list[report.Row], list[report.Pair]]:
    return bench.time_methods(prepared, METHODS)


def result(**masks: np.ndarray) -> bench.Result:
    """A result with these finished masks, by round as in r0=…; its cuts are the same."""
    by_round = {int(name[1:]): mask for name, mask in masks.items()}
    return bench.Result({}, 1.0, len(masks), by_round, by_round, dict.fromkeys(by_round, 0.1))


def square(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[start:stop, start:stop] = True
    return mask


def summary_of(rows: list[report.Row], pairs: list[report.Pair], **about: Any) -> dict[str, Any]:
    memory = {"networks": report.Memory(10**9, 2 * 10**9, None)}
    known = {"device": "cpu", "grid": [60, 60], "skipped": [], "machine": {"threads": 2}, "floors": None}
    return report.summarise(rows, pairs, memory, known | about)


def as_if_quiet(rows: list[report.Row]) -> list[report.Row]:
    """The tests' machine may be busy, in which case no bar is judged."""
    return [replace(row, others=0.0) for row in rows]


def test_every_method_is_timed_on_every_photo(
    prepared: bench.Prepared, timed: tuple[list[report.Row], list[report.Pair]]
) -> None:
    rows, _ = timed
    assert prepared.skipped == ("zero.png: zero_byte",)
    assert [(row.image, row.method) for row in rows] == [(f"00{i}.png", name) for i in (0, 1) for name in METHODS]
    for row in rows:
        stages = {name for name in row.seconds if name not in report.NETWORKS}
        left_out = {"confidence", "encode"} if row.method == report.TRANSCRIPTION else set()
        recipe = prepared.recipes[row.method if row.method in prepared.recipes else "maskcut"]
        if not recipe.has_ncut:
            left_out = {"affinity", "ncut"}
        assert stages == set(report.STAGES) - left_out, row.method
        in_depth = row.method != report.TRANSCRIPTION and recipe.needs_depth
        assert ("depth" in row.seconds) == in_depth
        assert 0 <= row.others <= 1
        assert sum(row.seconds[stage] for stage in stages) <= row.total


def test_maskcut_and_the_transcription_agree(
    prepared: bench.Prepared, timed: tuple[list[report.Row], list[report.Pair]]
) -> None:
    pairs = timed[1]
    assert {pair.image for pair in pairs} == {"000.png", "001.png"}
    assert all(pair.iou >= report.SAME_IOU for pair in pairs), pairs
    assert not any(pair.why for pair in pairs)


def test_files_and_table(
    prepared: bench.Prepared, timed: tuple[list[report.Row], list[report.Pair]], tmp_path: Path
) -> None:
    rows, pairs = as_if_quiet(timed[0]), timed[1]
    about = report.circumstances(2) | {"skipped": list(prepared.skipped)}
    summary = summary_of(rows, pairs, **about)
    report.write(tmp_path / "bench.csv", report.csv_lines(rows, pairs, 3), summary)
    with (tmp_path / "bench.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["image"], line["method"]) for line in lines] == [(row.image, row.method) for row in rows]
    assert all(float(line[report.TOTAL]) > 0 for line in lines)
    assert [line["times_faster"] for line in lines if line["method"] == report.TRANSCRIPTION] == ["1.00", "1.00"]
    assert {line["method"] for line in lines if line["iou_1"]} == {"maskcut"}
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["photos"] == 2
    assert kept["seconds"].keys() == set(METHODS)
    assert kept["ratio"].keys() == set(bench.TIMED)
    assert kept["agreement"]["masks"] == len(pairs)
    assert len(kept["bars"]) == 3
    assert kept["commit"] is None or len(kept["commit"]) == 40
    text = "\n".join(report.table(summary))
    for words in (*METHODS, *report.STAGES, "after the networks", "times faster", "2000 (1000)", "zero.png: zero_byte"):
        assert words in text, words


def test_a_disagreement_is_reported_with_its_photo() -> None:
    ours = result(r0=square(1, 7), r1=square(0, 3))
    theirs = result(r0=square(1, 7), r1=square(0, 2), r2=square(5, 8))
    pairs = bench.compare("street.jpg", ours, theirs)
    assert [pair.iou for pair in pairs] == [1.0, pytest.approx(4 / 9), 0.0]  # a mask that one side lacks counts as 0
    rows = [report.Row("street.jpg", name, {}, 1.0, 2, 0.0) for name in ("maskcut", "cuts3d", report.TRANSCRIPTION)]
    summary = summary_of(rows, pairs)
    assert summary["agreement"]["mean_iou"]["value"] == pytest.approx((1 + 4 / 9) / 3)
    assert [below["round"] for below in summary["agreement"]["below"]] == [1, 2]
    text = "\n".join(report.table(summary))
    assert "2 below 0.98" in text
    assert "street.jpg, round 2: IoU 0.4444: cuts differ (IoU 0.4444 on the patch grid; eigengap 1.0e-01)" in text
    assert "at least 0.98: 0.4815, MISSED" in text


def test_where_masks_parted() -> None:
    theirs = result(r0=square(0, 4))
    ours = replace(theirs, masks={0: square(0, 5)})
    assert bench.compare("a", ours, theirs)[0].why == "same cut, refined differently"
    nothing = bench.compare("a", result(), result())
    assert nothing == []
    assert np.isnan(report.agreement(nothing, ["a"])["mean_iou"]["value"])


def test_no_bar_is_judged_on_busy_or_other_machines() -> None:
    rows = [report.Row("a", name, {}, 1.0, 0, 0.0) for name in ("maskcut", "cuts3d", report.TRANSCRIPTION)]
    assert [bar["holds"] for bar in summary_of(rows, [])["bars"]] == [False, False, False]
    for other in ({"device": "cuda"}, {"grid": [30, 30]}, {"machine": {"threads": 8}}):
        assert summary_of(rows, [], **other)["bars"] == []
    busy = summary_of([replace(row, others=0.5) for row in rows], [])
    assert busy["bars"] == []
    assert any("other processes took 50% of the cores" in line for line in report.table(busy))


def test_without_the_transcription(prepared: bench.Prepared) -> None:
    rows, pairs = bench.time_methods(prepared, ["maskcut", "cuts3d"])
    summary = summary_of(as_if_quiet(rows), pairs)
    assert not pairs
    assert not summary["ratio"]
    assert summary["agreement"] is None
    assert len(summary["bars"]) == 1
    assert "times faster" not in "\n".join(report.table(summary))


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(prepared: bench.Prepared) -> None:
    ballast = np.ones(5 * 10**7)  # 400 MB here are not the child's
    memory = bench.in_child(bench.peak_memory, prepared, "cuts3d")
    assert 0 < memory.before <= memory.peak
    assert memory.peak < bench.own_memory("VmHWM")
    assert memory.gpu is None
    del ballast


def test_commands_name_files_not_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--images", "/home/me/photos/", "--features", "vits=/home/me/w.pth"])
    assert report.circumstances(1)["command"] == "benchmarks/bench.py --images photos/ --features vits=w.pth"
