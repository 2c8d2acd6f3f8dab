"""MaskCut written out plainly, as the independent reference the fast product code is compared with.

One dense `scipy.linalg.eigh` per round and nothing clever: fit for grids up to about 30×30 (60×60 takes seconds a
round). Source: MaskCut of CutLER (arXiv 2301.11320), with the constants of its released configuration.

Dimension letters: N = Gh·Gw patches in row-major order, D feature width, Gh, Gw patch grid.

The published orientation rule depends on the sign of the eigenvector, which no solver promises: when the patch with
the largest |x| lies on the side that holds at least three corners, x and -x give opposite foregrounds.
`MaskCutRound.sign_decides` says where that happened; `maskcut(..., peak_positive=True)` settles it by making the peak
positive before the rule; `maskcut(..., eigenvectors=...)` replays the rounds on given vectors, so that everything after
the solver can be compared exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.ndimage

WEAK_EDGE = 1e-5
MAX_OVERLAP_WITH_PREVIOUS = 0.5
MIN_AREA_PERCENT = 1


@dataclass(frozen=True)
class MaskCutRound:
    """One round. Maps are (Gh, Gw); `seed` is a flat row-major patch index."""

    eigenvector: np.ndarray
    """float64, oriented: the foreground is where it is large."""
    eigenvalue: float
    eigengap: float
    """Third smallest eigenvalue less the second; near zero the eigenvector is arbitrary. NaN when replayed."""
    bipartition: np.ndarray
    """bool, the foreground after orientation, all its components."""
    seed: int
    component: np.ndarray
    """bool, the 4-connected component of the bipartition that holds the seed, before the filter."""
    pseudo_mask: np.ndarray
    """bool, the component, or all False when the filter dropped it."""
    output: np.ndarray
    """bool, the pseudo-mask less the outputs of all earlier rounds."""
    reversed: bool
    """Whether the orientation rule turned the eigenvector round."""
    sign_decides: bool
    """Whether the opposite sign of the solver's vector would have given another foreground."""


def affinity(features_ND: np.ndarray, tau: float) -> np.ndarray:
    """(N, N) float64: 1 where the cosine is above `tau`, else 1e-5. A zero feature has cosine 0, also with itself."""
    features_ND = np.asarray(features_ND, dtype=np.float64)
    norm_N1 = np.linalg.norm(features_ND, axis=1, keepdims=True)
    unit_ND = np.divide(features_ND, norm_N1, out=np.zeros_like(features_ND), where=norm_N1 > 0)
    return np.where(unit_ND @ unit_ND.T > tau, 1.0, WEAK_EDGE)


def second_smallest(affinity_NN: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Second smallest solution of (D - A) x = λ D x: the vector (N,), λ₂, and the gap λ₃ - λ₂."""
    degree_NN = np.diag(affinity_NN.sum(axis=1))
    laplacian_NN = degree_NN - affinity_NN
    values, vectors = scipy.linalg.eigh(laplacian_NN, degree_NN, subset_by_index=[1, 2])
    return vectors[:, 0], float(values[0]), float(values[1] - values[0])


def must_reverse(eigenvector_N: np.ndarray, grid: tuple[int, int]) -> bool:
    """Whether the side above the mean is background: it holds at least 3 of the 4 corners, or it lacks argmax |x|."""
    above_N = eigenvector_N > eigenvector_N.mean()
    above = above_N.reshape(grid)
    corners = int(above[0, 0]) + int(above[0, -1]) + int(above[-1, 0]) + int(above[-1, -1])
    if corners >= 3:
        return True
    return not bool(above_N[np.argmax(np.abs(eigenvector_N))])


def foreground(eigenvector_N: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Oriented eigenvector (N,), bipartition (N,) bool, and whether it was reversed."""
    above_N = eigenvector_N > eigenvector_N.mean()
    if must_reverse(eigenvector_N, grid):
        return -eigenvector_N, ~above_N, True
    return eigenvector_N, above_N, False


def seed_component(bipartition: np.ndarray, seed: int) -> np.ndarray:
    """The 4-connected component of `bipartition` (Gh, Gw) that holds the flat index `seed`."""
    cross = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    labels, _ = scipy.ndimage.label(bipartition, structure=cross)
    label = labels.flat[seed]
    if label == 0:
        raise ValueError(f"seed {seed} is not in the bipartition")
    return labels == label


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool masks; 0 when both are empty."""
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 0.0


def maskcut(
    features_ND: np.ndarray,
    grid: tuple[int, int],
    tau: float,
    n_masks: int,
    eigenvectors: Sequence[np.ndarray] | None = None,
    peak_positive: bool = False,
) -> list[MaskCutRound]:
    """All `n_masks` rounds of MaskCut on the features of one image.

    Each round paints the patches of its pseudo-mask, and painted features are zero from then on. A dropped pseudo-mask
    paints nothing, so the next round sees the same graph; and as it is the *dropped*, empty mask that the next round is
    compared with, the overlap test then passes.

    With `peak_positive`, the solver's vector is turned so that its entry of largest magnitude is positive.
    With `eigenvectors`, one (N,) vector a round, sign as the solver gave it, nothing is solved: those are used instead.
    """
    gh, gw = grid
    if len(features_ND) != gh * gw:
        raise ValueError(f"features_ND has {len(features_ND)} rows, the grid {gh}×{gw} has {gh * gw} patches")
    painted = np.zeros(grid, dtype=bool)
    covered = np.zeros(grid, dtype=bool)
    previous = np.zeros(grid, dtype=bool)
    rounds: list[MaskCutRound] = []
    for i in range(n_masks):
        remaining_ND = np.where(painted.reshape(-1, 1), 0.0, features_ND)
        if eigenvectors is None:
            solved_N, eigenvalue, eigengap = second_smallest(affinity(remaining_ND, tau))
        else:
            solved_N, eigenvalue, eigengap = np.asarray(eigenvectors[i], dtype=np.float64), np.nan, np.nan

        if peak_positive and solved_N[np.argmax(np.abs(solved_N))] < 0:
            solved_N = -solved_N
        oriented_N, bipartition_N, was_reversed = foreground(solved_N, grid)
        _, bipartition_of_negative_N, _ = foreground(-solved_N, grid)
        seed = int(np.argmax(oriented_N))
        bipartition = bipartition_N.reshape(grid)
        component = seed_component(bipartition, seed)

        pseudo_mask = component
        if i >= 1:
            too_small = 100 * np.count_nonzero(component) <= MIN_AREA_PERCENT * component.size
            if too_small or iou(component, previous) > MAX_OVERLAP_WITH_PREVIOUS:
                pseudo_mask = np.zeros(grid, dtype=bool)
        output = pseudo_mask & ~covered
        rounds.append(
            MaskCutRound(
                eigenvector=oriented_N.reshape(grid),
                eigenvalue=eigenvalue,
                eigengap=eigengap,
                bipartition=bipartition,
                seed=seed,
                component=component,
                pseudo_mask=pseudo_mask,
                output=output,
                reversed=was_reversed,
                sign_decides=not np.array_equal(bipartition_N, bipartition_of_negative_N),
            )
        )
        painted |= pseudo_mask
        covered |= output
        previous = pseudo_mask
    return rounds
