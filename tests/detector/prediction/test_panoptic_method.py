"""Runs whose method is a panoptic detector: panoptic labels, made, resumed and frozen like all runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_detector import detector_launch as launch
from support.tiny_detector import write_tiny
from support.tiny_method import photos_and_a_broken_one
from support.tiny_panoptic import CLASSES, STUFFS, THINGS, write_panoptic

from detector.model.checkpoints import DetectorCheckpoint, read_detector, write_detector
from detector.model.panoptic_classes import PanopticClasses
from detector.prediction.detections import Detections
from detector.prediction.method import load
from detector.prediction.panoptic import PanopticDetections, PanopticRule, merged
from detector.prediction.panoptic_method import PanopticMethod, panoptic_record
from detector.prediction.panoptic_predictor import PanopticPredictor
from pipeline.engine import run as runner
from pipeline.errors import ConfigError, RunMismatchError, WeightsError
from pipeline.images.photos import Photo
from pipeline.methods.protocol import Batch
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_segments import segments_of
from pipeline.results.semantic import NONE
from pipeline.runs.panoptic_reader import open_panoptic
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> DetectorCheckpoint:
    return write_panoptic(tmp_path_factory.mktemp("tiny") / "detector.safetensors")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_and_a_broken_one(tmp_path_factory.mktemp("photos"), 5)


@pytest.fixture(scope="module")
def made(checkpoint: DetectorCheckpoint, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "run"
    summary = runner.run(out, launch(checkpoint, photos))
    assert summary.complete
    assert (summary.images, summary.quarantined) == (6, 1)
    assert summary.seconds.keys() == {"detect", "merge"}
    return out


def records_of(out: Path) -> dict[str, PanopticRecord]:
    return {record.id: record for record in open_panoptic(str(out)) if isinstance(record, PanopticRecord)}


def test_what_is_kept_of_a_photo(checkpoint: DetectorCheckpoint, photos: Path, made: Path) -> None:
    assert [p.message for p in verify_run(RunFolder.open(made)) if p.severity == "error"] == []
    predictor = PanopticPredictor(checkpoint, CPU)
    records = records_of(made)
    assert len(records) == 5
    for id_, record in records.items():
        (found,) = predictor([np.asarray(Image.open(photos / id_))])
        wanted = merged(found, PanopticRule())
        assert record.size == wanted.stuff_HW.shape
        assert record.instances
        assert [one.class_ for one in record.instances] == [THINGS[label] for label in wanted.labels]
        assert [one.confidence for one in record.instances] == pytest.approx(wanted.scores, abs=1e-3)
        assert min(one.confidence for one in record.instances) >= 0.5
        assert np.mean(record.instance_ids != wanted.instance_ids_HW) < 0.01
        stuff = np.array([NONE, *STUFFS])[wanted.stuff_HW]
        outside = (record.instance_ids == 0) & (wanted.instance_ids_HW == 0)
        assert np.mean(record.labels[outside] != stuff[outside]) < 0.01
    assert any((record.labels == NONE).any() for record in records.values()), "void stays void"


def test_the_run_knows_its_things(made: Path) -> None:
    reader = open_panoptic(str(made))
    assert reader.classes == CLASSES
    assert reader.split.thing_classes == THINGS
    for record in records_of(made).values():
        segments = segments_of(record, reader.split).segments
        assert {s.class_ for s in segments if s.is_thing} <= set(THINGS)
        assert {s.class_ for s in segments if not s.is_thing} <= set(STUFFS)
        assert sum(s.is_thing for s in segments) == len(record.instances)


def test_its_settings_are_frozen(checkpoint: DetectorCheckpoint, photos: Path, made: Path, tmp_path: Path) -> None:
    config = RunFolder.open(made).config
    assert config["detector"] == {"name": "tiny_panoptic", "sha256": checkpoint.sha256}
    assert config["recipe"] == {
        **{"name": "detector", "min_score": 0.5, "max_per_image": 100, "nms_iou": None, "amp": False},
        **{"max_cover": 0.5, "stuff_area": 4096, "stuff_at": "scaled"},
    }
    before = records_of(made)
    (made / "commits" / "00001.json").unlink()
    assert runner.run(made).images == 3
    assert records_of(made) == before
    with pytest.raises(RunMismatchError, match=r"recipe.stuff_at: run has \"?scaled\"?, now \"?released"):
        runner.run(made, launch(checkpoint, photos, stuff_at="released"))
    other = write_panoptic(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(RunMismatchError, match=r"detector.sha256"):
        runner.run(made, launch(other, photos))


def test_a_photo_without_anything() -> None:
    """No instance, and nothing but "some thing": all of it is void."""
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 28, 28), np.float32))
    found = PanopticDetections(none, np.zeros(0, int), np.zeros((40, 50), np.uint8), np.full((5, 7), 0.25, np.float32))
    record = panoptic_record("a", found, PanopticRule(), PanopticClasses(CLASSES, THINGS, STUFFS))
    assert (record.status, record.why_empty) == ("no_labels", "none_found")
    assert record.semantic.mean_confidence == pytest.approx(0.25, abs=0.01)


def test_its_options(checkpoint: DetectorCheckpoint, tmp_path: Path) -> None:
    words = [f"detector.checkpoint={checkpoint.path}", "detector.min_score=0.9", "detector.max_per_image=2"]
    method = load(words, CPU)
    assert isinstance(method, PanopticMethod)
    rgb = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    (few,) = method.outputs(Batch(None, [0], [Photo("a", rgb)]))
    (all_,) = load([*words[:1], "detector.min_score=0"], CPU).outputs(Batch(None, [0], [Photo("a", rgb)]))
    assert len(few.instances) <= 2 < len(all_.instances)
    with pytest.raises(ConfigError, match=r"grid is for detectors of instances alone, and .* is none: leave it out"):
        load([*words, "detector.grid=4"], CPU)
    with pytest.raises(ConfigError, match="stuff_at is 'half'"):
        load([*words, "detector.stuff_at=half"], CPU)
    instances = write_tiny(tmp_path / "instances.safetensors")
    with pytest.raises(ConfigError, match=r"stuff_area is for panoptic detectors, and .* is none"):
        load([f"detector.checkpoint={instances.path}", "detector.stuff_area=10"], CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"things": [1]}, "each of 5 classes must be a thing or stuff"),
        ({"things": ["1", 4]}, "'1' is no number of a class"),
        ({"classes": []}, "there must be 1 to 255 classes"),
        ({"stuffs": None}, "it needs classes, things and stuffs"),
    ],
)
def test_a_file_with_damaged_classes(
    checkpoint: DetectorCheckpoint, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.safetensors"
    config = {**checkpoint.config, "panoptic": {**checkpoint.config["panoptic"], **change}}
    write_detector(path, checkpoint.state_dict, config, {})
    with pytest.raises(WeightsError, match=f"does not say which classes it finds: .*{message}"):
        read_detector(path)
