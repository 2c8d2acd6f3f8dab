"""Trainings of panoptic detectors on drawn streets, and their self-training by a momentum teacher: what they leave, and
that they resume to the bit.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from support.drawn_streets import CLASSES, street_record, write_start, write_streets
from support.drawn_streets import street_training as small
from support.tiny_detector import write_tiny

from detector.model.checkpoints import DETECTOR_FILE, read_detector
from detector.training.self_training import SelfTraining, kept_by_default, rounds_of, self_train, teaches_itself
from detector.training.teacher import MomentumTeacher
from detector.training.train import Training, train
from detector.training.wanted import check_training
from pipeline.errors import ConfigError, RunMismatchError, TrainingError
from pipeline.runs.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("module_cache")

STEPS = ("default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.max_keep_ckpts=-1")
MOMENTUM = 0.9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_streets(tmp_path_factory.mktemp("streets"), range(5))


@pytest.fixture(scope="module")
def start(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start") / DETECTOR_FILE, run)


def log(work: Path) -> list[dict[str, Any]]:
    files = sorted(work.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def as_if_killed(work: Path, last: int) -> None:
    """After its third step."""
    (work / DETECTOR_FILE).unlink()
    (work / f"iter_{last}.pth").unlink()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def write_truth(path: Path) -> str:
    """The things of two of the streets, as a COCO file has them."""
    images, annotations = [], []
    for seed in (0, 1):
        record = street_record(f"{seed:03d}.png", seed)
        height, width = record.size
        images.append({"id": seed + 1, "file_name": record.id, "height": height, "width": width})
        for k, one in enumerate(record.instances):
            mask = np.asfortranarray(record.instance_ids == k + 1, np.uint8)
            rle = coco_mask.encode(mask)
            shape = {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}, "area": one.area}
            own = {"id": len(annotations) + 1, "image_id": seed + 1, "category_id": 1, "iscrowd": 0}
            annotations.append({**own, **shape, "bbox": list(one.box)})
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    return str(path)


@pytest.mark.slow
def test_a_training_says_what_it_finds_and_resumes_to_the_bit(run: RunFolder, tmp_path: Path) -> None:
    """The second half pastes what the detector finds itself. It is validated as detectors of instances are."""
    drop = [f"model.roi_head.bbox_head.{stage}.drop_threshold=0.4" for stage in range(3)]
    wanted = small(run.url, tmp_path / "work", "custom_hooks.2.batches=2", "custom_hooks.3.min_score=0.05", *drop)
    photos = str(Path(run.url).parent / "photos")
    wanted = replace(wanted, val_truth=write_truth(tmp_path / "truth.json"), val_images=photos)
    path = train(wanted)
    detector, first = read_detector(path), path.read_bytes()
    assert detector.config["classes"] == ["car", "person"]
    assert detector.panoptic is not None
    assert (detector.panoptic.classes, detector.panoptic.things, detector.panoptic.stuffs) == (CLASSES, (2, 3), (0, 1))
    assert detector.config["model"]["semantic_head"]["num_stuffs"] == 2
    lines = [line for line in log(tmp_path / "work") if "loss" in line]
    assert all(line["pasted"] > 0 for line in lines), "of the labels first, then of what the detector finds"
    names = {name.rpartition("/")[2] for line in lines for name in line}
    assert {"loss_seg", "s2.loss_mask", "s0.kept", "pasted", "grad_norm"} <= names
    (validated,) = [line for line in log(tmp_path / "work") if "val/mask_AP" in line]
    assert 0 <= validated["val/mask_AR100"] <= 1
    as_if_killed(tmp_path / "work", 6)
    train(replace(wanted, resume=True, val_truth=None, val_images=None))
    assert path.read_bytes() == first, "resumed to the bit, and the validation changed nothing"
    with pytest.raises(RunMismatchError, match="hooks"):
        train(replace(wanted, resume=True, settings=(*wanted.settings, "custom_hooks.3.max_iou=0.2")))


def self_training(run: RunFolder, work_dir: Path, start: Path, *settings: str, **options: Any) -> Training:
    """Two pictures a step. The random detector is sure of little."""
    hook = (
        f"custom_hooks.3.momentum={MOMENTUM}",
        "custom_hooks.3.scales=(0.5,1.0)",
        "optim_wrapper.optimizer.lr=0.001",
    )
    options = {"teacher": {"min_score": 0.1}, "init_from": str(start), **options}
    return small(run.url, work_dir, *hook, *settings, config="cups_self_tiny", **options)


@pytest.fixture(scope="module")
def rounds(run: RunFolder, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-training of four steps at once, with a checkpoint after each."""
    work = tmp_path_factory.mktemp("rounds")
    train(self_training(run, work, start, *STEPS, iterations=4))
    return work


def test_the_teacher_follows_the_student(rounds: Path, start: Path) -> None:
    begun = read_detector(start).state_dict
    teacher = dict(begun)
    for step in range(1, 5):
        checkpoint = torch.load(rounds / f"iter_{step}.pth", weights_only=True)
        for name, value in checkpoint["teacher"].items():
            teacher[name] = MOMENTUM * teacher[name] + (1 - MOMENTUM) * checkpoint["state_dict"][name]
            torch.testing.assert_close(value, teacher[name], atol=1e-6, rtol=1e-5)
    student = read_detector(rounds / DETECTOR_FILE).state_dict
    moved = {name for name, value in student.items() if not torch.equal(value, begun[name])}
    assert {name for name in moved if "mask_head" not in name} == {
        name for name in checkpoint["teacher"] if "mask_head" not in name
    }
    assert any("mask_head.0" in name for name in moved)
    assert all("head" in name and ".gn." not in name for name in moved), "heads alone"
    assert sum(not torch.equal(student[name], value) for name, value in checkpoint["teacher"].items()) > 20


def test_there_were_labels(rounds: Path) -> None:
    lines = log(rounds)
    assert len(lines) == 4
    assert all(line["labelled"] > 0 for line in lines)
    assert all(0 < line["ignored"] < 1 for line in lines)
    assert any(line["pasted"] > 0 for line in lines), "the teacher's instances are pasted"
    assert all(line["s0.loss_mask"] > 0 for line in lines)


@pytest.mark.slow
def test_self_training_resumes_to_the_bit(run: RunFolder, start: Path, tmp_path: Path) -> None:
    wanted = self_training(run, tmp_path / "work", start)
    whole = train(wanted).read_bytes()
    as_if_killed(tmp_path / "work", 6)
    assert train(replace(wanted, resume=True)).read_bytes() == whole
    kept = torch.load(tmp_path / "work" / "iter_3.pth", weights_only=True)
    del kept["teacher"]
    torch.save(kept, tmp_path / "work" / "iter_3.pth")
    as_if_killed(tmp_path / "work", 6)
    with pytest.raises(TrainingError, match="no teacher of this model"):
        train(replace(wanted, resume=True))


@pytest.fixture
def wanted(run: RunFolder, start: Path, tmp_path: Path) -> SelfTraining:
    training = replace(self_training(run, Path(), start, iterations=2), runs=(), init_from=None, teacher=None)
    return SelfTraining(run.url, str(start), str(tmp_path / "rounds"), training, 2, (0.1,), None)


def nobody(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("there is nothing to do")


@pytest.mark.slow
def test_rounds_are_one_training(wanted: SelfTraining, rounds: Path) -> None:
    """Two rounds of two steps are the four steps at once; the second is asked for later, and killed in its middle."""
    first = self_train(replace(wanted, rounds=1), nobody, train)
    assert first.parent.name == "training"
    state = torch.load(rounds / "iter_2.pth", weights_only=True)["state_dict"]
    assert equal(dict(read_detector(first).state_dict), state)
    last = self_train(wanted, nobody, train)
    assert last.read_bytes() != first.read_bytes()
    assert equal(dict(read_detector(last).state_dict), dict(read_detector(rounds / DETECTOR_FILE).state_dict))
    teachers = [torch.load(folder / "iter_4.pth", weights_only=True)["teacher"] for folder in (rounds, last.parent)]
    assert equal(*teachers)
    whole = last.read_bytes()
    as_if_killed(last.parent, 4)
    assert self_train(wanted, nobody, train).read_bytes() == whole
    self_train(wanted, nobody, nobody)
    assert not list(Path(wanted.work_dir).glob("round-*/pseudo-masks")), "labels are made while training"


def test_what_a_round_asks_for(wanted: SelfTraining) -> None:
    requests: list[Training] = []

    def note(training: Training) -> Path:
        requests.append(training)
        work = Path(training.work_dir)
        work.mkdir(parents=True)
        torch.save({"state_dict": {}}, work / f"iter_{2 * training.rounds}.pth")
        (work / DETECTOR_FILE).touch()
        return work / DETECTOR_FILE

    self_train(replace(wanted, rounds=3, thresholds=(0.8, 0.6), max_per_image=20), nobody, note)
    assert [request.teacher["min_score"] for request in requests if request.teacher] == [0.8, 0.6, 0.6]
    assert {request.teacher["max_per_image"] for request in requests if request.teacher} == {20}
    assert [request.rounds for request in requests] == [1, 2, 3]
    folders = [round_.training for round_ in rounds_of(replace(wanted, rounds=3))]
    assert [request.continues for request in requests] == [
        None,
        str(folders[0] / "iter_2.pth"),
        str(folders[1] / "iter_4.pth"),
    ]
    assert {request.init_from for request in requests} == {wanted.checkpoint}
    (folders[2] / DETECTOR_FILE).unlink()
    (folders[1] / "iter_4.pth").unlink()
    with pytest.raises(TrainingError, match="has no checkpoint any more that round 3 could go on from"):
        self_train(replace(wanted, rounds=3, thresholds=(0.8, 0.6), max_per_image=20), nobody, note)


def test_a_teacher_that_finds_nothing_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    found, none = MomentumTeacher(), MomentumTeacher(min_score=0.9)
    found._warn(2.0)
    for _ in range(25):
        found._warn(0.0)
        none._warn(0.0)
    (record,) = caplog.records
    assert "no instance with a score of 0.9" in record.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.1}, "momentum is 1.1: it must lie in 0..1"),
        ({"min_scores": 0.5}, "there is no min_scores; there are momentum, scales, min_score"),
        ({"min_score": 1.5}, "min_score is 1.5"),
    ],
)
def test_teachers_that_there_are_none_of(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MomentumTeacher(**options)


def test_detectors_configurations_and_runs_of_another_kind(
    wanted: SelfTraining, run: RunFolder, tmp_path: Path
) -> None:
    kind = replace(wanted, training=replace(wanted.training, config="self_train_r50_fpn"))
    with pytest.raises(ConfigError, match=r"is a panoptic detector, .* trains another kind: --config cups_self_r50"):
        self_train(kind, nobody, nobody)
    instances = write_tiny(tmp_path / "instances.safetensors")
    with pytest.raises(ConfigError, match=r"is no panoptic detector, .* starts from one"):
        self_train(replace(wanted, checkpoint=str(instances.path)), nobody, train)
    with pytest.raises(ConfigError, match="holds panoptic labels: --config tiny is for instance masks"):
        check_training(Training((run.url,), "tiny", str(tmp_path / "work"), device="cpu"))
    assert [teaches_itself(name) for name in ("cups_self_r50_fpn", "cups_r50_fpn", "self_train_r50_fpn")] == [
        *(True, False, False)
    ]
    assert kept_by_default(True) == {"rounds": 3, "thresholds": None, "max_per_image": None}
