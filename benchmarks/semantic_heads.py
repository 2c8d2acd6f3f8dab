"""Heads of semantic training after several numbers of batches, each with the ways to clusters that are compared by
`semantic_proof.py`: a head is trained once, since no gradient of clusters reaches it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.learner import HeadLearner, find_clusters
from pipeline.methods.depthg.training_recipes import KMeansConfig, SemanticRecipe
from stages.semantics.clusters import ClusterProbe
from stages.semantics.head import IdentityHead, SemanticHead

CPU = torch.device("cpu")
LEARNT = ("probe", "started")  # beside the head: from random directions, or from k-means of its first codes
WAYS = (*LEARNT, "kmeans")  # the last: of its codes when training ends


class Probes(nn.Module):
    """Several probes that learn from the same codes, none of the others."""

    def __init__(self, probes: dict[str, ClusterProbe]) -> None:
        super().__init__()
        self.probes = nn.ModuleDict(probes)

    def loss(self, codes_BKhw: torch.Tensor) -> torch.Tensor:
        return torch.stack([probe.loss(codes_BKhw) for probe in self.probes.values()]).sum()


def train_heads(recipe: SemanticRecipe, inputs: TrainingInputs, seed: int, at: Sequence[int], folder: Path) -> None:
    """Train to the last of these numbers of batches, and keep what there is at each: `folder/N.pth`. What was begun
    goes on from the last that is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = [number for number in at if (folder / f"{number}.pth").exists()]
    if max(at) in there:
        return
    learner = _learner(recipe, inputs, seed)
    if there:
        learner.load(torch.load(folder / f"{max(there)}.pth", weights_only=True))
    for number in range(max(there, default=0), max(at)):
        learner.step(number)
        if number + 1 in at:
            part = folder / "part"
            torch.save(learner.state(), part)
            part.rename(folder / f"{number + 1}.pth")
            print(folder.name, number + 1, flush=True)


def _learner(recipe: SemanticRecipe, inputs: TrainingInputs, seed: int) -> HeadLearner:
    learner = HeadLearner(recipe, inputs, seed, CPU)
    started = ClusterProbe(learner.head.codes, recipe.clusters)
    find_clusters(learner.head, started, KMeansConfig(), inputs, seed, CPU)
    assert recipe.training is not None
    learner._optimizer.add_param_group({"params": started.parameters(), "lr": recipe.training.cluster_learning_rate})
    both: Any = Probes(dict(zip(LEARNT, (learner.clusters, started), strict=True)))
    learner.clusters = both
    return learner


@dataclass(frozen=True)
class HeadAt:
    """A head after some batches, in evaluation mode, and its clusters."""

    iterations: int
    head: SemanticHead | IdentityHead
    clusters: ClusterProbe


def read_head(
    recipe: SemanticRecipe, inputs: TrainingInputs, seed: int, batches: int, way: str, folder: Path
) -> HeadAt:
    """What `train_heads` has kept, with clusters found in this way; of a recipe that trains no head, the features."""
    head: SemanticHead | IdentityHead = IdentityHead(inputs.shape[0])
    kept: dict[str, Any] = {}
    if recipe.training is not None:
        kept = torch.load(folder / f"{batches}.pth", weights_only=True)
        head = SemanticHead(inputs.shape[0], recipe.training.codes)
        head.load_state_dict(kept["head"])
    probe = ClusterProbe(head.codes, recipe.clusters)
    if way in LEARNT:
        probe.load_state_dict({"centroids": kept["clusters"][f"probes.{way}.centroids"]})
    else:
        find_clusters(head, probe, KMeansConfig(), inputs, seed, CPU)
    return HeadAt(batches, head.eval(), probe.eval())
