"""Small semantic trainings on tiny inputs.

As a script: python semantic_training.py INPUTS OUT MOMENT NUMBER     trains on, and dies by SIGKILL at a MOMENT: before
the step of this NUMBER ("step"), or half-way through the checkpoint after so many ("save"); "none" lives to the end
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.methods.depthg import training, training_log
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.learner import HeadLearner
from pipeline.methods.depthg.training import SemanticTraining, train
from pipeline.methods.depthg.training_recipes import SemanticRecipe, get_recipe

SMALL = (
    *("training.codes=6", "training.batch_size=4", "training.log_every=3", "training.checkpoint_every=2"),
    *("objective.samples=3", "objective.depth_decay_every=4"),
)
ITERATIONS = 9


def small_recipe(name: str = "depthg", *overrides: str, clusters: int = 3, trials: int | None = None) -> SemanticRecipe:
    """A recipe, or kmeans, made small enough for tiny inputs."""
    if name == "kmeans":
        return get_recipe(name, overrides, clusters=clusters)
    return get_recipe(name, [*SMALL, *overrides], iterations=ITERATIONS, clusters=clusters, trials=trials)


def small_training(inputs: TrainingInputs, out: Path, name: str = "depthg", *overrides: str, **further: Any) -> Path:
    """Trained to the end; the model's file. further: fields of `SemanticTraining`."""
    return train(SemanticTraining(small_recipe(name, *overrides), out, device="cpu", **further), inputs)


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _main(inputs: str, out: str, moment: str, number: int) -> None:
    step, save, saved = HeadLearner.step, training.torch.save, 0

    def dying_step(self: HeadLearner, at: int) -> dict[str, float]:
        if at == number:
            _die()
        return step(self, at)

    def dying_save(state: Any, file: Any) -> None:
        nonlocal saved
        saved += 1
        if saved < number:
            save(state, file)
            return
        file.write(b"PK\x03\x04 the beginning of a checkpoint")
        file.flush()
        _die()

    if moment == "step":
        HeadLearner.step = dying_step  # type: ignore[method-assign]
    elif moment == "save":
        training.torch.save = dying_save
    training_log.find_spec = lambda name: None  # type: ignore[assignment]  # TensorBoard takes seconds to import
    recipe = small_recipe("depthg_corr_fps_lhp", "search.iterations=4", trials=2)
    train(SemanticTraining(recipe, Path(out), device="cpu", resume=None), TrainingInputs.open(inputs))


if __name__ == "__main__":
    _main(*sys.argv[1:4], int(sys.argv[4]))
