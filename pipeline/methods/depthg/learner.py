"""What learns: a head and centroids of clusters, step by step; or centroids alone, at once.

N crops · B of a batch · D feature width · K code width · C clusters · h, w patch grid
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.errors import StoreError, TrainingError
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.training_recipes import KMeansConfig, SemanticRecipe
from pipeline.wording import counted
from stages.semantics.clusters import ClusterProbe, cosine_kmeans
from stages.semantics.head import IdentityHead, Projection, SemanticHead
from stages.semantics.objective import Crops, Objective, StepLosses

logger = logging.getLogger(__name__)

_CROPS_OF_PATCHES = 4096  # at most, that k-means draws patches from


class Learner(Protocol):
    """iterations: that it takes in all. head, clusters: where they are now."""

    iterations: int
    head: SemanticHead | IdentityHead
    clusters: ClusterProbe

    def step(self, number: int) -> dict[str, float]:
        """Do iteration `number`, the first being 0, and say its losses and similarities. What it does depends on the
        state before, the seed and its number alone.

        Raises TrainingError for a loss that is no number.
        """

    def state(self) -> dict[str, Any]:
        """All that the next step needs; tensors and plain values."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from this state."""


@dataclass(frozen=True)
class Batch:
    """crops, neighbours: features, float16 (B, D, h, w), and depth, float32 (B, h, w) or None, of crops and of one
    neighbour of each.
    """

    crops: tuple[np.ndarray, np.ndarray | None]
    neighbours: tuple[np.ndarray, np.ndarray | None]


class Batches:
    """The batches of a training: each depends on the seed and its number alone, so that any is had without those
    before it. Crops of one batch are distinct; batches are drawn independently of each other.

    size: B, of fewer crops all. neighbours: of how many nearest crops one is drawn.
    """

    def __init__(self, inputs: TrainingInputs, size: int, neighbours: int, seed: int, with_depth: bool) -> None:
        self._inputs, self._seed, self._with_depth = inputs, seed, with_depth
        self._size = min(size, len(inputs))
        self._nearest = min(neighbours, inputs.neighbours.shape[1] - 1)

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng([self._seed, number])
        crops = rng.choice(len(self._inputs), self._size, replace=False)
        column = rng.integers(1, self._nearest + 1, self._size)  # 0 is the crop itself
        neighbours = np.asarray(self._inputs.neighbours[crops, column], np.int64)
        if not 0 <= neighbours.min() <= neighbours.max() < len(self._inputs):
            raise StoreError(
                f"the neighbours in {self._inputs.run.url} are damaged: they name crops beyond {len(self._inputs)}",
                "Delete its folder neighbours: they are computed again.",
            )
        return Batch(self._crops(crops), self._crops(neighbours))

    def _crops(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return self._inputs.features(numbers), self._inputs.depth(numbers) if self._with_depth else None


class HeadLearner:
    """A head and clusters by an objective. amp: mixed precision, on a GPU."""

    def __init__(
        self, recipe: SemanticRecipe, inputs: TrainingInputs, seed: int, device: torch.device, amp: bool = False
    ) -> None:
        assert recipe.objective is not None
        assert recipe.training is not None
        how, width = recipe.training, inputs.shape[0]
        self.iterations = how.iterations
        self._seed, self._device, self._amp = seed, device, amp
        self._batches = Batches(inputs, how.batch_size, how.neighbours, seed, recipe.objective.needs_depth)
        self._objective = Objective(recipe.objective)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.head: SemanticHead | IdentityHead = SemanticHead(width, how.codes, how.dropout).to(device)
            self.clusters = ClusterProbe(how.codes, recipe.clusters).to(device)
            self._projection = Projection(how.codes, how.codes).to(device) if recipe.objective.lhp_weight else None
        of_codes = [*self.head.parameters(), *(self._projection.parameters() if self._projection else ())]
        self._optimizer = torch.optim.Adam(
            [
                {"params": of_codes, "lr": how.learning_rate},
                {"params": self.clusters.parameters(), "lr": how.cluster_learning_rate},
            ]
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp)

    def step(self, number: int) -> dict[str, float]:
        batch = self._batches[number]
        generator = torch.Generator(self._device).manual_seed(_word(self._seed, number))
        self.head.train()
        with torch.autocast(self._device.type, torch.float16, enabled=self._amp):
            losses = self._objective(
                self.head,
                self._crops(*batch.crops),
                self._crops(*batch.neighbours),
                number,
                generator,
                self._projection,
            )
            of_clusters = self.clusters.loss(losses.codes)
            total = losses.total + of_clusters
        values = _values(losses, of_clusters)
        if not all(map(np.isfinite, values.values())):
            wrong = ", ".join(name for name, value in values.items() if not np.isfinite(value))
            raise TrainingError(
                f"iteration {number + 1}: {wrong} is no number any more. Try a lower training.learning_rate, or other "
                "weights; checkpoints before this one are whole"
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return values

    def _crops(self, features: np.ndarray, depth: np.ndarray | None) -> Crops:
        deep = None if depth is None else torch.from_numpy(depth).to(self._device)
        return Crops(torch.from_numpy(features).to(self._device), deep)

    def state(self) -> dict[str, Any]:
        return {
            "head": self.head.state_dict(),
            "clusters": self.clusters.state_dict(),
            "projection": None if self._projection is None else self._projection.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self.clusters.load_state_dict(state["clusters"])
        if self._projection is not None:
            self._projection.load_state_dict(state["projection"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


class KMeansLearner:
    """Clusters of the features themselves, found in one iteration: the codes are the features."""

    iterations = 1

    def __init__(self, recipe: SemanticRecipe, inputs: TrainingInputs, seed: int, device: torch.device) -> None:
        assert recipe.kmeans is not None
        self._config, self._inputs, self._seed, self._device = recipe.kmeans, inputs, seed, device
        self.head: SemanticHead | IdentityHead = IdentityHead(inputs.shape[0])
        self.clusters = ClusterProbe(inputs.shape[0], recipe.clusters).to(device)

    def step(self, number: int) -> dict[str, float]:
        mean_cosine = find_clusters(self.head, self.clusters, self._config, self._inputs, self._seed, self._device)
        return {"loss": -mean_cosine, "loss/clusters": -mean_cosine}

    def state(self) -> dict[str, Any]:
        return {"clusters": self.clusters.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.clusters.load_state_dict(state["clusters"])


def learner_of(
    recipe: SemanticRecipe, inputs: TrainingInputs, seed: int, device: torch.device, amp: bool = False
) -> Learner:
    """What learns by a recipe."""
    if recipe.training is None:
        return KMeansLearner(recipe, inputs, seed, device)
    return HeadLearner(recipe, inputs, seed, device, amp)


def find_clusters(
    head: SemanticHead | IdentityHead,
    clusters: ClusterProbe,
    config: KMeansConfig,
    inputs: TrainingInputs,
    seed: int,
    device: torch.device,
) -> float:
    """Put the clusters where k-means of the head's codes finds them; the mean cosine of codes and centroids."""
    codes = _codes(head, inputs, config.patches, seed, device)
    found = cosine_kmeans(codes, len(clusters.centroids), seed, config.iterations)
    if not found.converged:
        logger.warning(
            "k-means was stopped after %s, the last of which still moved %s of %s to another cluster: the clusters "
            "are usable, and not the final ones. Raise kmeans.iterations",
            counted(found.iterations, "iteration"),
            f"{found.moved:,}",
            counted(len(codes), "patch"),
        )
    with torch.no_grad():
        clusters.centroids.copy_(found.centroids)
    return found.mean_cosine


def spread(count: int, most: int) -> np.ndarray:
    """Up to so many of the numbers 0..count-1, evenly spread: int64."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def patches_of_kmeans(inputs: TrainingInputs, most: int) -> tuple[np.ndarray, int]:
    """The crops that k-means draws from, spread evenly, int64, and how many patches of each."""
    crops = spread(len(inputs), min(most, _CROPS_OF_PATCHES))
    return crops, min(most // len(crops), inputs.shape[1] * inputs.shape[2])


@torch.inference_mode()
def _codes(
    head: SemanticHead | IdentityHead, inputs: TrainingInputs, most: int, seed: int, device: torch.device
) -> torch.Tensor:
    """Codes of patches, drawn evenly from each crop of `patches_of_kmeans`: float32 (n, K), n up to `most`."""
    crops, of_each = patches_of_kmeans(inputs, most)
    rng = np.random.default_rng([seed, 0])
    was_training = head.training
    head.eval()
    drawn = []
    for crop in crops:
        patches = inputs.features([crop])[0].reshape(inputs.shape[0], -1)
        chosen = patches[:, rng.choice(patches.shape[1], of_each, replace=False)]
        drawn.append(head(torch.from_numpy(chosen).to(device)[None, :, :, None])[0, :, :, 0].T)
    head.train(was_training)
    return torch.cat(drawn)


def _word(seed: int, number: int) -> int:
    """The seed of one iteration."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _values(losses: StepLosses, of_clusters: torch.Tensor) -> dict[str, float]:
    """By the names of the log; read from the device at once."""
    named = {
        "loss": losses.total.detach(),
        **{f"loss/{name}": value for name, value in losses.terms.items()},
        "loss/clusters": of_clusters.detach(),
        **{f"similarity/{name}": value for name, value in losses.similarities.items()},
    }
    return dict(zip(named, torch.stack([value.float() for value in named.values()]).tolist(), strict=True))
