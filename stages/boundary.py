"""Boundary: each patch along a mask's outline goes to the side that it is more like.

N = Gh·Gw patches · Gh, Gw patch grid · D feature width · M masks

NCut parts a whole scene at the mean of one vector, which says little about where exactly a single thing ends: cut masks
are ragged there and full of holes. Once the mask is known, the mean features inside of it and around it tell the two
apart far better. None of the papers does this; what it brings is measured in docs/decisions/0007-tree-and-score.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from stages.bipartition import FOUR_CONNECTED
from stages.late import torch

RING = 0.05  # width of the ring around a mask, of the grid's longer side: 3 patches of 60


@dataclass(frozen=True)
class BoundaryConfig:
    """band: patches to either side of the outline that may change sides, >= 1.
    smoothing: standard deviation in patches of the Gaussian that evens out the features' noise, > 0.
    """

    band: int = 1
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        if self.band < 1:
            raise ValueError(f"boundary.band must be at least 1, got {self.band}")
        if not self.smoothing > 0.0:
            raise ValueError(f"boundary.smoothing must be > 0, got {self.smoothing}")


def settle_boundaries(features_ND: torch.Tensor, masks_MGG: np.ndarray, config: BoundaryConfig) -> np.ndarray:
    """Masks whose outlines follow the features: new (M, Gh, Gw) bool, each in one 4-connected piece.

    features_ND: (N, D), any float dtype and device.
    masks_MGG: bool.

    A patch of the band goes inside when its cosine with the mean feature of the mask exceeds that with the mean of the
    ring around it. A mask without a ring, one that covers the image, stays as it is, and so does one of which nothing
    would be left.
    """
    if not len(masks_MGG):
        return masks_MGG
    grid = masks_MGG.shape[1:]
    unit_ND = torch.nn.functional.normalize(features_ND.float(), dim=1)
    masks_MN = torch.from_numpy(masks_MGG.reshape(len(masks_MGG), -1)).to(unit_ND.device)
    inside_MD, around_MD = (
        torch.nn.functional.normalize(sum_MD, dim=1) for sum_MD in inside_and_around(unit_ND, masks_MN, grid)
    )
    margin_MN = ((inside_MD - around_MD) @ unit_ND.T).cpu().numpy()
    margin_MGG = scipy.ndimage.gaussian_filter(margin_MN.reshape(-1, *grid), (0, config.smoothing, config.smoothing))
    outer_MGG = grown(masks_MN, grid, config.band).cpu().numpy().reshape(-1, *grid)
    inner_MGG = ~grown(~masks_MN, grid, config.band).cpu().numpy().reshape(-1, *grid)
    settled_MGG = inner_MGG | (outer_MGG & (margin_MGG > 0))
    has_ring_M = (around_MD != 0).any(dim=1).cpu().numpy()
    return np.stack(
        [
            _largest_piece(settled) if has_ring and settled.any() else mask
            for settled, mask, has_ring in zip(settled_MGG, masks_MGG, has_ring_M, strict=True)
        ]
    )


def inside_and_around(
    unit_ND: torch.Tensor, masks_MN: torch.Tensor, grid: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the unit features inside of each mask and in the ring around it: two (M, D) float32, 0 where there is no
    patch. masks_MN: bool, on the device of the features.
    """
    ring_MN = grown(masks_MN, grid, max(1, round(RING * max(grid)))) & ~masks_MN
    return masks_MN.float() @ unit_ND, ring_MN.float() @ unit_ND


def grown(masks_MN: torch.Tensor, grid: tuple[int, ...], reach: int) -> torch.Tensor:
    """Each mask and what lies within `reach` patches of it, diagonals included: (M, N) bool."""
    # Counts of what is near along either axis, by band matrices: several times faster than max_pool2d on a CPU.
    near_GhGh, near_GwGw = (torch.ones(n, n, device=masks_MN.device).triu(-reach).tril(reach) for n in grid)
    return (near_GhGh @ masks_MN.view(-1, *grid).float() @ near_GwGw).flatten(1) > 0


def _largest_piece(mask_GhGw: np.ndarray) -> np.ndarray:
    labels, _ = scipy.ndimage.label(mask_GhGw, structure=FOUR_CONNECTED)
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax()
