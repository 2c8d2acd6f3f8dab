"""What a watcher, a log and a program see of a run's progress, and what a machine without system libraries is told."""

import logging

import pytest

from pipeline import system_check
from pipeline.commands.progress import ProgressReporter
from pipeline.results.instances import ImageRecord


def record(status: str = "no_masks", **drops: int) -> ImageRecord:
    reason = "truncated" if status == "quarantined" else ""
    return ImageRecord("a.jpg", (10, 10), status, (), drops, None, reason, reason)


def test_quiet_where_nobody_watches(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    reporter = ProgressReporter(interactive=False)
    with caplog.at_level(logging.INFO):
        reporter.start(100, 10)
        for _ in range(50):
            reporter.image(record())
        reporter.stop()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_line_now_and_then_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 61))
    monkeypatch.setattr("pipeline.commands.progress.time.monotonic", lambda: next(clock))
    reporter = ProgressReporter(interactive=False)
    with caplog.at_level(logging.INFO):
        reporter.start(100, 10)
        reporter.image(record(too_small=2))
        reporter.image(record("quarantined"))
    assert "11/100 images" in caplog.messages[0]
    assert "12/100 images" in caplog.messages[1]
    assert "2 too_small, 1 quarantined" in caplog.messages[1]
    assert "images/s" in caplog.messages[1]


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ProgressReporter(interactive=True)
    reporter.start(4, 1)
    reporter.image(record(too_small=1))
    reporter.image(None)
    reporter.stop()
    shown = capsys.readouterr().out
    assert "3/4" in shown
    assert "1 too_small" in shown


def test_missing_system_libraries_are_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> None:
        if name == "open3d":
            raise OSError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(SystemExit, match=r"apt-get install .*libgl1"):
        system_check.main()
    assert "open3d does not load: libGL.so.1" in capsys.readouterr().err


def test_everything_loads_here() -> None:
    assert system_check.missing_libraries() == {}
