"""Normalised Cut: the second generalised eigenvector of (D - A) x = λ D x, batched.

B images · N = Gh·Gw patches · m Lanczos steps

With y = D^½ x this is the ordinary problem M y = μ y, M = D^-½ A D^-½, μ = 1 - λ. Its largest eigenpair is known
(μ = 1, y₁ ∝ D^½·1), so it is projected out and a Lanczos iteration finds the next one: a few dozen matrix-vector
products in place of a dense factorisation (CutLER runs `scipy.linalg.eigh` on N×N doubles for every cut). Patches
taken by earlier rounds are not removed from the graph: as in MaskCut, whose features are zeroed there, their edges all
become ε. So one matrix of edges serves all rounds of an image, with an `alive` mask. Patches that are not `present` are
no patches at all: they pad graphs of different sizes to one batch.

`ncut` gives x. `symmetric_eigenvectors` gives y, as many as are asked for, which is what VoteCut clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from stages.cpu_products import bool_product, bytes_are_fast
from stages.lanczos_cpu import CHECK_EVERY, EXHAUSTED, top_eigenpair, top_ritz
from stages.late import torch

CACHED = 600  # patches up to which the inner caches of a CPU hold a graph as floats


@dataclass(frozen=True)
class NCutConfig:
    """tolerance: bound on the sine of the angle to the true eigenvector (residual / gap), in (0, 1).
    max_steps: Lanczos steps before the dense solver takes over, >= 8.
    """

    tolerance: float = 1e-3
    max_steps: int = 200

    def __post_init__(self) -> None:
        if not 0.0 < self.tolerance < 1.0:
            raise ValueError(f"ncut.tolerance must lie in (0, 1), got {self.tolerance}")
        if self.max_steps < 8:
            raise ValueError(f"ncut.max_steps must be at least 8, got {self.max_steps}")


@dataclass(frozen=True)
class NCutResult:
    """eigenvector_BN: float32, x = D^-½ y scaled to unit length, sign arbitrary.
    eigenvalue_B: λ₂ of (D - A) x = λ D x, in [0, 2], as the Rayleigh quotient of the vector returned.
    gap_B: λ₃ - λ₂ >= 0.
    residual_B: ‖M y - μ y‖ of the unit vector y.
    steps_B: Lanczos steps, int64.
    dense_B: bool, True where the dense solver took over.
    """

    eigenvector_BN: torch.Tensor
    eigenvalue_B: torch.Tensor
    gap_B: torch.Tensor
    residual_B: torch.Tensor
    steps_B: torch.Tensor
    dense_B: torch.Tensor


class NormalisedAffinity:
    """M = D^-½ (ε + (1-ε)·alive·edges·alive) D^-½ as an operator on (B, N) vectors; the matrix itself is never formed.

    edges_BNN: (B, N, N) bool or float32 in [0, 1], symmetric.
    alive_BN: (B, N) bool or float 0/1.
    epsilon: in (0, 1).
    present_BN: (B, N) bool, False for padding, which has no edges at all, not even ε; None where all are present.
    """

    def __init__(
        self,
        edges_BNN: torch.Tensor,
        alive_BN: torch.Tensor,
        epsilon: float,
        present_BN: torch.Tensor | None = None,
    ) -> None:
        on_cpu = edges_BNN.dtype == torch.bool and not edges_BNN.is_cuda
        bytewise = on_cpu and edges_BNN.shape[1] > CACHED and bytes_are_fast()
        self.edges_BNN = edges_BNN if bytewise else edges_BNN.float()
        self.present_BN = torch.ones_like(alive_BN, dtype=torch.bool) if present_BN is None else present_BN
        self.alive_BN = (alive_BN.bool() & self.present_BN).float()
        self.epsilon = epsilon
        n_B1 = self.present_BN.sum(dim=1, keepdim=True)
        degree_BN = epsilon * n_B1 + (1.0 - epsilon) * self.alive_BN * self._product(self.alive_BN)
        self.scale_BN = degree_BN.rsqrt() * self.present_BN
        trivial_BN = degree_BN.sqrt() * self.present_BN
        self.trivial_BN = trivial_BN / trivial_BN.norm(dim=1, keepdim=True)

    def _product(self, vectors_BN: torch.Tensor) -> torch.Tensor:
        if vectors_BN.is_cuda:
            return torch.bmm(self.edges_BNN, vectors_BN[:, :, None])[:, :, 0]
        # on CPU one gemv per image is several times faster than bmm with a single column
        return torch.stack([self._product_of(image, vector_N) for image, vector_N in enumerate(vectors_BN)])

    def _product_of(self, image: int, vector_N: torch.Tensor) -> torch.Tensor:
        """Of the edges of one image, on the CPU."""
        edges_NN = self.edges_BNN[image]
        return (bool_product if edges_NN.dtype == torch.bool else torch.mv)(edges_NN, vector_N)

    def __call__(self, vectors_BN: torch.Tensor) -> torch.Tensor:
        scaled_BN = self.scale_BN * vectors_BN
        ones_part_B1 = self.epsilon * scaled_BN.sum(dim=1, keepdim=True)
        edges_part_BN = (1.0 - self.epsilon) * self.alive_BN * self._product(self.alive_BN * scaled_BN)
        return self.scale_BN * (ones_part_B1 + edges_part_BN)

    def product_of(self, image: int) -> Callable[[np.ndarray], np.ndarray]:
        """The product of M of one image with an (N,) float32 vector, on the CPU, in numpy."""
        scale_N = self.scale_BN[image].numpy()
        inside_N = scale_N * self.alive_BN[image].numpy()
        present, absent = np.float32(1.0 - self.epsilon), np.float32(self.epsilon)

        def product(vector_N: np.ndarray) -> np.ndarray:
            edges_part_N = self._product_of(image, torch.from_numpy(inside_N * vector_N)).numpy()
            return (absent * (scale_N @ vector_N)) * scale_N + present * (inside_N * edges_part_N)

        return product

    def dense(self, image: int) -> torch.Tensor:
        """M of one image as a float64 matrix of its present patches, for the dense solver."""
        present_N = self.present_BN[image]
        alive_n = self.alive_BN[image, present_N].double()
        edges_nn = self.edges_BNN[image][present_N][:, present_N].double()
        a_nn = self.epsilon + (1.0 - self.epsilon) * alive_n[:, None] * edges_nn * alive_n
        scale_n = a_nn.sum(dim=1).rsqrt()
        return scale_n[:, None] * a_nn * scale_n


def ncut(
    edges_BNN: torch.Tensor,
    alive_BN: torch.Tensor,
    epsilon: float,
    config: NCutConfig,
    present_BN: torch.Tensor | None = None,
) -> NCutResult:
    """Second generalised eigenvector of each image of a batch, on the device of `edges_BNN`, in fp32.

    edges_BNN: (B, N, N) bool or float32 in [0, 1], symmetric (see `affinity.affinity_edges`).
    alive_BN: (B, N) bool, False for patches that earlier rounds took.
    epsilon: weight of absent edges.
    present_BN: (B, N) bool, False for padding, whose entries of the eigenvector are 0; None where there is none.

    The dense solver (float64) takes over for an image whose iteration has not reached `config.tolerance` after
    `config.max_steps`: that is, where the eigen-gap is too small.

    Deterministic: the start vector is fixed. Raises ValueError on fewer than 3 patches. Source: Shi & Malik's NCut as
    used by TokenCut, CutLER and CutS3D.
    """
    operator = NormalisedAffinity(edges_BNN, alive_BN, epsilon, present_BN)
    smallest, largest = (int(n) for n in operator.present_BN.sum(dim=1).aminmax())
    if smallest < 3:
        raise ValueError(f"NCut needs at least 3 patches, got {smallest}: use a larger input size or a smaller patch")
    y_BN, gap_B, steps_B, converged_B = _next_eigenvector(operator, config, largest, operator.trivial_BN[:, None])
    # One power step: M is 0 on the taken patches, so it wipes out the rounding there, which D^-½ would magnify.
    power_BN = operator(y_BN)
    shrunk_B = power_BN.norm(dim=1, keepdim=True)
    y_BN = torch.where(shrunk_B > EXHAUSTED, power_BN / shrunk_B, y_BN)
    product_BN = operator(y_BN)
    mu_B = (y_BN * product_BN).sum(dim=1)
    x_BN = operator.scale_BN * y_BN
    return NCutResult(
        eigenvector_BN=x_BN / x_BN.norm(dim=1, keepdim=True),
        eigenvalue_B=1.0 - mu_B,
        gap_B=gap_B,
        residual_B=(product_BN - mu_B[:, None] * y_BN).norm(dim=1),
        steps_B=steps_B,
        dense_B=~converged_B,
    )


def symmetric_eigenvectors(edges_BNN: torch.Tensor, epsilon: float, config: NCutConfig, count: int = 1) -> torch.Tensor:
    """Eigenvectors of the symmetric normalised Laplacian I - M from the second on: (B, count, N) float32, unit length,
    signs arbitrary, on the device of `edges_BNN`.

    They are y where `ncut` gives x = D^-½ y. Each is found as `ncut` finds its own, in the complement of those before.
    Arguments as for `ncut`; ValueError for more eigenvectors than N - 2.
    """
    b, n = edges_BNN.shape[:2]
    if not 1 <= count <= n - 2:
        raise ValueError(f"{n} patches have {max(n - 2, 0)} eigenvectors to look at, not {count}: use a larger input")
    operator = NormalisedAffinity(edges_BNN, torch.ones(b, n, dtype=torch.bool, device=edges_BNN.device), epsilon)
    known_BkN = operator.trivial_BN[:, None]
    for _ in range(count):
        y_BN, *_ = _next_eigenvector(operator, config, n, known_BkN)
        known_BkN = torch.cat([known_BkN, y_BN[:, None]], dim=1)
    return known_BkN[:, 1:]


def _next_eigenvector(
    operator: NormalisedAffinity, config: NCutConfig, largest: int, known_BkN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_lanczos`, and the dense solver for the images where it does not converge."""
    lanczos = _lanczos if known_BkN.is_cuda else _lanczos_one_by_one
    y_BN, gap_B, steps_B, converged_B = lanczos(operator, config, largest, known_BkN)
    for image in torch.nonzero(~converged_B).flatten().tolist():
        present_N = operator.present_BN[image]
        y_n, gap = _dense_second(_without(operator.dense(image), known_BkN[image, 1:, present_N]))
        y_BN[image, present_N] = y_n.to(y_BN.dtype)
        gap_B[image] = gap
    return y_BN, gap_B, steps_B, converged_B


def _without(m_NN: torch.Tensor, known_kN: torch.Tensor) -> torch.Tensor:
    """A dense M whose eigenvalues of these eigenvectors, unit vectors, are moved below all others, to -2 or less."""
    if not len(known_kN):
        return m_NN
    known_kN = known_kN.double()
    mu_k = ((known_kN @ m_NN) * known_kN).sum(dim=1)
    return m_NN - known_kN.T @ ((mu_k + 2.0)[:, None] * known_kN)


def _lanczos_one_by_one(
    operator: NormalisedAffinity, config: NCutConfig, largest: int, known_BkN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_lanczos` on the CPU, which gains nothing by a batch."""
    _, k, n = known_BkN.shape
    start_BN = _start(n, k) * operator.present_BN
    found = [
        top_eigenpair(
            operator.product_of(image),
            known_kN,
            start_N,
            min(config.max_steps, largest - k),
            config.tolerance,
        )
        for image, (known_kN, start_N) in enumerate(zip(known_BkN.numpy(), start_BN.numpy(), strict=True))
    ]
    y_B, gap_B, steps_B, converged_B = zip(*found, strict=True)
    gap = torch.tensor(gap_B, dtype=torch.float32)
    return torch.from_numpy(np.stack(y_B)), gap, torch.tensor(steps_B), torch.tensor(converged_B)


def _start(n: int, k: int) -> torch.Tensor:
    """Where to look for the eigenvector after k others, (N,): of equal eigenvalues the first eigenvector has all that
    its start had of them, so that the next needs a start of its own.
    """
    return torch.randn(n, generator=torch.Generator().manual_seed(k - 1))


def _lanczos(
    operator: NormalisedAffinity, config: NCutConfig, largest: int, known_BkN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top eigenpair of M on the complement of the known vectors: y_BN (unit), gap_B, steps_B, converged_B.

    known_BkN: (B, k, N) unit eigenvectors, the trivial one first.
    """
    b, k, n = known_BkN.shape
    device = known_BkN.device
    max_steps = min(config.max_steps, largest - k)  # no Krylov space has more dimensions than its graph has patches
    # the basis begins with the known vectors: orthogonalising against the whole basis deflates them on the way
    basis_BmN = torch.empty(b, max_steps + k, n, device=device)
    basis_BmN[:, :k] = known_BkN
    w_BN, _ = _orthogonalise(_start(n, k).to(device) * operator.present_BN, basis_BmN[:, :k])
    basis_BmN[:, k] = w_BN / w_BN.norm(dim=1, keepdim=True)
    alpha_beta_2Bm = torch.zeros(2, b, max_steps, device=device)  # diagonal and what is beside it, of the tridiagonal

    ritz_Bm = torch.zeros(b, max_steps, dtype=torch.float64)
    gap_B = torch.zeros(b, dtype=torch.float64)
    steps_B = torch.zeros(b, dtype=torch.int64)
    converged_B = torch.zeros(b, dtype=torch.bool)
    for step in range(max_steps):
        q_BN = basis_BmN[:, step + k]
        w_BN = operator(q_BN)
        alpha_beta_2Bm[0, :, step] = (w_BN * q_BN).sum(dim=1)
        w_BN, beta_B = _orthogonalise(w_BN, basis_BmN[:, : step + k + 1])
        beta_B = torch.where(beta_B < EXHAUSTED, 0.0, beta_B.double())
        alpha_beta_2Bm[1, :, step] = beta_B
        last = step + 1 == max_steps
        if (step + 1) % CHECK_EVERY == 0 or last:
            # The only copy to the host: a GPU, which has long taken in the next steps, waits for it.
            looked_2Bm = alpha_beta_2Bm[:, :, : step + 1].cpu().double().numpy()
            for image in torch.nonzero(~converged_B).flatten().tolist():
                vector_m, gap, done = top_ritz(looked_2Bm[0, image], looked_2Bm[1, image], config.tolerance)
                if done or last:
                    steps_B[image], gap_B[image], converged_B[image] = len(vector_m), gap, done
                    ritz_Bm[image, : len(vector_m)] = torch.from_numpy(vector_m)
            if bool(converged_B.all()) or last:
                break
        inverse_B = torch.where(beta_B > 0, 1.0 / beta_B, 0.0).float()
        basis_BmN[:, step + k + 1] = w_BN * inverse_B[:, None]
    ritz_Bm, basis_BmN = ritz_Bm[:, : step + 1], basis_BmN[:, k : step + k + 1]
    y_BN = torch.bmm(ritz_Bm.to(device, torch.float32)[:, None, :], basis_BmN)[:, 0]
    y_BN = y_BN / y_BN.norm(dim=1, keepdim=True)
    return y_BN, gap_B.to(device, torch.float32), steps_B.to(device), converged_B.to(device)


def _orthogonalise(w_BN: torch.Tensor, basis_BmN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """w minus its part in the basis, twice (once loses orthogonality in fp32), and its norm."""
    for _ in range(2):
        coefficients_Bm1 = torch.bmm(basis_BmN, w_BN[:, :, None])
        w_BN = w_BN - torch.bmm(basis_BmN.transpose(1, 2), coefficients_Bm1)[:, :, 0]
    return w_BN, w_BN.norm(dim=1)


def _dense_second(m_NN: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Second largest eigenpair of a dense symmetric float64 matrix: unit vector and its gap to the third."""
    if m_NN.is_cuda:
        values_N, vectors_NN = torch.linalg.eigh(m_NN)
        return vectors_NN[:, -2], float(values_N[-2] - values_N[-3])
    n = m_NN.shape[0]
    values, vectors = scipy.linalg.eigh(m_NN.numpy(), subset_by_index=[n - 3, n - 1])
    return torch.from_numpy(np.ascontiguousarray(vectors[:, 1])), float(values[1] - values[0])
