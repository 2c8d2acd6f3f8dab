"""Where the maps of an image are looked at: points, and the maps' values there.

B images · C channels · H, W grid of a map · S·S points per image
"""

from __future__ import annotations

from stages.late import torch


def uniform_points(
    images: int, side: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> torch.Tensor:
    """Random points, uniform over the image: (images, side, side, 2) float32, (x, y) in [-1, 1).

    generator: on that device; None takes torch's own.
    """
    return torch.rand((images, side, side, 2), device=device, generator=generator) * 2 - 1


def sample(maps_BCHW: torch.Tensor, points_BSS2: torch.Tensor) -> torch.Tensor:
    """Values of maps at points, bilinear: (B, C, S, S) float32, or float64 where the maps are.

    maps_BCHW: any float dtype.
    points_BSS2: (x, y); -1 is the centre of the first column or row of the map, 1 that of the last. What lies outside
        takes the nearest value of the border.
    """
    maps_BCHW = maps_BCHW.to(torch.promote_types(maps_BCHW.dtype, torch.float32))
    with torch.autocast(maps_BCHW.device.type, enabled=False):
        return torch.nn.functional.grid_sample(
            maps_BCHW, points_BSS2.to(maps_BCHW.dtype), padding_mode="border", align_corners=True
        )


def kept_channels(maps_BC: torch.Tensor, share: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Dropout of whole channels: what maps (B, C, H, W) are multiplied with, (B, C, 1, 1): 0 for this share of the
    channels of each image, in [0, 1), and 1 / (1 - share) for the others.
    """
    shape = (*maps_BC.shape[:2], 1, 1)
    if share == 0:
        return maps_BC.new_ones(shape)
    kept = torch.rand(shape, device=maps_BC.device, generator=generator) >= share
    return kept.to(maps_BC.dtype) / (1 - share)
