"""A threshold τ for features that no one has measured it for, from photos without labels.

B photos · N = Gh·Gw patches · D feature width · T candidates of τ

The semantic graph joins the patches whose cosine exceeds τ, and how large the cosines are differs from backbone to
backbone. How many pairs a good τ joins differs less: so the proposal is the τ that joins a given share of them
(docs/method.md, "A threshold for other features").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.affinity import AffinityConfig, joined, similarities
from stages.late import torch
from stages.ncut import NCutConfig, ncut

_BINS = 4000  # of the cosines from -1 to 1
_EDGES = np.linspace(-1.0, 1.0, _BINS + 1)


@dataclass(frozen=True)
class TauConfig:
    """share: of the pairs of patches that the proposed τ joins, in (0, 1), as a mean over photos.
    shares: those of the other candidates, for comparison.
    resamples: of the photos, for the interval, >= 1.
    """

    share: float = 0.15
    shares: tuple[float, ...] = (0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.32, 0.45)
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not all(0.0 < share < 1.0 for share in (self.share, *self.shares)):
            raise ValueError(f"shares of pairs lie between 0 and 1: got {self.share}, {self.shares}")
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")


@dataclass(frozen=True)
class Candidate:
    """tau: of the cosines, in [-1, 1].
    share: of the pairs of patches that it joins.
    gap: λ₃ - λ₂ of the NCut of the whole photo, mean over photos: how much one cut is better than all others.
    """

    tau: float
    share: float
    gap: float


@dataclass(frozen=True)
class Proposal:
    """tau, low, high: the τ of `TauConfig.share`, and its interval of 95 % over photos.
    candidates: in the order of `TauConfig.shares`.
    """

    tau: float
    low: float
    high: float
    candidates: tuple[Candidate, ...]


class TauSearch:
    """Takes photos in one by one, since features of many are large, and then proposes."""

    def __init__(self, config: TauConfig) -> None:
        self.config = config
        self._counts: list[np.ndarray] = []
        self._features: list[np.ndarray] = []

    def add(self, features_ND: torch.Tensor) -> None:
        """Features of a photo, (N, D) of any float dtype and device. Raises ValueError for one that is not finite."""
        self._counts.append(_histogram(similarities(features_ND[None])[0]))
        self._features.append(features_ND.half().cpu().numpy())

    def proposal(self, seed: int = 0) -> Proposal:
        """What all photos taken in so far propose; ValueError when there were none. seed: of the resamples."""
        if not self._counts:
            raise ValueError("τ is proposed from at least one photo")
        counts_BC = np.array(self._counts)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(counts_BC), np.full(len(counts_BC), 1 / len(counts_BC)), self.config.resamples)
        taus = [_joining(weights_B @ counts_BC, self.config.share) for weights_B in drawn]
        low, high = np.quantile(taus, (0.025, 0.975))
        return Proposal(
            tau=_joining(counts_BC.sum(axis=0), self.config.share),
            low=float(low),
            high=float(high),
            candidates=self._candidates(counts_BC.sum(axis=0)),
        )

    def _candidates(self, counts_C: np.ndarray) -> tuple[Candidate, ...]:
        taus = [_joining(counts_C, share) for share in self.config.shares]
        gaps = np.mean([_gaps(features_ND, taus) for features_ND in self._features], axis=0)
        return tuple(
            Candidate(tau, share, float(gap)) for tau, share, gap in zip(taus, self.config.shares, gaps, strict=True)
        )


def _histogram(similarity_NN: torch.Tensor) -> np.ndarray:
    """How many pairs of different patches have a cosine in each bin, (C,) int64."""
    n = len(similarity_NN)
    rows, columns = torch.triu_indices(n, n, offset=1, device=similarity_NN.device)
    cosines = similarity_NN[rows, columns].clamp(-1.0, 1.0).cpu().numpy()
    return np.histogram(cosines, _EDGES)[0]


def _joining(counts_C: np.ndarray, share: float) -> float:
    """The largest τ that joins at least this share of the pairs, to half a thousandth."""
    above_C = counts_C[::-1].cumsum()[::-1] / counts_C.sum()  # share of the pairs in a bin or above it
    return float(_EDGES[np.flatnonzero(above_C >= share)[-1]])


def _gaps(features_ND: np.ndarray, taus: Sequence[float]) -> np.ndarray:
    """λ₃ - λ₂ of a photo at each τ, (T,)."""
    similarity_NN = similarities(torch.from_numpy(features_ND)[None])[0]
    alive_1N = torch.ones(1, len(features_ND), dtype=torch.bool)
    epsilon, solver = AffinityConfig().epsilon, NCutConfig()
    found = [ncut(joined(similarity_NN, tau, "binary")[None], alive_1N, epsilon, solver) for tau in taus]
    return np.array([float(result.gap_B[0]) for result in found])
