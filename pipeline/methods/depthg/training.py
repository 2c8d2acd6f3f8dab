"""Semantic training in one process: from the inputs of a run to a model, with checkpoints that resume to the bit."""

import logging
import pickle
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigError, RunMismatchError, TrainingError
from pipeline.methods.depthg.checkpoint import FILE, ModelInfo, SemanticModel, write_model
from pipeline.methods.depthg.criterion import Judgement, judge
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.learner import Learner, find_clusters, learner_of, patches_of_kmeans
from pipeline.methods.depthg.search import SEARCH_FILE, searched
from pipeline.methods.depthg.training_folder import refuse_model, training_at
from pipeline.methods.depthg.training_log import TrainingLog
from pipeline.methods.depthg.training_recipes import SemanticRecipe
from pipeline.models.device import pick_device
from pipeline.runs.lease import Lease
from pipeline.runs.training_folder import TrainingFolder, iterations
from pipeline.storage.atomic import written_whole
from pipeline.storage.files_at import files_at
from pipeline.storage.outputs import writing
from pipeline.wording import brief, counted, few_of, part_of
from stages.features import FeatureConfig

logger = logging.getLogger(__name__)

KEPT = 2  # checkpoints


@dataclass(frozen=True)
class SemanticTraining:
    """What is to be trained.

    recipe: with all its options.
    features: as `--features` named them; "" where nobody knows.
    out: folder.
    seed: of everything drawn, 0..2³²-1.
    resume: True resumes the training in `out`, None does if there is one.
    amp: mixed precision, on a GPU.
    device: auto, cpu, cuda or cuda:N.
    """

    recipe: SemanticRecipe
    out: Path
    features: str = ""
    seed: int = 0
    resume: bool | None = False
    amp: bool = False
    device: str = "auto"


def train(wanted: SemanticTraining, inputs: TrainingInputs) -> Path:
    """Train to the end, and leave the model in the folder; its file.

    Raises:
        ConfigError: the recipe cannot learn from these inputs, or the device is not there.
        RunMismatchError: the folder holds another training, or this one and `resume` is not set.
        LeaseError: another process trains in this folder.
        TrainingError: there is nothing to resume, or the loss is no number any more.
        StoreError: the inputs are damaged.
    """
    device = training_device(wanted.device, wanted.amp)
    warnings = check_inputs(wanted.recipe, inputs)
    for warning in warnings:
        logger.warning("%s", warning)
    folder = training_at(wanted.out)
    identity = {
        "recipe": wanted.recipe.identity(),
        "inputs": inputs.digest,
        "seed": wanted.seed,
        "amp": wanted.amp,
    }
    with writing(wanted.out), Lease(files_at(wanted.out)) as lease:
        checkpoint = folder.claim(identity, wanted.resume)
        if checkpoint is None and folder.recorded() != identity:
            refuse_model(wanted.out)
            if (wanted.out / SEARCH_FILE).exists():
                raise RunMismatchError(
                    f"{wanted.out} holds the {SEARCH_FILE} of another training: give another --out, or delete it"
                )
        folder.record(identity)
        recipe = wanted.recipe
        if recipe.search is not None and recipe.search.trials:
            recipe = searched(recipe, inputs, wanted.seed, device, wanted.out, lease, amp=wanted.amp)
        learner = learner_of(recipe, inputs, wanted.seed, device, wanted.amp)
        _learn(learner, folder, checkpoint, recipe, lease)
        if recipe.training is not None and recipe.kmeans is not None:
            find_clusters(learner.head, learner.clusters, recipe.kmeans, inputs, wanted.seed, device)
        judgement = judge(learner, inputs, device)
        logger.info("without labels: %s", judgement)
        warnings = (*warnings, *_dead(judgement))
        lease.check()
        path = write_model(wanted.out / FILE, _model(learner, recipe, inputs, wanted, judgement, warnings))
        logger.info("the model is in %s", path)
    return path


def training_device(device: str, amp: bool) -> torch.device:
    """Where to train; ConfigError when it is not there, or there is no mixed precision on it."""
    chosen = pick_device(device)
    if amp and chosen.type != "cuda":
        raise ConfigError("mixed precision is for GPUs, and this is a CPU: train without it")
    return chosen


def check_inputs(recipe: SemanticRecipe, inputs: TrainingInputs) -> tuple[str, ...]:
    """What a model should remember of its inputs, a sentence each.

    Raises ConfigError when the recipe cannot learn from them.
    """
    if recipe.needs_depth and not inputs.has_depth:
        raise ConfigError(
            f"recipe {recipe.name} needs depth, and these inputs have none: make inputs with it, or take --recipe stego"
        )
    if recipe.needs_depth and inputs.flat_depth >= inputs.photos:
        raise ConfigError(
            f"the depth of all {counted(inputs.photos, 'photo')} is the same everywhere: make inputs with another "
            "--depth, or take --recipe stego"
        )
    if recipe.kmeans is not None:
        crops, of_each = patches_of_kmeans(inputs, recipe.kmeans.patches)
        if (count := len(crops) * of_each) < recipe.clusters:
            raise ConfigError(
                f"there are {count} patches for {recipe.clusters} clusters: take fewer, --clusters N, or more photos"
            )
    said = list(inputs.warnings)
    if recipe.training is None or recipe.objective is None:
        return tuple(said)
    recipe.check_grid(*inputs.shape[1:])
    if len(inputs) < 2:
        raise ConfigError(
            f"recipe {recipe.name} learns from pairs of images, and there is one: give more photos, or "
            "--set crops.layout=five"
        )
    others, wanted = inputs.neighbours.shape[1] - 1, recipe.training.neighbours
    if inputs.photos < 2:
        said.append("all crops are of one photo: its neighbours and random pairs are crops of it, too")
    if others < wanted:
        said.append(
            f"there are {counted(others, 'other crop')} for {wanted} neighbours: one of {others} is drawn each time, "
            "however unlike"
        )
    if len(inputs) < recipe.training.batch_size:
        said.append(f"a batch has all {len(inputs)} crops, since there are not {recipe.training.batch_size}")
    return tuple(said)


def _learn(
    learner: Learner, folder: TrainingFolder, checkpoint: Path | None, recipe: SemanticRecipe, lease: Lease
) -> None:
    """All iterations that are still to do, from a checkpoint or the beginning."""
    state: Mapping[str, Any] = {"iteration": 0, "tally": Tally().state()}
    if checkpoint is not None:
        state = _loaded(checkpoint, learner)
    done, total = state["iteration"], learner.iterations
    if done >= total:
        logger.info("all of %s done", counted(total, "iteration"))
        return
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
    log_every = recipe.training.log_every if recipe.training else 1
    checkpoint_every = recipe.training.checkpoint_every if recipe.training else 1
    tally = Tally(state["tally"])
    with TrainingLog(folder.path, done, total) as log:
        for number in range(done, total):
            tally.add(learner.step(number))
            at = number + 1
            if at % log_every == 0 or at == total:
                log.add(at, tally.means())
                tally = Tally()
            if at % checkpoint_every == 0 or at == total:
                lease.check()
                _save(folder, at, {"iteration": at, "learner": learner.state(), "tally": tally.state()})


class Tally:
    """Means of what the steps since the last report said."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._count: int = state["count"] if state else 0
        self._sums: dict[str, float] = defaultdict(float, state["sums"] if state else {})

    def add(self, values: Mapping[str, float]) -> None:
        self._count += 1
        for name, value in values.items():
            self._sums[name] += value

    def means(self) -> dict[str, float]:
        return {name: value / self._count for name, value in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """Plain values, from which it goes on."""
        return {"count": self._count, "sums": dict(self._sums)}


def _save(folder: TrainingFolder, at: int, state: Mapping[str, Any]) -> None:
    with written_whole(folder.path / f"iter_{at}.pth", "wb") as file:
        torch.save(state, file)
    for old in folder.checkpoints()[KEPT:]:
        old.unlink()


def _loaded(checkpoint: Path, learner: Learner) -> Mapping[str, Any]:
    """The state in a checkpoint, of which the learner has its part already; TrainingError for one of something else."""
    state = _read(checkpoint)
    try:
        if state["iteration"] != iterations(checkpoint):
            raise ValueError("its iteration is not that of its name")
        Tally(state["tally"]).means()
        learner.load(state["learner"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise TrainingError(
            f"{checkpoint} is no checkpoint of this training: delete it, to resume from the one before it "
            f"({brief(error, 200)})"
        ) from error
    return state


def _read(checkpoint: Path) -> Mapping[str, Any]:
    try:
        state: Mapping[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{checkpoint} cannot be read: delete it, to resume from the one before it") from error
    return state


def _dead(judgement: Judgement) -> list[str]:
    """A sentence for a model to remember, said as well, where clusters have died."""
    if not judgement.dead:
        return []
    names = few_of([str(cluster) for cluster in judgement.dead])
    said = (
        f"{part_of(len(judgement.dead), len(judgement.shares), 'cluster')} dead, without a patch in "
        f"{counted(judgement.crops, 'crop')}: {names}. Fewer clusters, more iterations or other shifts may help"
    )
    logger.warning("%s", said)
    return [said]


def _model(
    learner: Learner,
    recipe: SemanticRecipe,
    inputs: TrainingInputs,
    wanted: SemanticTraining,
    judgement: Judgement,
    warnings: tuple[str, ...],
) -> SemanticModel:
    """What is written, from what was learnt and all that is known of how."""
    features = dict(inputs.config["features"])
    fingerprint = features.pop("fingerprint")
    tuples = {name: tuple(value) for name, value in features.items() if isinstance(value, list)}
    info = ModelInfo(
        recipe=recipe.name,
        features=wanted.features or features["model"],
        feature_config=FeatureConfig(**{**features, **tuples}),
        feature_fingerprint=fingerprint,
        width=inputs.shape[0],
        objective=asdict(recipe.objective) if recipe.objective else {},
        iterations=recipe.training.iterations if recipe.training else 0,
        seed=wanted.seed,
        inputs=inputs.digest,
        training={
            **recipe.identity(),
            "crops": inputs.config["recipe"]["crops"],
            "depth": inputs.config["depth"],
            "photos": inputs.photos,
            "left_out": inputs.left_out,
            "judgement": judgement.as_dict(),
            "warnings": list(warnings),
        },
    )
    head = {name: tensor.cpu().numpy() for name, tensor in learner.head.state_dict().items()}
    return SemanticModel(info, head, learner.clusters.centroids.detach().cpu().numpy())
