"""Where the maps of an image are looked at: points, and the maps' values there.

B images · C channels · H, W grid of a map, N = H·W cells, row-major · S·S points per image, P of them, row-major
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.late import torch


def uniform_points(
    images: int, side: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> torch.Tensor:
    """Random points, uniform over the image: (images, side, side, 2) float32, (x, y) in [-1, 1).

    generator: on that device; None takes torch's own.
    """
    return torch.rand((images, side, side, 2), device=device, generator=generator) * 2 - 1


@dataclass(frozen=True)
class MapRows:
    """Maps laid out to be sampled often: cell by cell, which is several times faster than channel by channel.

    rows: (B·N, C) float32 or float64, contiguous.
    grid: (H, W).
    """

    rows: torch.Tensor
    grid: tuple[int, int]

    @classmethod
    def of(cls, maps_BCHW: torch.Tensor) -> MapRows:
        """Of maps of any float dtype; differentiable."""
        height, width = maps_BCHW.shape[2:]
        rows = maps_BCHW.permute(0, 2, 3, 1).reshape(-1, maps_BCHW.shape[1])
        return cls(rows.to(torch.promote_types(rows.dtype, torch.float32)), (height, width))

    def at(self, points_BSS2: torch.Tensor, images_B: torch.Tensor | None = None) -> torch.Tensor:
        """Values at points, bilinear: (B, P, C), differentiable in the maps.

        points_BSS2: (x, y); -1 is the centre of the first column or row of the map, 1 that of the last. What lies
            outside takes the value of the border.
        images_B: which map each image's points are looked up in, int64; None takes its own.
        """
        height, width = self.grid
        count = len(points_BSS2)
        if images_B is None:
            images_B = torch.arange(count, device=points_BSS2.device)
        left_BP, x_BP = _between(points_BSS2[..., 0].flatten(1), width)
        top_BP, y_BP = _between(points_BSS2[..., 1].flatten(1), height)
        right_BP, bottom_BP = (left_BP + 1).clamp(max=width - 1), (top_BP + 1).clamp(max=height - 1)
        corners_4BP = [top_BP * width + left_BP, top_BP * width + right_BP]
        corners_4BP += [bottom_BP * width + left_BP, bottom_BP * width + right_BP]
        index_BP4 = torch.stack(corners_4BP, dim=-1) + (images_B * (height * width))[:, None, None]
        shares_4BP = [(1 - y_BP) * (1 - x_BP), (1 - y_BP) * x_BP, y_BP * (1 - x_BP), y_BP * x_BP]
        share_BP4 = torch.stack(shares_4BP, dim=-1).to(self.rows.dtype)
        values = torch.nn.functional.embedding_bag(
            index_BP4.flatten(0, 1), self.rows, per_sample_weights=share_BP4.flatten(0, 1), mode="sum"
        )
        return values.unflatten(0, (count, -1))


def _between(coordinate_BP: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell at or before each coordinate, int64, and how far the coordinate is on the way to the next, 0..1."""
    place_BP = ((coordinate_BP + 1) / 2 * (cells - 1)).clamp(0, cells - 1)
    before_BP = place_BP.floor()
    return before_BP.long(), place_BP - before_BP


def sample(maps_BCHW: torch.Tensor, points_BSS2: torch.Tensor) -> torch.Tensor:
    """Values of maps at points, bilinear: (B, C, S, S) float32, or float64 where the maps are. See `MapRows.at`."""
    return MapRows.of(maps_BCHW).at(points_BSS2).transpose(1, 2).unflatten(2, points_BSS2.shape[1:3])


def kept_channels(
    images: int, channels: int, share: float, device: torch.device | str, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Dropout of whole channels: what channels are multiplied with, (images, channels) float32: 0 for this share of
    them, in [0, 1), drawn per image, and 1 / (1 - share) for the others.
    """
    kept = torch.rand((images, channels), device=device, generator=generator) >= share
    return kept.float() / (1 - share)
