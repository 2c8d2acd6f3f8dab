"""How good clusters are, without labels: what a search chooses by, and what a model says of itself.

K code width · C clusters · N patches of a crop · P of them that are paired

STEGO's author advises to look at the cosines of codes in pairs of patches of one image, of neighbours and of random
images: they should look as the agreement of labels would, 1 or 0, often in one image, seldom in two random ones. With
the clusters in place of labels that is measured here:

likeness      the share of the variance of "both patches are in one cluster" that the cosine of their codes, cut off at
              0, explains, over pairs of the three kinds alike. At most 1; 0 or less where cosines tell nothing, and 0
              where all patches are in one cluster.
consistency   bits that the cluster of a patch tells of the cluster of that patch of a neighbour which has the most
              similar features, on average over pairs of crops; over the bits of C clusters, so 0..1. It is 0 for
              clusters that are drawn by lot, for one cluster for everything, and for one for each photo, which likeness
              may like.

The criterion is their product.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.learner import spread
from stages.semantics.clusters import ClusterProbe
from stages.semantics.correlation import unit
from stages.semantics.head import IdentityHead, SemanticHead

CROPS, PATCHES = 256, 128  # that are looked at: of the inputs, of a crop
_NEIGHBOURS = 7
KINDS = ("own", "neighbour", "random")


@dataclass(frozen=True)
class Judgement:
    """likeness, consistency: see above.
    similarities: mean cosine of the codes of pairs, by kind.
    agreement: share of pairs in one cluster, by kind.
    shares: of the patches in each cluster, C of them.
    crops: that were looked at.
    """

    likeness: float
    consistency: float
    similarities: dict[str, float]
    agreement: dict[str, float]
    shares: tuple[float, ...]
    crops: int

    @property
    def value(self) -> float:
        """The criterion, larger = better, 0..1."""
        return max(self.likeness, 0.0) * self.consistency

    @property
    def dead(self) -> tuple[int, ...]:
        """Clusters that no patch is in."""
        return tuple(cluster for cluster, share in enumerate(self.shares) if share == 0.0)

    def __str__(self) -> str:
        """For people."""
        return f"criterion {self.value:.4f} (likeness {self.likeness:.3f}, consistency {self.consistency:.3f})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "criterion": self.value,
            "likeness": self.likeness,
            "consistency": self.consistency,
            "similarities": self.similarities,
            "agreement": self.agreement,
            "shares": list(self.shares),
            "crops": self.crops,
        }


class Learnt(Protocol):
    """What is judged."""

    @property
    def head(self) -> SemanticHead | IdentityHead:
        """On the device of the clusters."""

    @property
    def clusters(self) -> ClusterProbe:
        """Of the head's codes."""


@dataclass(frozen=True)
class _Seen:
    """Of one crop, in evaluation mode. directions: of the features, (N, D). codes: directions, (N, K). labels: (N,)."""

    directions: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor


@torch.no_grad()
def judge(learner: Learnt, inputs: TrainingInputs, device: torch.device) -> Judgement:
    """Look at up to 256 crops, spread evenly, each with one of its neighbours and a random other one. Equal inputs give
    equal results.
    """
    learner.head.eval()
    crops, clusters = spread(len(inputs), CROPS), len(learner.clusters.centroids)
    rng = np.random.default_rng(0)
    counts = torch.zeros(clusters, dtype=torch.int64)
    pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {kind: [] for kind in KINDS}
    told = []
    for place, number in enumerate(crops):
        seen = _seen(learner, inputs, number, device)
        counts += torch.bincount(seen.labels, minlength=clusters).cpu()
        picked = _picked(rng, len(seen.labels), device)
        pairs["own"].append(_paired(seen, seen, picked, picked))
        if len(inputs) == 1:
            continue
        nearest = min(_NEIGHBOURS, inputs.neighbours.shape[1] - 1)
        near = _seen(learner, inputs, int(inputs.neighbours[number, 1 + place % nearest]), device)
        pairs["neighbour"].append(_paired(seen, near, picked, _picked(rng, len(near.labels), device)))
        told.append(_told(seen, near, clusters))
        if len(crops) > 1:
            other = int(rng.integers(1, len(crops)))
            far = _seen(learner, inputs, crops[(place + other) % len(crops)], device)
            pairs["random"].append(_paired(seen, far, picked, _picked(rng, len(far.labels), device)))
    joined = {kind: [torch.cat(parts) for parts in zip(*found, strict=True)] for kind, found in pairs.items() if found}
    return Judgement(
        _likeness([(cosines, same) for cosines, same in joined.values()]),
        float(np.mean(told)) / np.log2(clusters) if told else 0.0,
        {kind: float(cosines.mean()) for kind, (cosines, _) in joined.items()},
        {kind: float(same.mean()) for kind, (_, same) in joined.items()},
        tuple((counts / counts.sum()).tolist()),
        len(crops),
    )


def _seen(learner: Learnt, inputs: TrainingInputs, number: int, device: torch.device) -> _Seen:
    features = torch.from_numpy(inputs.features([number])).to(device)
    codes = learner.head(features)
    labels = learner.clusters.cosines(codes).argmax(dim=1).flatten()
    return _Seen(unit(features)[0].flatten(1).T, unit(codes)[0].flatten(1).T, labels)


def _picked(rng: np.random.Generator, count: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(rng.choice(count, min(count, PATCHES), replace=False)).to(device)


def _paired(
    first: _Seen, second: _Seen, of_first: torch.Tensor, of_second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of codes, and whether clusters are the same, 0 or 1, of all pairs of two different patches."""
    cosines = first.codes[of_first] @ second.codes[of_second].T
    same = (first.labels[of_first][:, None] == second.labels[of_second][None]).float()
    if first is second:
        different = ~torch.eye(len(of_first), dtype=torch.bool, device=cosines.device)
        return cosines[different].cpu(), same[different].cpu()
    return cosines.flatten().cpu(), same.flatten().cpu()


def _likeness(kinds: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """1 - error / variance, each kind counting the same; 0 where all agree or none does."""
    mean = torch.stack([same.mean() for _, same in kinds]).mean()
    variance = float(torch.stack([((same - mean) ** 2).mean() for _, same in kinds]).mean())
    error = float(torch.stack([((cosines.clamp(min=0) - same) ** 2).mean() for cosines, same in kinds]).mean())
    return 1 - error / variance if variance > 1e-9 else 0.0


def _told(seen: _Seen, near: _Seen, clusters: int) -> float:
    """Mutual information in bits of the clusters of patches and of those of a neighbour that are most like them."""
    match = (seen.directions @ near.directions.T).argmax(dim=1)
    joint = torch.bincount(seen.labels * clusters + near.labels[match], minlength=clusters**2).double()
    joint = (joint / joint.sum()).reshape(clusters, clusters).cpu()
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    there = joint > 0
    return float((joint[there] * (joint[there] / apart[there]).log2()).sum())
