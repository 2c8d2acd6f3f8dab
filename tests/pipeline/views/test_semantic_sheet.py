"""Photos beside their classes on one sheet, with one legend."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.semantic_runs import CLASSES, random_record, write_run

from pipeline.errors import StoreError
from pipeline.results.kinds import Failed
from pipeline.results.semantic import SemanticRecord
from pipeline.views.semantic_sheet import CELL, write_sheet


def test_a_sheet_shows_photos_and_classes_side_by_side(tmp_path: Path) -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[:, 20:] = 2
    record = SemanticRecord.of("a.png", labels, np.ones((1, 1), np.float32), CLASSES)
    run = write_run(tmp_path, [record, Failed("b.png", "truncated", "it ends")])
    assert write_sheet(run, tmp_path / "sheets" / "sheet.png") == 1
    with Image.open(tmp_path / "sheets" / "sheet.png") as picture:
        sheet = np.asarray(picture).astype(int)
    assert sheet.shape[1] > 2 * CELL[0]
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3)}
    assert colours >= {CLASSES.colours[0], CLASSES.colours[2]}, "in the legend"
    assert CLASSES.colours[1] not in colours, "a class that does not occur is not in it"
    left, middle = sheet[CELL[1] // 2, 2 * CELL[0] // 2 + 60], sheet[CELL[1] // 2, 2 * CELL[0] - 30]
    for seen, label in ((left, 0), (middle, 2)):
        others = [np.abs(seen - CLASSES.colours[c]).sum() for c in range(len(CLASSES))]
        assert int(np.argmin(others)) == label


def test_a_sheet_has_no_more_images_than_asked_for_and_leaves_lost_photos_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, [random_record(f"{i}.png", (30 + 20 * i, 41), i) for i in range(5)])
    assert write_sheet(run, tmp_path / "sheet.png", most=3) == 3
    (tmp_path / "photos" / "0.png").unlink()
    assert write_sheet(run, tmp_path / "sheet.png") == 4


def test_a_run_without_a_shard_has_no_sheet(tmp_path: Path) -> None:
    run = write_run(tmp_path, [random_record("a.png", (30, 41), 0)], leave_out=["00000"])
    with pytest.raises(StoreError):
        write_sheet(run, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
