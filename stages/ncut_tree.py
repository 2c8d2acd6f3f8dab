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
    """A part that is to be cut: which patches of which image, ascending, and the similarities of the image."""

    image: int
    patches_n: np.ndarray
    similarity_NN: torch.Tensor


def part_edges(
    similarity_NN: torch.Tensor, affinity: AffinityConfig, patches_n: np.ndarray | None = None
) -> torch.Tensor:
    """Edges between the patches of a part, (n, n) bool or float32 in [0, 1]: of those more alike than the part's mean,
    and than τ. ValueError when τ is not settled.

    similarity_NN: float32, of the image.
    patches_n: those of the part, ascending; None is the whole image.
    """
    tau = affinity.settled_tau
    if patches_n is None or len(patches_n) == len(similarity_NN):
        return joined(similarity_NN, max(tau, float(similarity_NN.mean())), affinity.weights)
    if similarity_NN.is_cuda:
        places_n = torch.from_numpy(patches_n).to(similarity_NN.device)
        return part_edges(similarity_NN.index_select(0, places_n).index_select(1, places_n), affinity)
    # A CPU picks columns best last and from bytes, and rows by runs of neighbours, which it need not copy.
    runs = np.split(patches_n, np.flatnonzero(np.diff(patches_n) > 1) + 1)
    first, columns_n = patches_n[0], patches_n - patches_n[0]
    blocks = [similarity_NN.numpy()[run[0] : run[-1] + 1, first : patches_n[-1] + 1] for run in runs]
    inside = np.zeros(columns_n[-1] + 1, np.float32)
    inside[columns_n] = 1.0
    mean = np.concatenate([block @ inside for block in blocks]).sum(dtype=np.float64) / len(patches_n) ** 2
    above, binary = np.float32(max(tau, mean)), affinity.weights == "binary"
    edges_nn, done = np.empty((len(patches_n),) * 2, bool if binary else np.float32), 0
    for block in blocks:
        edges = block > above if binary else joined(torch.from_numpy(block), float(above), affinity.weights).numpy()
        rows = edges_nn[done : done + len(block)]
        np.take(edges, columns_n, axis=1, out=rows, mode="clip")  # "raise" would take them by way of a copy
        done += len(block)
    return torch.from_numpy(edges_nn)


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
                    halves.append(_Open(part.image, patches_n, part.similarity_NN))
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


def _solve(todo: Sequence[_Open], affinity: AffinityConfig, solver: NCutConfig) -> list[Solution]:
    """NCut of each part.

    One by one on the CPU; on a GPU, which a single small graph would leave idle, in batches of similar sizes, padded.
    """
    solutions: list[Solution] = [(np.zeros(0, np.float32), 0.0, 0.0)] * len(todo)
    order = sorted(range(len(todo)), key=lambda k: -len(todo[k].patches_n))
    while order:
        largest = len(todo[order[0]].patches_n)
        together = 1
        if todo[order[0]].similarity_NN.is_cuda:
            alike = sum(2 * len(todo[k].patches_n) > largest for k in order)
            together = max(1, min(alike, PADDED_NUMBERS // largest**2))
        batch, order = order[:together], order[together:]
        result = _ncut_padded([todo[k] for k in batch], affinity, solver)
        x_BN, eigenvalue_B, gap_B = result.eigenvector_BN.cpu().numpy(), result.eigenvalue_B, result.gap_B
        for place, k in enumerate(batch):
            x_n = x_BN[place, : len(todo[k].patches_n)]
            solutions[k] = x_n, float(eigenvalue_B[place]), float(gap_B[place])
    return solutions


def _ncut_padded(parts: Sequence[_Open], affinity: AffinityConfig, solver: NCutConfig) -> NCutResult:
    """NCut of parts of different sizes as one batch."""
    sizes, device = [len(part.patches_n) for part in parts], parts[0].similarity_NN.device
    edges = (part_edges(part.similarity_NN, affinity, part.patches_n) for part in parts)
    if len(sizes) == 1:
        edges_BNN = next(edges)[None]
    else:
        edges_BNN = torch.zeros(len(sizes), max(sizes), max(sizes), device=device)
        for padded_NN, edges_nn, n in zip(edges_BNN, edges, sizes, strict=True):
            padded_NN[:n, :n] = edges_nn
    present_BN = torch.arange(max(sizes), device=device) < torch.tensor(sizes, device=device)[:, None]
    return ncut(edges_BNN, present_BN, affinity.epsilon, solver, present_BN)
