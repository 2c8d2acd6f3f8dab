"""Rounds of self-training: what each starts from, what it leaves, and that they go on wherever they were stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.detectron2_files import write_config
from support.recorded_detectron2 import NETWORKS
from support.reference_detectron2 import random_state
from support.sample_run import masks_of
from support.small_training import small_training
from support.tiny_detector import write_tiny
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

from detector.model.checkpoints import DETECTOR_FILE, read_detector
from detector.training.self_training import SelfTraining, rounds_of, self_train
from detector.training.train import Training, train
from pipeline.cli import main
from pipeline.engine import run as runner
from pipeline.errors import ConfigError, CutsError, RunMismatchError
from pipeline.results.instances import ImageRecord
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run


class StoppedError(Exception):
    """Stands for whatever ends a process."""


class Teacher:
    """Trains in no time: each training leaves a detector of other random weights, and its request on record."""

    def __init__(self) -> None:
        self.requests: list[Training] = []

    def __call__(self, training: Training) -> Path:
        self.requests.append(training)
        folder = Path(training.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_tiny(folder / DETECTOR_FILE, seed=int(folder.parent.name.removeprefix("round-")))
        return folder / DETECTOR_FILE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A complete run of cuts over five photos, in shards of two."""
    folder = tmp_path_factory.mktemp("cuts")
    draw_photos(folder / "photos", 5)
    with pytest.MonkeyPatch.context() as patch:
        in_place_of_models(patch, lambda launch: tiny_method("maskcut"))
        runner.run(folder / "run", Launch(str(folder / "photos"), recipe="maskcut", shard_size=2))
    return RunFolder.open(folder / "run")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "first.safetensors").path


@pytest.fixture
def wanted(run: RunFolder, checkpoint: Path, tmp_path: Path) -> SelfTraining:
    training = Training((), "tiny", "", settings=("a.b=1",))
    return SelfTraining(run.url, str(checkpoint), str(tmp_path / "rounds"), training, 2, (0.8, 0.6), 4)


def records_of(out: Path) -> dict[str, ImageRecord]:
    return {record.id: record for record in RunReader(RunFolder.open(out))}


def test_two_rounds(wanted: SelfTraining, run: RunFolder, checkpoint: Path) -> None:
    teacher = Teacher()
    detector = self_train(wanted, runner.run, teacher, device="cpu")
    rounds = Path(wanted.work_dir)
    assert detector == rounds / "round-2" / "training" / "detector.safetensors"
    first, second = (RunFolder.open(rounds / f"round-{r}" / "pseudo-masks") for r in (1, 2))
    assert [f.config["recipe"]["min_score"] for f in (first, second)] == [0.8, 0.6]
    assert first.config["recipe"]["max_per_image"] == 4
    assert first.config["detector"]["sha256"] == read_detector(checkpoint).sha256
    assert second.config["detector"]["sha256"] == read_detector(rounds / "round-1/training/detector.safetensors").sha256
    assert first.config["previous"]["fingerprint"] == run.fingerprint
    assert second.config["previous"]["fingerprint"] == first.fingerprint
    for folder in (first, second):
        assert folder.digest == run.digest, "the same images in the same shards"
        assert [p for p in verify_run(folder) if p.severity == "error"] == []
    one, two = teacher.requests
    assert (one.runs, two.runs) == ((first.url,), (second.url,))
    assert (one.init_from, two.init_from) == (str(checkpoint), str(rounds / "round-1/training/detector.safetensors"))
    assert one.settings == ("a.b=1",)
    assert one.resume is None, "what was begun is resumed"
    masks = records_of(rounds / "round-1" / "pseudo-masks")
    assert any(i.score > 0.8 for record in masks.values() for i in masks_of(record))
    old = {i.rle for record in RunReader(run) for i in masks_of(record)}
    assert any(i.rle in old for record in masks.values() for i in masks_of(record)), "old masks stay"


def test_done_rounds_are_not_done_again_and_more_can_follow(wanted: SelfTraining) -> None:
    teacher = Teacher()
    self_train(replace(wanted, rounds=1), runner.run, teacher)
    self_train(wanted, runner.run, teacher)
    assert [Path(r.work_dir).parent.name for r in teacher.requests] == ["round-1", "round-2"]

    def nobody(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("there is nothing to do")

    self_train(wanted, nobody, nobody)


def test_rounds_that_an_earlier_version_began_are_gone_on_with(wanted: SelfTraining) -> None:
    """It left its detectors as detector.pth."""
    folder = Path(wanted.work_dir) / "round-1" / "training"

    def train_as_before(training: Training) -> Path:
        now = Teacher()(training)
        detector = read_detector(now)
        texts = {"config": json.dumps(detector.config), "trained_on": json.dumps(detector.trained_on)}
        content = {"schema": "cuts3d-detector/1", "state_dict": dict(detector.state_dict), **texts}
        torch.save(content, folder / "detector.pth")
        now.unlink()
        return folder / "detector.pth"

    assert self_train(replace(wanted, rounds=1), runner.run, train_as_before) == folder / "detector.pth"
    teacher = Teacher()
    detector = self_train(wanted, runner.run, teacher)
    assert detector == Path(wanted.work_dir) / "round-2" / "training" / DETECTOR_FILE
    assert [request.init_from for request in teacher.requests] == [str(folder / "detector.pth")]


def stopping(call: Callable[..., Any], when: str) -> Callable[..., Any]:
    """The call, ended right before or right after it."""

    def stopped(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            call(*arguments, **options)
        raise StoppedError

    return stopped


@pytest.mark.slow
def test_it_goes_on_wherever_it_was_stopped(wanted: SelfTraining, tmp_path: Path) -> None:
    for _ in range(wanted.rounds):
        for steps in (("before", ""), ("after", ""), ("", "before"), ("", "after")):
            calls = zip((runner.run, Teacher()), steps, strict=True)
            execute, train = (stopping(call, when) if when else call for call, when in calls)
            with pytest.raises(StoppedError):
                self_train(wanted, execute, train)
    teacher = Teacher()
    self_train(wanted, runner.run, teacher)
    assert teacher.requests == [], "the last thing that was stopped was done"
    undisturbed = replace(wanted, work_dir=str(tmp_path / "undisturbed"))
    self_train(undisturbed, runner.run, Teacher())
    for r in (1, 2):
        here, there = (Path(w.work_dir) / f"round-{r}" / "pseudo-masks" for w in (wanted, undisturbed))
        assert records_of(here) == records_of(there)


@pytest.mark.slow
def test_half_a_round_is_gone_on_with(wanted: SelfTraining) -> None:
    teacher = Teacher()
    self_train(replace(wanted, rounds=1), runner.run, teacher)
    (round_,) = rounds_of(replace(wanted, rounds=1))
    round_.detector.unlink()
    (round_.pseudo_masks / "commits" / "00001.json").unlink()
    done = []

    def execute(*arguments: Any, **options: Any) -> Any:
        done.append(runner.run(*arguments, **options))
        return done[-1]

    self_train(replace(wanted, rounds=1), execute, teacher)
    assert [summary.images for summary in done] == [2], "one shard of two images"


@pytest.mark.slow
def test_shards_that_fail_stop_it(wanted: SelfTraining) -> None:
    def execute(out: str, launch: Launch, **options: Any) -> Any:
        summary = runner.run(out, launch, **options)
        summary.standing = replace(summary.standing, done=summary.done - 1)
        return summary

    with pytest.raises(CutsError, match=r"round 1: .* lacks 1 shard;"):
        self_train(wanted, execute, Teacher())


def begin(wanted: SelfTraining) -> None:
    with pytest.raises(StoppedError):
        self_train(wanted, stopping(runner.run, "before"), Teacher())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": (0.8,)}, r"thresholds: before \[0.8, 0.6\], now \[0.8\]"),
        ({"max_per_image": 9}, "max_per_image: before 4, now 9"),
        ({"training": Training((), "tiny", "", iterations=7)}, "training.iterations: before none, now 7"),
    ],
)
def test_other_settings_are_refused(wanted: SelfTraining, change: dict[str, Any], message: str) -> None:
    begin(wanted)
    with pytest.raises(RunMismatchError, match=message):
        self_train(replace(wanted, **change), runner.run, Teacher())


def test_another_detector_is_refused(wanted: SelfTraining, tmp_path: Path) -> None:
    begin(wanted)
    other = write_tiny(tmp_path / "other.safetensors", seed=5)
    with pytest.raises(RunMismatchError, match="detector: before"):
        self_train(replace(wanted, checkpoint=str(other.path)), runner.run, Teacher())


def test_foreign_settings_are_refused(wanted: SelfTraining) -> None:
    folder = Path(wanted.work_dir)
    folder.mkdir()
    (folder / "self-training.json").write_text("[]")
    with pytest.raises(RunMismatchError, match="cannot be read"):
        self_train(wanted, runner.run, Teacher())
    (folder / "self-training.json").write_text(json.dumps({"schema": "other/1"}))
    with pytest.raises(RunMismatchError, match='schema: before "other/1"'):
        self_train(wanted, runner.run, Teacher())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"thresholds": ()}, "thresholds"),
        ({"thresholds": (0.7, 1.2)}, "thresholds"),
        ({"work_dir": "s3://b/rounds"}, "is a URL"),
    ],
)
def test_out_of_range(wanted: SelfTraining, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(wanted, **change)


@pytest.mark.slow(60)
def test_real_trainings(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds at once, and two with an end in the middle of each training, are one and the same."""
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    first = train(small_training(run.url, tmp_path / "first"))
    every_mask = "train_dataloader.dataset.filters.max_per_image=None"
    training = small_training("", Path(), every_mask, iterations=4)
    wanted = SelfTraining(run.url, str(first), str(tmp_path / "rounds"), training, 2, (0.4,), 5)
    detector = self_train(wanted, runner.run, train, device="cpu")
    assert read_detector(detector).trained_on["masks"] > 0

    halves = replace(wanted, work_dir=str(tmp_path / "halves"))
    for round_ in rounds_of(halves):
        self_train(replace(halves, rounds=round_.number), runner.run, train, device="cpu")
        round_.detector.unlink()
        (round_.training / "iter_4.pth").unlink()  # as if killed after its third iteration
        self_train(replace(halves, rounds=round_.number), runner.run, train, device="cpu")
    states = [read_detector(path).state_dict for path in (detector, round_.detector)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    start = read_detector(first).state_dict
    assert any(not torch.equal(tensor, start[name]) for name, tensor in states[0].items())


@pytest.mark.slow(60)
def test_a_detector_of_detectron2_is_trained_to_the_end(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    network, imported = NETWORKS["cutler"], tmp_path / "imported.safetensors"
    torch.save({"model": random_state(network)}, tmp_path / "model_final.pth")
    layout = write_config(tmp_path / "layout.py", network)
    words = ["import-detector", tmp_path / "model_final.pth", "--layout", "cutler", "--config", layout]
    assert command(*words, "--out", imported) == (0, f"detector   {imported}\n")
    small = (
        "model.train_cfg.rpn_proposal.max_per_img=60",
        *(f"model.train_cfg.rcnn.{stage}.sampler.num=16" for stage in range(3)),
        "train_dataloader.dataset.pipeline.3.scales=[(96,64),(80,56)]",
        "train_dataloader.num_workers=0",
        "custom_hooks.3.batches=2",
    )
    words = ["self-train", "--run", run.url, "--checkpoint", imported, "--work-dir", tmp_path / "rounds"]
    words += ["--config", write_config(tmp_path / "self.py", network, "self_train_r50_fpn"), "--device", "cpu"]
    words += ["--rounds", 1, "--iterations", 2, "--train-batch-size", 2, "--thresholds", 0.3, "--max-per-image", 5]
    words += [word for setting in small for word in ("--set", setting)]
    status, output = command(*words)
    assert status == 0, output
    start, end = (read_detector(path) for path in (imported, Path(output.split()[-1])))
    assert start.state_dict.keys() == end.state_dict.keys()
    assert any(not torch.equal(tensor, end.state_dict[name]) for name, tensor in start.state_dict.items())
    assert end.trained_on["masks"] > 0
    words = ["predict", tmp_path / "one", "--checkpoint", output.split()[-1], "--out", tmp_path / "found"]
    draw_photos(tmp_path / "one", 1)
    status, output = command(*words, "--device", "cpu")
    assert status == 0, output


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.output
