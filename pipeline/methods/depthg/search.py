"""A search over weights and shifts, by a criterion that knows no labels.

Each trial is a short training. The first is by the recipe as it is; in each other one every weight and shift is
multiplied with a factor of its own, drawn log-uniformly. What was tried is kept, a line of JSON each, so that a search
that was killed goes on with the next.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import TrainingError
from pipeline.methods.depthg.criterion import Judgement, judge
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.learner import learner_of
from pipeline.methods.depthg.training_recipes import SemanticRecipe
from pipeline.runs.lease import Lease
from pipeline.storage.atomic import written_whole
from stages.semantics.objective import ObjectiveConfig

logger = logging.getLogger(__name__)

SEARCH_FILE = "search.jsonl"
SOUGHT = tuple(
    f"{pair}_{part}" for pair in ("own", "neighbour", "random", "depth") for part in ("weight", "shift")
)  # of the objective


def searched(
    recipe: SemanticRecipe,
    inputs: TrainingInputs,
    seed: int,
    device: torch.device,
    folder: Path,
    lease: Lease,
    *,
    amp: bool = False,
) -> SemanticRecipe:
    """The recipe with the objective whose trial the criterion likes best; of equals the first.

    folder: of the training, where `search.jsonl` is kept. lease: of it.

    Raises TrainingError when the loss of every trial is no number any more.
    """
    search = recipe.search
    assert search is not None
    kept = _kept(folder)
    for trial in range(len(kept), search.trials):
        objective = objective_of(recipe, seed, trial)
        tried: dict[str, Any] = {"trial": trial, "objective": asdict(objective)}
        try:
            judgement = _tried(replace(recipe, objective=objective), inputs, seed, device, amp)
            tried |= judgement.as_dict()
            logger.info("trial %d/%d: %s", trial + 1, search.trials, judgement)
        except TrainingError as error:
            tried |= {"criterion": None, "error": str(error)}
            logger.warning("trial %d/%d failed: %s", trial + 1, search.trials, error)
        lease.check()
        kept.append(tried)
        with written_whole(folder / SEARCH_FILE) as file:
            file.writelines(f"{json.dumps(one)}\n" for one in kept)
    judged = [one for one in kept if one["criterion"] is not None]
    if not judged:
        raise TrainingError(f"no trial came to an end: {kept[-1]['error']}")
    best = max(judged, key=lambda one: one["criterion"])
    logger.info("trial %d is the best, by its criterion of %.4f: training by it", best["trial"] + 1, best["criterion"])
    return replace(recipe, objective=ObjectiveConfig(**best["objective"]))


def objective_of(recipe: SemanticRecipe, seed: int, trial: int) -> ObjectiveConfig:
    """What a trial trains for; the first, 0, is the recipe's own."""
    assert recipe.objective is not None
    assert recipe.search is not None
    if trial == 0:
        return recipe.objective
    rng = np.random.default_rng([seed, trial])
    most = np.log(recipe.search.factor)
    factors = np.exp(rng.uniform(-most, most, len(SOUGHT)))
    sought: dict[str, Any] = {
        name: float(getattr(recipe.objective, name) * by) for name, by in zip(SOUGHT, factors, strict=True)
    }
    return replace(recipe.objective, **sought)


def _tried(recipe: SemanticRecipe, inputs: TrainingInputs, seed: int, device: torch.device, amp: bool) -> Judgement:
    assert recipe.search is not None
    learner = learner_of(recipe, inputs, seed, device, amp)
    for number in range(recipe.search.iterations):
        learner.step(number)
    return judge(learner, inputs, device)


def _kept(folder: Path) -> list[dict[str, Any]]:
    """Trials that were done before, in their order."""
    try:
        lines = (folder / SEARCH_FILE).read_text(encoding="utf-8").splitlines()
        return list(_read(lines))
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{folder / SEARCH_FILE} cannot be read ({error}): delete it to search again") from error


def _read(lines: list[str]) -> Iterator[dict[str, Any]]:
    for trial, line in enumerate(lines):
        tried = json.loads(line)
        if tried["trial"] != trial:
            raise ValueError(f"trial {trial} is missing")
        ObjectiveConfig(**tried["objective"])
        failed = tried["criterion"] is None and "error" in tried
        if not failed and (isinstance(tried["criterion"], bool) or not isinstance(tried["criterion"], float | int)):
            raise ValueError(f"the criterion of trial {trial} is no number")
        yield tried
