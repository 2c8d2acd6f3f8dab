"""Relative depth from any monocular model, under one convention: min-max 0..1 per image, larger = farther.

Letters: B images, H, W pixels, Gh, Gw patch grid; h, w the resolution a depth model answers in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np

from stages.late import torch

DepthKind = Literal["depth", "inverse_depth"]


class DepthModel(Protocol):
    """What every depth back end offers.

    name: for messages and logs.
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """Digest of weights and preprocessing, or of stored depths: equal only where depths are."""

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """Relative depth of photos.

        images: uint8 (H, W, 3) RGB, sizes may differ.
        ids: their image ids, for messages and for depth maps on disk.

        Returns float32 (h, w) per image, min-max 0..1, larger = farther, at the resolution that the model answers in.
        A masked array says where depth was not measured and is filled.
        Raises ValueError when one image has no usable depth; a caller with a batch then asks for its images singly.
        """
        ...


def check_kind(kind: str) -> DepthKind:
    """`kind` if it is one of "depth" (larger = farther) and "inverse_depth" (larger = nearer), else ValueError."""
    if kind not in get_args(DepthKind):
        raise ValueError(f"depth kind is {kind!r}: use one of {', '.join(get_args(DepthKind))}")
    return kind  # type: ignore[return-value]


def relative_depth(raw: np.ndarray, kind: DepthKind, name: str = "depth") -> np.ndarray:
    """Relative depth, min-max 0..1 and larger = farther, from what a model gives in its own unit and direction.

    raw: (h, w) real numbers. Inverse depth becomes 1 - minmax(raw), not 1 / raw: models of the MiDaS family know it
    only up to an unknown scale *and shift*, so that the reciprocal is undefined while the order of points is known.
    A constant map says nothing about order and becomes zeros. Returns float32 (h, w).
    Raises ValueError, beginning with `name`, for a map that is not two-dimensional, is empty or holds NaN or infinity.
    """
    check_kind(kind)
    if raw.ndim != 2 or raw.size == 0:
        raise ValueError(f"{name}: a depth map has shape (height, width), not {raw.shape}")
    values = raw.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ValueError(f"{name}: {bad} of {values.size} depth values are NaN or infinite; fill them before use")
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros(values.shape, np.float32)
    scaled = (values - low) / (high - low)
    return (1 - scaled if kind == "inverse_depth" else scaled).astype(np.float32)


def to_grid(depths: Sequence[np.ndarray], Gh: int, Gw: int) -> torch.Tensor:
    """Relative depths of any resolution on the patch grid: depth_BHW float32 (B, Gh, Gw), min-max 0..1 again.

    depths: float32 (h, w) each. An axis that shrinks is filtered by a triangle as wide as the reduction (every pixel
    counts), one that grows is interpolated linearly. Raises ValueError for no depths or a grid without patches.
    """
    if not depths or Gh < 1 or Gw < 1:
        raise ValueError(
            f"to_grid needs at least one depth map and a grid of at least 1x1, not {len(depths)}, {Gh}x{Gw}"
        )
    rows = [
        torch.nn.functional.interpolate(
            torch.from_numpy(np.ascontiguousarray(depth, np.float32))[None, None],
            size=(Gh, Gw),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[0, 0]
        for depth in depths
    ]
    depth_BHW = torch.stack(rows)
    low = depth_BHW.amin(dim=(1, 2), keepdim=True)
    spread = depth_BHW.amax(dim=(1, 2), keepdim=True) - low
    # A map that is constant on the grid (spread 0) becomes zeros, as in relative_depth.
    return (depth_BHW - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
