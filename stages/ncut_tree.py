"""NCut again and again: an image is cut in two, each part in two, down to parts that are single things.

B images · N = Gh·Gw patches · n patches of a part · Gh, Gw patch grid

Shi & Malik's recursive two-way NCut, where MaskCut and CutS3D take only the foreground of a cut and cut the rest of the
image again. The threshold on the similarities rises with the depth of the tree, since the parts of one thing are more
alike than the parts of a scene: it is the mean similarity within the part, and never below τ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from stages.affinity import AffinityConfig, joined
from stages.bipartition import FOUR_CONNECTED
from stages.late import torch
from stages.ncut import NCutConfig, NCutResult, ncut

PADDED_NUMBERS = 1 << 28  # of the similarities solved together on a GPU: 1 GB
ROWS = 256  # of the similarities that a CPU takes out together, so that they stay in its caches


@dataclass(frozen=True)
class TreeConfig:
    """depth: cuts above one another, >= 1.
    min_area: share of the image's patches that a part must exceed to be a candidate, in 0..1; smaller parts are specks
        and left out. A part of more than twice this area is cut again.
    max_area: share of the image's patches that a part must not exceed to be a candidate, in 0..1.
    """

    depth: int = 4
    min_area: float = 1 / 150
    max_area: float = 0.8

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"tree.depth must be at least 1, got {self.depth}")
        if not 0.0 <= self.min_area < self.max_area <= 1.0:
            raise ValueError(
                f"tree.min_area and max_area must lie in 0..1, the former below the latter: got {self.min_area}, "
                f"{self.max_area}"
            )


@dataclass(frozen=True)
class Part:
    """A connected part of one side of an NCut.

    mask: (Gh, Gw) bool.
    eigenvector: (Gh, Gw) float32 of the cut that gave it, its sign turned so that the part lies above the mean; 0
        outside of what was cut.
    eigenvalue, gap: λ₂ and λ₃ - λ₂ of that cut.
    depth: cuts above it, >= 1.
    """

    mask: np.ndarray
    eigenvector: np.ndarray
    eigenvalue: float
    gap: float
    depth: int


@dataclass
class _Open:
    """A part that is to be cut: which patches of which image, ascending, and the similarities of these patches."""

    image: int
    patches_n: np.ndarray
    similarity_nn: torch.Tensor


def part_edges(similarity_nn: torch.Tensor, affinity: AffinityConfig) -> torch.Tensor:
    """Edges between the patches of a part, (n, n) bool or float32 in [0, 1]: of those more alike than the part's mean,
    and than τ. ValueError when τ is not settled.
    """
    return joined(similarity_nn, max(affinity.settled_tau, float(similarity_nn.mean())), affinity.weights)


Solution = tuple[np.ndarray, float, float]  # eigenvector, (n,) float32 of either sign, λ₂ and λ₃ - λ₂ of a part


def first_cuts(similarity_BNN: torch.Tensor, affinity: AffinityConfig, solver: NCutConfig) -> list[Solution]:
    """NCut of whole images, the root of each tree. Arguments as for `ncut_tree`."""
    n = similarity_BNN.shape[1]
    return _solve([_Open(k, np.arange(n), similarity) for k, similarity in enumerate(similarity_BNN)], affinity, solver)


def ncut_tree(
    similarity_BNN: torch.Tensor,
    roots: Sequence[Solution],
    grid: tuple[int, int],
    config: TreeConfig,
    affinity: AffinityConfig,
    solver: NCutConfig,
) -> list[list[Part]]:
    """All parts that the images fall into, those of an image in the order of their depth.

    similarity_BNN: (B, N, N) float32, symmetric, cosines or sharpened ones (`affinity.similarities`), on any device.
    roots: what `first_cuts` gives for them.
    affinity: with τ settled.

    The image itself is none of the parts.

    Deterministic; on the CPU the parts of an image do not depend on the other images at all, on a GPU but for rounding.
    """
    n = grid[0] * grid[1]
    least = int(config.min_area * n)
    found: list[list[Part]] = [[] for _ in similarity_BNN]
    todo = [_Open(image, np.arange(n), similarity_NN) for image, similarity_NN in enumerate(similarity_BNN)]
    for depth in range(1, config.depth + 1):
        halves: list[_Open] = []
        solutions = roots if depth == 1 else _solve(todo, affinity, solver)
        for part, solution in zip(todo, solutions, strict=True):
            for mask, whole in _sides(part, solution[0], grid, least):
                if mask.sum() <= config.max_area * n:
                    found[part.image].append(Part(mask, whole, solution[1], solution[2], depth))
                patches_n = np.flatnonzero(mask)
                if depth < config.depth and len(patches_n) > max(2 * least, 2):
                    halves.append(_Open(part.image, patches_n, _restricted(part, patches_n)))
        todo = halves
    return found


def _sides(part: _Open, x_n: np.ndarray, grid: tuple[int, int], least: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Connected pieces of the two sides of a cut at the mean, each with the eigenvector turned its way, on the grid."""
    pieces = []
    if x_n[np.abs(x_n).argmax()] < 0:  # no solver promises a sign, and the order of the parts hangs on it
        x_n = -x_n
    above_n = x_n > x_n.mean()
    for sign, side_n in ((1.0, above_n), (-1.0, ~above_n)):
        side_N, whole_N = np.zeros(grid[0] * grid[1], bool), np.zeros(grid[0] * grid[1], np.float32)
        side_N[part.patches_n], whole_N[part.patches_n] = side_n, sign * x_n
        labels, count = scipy.ndimage.label(side_N.reshape(grid), structure=FOUR_CONNECTED)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        pieces += [(labels == k, whole_N.reshape(grid)) for k in range(1, count + 1) if sizes[k] > least]
    return pieces


def _restricted(part: _Open, patches_n: np.ndarray) -> torch.Tensor:
    """Similarities of these patches, taken from those of the part that holds them: ever smaller matrices."""
    whole_nn = part.similarity_nn
    places_n = torch.from_numpy(np.searchsorted(part.patches_n, patches_n)).to(whole_nn.device)
    rows = len(places_n) if whole_nn.is_cuda else ROWS
    similarity_nn = whole_nn.new_empty(len(places_n), len(places_n))
    for block_nn, block_n in zip(similarity_nn.split(rows), places_n.split(rows), strict=True):
        torch.index_select(whole_nn.index_select(0, block_n), 1, places_n, out=block_nn)
    return similarity_nn


def _solve(todo: Sequence[_Open], affinity: AffinityConfig, solver: NCutConfig) -> list[Solution]:
    """NCut of each part.

    One by one on the CPU; on a GPU, which a single small graph would leave idle, in batches of similar sizes, padded.
    """
    solutions: list[Solution] = [(np.zeros(0, np.float32), 0.0, 0.0)] * len(todo)
    order = sorted(range(len(todo)), key=lambda k: -len(todo[k].patches_n))
    while order:
        largest = len(todo[order[0]].patches_n)
        together = 1
        if todo[order[0]].similarity_nn.is_cuda:
            alike = sum(2 * len(todo[k].patches_n) > largest for k in order)
            together = max(1, min(alike, PADDED_NUMBERS // largest**2))
        batch, order = order[:together], order[together:]
        result, sizes = _ncut_padded([todo[k].similarity_nn for k in batch], affinity, solver)
        x_BN, eigenvalue_B, gap_B = result.eigenvector_BN.cpu().numpy(), result.eigenvalue_B, result.gap_B
        for place, (k, n) in enumerate(zip(batch, sizes, strict=True)):
            solutions[k] = x_BN[place, :n], float(eigenvalue_B[place]), float(gap_B[place])
    return solutions


def _ncut_padded(
    similarities: Sequence[torch.Tensor], affinity: AffinityConfig, solver: NCutConfig
) -> tuple[NCutResult, list[int]]:
    """NCut of graphs of different sizes as one batch, and the sizes."""
    sizes = [len(similarity_nn) for similarity_nn in similarities]
    device = similarities[0].device
    if len(sizes) == 1:
        edges_BNN = part_edges(similarities[0], affinity)[None]
    else:
        edges_BNN = torch.zeros(len(sizes), max(sizes), max(sizes), device=device)
        for edges_NN, similarity_nn, n in zip(edges_BNN, similarities, sizes, strict=True):
            edges_NN[:n, :n] = part_edges(similarity_nn, affinity)
    present_BN = torch.arange(max(sizes), device=device) < torch.tensor(sizes, device=device)[:, None]
    return ncut(edges_BNN, present_BN, affinity.epsilon, solver, present_BN), sizes
