"""Float32 matrix products on the faster of the two CPU libraries that torch has: MKL or oneDNN."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F


@contextmanager
def onednn_products() -> Iterator[None]:
    """Linear layers and attention through oneDNN rather than MKL, for the time of the block."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


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
        error = (F.linear(a, b) - exact).abs().max()
    # Sums of 384 products of order one: float32 errs by 1e-5, bfloat16 by 1e-1.
    return bool(error < 1e-3)
