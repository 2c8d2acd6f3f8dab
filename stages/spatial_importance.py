"""Spatial Importance: where depth changes fast, and the sharpening of the semantic affinity by it.

B images · Gh, Gw patch grid · N = Gh·Gw patches

Source: CutS3D section 3 (eqs. 1-3), as the digests print them. The paper writes W ** (1 - S) with W of
size N×N and S of size Gh×Gw, which leaves two readings open; both are options here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from stages.late import torch

SMALLEST_COSINE = 1e-6  # negative cosines have no real power; they are far below any threshold and stay there


@dataclass(frozen=True)
class SpatialImportanceConfig:
    """sigma: of the Gaussian, in patches, > 0.
    beta: smallest importance, in [0, 1); the paper's 0.45.
    """

    sigma: float = 3.0
    beta: float = 0.45

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"spatial_importance.sigma must be > 0 (patches), got {self.sigma}")
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"spatial_importance.beta must lie in [0, 1), got {self.beta}")


@dataclass(frozen=True)
class SharpenConfig:
    """Reading of eq. 3.

    exponent: how the importances s_i, s_j of a pair give its exponent 1 - s_ij.
        "product": s_ij = s_i·s_j (symmetric); "mean": s_ij = (s_i + s_j)/2;
        "rows": W_ij ** (1 - s_i), averaged with its transpose, since NCut needs a symmetric matrix.
    direction: "as_printed" raises W to 1 - s_ij, which *raises* similarity at depth edges (W < 1);
        "suppressing" raises W to 1 + s_ij, which lowers it there, as the paper's prose has it.
    """

    exponent: Literal["product", "mean", "rows"] = "product"
    direction: Literal["as_printed", "suppressing"] = "suppressing"

    def __post_init__(self) -> None:
        if self.exponent not in ("product", "mean", "rows"):
            raise ValueError(f'sharpen.exponent must be "product", "mean" or "rows", got {self.exponent!r}')
        if self.direction not in ("as_printed", "suppressing"):
            raise ValueError(f'sharpen.direction must be "as_printed" or "suppressing", got {self.direction!r}')


def gaussian_blur(maps_BHW: torch.Tensor, sigma: float) -> torch.Tensor:
    """Separable Gaussian, radius ceil(3σ), borders replicated: (B, H, W) float -> same shape and dtype."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=maps_BHW.dtype, device=maps_BHW.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = maps_BHW[:, None]
    F = torch.nn.functional
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None, :])
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None])
    return x[:, 0]


def spatial_importance(depth_BGhGw: torch.Tensor, config: SpatialImportanceConfig) -> torch.Tensor:
    """Importance of each patch (CutS3D eqs. 1 and 2).

    depth_BGhGw: (B, Gh, Gw) float32 relative depth on the patch grid, 0..1. Returns (B, Gh, Gw) float32 in [β, 1]:
    β·1 + (1-β)·minmax(|G_σ*D - D|), per image; β everywhere where depth is constant.
    """
    residual = (gaussian_blur(depth_BGhGw, config.sigma) - depth_BGhGw).abs()
    lowest = residual.amin(dim=(1, 2), keepdim=True)
    spread = residual.amax(dim=(1, 2), keepdim=True) - lowest
    # below float32 noise of a 0..1 map the residual is rounding, and min-max would blow it up to full importance
    normalised = torch.where(spread > 1e-6, (residual - lowest) / spread.clamp(min=1e-6), torch.zeros_like(residual))
    return (1.0 - config.beta) * normalised + config.beta


def sharpen(
    cosines_BNN: torch.Tensor,
    importance_BN: torch.Tensor,
    config: SharpenConfig,
    columns_BN: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cosines sharpened by Spatial Importance (CutS3D eq. 3): (B, N, N) and (B, N) float32 -> (B, N, N) in [0, 1].

    columns_BN: where the columns are other patches than the rows, their importance.
    """
    sign = -1.0 if config.direction == "as_printed" else 1.0
    base_BNN = cosines_BNN.clamp(min=SMALLEST_COSINE, max=1.0)
    s_BN1, s_B1N = importance_BN[:, :, None], (importance_BN if columns_BN is None else columns_BN)[:, None, :]
    if config.exponent == "product":
        return base_BNN.pow_(1.0 + sign * (s_BN1 * s_B1N))
    if config.exponent == "mean":
        return base_BNN.pow_(1.0 + sign * 0.5 * (s_BN1 + s_B1N))
    return 0.5 * (base_BNN.pow(1.0 + sign * s_BN1) + base_BNN.pow(1.0 + sign * s_B1N))
