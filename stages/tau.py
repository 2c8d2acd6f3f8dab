"""Thresholds τ for features that no one has measured them for, from photos without labels.

N = Gh·Gw patches · D feature width · C bins of cosines

The semantic graph joins the patches whose cosine exceeds τ, and how large the cosines are differs from backbone to
backbone. How many pairs a good τ joins differs less: so what is proposed is the τ that joins a given share of them, a
small one where rounds look for one foreground after the other, a large one at the root of a tree of cuts, whose parts
have higher thresholds of their own (docs/method.md, "A threshold for other features").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.affinity import similarities
from stages.late import torch

_EDGES = np.linspace(-1.0, 1.0, 4001)  # of the bins of cosines


@dataclass(frozen=True)
class TauConfig:
    """rounds, tree: share of the pairs of patches that the proposed τ joins, in (0, 1), over all photos.
    resamples: of the photos, for the interval, >= 1.
    """

    rounds: float = 0.1
    tree: float = 0.45
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not all(0.0 < share < 1.0 for share in (self.rounds, self.tree)):
            raise ValueError(
                f"shares of pairs lie between 0 and 1: got {self.rounds} for rounds, {self.tree} for a tree"
            )
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")


@dataclass(frozen=True)
class Tau:
    """tau, low, high: a threshold in [-1, 1], and its interval of 95 % over photos.
    share: of the pairs of patches that it joins.
    """

    tau: float
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Proposal:
    """rounds, tree: τ for recipes that search by rounds and in a tree of cuts."""

    rounds: Tau
    tree: Tau


class TauSearch:
    """Takes photos in one by one, since features of many are large, and then proposes."""

    def __init__(self, config: TauConfig) -> None:
        self.config = config
        self._counts: list[np.ndarray] = []

    def add(self, features_ND: torch.Tensor) -> None:
        """Features of a photo, (N, D) of any float dtype and device. Raises ValueError for one that is not finite."""
        self._counts.append(_histogram(similarities(features_ND[None])[0]))

    def proposal(self, seed: int = 0) -> Proposal:
        """What all photos taken in so far propose; ValueError when there were none. seed: of the resamples."""
        if not self._counts:
            raise ValueError("τ is proposed from at least one photo")
        counts_BC = np.array(self._counts)
        n = len(counts_BC)
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), self.config.resamples)
        resampled = [weights_B @ counts_BC for weights_B in drawn]

        def joining(share: float) -> Tau:
            low, high = np.quantile([_joining(counts_C, share) for counts_C in resampled], (0.025, 0.975))
            return Tau(_joining(counts_BC.sum(axis=0), share), float(low), float(high), share)

        return Proposal(joining(self.config.rounds), joining(self.config.tree))


def _histogram(similarity_NN: torch.Tensor) -> np.ndarray:
    """How many pairs of different patches have a cosine in each bin, (C,) int64."""
    n = len(similarity_NN)
    rows, columns = torch.triu_indices(n, n, offset=1, device=similarity_NN.device)
    return np.histogram(similarity_NN[rows, columns].clamp(-1.0, 1.0).cpu().numpy(), _EDGES)[0]


def _joining(counts_C: np.ndarray, share: float) -> float:
    """The largest τ that joins at least this share of the pairs, to half a thousandth."""
    above_C = counts_C[::-1].cumsum()[::-1] / counts_C.sum()  # share of the pairs in a bin or above it
    return float(_EDGES[np.flatnonzero(above_C >= share)[-1]])
