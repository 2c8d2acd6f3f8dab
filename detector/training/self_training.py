"""Rounds of self-training: predict on the training images, keep what is sure, train the next detector on it.

CutLER (Wang et al. 2023, section 3.4); thresholds and detections an image are those of its code. Each round has a
folder of its own, of a run and a training:

    self-training.json       what decides the result of the rounds, written once
    round-1/pseudo-masks     a run like any other, made by `detector.prediction.method`
    round-1/training         as of `cuts3d train`; its detector is there when the round is done
    round-2/...

By a momentum teacher (CUPS, Hahn et al., CVPR 2025) labels are made while training, so that a round is a training
alone: the next part of one training, which goes on with weights, teacher and optimiser where the round before left off.
It ends where a single round of as many steps ends.

What is on disk is all that is known: whatever was killed, the same call resumes it.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.model.checkpoints import detector_in, read_detector
from detector.prediction.options import NAME, DetectorOptions, overrides_of
from detector.training import config as train_config
from detector.training.folder import training_at
from detector.training.panoptic_config import has_teacher
from detector.training.plain_config import plain_config
from detector.training.wanted import Training
from pipeline.commands.executing import RunExecutor
from pipeline.errors import ConfigError, CutsError, RunMismatchError, TrainingError
from pipeline.runs.changed_settings import differences, in_lines
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import MANIFEST_FILE, RUN_FILE, RunFolder
from pipeline.storage.files_at import files_at
from pipeline.storage.locations import is_url
from pipeline.wording import counted

logger = logging.getLogger(__name__)

SCHEMA = "cuts3d-self-training/1"
SETTINGS_FILE = "self-training.json"
THRESHOLDS = (0.7, 0.65)
MAX_PER_IMAGE = 30

Train = Callable[[Training], Path]
"""Does a training, or resumes it, and returns its detector: `detector.training.train.train`, or the same on
Ray."""


@dataclass(frozen=True)
class SelfTraining:
    """What a self-training is to do.

    run: folder or URL of the run whose images are used, and whose masks are those of round 0.
    checkpoint: of the detector that was trained on them.
    training: how every round trains; its runs, start and work folder are not looked at.
    rounds: how many; more may be asked for later.
    thresholds: score from which predictions are kept, of each round; the last one holds for all further ones. None,
        with a teacher alone: as the configuration says.
    max_per_image: predictions, by score; None likewise.
    """

    run: str
    checkpoint: str
    work_dir: str
    training: Training
    rounds: int = 2
    thresholds: tuple[float, ...] | None = THRESHOLDS
    max_per_image: int | None = MAX_PER_IMAGE

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds is {self.rounds}: it must be at least 1")
        if self.thresholds is not None and not (self.thresholds and all(0 <= one <= 1 for one in self.thresholds)):
            raise ConfigError(f"thresholds are {self.thresholds}: give one or more, in 0..1")
        if is_url(self.work_dir):
            raise ConfigError(f"{self.work_dir} is a URL: give a folder of this machine, or one that is shared")

    @cached_property
    def by_teacher(self) -> bool:
        """Whether labels are made by a momentum teacher while training."""
        return teaches_itself(self.training.config)


@dataclass(frozen=True)
class Round:
    """One round.

    number: from 1.
    threshold: None: as the configuration says.
    start: checkpoint that predicts, and from whose weights the training begins.
    previous: run whose masks stay where nothing is predicted.
    folder: of the round.
    """

    number: int
    threshold: float | None
    start: Path
    previous: str
    folder: Path

    @property
    def pseudo_masks(self) -> Path:
        return self.folder / "pseudo-masks"

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def detector(self) -> Path:
        """There when the round is done."""
        return detector_in(self.training)


def self_train(wanted: SelfTraining, execute: RunExecutor, train: Train, **execution: Any) -> Path:
    """Do what is missing of the rounds; the detector of the last one.

    execute: does a run, see `pipeline.commands.executing.executor`; execution: further arguments of it (device,
    batch_size, reporter).

    Raises RunMismatchError when work_dir holds rounds of other settings, ConfigError when the run is not complete, and
    whatever the runs and trainings raise.
    """
    refuse_another_kind(wanted)
    _claim(wanted)
    last: Path | None = None
    for round_ in rounds_of(wanted):
        if round_.detector.is_file():
            logger.info("round %d is done: %s", round_.number, round_.detector)
        elif wanted.by_teacher:
            logger.info("round %d: training on the photos of %s", round_.number, wanted.run)
            train(_by_teacher(wanted, round_, last))
        else:
            _predict(wanted, round_, execute, execution)
            logger.info("round %d: training on %s", round_.number, round_.pseudo_masks)
            train(_on_predictions(wanted, round_))
        last = round_.training
    return round_.detector


def rounds_of(wanted: SelfTraining) -> Iterator[Round]:
    """The rounds in order, each on what the one before leaves."""
    start, previous = Path(wanted.checkpoint), wanted.run
    for number in range(1, wanted.rounds + 1):
        threshold = wanted.thresholds[min(number, len(wanted.thresholds)) - 1] if wanted.thresholds else None
        round_ = Round(number, threshold, start, previous, Path(wanted.work_dir).absolute() / f"round-{number}")
        yield round_
        start, previous = round_.detector, str(round_.pseudo_masks)


def _predict(wanted: SelfTraining, round_: Round, execute: RunExecutor, execution: Mapping[str, Any]) -> None:
    """Make the pseudo-masks of a round, or what is missing of them."""
    out = str(round_.pseudo_masks)
    if files_at(out).exists(RUN_FILE) and RunFolder.open(out).is_complete():
        return
    source = RunFolder.open(wanted.run)
    assert wanted.max_per_image is not None  # without a teacher it is said
    options = DetectorOptions(
        str(round_.start.absolute()),
        min_score=round_.threshold,
        max_per_image=wanted.max_per_image,
        previous=round_.previous if is_url(round_.previous) else str(Path(round_.previous).absolute()),
    )
    launch = Launch(
        f"{source.url.rstrip('/')}/{MANIFEST_FILE}",  # a manifest is a list of images, too
        recipe=NAME,
        overrides=overrides_of(options),
        shard_size=source.manifest.shard_size,
    )
    logger.info(
        "round %d: predicting on %s, keeping scores above %g",
        *(round_.number, counted(source.n_images, "image"), round_.threshold),
    )
    summary = execute(out, launch, **execution)
    if not summary.complete:
        raise CutsError(
            f"round {round_.number}: {out} lacks {counted(summary.missing, 'shard')}; the same command goes on"
        )
    _say(round_)


def _say(round_: Round) -> None:
    """How the pseudo-masks of a round have come out."""
    found = RunReader(RunFolder.open(round_.pseudo_masks)).summary()
    drops = ", ".join(f"{count} {reason}" for reason, count in found.survey["drops"].items())
    logger.info(
        "round %d: %s in %s (dropped: %s)",
        *(round_.number, counted(found.survey["masks"], "mask"), counted(found.committed_images, "image")),
        drops or "none",
    )


def _on_predictions(wanted: SelfTraining, round_: Round) -> Training:
    return replace(
        wanted.training,
        runs=(str(round_.pseudo_masks),),
        work_dir=str(round_.training),
        init_from=str(round_.start.absolute()),
        backbone=None,
        resume=None,
    )


def _by_teacher(wanted: SelfTraining, round_: Round, last: Path | None) -> Training:
    """The next part of the one training. last: folder of the part before, None of the first."""
    continues = None
    if last is not None and (continues := training_at(last).latest_checkpoint()) is None:
        raise TrainingError(
            f"{last} has no checkpoint any more that round {round_.number} could go on from: bring it back, or give "
            "another --work-dir"
        )
    given = {"min_score": round_.threshold, "max_per_image": wanted.max_per_image}
    return replace(
        wanted.training,
        runs=(wanted.run,),
        work_dir=str(round_.training),
        init_from=str(Path(wanted.checkpoint).absolute()),
        backbone=None,
        resume=None,
        rounds=round_.number,
        continues=None if continues is None else str(continues),
        teacher={name: value for name, value in given.items() if value is not None},
    )


def kept_by_default(by_teacher: bool) -> dict[str, Any]:
    """Rounds, and which predictions are kept, where nobody says: CutLER's; with a teacher CUPS' number of rounds, and
    what is kept is up to the configuration.
    """
    if by_teacher:
        return {"rounds": 3, "thresholds": None, "max_per_image": None}
    return {"rounds": 2, "thresholds": THRESHOLDS, "max_per_image": MAX_PER_IMAGE}


def teaches_itself(config: str) -> bool:
    """Whether a configuration has a momentum teacher; ConfigError when there is none of this name."""
    path = train_config.config_path(config)
    return has_teacher(train_config.read_config(config) if train_config.is_file(config) else plain_config(path))


def refuse_another_kind(wanted: SelfTraining) -> None:
    """ConfigError where the detector is panoptic and the configuration's rounds are not."""
    if not wanted.by_teacher and read_detector(wanted.checkpoint).panoptic is not None:
        raise ConfigError(
            f"{wanted.checkpoint} is a panoptic detector, {wanted.training.config} trains another kind: "
            "--config cups_self_r50_fpn"
        )
    if not wanted.by_teacher and (wanted.thresholds is None or wanted.max_per_image is None):
        raise ConfigError(f"{wanted.training.config} has no teacher: say what predictions are kept")


def _claim(wanted: SelfTraining) -> None:
    """Make the folder that of these rounds; RunMismatchError when it is that of others."""
    folder = files_at(wanted.work_dir)
    settings = json.loads(json.dumps({"schema": SCHEMA, **_settings(wanted)}))
    folder.create_exclusive(SETTINGS_FILE, json.dumps(settings, indent=1).encode())
    try:
        recorded = json.loads(folder.read_bytes(SETTINGS_FILE))
        if not isinstance(recorded, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise RunMismatchError(
            f"{SETTINGS_FILE} in {folder.url} cannot be read ({error}): give another --work-dir"
        ) from error
    found = differences(recorded, settings)
    if found:
        raise RunMismatchError(
            f"{folder.url} holds rounds of self-training that were started differently:\n"
            + "\n".join(in_lines(found, "before"))
            + "\nTo resume it, start it with the settings it has; or give another --work-dir."
        )


def _settings(wanted: SelfTraining) -> dict[str, Any]:
    """What decides the result, wherever things lie. The number of rounds does not: more of them begin with these."""
    run = RunFolder.open(wanted.run)
    elsewhere = (
        *("runs", "work_dir", "resume", "device", "backbone", "init_from", "val_truth", "val_images"),
        *("rounds", "continues", "teacher"),  # of one round
    )
    training = {name: value for name, value in asdict(wanted.training).items() if name not in elsewhere}
    return {
        "run": run.fingerprint,
        "images": run.digest,
        "detector": read_detector(wanted.checkpoint).sha256,
        "thresholds": wanted.thresholds,
        "max_per_image": wanted.max_per_image,
        **{f"training.{name}": value for name, value in training.items()},
    }
