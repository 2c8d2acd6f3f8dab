"""A probe that learns from labels reads out of codes what is in them, and is never scored on what it has seen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.labelled_run import write_map
from support.tiny_labels import tiny_labels, tiny_model

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


def test_what_is_refused(tmp_path: Path) -> None:
    scenes(tmp_path, 1)
    method, refs = tiny_labels(["depthg.view=squeezed"]), list_images(str(tmp_path / "photos")).refs
    with pytest.raises(ConfigError, match="does not say which classes there are"):
        probe_model(method, refs, read_semantic_truth(f"maps:{tmp_path / 'truth'}/*_gtFine_labelIds.png"), model="x")
    with pytest.raises(SourceError, match="has 1 of 1 images: a probe needs two"):
        probe_model(method, refs, read_semantic_truth(f"cityscapes:{tmp_path / 'truth'}"), model="x")
