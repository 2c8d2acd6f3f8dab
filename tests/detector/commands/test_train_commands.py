"""The commands of training, as they are typed."""

import importlib.util
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support import ROOT
from support.drawn_streets import write_streets
from support.painted_run import painted_run
from support.small_training import small_training

from detector import needs
from detector.commands import extend
from detector.model.checkpoints import read_detector
from pipeline.cli import main


@pytest.fixture(scope="module", autouse=True)
def commands() -> None:
    if "train" not in main.commands:
        extend(main)


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """Commands turn loggers up, process-wide."""
    before = {name: logging.getLogger(name).level for name in ("detector", "pipeline")}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return painted_run(tmp_path_factory.mktemp("painted")).url


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))


def typed(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def settings(run: str, work: Path) -> list[str]:
    return [word for setting in small_training(run, work).settings for word in ("--set", setting)]


def test_train_and_resume(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    words = ["train", "--run", run, "--config", "tiny", "--work-dir", str(work), *settings(run, work)]
    words += ["--iterations", "3", "--batch-size", "2", "--seed", "3", "--backbone", "random", "--device", "cpu"]
    first = typed(*words)
    assert first.exit_code == 0, first.output
    assert f"detector   {work / 'detector.safetensors'}" in first.output
    trained_on = read_detector(work / "detector.safetensors").trained_on
    assert (trained_on["iterations"], trained_on["batch"], trained_on["seed"]) == (3, 2, 3)
    again = typed(*words)
    assert again.exit_code == 2
    assert "add --resume" in again.output
    assert typed(*words, "--resume").exit_code == 0
    monkeypatch.setattr("detector.training.train.train", _interrupted)
    stopped = typed(*words, "--resume")
    assert stopped.exit_code == 130
    assert "with --resume resumes" in stopped.output


def _interrupted(training: Any) -> Path:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "nowhere"], "is not a run"),
        ([], "no run to train on"),
        (["--config", "tyni"], "one of cups_r50_fpn"),
        (["--run", "RUN", "--set", "model.bakbone.depth=1"], "did you mean backbone"),
        (["--run", "RUN", "--set", "train_dataloader.dataset.cach=here"], "StoreDataset has no option cach; it takes"),
        (["--workers", "2"], "with --ray only"),
        (["--iterations", "0"], "0 is not in the range"),
        (["--resume", "--run", "RUN"], "no training to resume"),
    ],
)
def test_what_is_refused(run: str, tmp_path: Path, words: list[str], message: str) -> None:
    words = [run if word == "RUN" else word for word in words]
    refused = typed("train", "--config", "tiny", "--work-dir", str(tmp_path / "work"), *words)
    assert refused.exit_code == 2
    assert message in refused.output
    assert not list(tmp_path.glob("work/*"))


def test_without_mmdetection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(needs.importlib.util, "find_spec", lambda name: None if name == "mmcv" else find(name))
    refused = typed("train", "--run", "r", "--work-dir", str(tmp_path))
    assert refused.exit_code == 2
    assert "mmcv not installed, which the detector needs: `make install-detector`" in refused.output


def test_configurations_by_name_and_whole(tmp_path: Path) -> None:
    listed = typed("configs")
    assert "cuts3d_r50_fpn_1gpu  " in listed.output
    printed = typed("configs", "tiny")
    (tmp_path / "mine.py").write_text(printed.output)
    from detector.training.config import plain, read_config

    assert plain(read_config(str(tmp_path / "mine.py"))) == plain(read_config("tiny"))
    assert typed("configs", "none").exit_code == 2


def test_a_picture_of_samples(run: str, tmp_path: Path) -> None:
    out = tmp_path / "samples.png"
    drawn = typed("training-samples", "--run", run, "--config", "tiny", "--out", str(out), "--count", "4")
    assert drawn.exit_code == 0, drawn.output
    assert f"4 samples in {out}" in drawn.output
    with Image.open(out) as picture:
        assert min(picture.size) > 100


def test_a_picture_of_panoptic_samples(run: str, tmp_path: Path) -> None:
    """And a run of another kind than the configuration learns from is named."""
    streets, out = write_streets(tmp_path, range(3)).url, tmp_path / "samples.png"
    words = ["training-samples", "--config", "cups_tiny", "--out", str(out), "--count", "4"]
    drawn = typed(*words, "--run", streets)
    assert drawn.exit_code == 0, drawn.output
    with Image.open(out) as picture:
        assert min(picture.size) > 100
    for config, other in (("cups_tiny", run), ("tiny", streets)):
        refused = typed("training-samples", "--config", config, "--run", other, "--out", str(out))
        assert refused.exit_code == 2
        assert other in refused.output


def test_the_makefile_spells_the_command() -> None:
    words = ["make", "-n", "-o", ".venv/.detector", "train", "RUN=a b", "CONFIG=tiny", "WORK=w", "RESUME=1", "AMP=1"]
    done = subprocess.run([*words, "SET=x.y=1"], cwd=ROOT, capture_output=True, text=True, check=True)
    said = " ".join(done.stdout.replace("\\\n", " ").split())
    expected = "cuts3d train --run a --run b --work-dir w --config tiny --set x.y=1 --resume --amp"
    assert expected in said
