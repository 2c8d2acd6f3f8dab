"""Matrix products on the CPU: float32 on the faster of the two libraries that torch has, MKL or oneDNN; 0/1 by bytes.

N rows and columns of a square matrix
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np

from stages.late import torch

BYTE_STEPS = 127 << 16  # of the largest entry of a vector that is written as three signed bytes an entry
SMALLEST = np.finfo(np.float32).tiny


class _Switch:
    """torch's switch of the whole process, on while any thread is in the block; the last one out turns it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = ""

    def __enter__(self) -> None:
        matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        with self._lock:
            if not self._inside:
                self._before = matmul.fp32_precision
                matmul.fp32_precision = "bf16"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        with self._lock:
            self._inside -= 1
            if not self._inside:
                matmul.fp32_precision = self._before


_switch = _Switch()


def onednn_products() -> AbstractContextManager[None]:
    """Linear layers and attention through oneDNN rather than MKL, for the time of the block, in all threads."""
    return _switch


@cache
def onednn_keeps_float32() -> bool:
    """Whether oneDNN, allowed to use bfloat16, still multiplies in float32 on this CPU.

    The permission is the only way to have torch call oneDNN for float32 products. Without AMX oneDNN has no use for it
    and runs its own float32 kernels, which on CPUs not made by Intel beat MKL's by far (DINOv2 ViT-S/14 at 840: 1.15
    instead of 2.0 s an image on two cores). With AMX it would really round to bfloat16: then MKL it is.
    """
    if not hasattr(torch.backends.mkldnn, "matmul") or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 384, generator=generator) for _ in range(2))
    exact = a.double() @ b.double().T
    with torch.inference_mode(), onednn_products():
        error = (torch.nn.functional.linear(a, b) - exact).abs().max()
    # Sums of 384 products of order one: float32 errs by 1e-5, bfloat16 by 1e-1.
    return bool(error < 1e-3)


@cache
def bytes_are_fast() -> bool:
    """Whether this CPU multiplies bytes by instructions of its own (VNNI). Without them a pass over bytes takes as long
    as one over floats.
    """
    return bool(torch.cpu._is_vnni_supported())


def bool_product(matrix_NN: torch.Tensor, vector_N: torch.Tensor) -> torch.Tensor:
    """Product of a contiguous (N, N) bool matrix with a vector of N finite float32: (N,) float32, N < 2**24.

    It is bound by the memory that it reads, and bytes are a quarter of floats: at N = 3600, where the caches hold
    13 MB but not 52, it takes 1.1 instead of 3.5 ms. Integer products of bytes are exact, so the result does not
    depend on the number of threads; what is lost is the rounding of the vector to 2**-23 of its largest entry.
    """
    vector = vector_N.numpy()  # whose small steps take half as long as torch's
    scale = max(np.abs(vector).max(), SMALLEST) / np.float32(BYTE_STEPS)
    steps_N = np.rint(vector / scale).astype(np.int32)
    # As digits to base 256, least first, of which the lower two must be signed too: -128..127 and not 0..255. All are
    # multiplied in one pass; the fourth, which is none, costs nothing and is ignored.
    digits_N4 = torch.from_numpy((steps_N + 0x8080) ^ 0x8080).view(torch.int8).view(-1, 4)
    low_N, middle_N, high_N, _ = torch._int_mm(matrix_NN.view(torch.int8), digits_N4).numpy().T.astype(np.float32)
    return torch.from_numpy((high_N * np.float32(65536.0) + middle_N * np.float32(256.0) + low_N) * scale)
