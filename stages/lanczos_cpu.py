"""Lanczos iteration for a single matrix on the CPU, in numpy, whose small steps take a fraction of the time of torch's.

N rows and columns · k known eigenvectors · m steps
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CHECK_EVERY = 4  # steps between looks at the Ritz values; a look costs about as much as a product
EXHAUSTED = 1e-6  # ‖w‖ of a new direction below this is fp32 rounding: the Krylov space is complete


def top_eigenpair(
    product: Callable[[np.ndarray], np.ndarray],
    known_kN: np.ndarray,
    start_N: np.ndarray,
    max_steps: int,
    tolerance: float,
) -> tuple[np.ndarray, float, int, bool]:
    """Of a symmetric matrix, on the complement of the known vectors: its top eigenvector, (N,) float32 of unit length,
    the gap to the next eigenvalue, the steps, and whether it converged.

    product: of the matrix with a vector, (N,) float32 both.
    known_kN: unit eigenvectors, float32, k >= 1.
    start_N: float32, where to start, in no way special.
    tolerance: bound on residual / gap.
    """
    k, n = known_kN.shape
    # the basis begins with the known vectors: orthogonalising against the whole basis deflates them on the way
    basis_mN = np.empty((max_steps + k, n), np.float32)
    basis_mN[:k] = known_kN
    w_N, beta = _orthogonalise(start_N, basis_mN[:k])
    diagonal_m, beside_m = np.zeros(max_steps), np.zeros(max_steps)
    for step in range(max_steps):
        basis_mN[step + k] = q_N = w_N / beta
        w_N = product(q_N)
        diagonal_m[step] = w_N @ q_N
        w_N, beta = _orthogonalise(w_N, basis_mN[: step + k + 1])
        beside_m[step] = beta if beta >= EXHAUSTED else 0.0
        last = step + 1 == max_steps
        if (step + 1) % CHECK_EVERY == 0 or last or beside_m[step] == 0:
            ritz_m, gap, converged = top_ritz(diagonal_m[: step + 1], beside_m[: step + 1], tolerance)
            if converged or last:
                break
    y_N = ritz_m.astype(np.float32) @ basis_mN[k : step + k + 1]
    return y_N / np.linalg.norm(y_N), gap, step + 1, converged


def top_ritz(diagonal_m: np.ndarray, beside_m: np.ndarray, tolerance: float) -> tuple[np.ndarray, float, bool]:
    """Of the tridiagonal matrix of m steps: its top eigenvector, the gap below it, and whether the vector that the
    eigenvector stands for has converged. All float64.

    beside_m: beside the diagonal; the last would come next. All after a 0 is ignored: the Krylov space is complete.
    tolerance: bound on residual / gap.
    """
    complete = np.flatnonzero(beside_m == 0)
    m = int(complete[0]) + 1 if len(complete) else len(beside_m)
    beside = np.diag(beside_m[: m - 1], 1)
    theta_m, vectors_mm = np.linalg.eigh(np.diag(diagonal_m[:m]) + beside + beside.T)
    gap = float(theta_m[-1] - theta_m[-2]) if m > 1 else 0.0
    residual = beside_m[m - 1] * abs(vectors_mm[-1, -1])
    # a complete Krylov space holds one vector of each eigenspace: exact, whatever the gap within it
    return vectors_mm[:, -1], gap, bool(len(complete) or (m > 2 and residual <= tolerance * gap))


def _orthogonalise(w_N: np.ndarray, basis_mN: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """w minus its part in the basis, twice (once loses orthogonality in fp32), and its norm."""
    for _ in range(2):
        w_N = w_N - (basis_mN @ w_N) @ basis_mN
    return w_N, np.sqrt(w_N @ w_N)
