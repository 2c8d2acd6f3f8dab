"""The folder of a detector's training, see `pipeline.runs.training_folder`, and what else is in it.

detector.json          makes each checkpoint here readable by `detector.model.checkpoints.read_detector`
TIME/                  logs of one launch: text, vis_data/scalars.json (a line of JSON each time), TensorBoard's events
detector.safetensors   the trained detector, once it is
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.model.checkpoints import write_description
from pipeline.runs.training_folder import TrainingFolder

SCHEMA = "cuts3d-training/1"


def training_at(folder: str | Path) -> TrainingFolder:
    """The training in a folder."""
    return TrainingFolder(Path(folder), SCHEMA, "--work-dir")


def record(folder: Path, identity: Mapping[str, Any], config: Mapping[str, Any], trained_on: Mapping[str, Any]) -> None:
    """Make the folder this training's. config, trained_on: see `detector.model.checkpoints.DetectorCheckpoint`."""
    training_at(folder).record(identity)
    write_description(folder, config, trained_on)
