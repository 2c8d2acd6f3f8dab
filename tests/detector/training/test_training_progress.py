"""The reports are said once, whole lines only, and those of earlier launches not at all."""

import json
import logging
from pathlib import Path

import pytest
from support.waiting import wait_for

from detector.training.progress import followed


def report(folder: Path, launch: str, text: str) -> None:
    file = folder / launch / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(text)


def test_news_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = json.dumps({"lr": 0.01, "loss": 2.5, "time": 0.25, "s0.acc": 75.0, "step": 10}) + "\n"
    report(tmp_path, "1", line)
    with caplog.at_level(logging.INFO, "detector"), followed(tmp_path, pause=0.01):
        assert caplog.messages == []  # it is of the launch before
        report(tmp_path, "2", line.replace("10}", "20}") + '{"val/mask_AP": 0.25, ')
        wait_for(lambda: caplog.messages, "the first news")
        report(tmp_path, "2", '"data_time": 0.1, "step": 20}\n')
    assert caplog.messages == ["iteration 20: loss 2.5, lr 0.01, time 0.25", "iteration 20: mask_AP 0.25"]


def test_what_is_no_report_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with followed(tmp_path, pause=60):
        report(tmp_path, "1", "{\n")
    assert "scalars.json cannot be read" in caplog.text
