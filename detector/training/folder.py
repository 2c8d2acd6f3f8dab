"""The folder of a training: whose it is, where it stands, what it leaves.

training.json          what decides the result; written once, and compared whenever the training resumes
detector.json          makes each checkpoint here readable by `detector.model.checkpoints.read_detector`
iter_N.pth             checkpoints of MMEngine, to resume from
TIME/                  logs of one launch: text, vis_data/scalars.json (a line of JSON each time), TensorBoard's events
detector.safetensors   the trained detector, once it is
"""

import json
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.model.checkpoints import write_description
from pipeline.errors import RunMismatchError, TrainingError
from pipeline.runs.changed_settings import differences, in_lines
from pipeline.storage.files_at import files_at
from stages.late import torch

logger = logging.getLogger(__name__)

SCHEMA = "cuts3d-training/1"
TRAINING_FILE = "training.json"

_CHECKPOINT = re.compile(r"iter_(\d+)\.pth")


def claim(folder: Path, identity: Mapping[str, Any], resume: bool | None) -> Path | None:
    """The checkpoint to resume from in this folder; None to start from the beginning.

    identity: plain JSON, what decides the training's result.
    resume: False starts a training, True resumes one, None does what there is to do. A training that left no checkpoint
        has nothing to lose: whichever is started in its folder takes its place.

    Raises:
        TrainingError: resume is True, and there is no training.
        RunMismatchError: the folder holds another training; or this one, and resume is False.
    """
    check_resume(folder, resume)
    recorded = _recorded(folder)
    if recorded is None:
        return None
    checkpoint = latest_checkpoint(folder)
    if checkpoint is not None or resume:
        _refuse_differences(folder, recorded, identity)
    if checkpoint is None:
        logger.info("the training that was started in %s had no checkpoint yet: starting from the beginning", folder)
    return checkpoint


def check_resume(folder: Path, resume: bool | None) -> None:
    """What `claim` raises whatever the training is; without torch."""
    recorded = _recorded(folder)
    if resume and recorded is None:
        raise TrainingError(f"{folder} holds no training to resume: leave out --resume to start one")
    if resume is False and recorded is not None and has_checkpoints(folder):
        raise RunMismatchError(
            f"{folder} holds a training already: add --resume to continue it, or give another --work-dir"
        )


def record(folder: Path, identity: Mapping[str, Any], config: Mapping[str, Any], trained_on: Mapping[str, Any]) -> None:
    """Make the folder this training's. config, trained_on: see `detector.model.checkpoints.DetectorCheckpoint`."""
    text = json.dumps({"schema": SCHEMA, "identity": identity}, indent=1, sort_keys=True)
    files_at(folder).write_atomic(TRAINING_FILE, f"{text}\n".encode())
    write_description(folder, config, trained_on)


def has_checkpoints(folder: Path) -> bool:
    """Whether a training may be resumed here: there is a checkpoint that is no torn one, which is a ZIP."""
    return any(map(zipfile.is_zipfile, folder.glob("iter_*.pth")))


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most iterations that can be read; one torn by a crash is passed over with a warning."""
    for checkpoint in sorted(folder.glob("iter_*.pth"), key=iterations, reverse=True):
        try:
            torch.load(checkpoint, map_location="meta", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
            logger.warning("%s cannot be read, using the one before it: %s", checkpoint, error)
            continue
        return checkpoint
    return None


def iterations(checkpoint: Path) -> int:
    """How many iterations a checkpoint was trained for, by its name; -1 for a file that is none."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def _recorded(folder: Path) -> Mapping[str, Any] | None:
    file = folder / TRAINING_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = [path.name for path in folder.glob("iter_*.pth")]
        if found:
            raise RunMismatchError(
                f"{folder} holds checkpoints ({found[0]}) without a {TRAINING_FILE}: they are of another program; give "
                "another --work-dir"
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file} cannot be read, so nobody knows whose training this is: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise RunMismatchError(f"{file} is not of schema {SCHEMA!r}: give another --work-dir")
    identity: Mapping[str, Any] = content["identity"]
    return identity


def _refuse_differences(folder: Path, recorded: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    found = differences(recorded, identity)
    if not found:
        return
    raise RunMismatchError(
        f"{folder} holds a training that was started differently:\n"
        + "\n".join(in_lines(found, "before"))
        + "\nTo resume it, start it with the settings it has; or give another --work-dir."
    )
