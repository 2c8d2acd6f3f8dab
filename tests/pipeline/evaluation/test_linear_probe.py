"""A probe that learns from labels reads out of codes what is in them, and is never scored on what it has seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.labelled_run import write_map
from support.tiny_labels import tiny_labels, tiny_model

from pipeline.cli import main
from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.linear_probe import probe_model
from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
from pipeline.images.sources import list_images

SIZE = (64, 96)


def scenes(folder: Path, count: int, told: bool = True) -> None:
    """Photos of sky above road, whose border moves, in two colours. told: whether the truth is of what is seen."""
    rng = np.random.default_rng(0)
    for number in range(count):
        border = int(rng.integers(16, 48))
        rgb = np.zeros((*SIZE, 3), np.uint8)
        rgb[:border], rgb[border:] = (90, 160, 250), (60, 50, 40)
        ids = np.full(SIZE, 7, np.uint8)
        ids[:border] = 23
        if not told:
            ids = rng.choice([7, 23], SIZE).astype(np.uint8)
        write_map(folder / "truth" / f"{number}_gtFine_labelIds.png", ids)
        (folder / "photos").mkdir(exist_ok=True)
        Image.fromarray(rgb).save(folder / "photos" / f"{number}_leftImg8bit.png")


def test_what_codes_hold_is_read_out_of_them(tmp_path: Path) -> None:
    scenes(tmp_path, 6)
    method = tiny_labels(["depthg.view=squeezed"], tiny_model(head=False))
    refs = list_images(str(tmp_path / "photos")).refs
    truth = read_semantic_truth(f"cityscapes:{tmp_path / 'truth'}")
    report = probe_model(method, refs, truth, model="tiny", iterations=60, bootstrap=20)
    assert report.runs[0].scores.overall["accuracy"].value > 0.85
    assert report.images == 6
    assert "learnt from labels of the other half" in report.given
    assert report.benchmark == "", "published probes learnt from other images"
    again = probe_model(method, refs, truth, model="tiny", iterations=60, bootstrap=20)
    assert again.runs[0].scores.overall == report.runs[0].scores.overall


def test_labels_that_are_chance_cannot_be_learnt(tmp_path: Path) -> None:
    """What a probe has seen it may know by heart; what is scored it has not seen."""
    scenes(tmp_path, 4, told=False)
    method = tiny_labels(["depthg.view=squeezed"])
    refs = list_images(str(tmp_path / "photos")).refs
    truth = read_semantic_truth(f"cityscapes:{tmp_path / 'truth'}")
    report = probe_model(method, refs, truth, model="tiny", iterations=60, bootstrap=0)
    assert report.runs[0].scores.overall["accuracy"].value == pytest.approx(0.5, abs=0.05)


def test_photos_and_maps_that_cannot_be_read_cost_themselves(tmp_path: Path) -> None:
    scenes(tmp_path, 5)
    (tmp_path / "photos" / "0_leftImg8bit.png").write_bytes(b"no picture")
    (tmp_path / "truth" / "1_gtFine_labelIds.png").write_bytes(b"no picture")
    (tmp_path / "truth" / "2_gtFine_labelIds.png").unlink()
    method, refs = tiny_labels(["depthg.view=squeezed"]), list_images(str(tmp_path / "photos")).refs
    truth = read_semantic_truth(f"cityscapes:{tmp_path / 'truth'}")
    report = probe_model(method, refs, truth, model="tiny", iterations=1, bootstrap=0)
    labels = report.runs[0].labels
    assert report.images == 2
    assert labels.images.set_aside == ("0_leftImg8bit.png",)
    assert labels.images.odd == ("1_leftImg8bit.png",)
    assert labels.images.unlabelled == ("2_leftImg8bit.png",)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes(tmp_path, 4)
    (tmp_path / "photos" / "0_leftImg8bit.png").write_bytes(b"no picture")
    monkeypatch.setattr("pipeline.methods.depthg.settings.label_settings", lambda launch: None)
    monkeypatch.setattr(
        "pipeline.methods.depthg.load.load_labels", lambda launch, device: tiny_labels(launch.overrides)
    )
    result = CliRunner().invoke(
        main,
        [
            *("linear-probe", "model", "--images", str(tmp_path / "photos"), "--iterations", "1", "--bootstrap", "0"),
            *("--truth", f"cityscapes:{tmp_path / 'truth'}", "--json", str(tmp_path / "probe.json")),
        ],
    )
    assert result.exit_code == 1, "a photo cannot be read"
    assert "run     model (linear probe, with labels)" in result.output
    assert "images  3 scored; 1 set aside" in result.output
    assert json.loads((tmp_path / "probe.json").read_text())["n_images"] == 3


def test_what_is_refused(tmp_path: Path) -> None:
    scenes(tmp_path, 1)
    method, refs = tiny_labels(["depthg.view=squeezed"]), list_images(str(tmp_path / "photos")).refs
    with pytest.raises(ConfigError, match="does not say which classes there are"):
        probe_model(method, refs, read_semantic_truth(f"maps:{tmp_path / 'truth'}/*_gtFine_labelIds.png"), model="x")
    with pytest.raises(SourceError, match="has 1 of 1 images: a probe needs two"):
        probe_model(method, refs, read_semantic_truth(f"cityscapes:{tmp_path / 'truth'}"), model="x")
