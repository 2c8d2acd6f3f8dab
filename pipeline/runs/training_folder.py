"""The folder of a training, whatever is trained: whose it is, and where it stands.

training.json   what decides the result; written once, and compared whenever the training resumes
iter_N.pth      checkpoints to resume from, ZIPs of torch
"""

import json
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RunMismatchError, TrainingError
from pipeline.runs.changed_settings import differences, in_lines
from pipeline.runs.run_folder import RUN_FILE
from pipeline.storage.files_at import files_at
from stages.late import torch

logger = logging.getLogger(__name__)

TRAINING_FILE = "training.json"

_CHECKPOINT = re.compile(r"iter_(\d+)\.pth")


@dataclass(frozen=True)
class TrainingFolder:
    """path: of the folder, which need not be there yet.
    schema: that its training.json has, by which one kind of training is told from another.
    option: which names the folder on the command line, such as "--work-dir".
    """

    path: Path
    schema: str
    option: str

    def claim(self, identity: Mapping[str, Any], resume: bool | None) -> Path | None:
        """The checkpoint to resume from in this folder; None to start from the beginning.

        identity: plain JSON, what decides the training's result.
        resume: False starts a training, True resumes one, None does what there is to do. A training that left no
            checkpoint has nothing to lose: whichever is started in its folder takes its place.

        Raises:
            TrainingError: resume is True, and there is no training.
            RunMismatchError: the folder holds a run, or another training; or this one, and resume is False.
        """
        self.check_resume(resume)
        recorded = self.recorded()
        if recorded is None:
            return None
        checkpoint = self.latest_checkpoint()
        if checkpoint is not None or resume:
            self._refuse_differences(recorded, identity)
        if checkpoint is None:
            logger.info(
                "the training that was started in %s had no checkpoint yet: starting from the beginning", self.path
            )
        return checkpoint

    def check_resume(self, resume: bool | None) -> None:
        """What `claim` raises whatever the training is; without torch."""
        if (self.path / RUN_FILE).exists():
            raise RunMismatchError(f"{self.path} holds a run, {RUN_FILE}: give another {self.option}")
        recorded = self.recorded()
        if resume and recorded is None:
            raise TrainingError(f"{self.path} holds no training to resume: leave out --resume to start one")
        if resume is False and recorded is not None and self.has_checkpoints():
            raise RunMismatchError(
                f"{self.path} holds a training already: add --resume to continue it, or give another {self.option}"
            )

    def record(self, identity: Mapping[str, Any]) -> None:
        """Make the folder this training's."""
        text = json.dumps({"schema": self.schema, "identity": identity}, indent=1, sort_keys=True)
        files_at(self.path).write_atomic(TRAINING_FILE, f"{text}\n".encode())

    def recorded(self) -> Mapping[str, Any] | None:
        """What decides the result of the training that is there; None where there is none. Errors as of `claim`."""
        file = self.path / TRAINING_FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = [path.name for path in self.path.glob("iter_*.pth")]
            if found:
                raise RunMismatchError(
                    f"{self.path} holds checkpoints ({found[0]}) without a {TRAINING_FILE}: they are of another "
                    f"program; give another {self.option}"
                ) from None
            return None
        except (OSError, ValueError) as error:
            raise TrainingError(f"{file} cannot be read, so nobody knows whose training this is: {error}") from error
        if not isinstance(content, dict) or content.get("schema") != self.schema:
            raise RunMismatchError(f"{file} is not of schema {self.schema!r}: give another {self.option}")
        identity = content.get("identity")
        if not isinstance(identity, dict):
            raise TrainingError(f'{file} lacks "identity", so nobody knows whose training this is')
        return identity

    def has_checkpoints(self) -> bool:
        """Whether a training may be resumed here: there is a checkpoint that is no torn one, which is a ZIP."""
        return any(map(zipfile.is_zipfile, self.path.glob("iter_*.pth")))

    def checkpoints(self) -> list[Path]:
        """Most iterations first."""
        return sorted(self.path.glob("iter_*.pth"), key=iterations, reverse=True)

    def latest_checkpoint(self) -> Path | None:
        """The checkpoint with the most iterations that can be read; one torn by a crash is passed over with a
        warning.
        """
        for checkpoint in self.checkpoints():
            try:
                torch.load(checkpoint, map_location="meta", weights_only=True)
            except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
                logger.warning("%s cannot be read, using the one before it: %s", checkpoint, error)
                continue
            return checkpoint
        return None

    def _refuse_differences(self, recorded: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        found = differences(recorded, identity)
        if not found:
            return
        raise RunMismatchError(
            f"{self.path} holds a training that was started differently:\n"
            + "\n".join(in_lines(found, "before"))
            + f"\nTo resume it, start it with the settings it has; or give another {self.option}."
        )


def iterations(checkpoint: Path) -> int:
    """How many iterations a checkpoint was trained for, by its name; -1 for a file that is none."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1
