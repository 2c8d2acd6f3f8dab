"""The folder of a semantic training.

inputs/             the run that keeps features and depth of every crop, see `inputs`
training.json       what decides the result, see `pipeline.runs.training_folder`
search.jsonl        what a search has tried, see `search`
iter_N.pth          the last two checkpoints
log.jsonl, events/  see `training_log`
model.safetensors   the model, once it is trained, see `checkpoint`
"""

from pathlib import Path

from pipeline.runs.training_folder import TrainingFolder

INPUTS = "inputs"


def training_at(out: str | Path) -> TrainingFolder:
    """The training in a folder."""
    return TrainingFolder(Path(out), "cuts3d-semantic-training/1", "--out")
