"""The folder of a semantic training.

inputs/             the run that keeps features and depth of every crop, see `inputs`
training.json       what decides the result, see `pipeline.runs.training_folder`
search.jsonl        what a search has tried, see `search`
iter_N.pth          the last two checkpoints
log.jsonl, events/  see `training_log`
model.safetensors   the model, once it is trained, see `checkpoint`
"""

from pathlib import Path

from pipeline.errors import RunMismatchError
from pipeline.methods.depthg.checkpoint import FILE
from pipeline.runs.training_folder import TrainingFolder

INPUTS = "inputs"


def training_at(out: str | Path) -> TrainingFolder:
    """The training in a folder."""
    return TrainingFolder(Path(out), "cuts3d-semantic-training/1", "--out")


def refuse_model(out: str | Path) -> None:
    """RunMismatchError for a folder with a model, for a training that is not the model's."""
    if Path(out, FILE).exists():
        raise RunMismatchError(f"{out} holds a model already, {FILE}: give another --out, or delete it")
