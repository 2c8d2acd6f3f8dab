"""Points spread evenly in space: farthest-point sampling on the unprojected depth.

B images · H, W grid · N = H·W points, row-major · M points chosen · S·S = M

Source: DepthG. Its released code does it one image at a time, in NumPy, and hands rows over as x.
"""

from __future__ import annotations

import math

from stages.late import torch
from stages.semantics import Reading

_FIELD_OF_VIEW = 90.0
_FAR = 5.0  # depth 1 lies this many units in front of the camera


def unproject(depth_BHW: torch.Tensor, reading: Reading = "paper") -> torch.Tensor:
    """The depth map as a point cloud, by a pinhole camera whose view is 90° wide and high: (B, N, 3), (x, y, z).

    depth_BHW: relative depth, larger = farther; float32 or float64, which the cloud has, too.

        x = f·d·(u - ½)    y = f·d·(v - ½)    z = 5·d        u, v in 0..1 over the width and the height

    "paper": f = 2·tan(90°/2) = 2, and u, v are the centres of patches. A map of zeros tells nothing of depth and
        becomes a plane that faces the camera, d = 1.
    "released": f = 2·tan(90/2) = 3.24, since 90 is taken for radians; u, v are the upper left corners; z = -5·d.
    """
    height, width = depth_BHW.shape[1:]
    v_H = torch.arange(height, dtype=depth_BHW.dtype, device=depth_BHW.device)
    u_W = torch.arange(width, dtype=depth_BHW.dtype, device=depth_BHW.device)
    if reading == "released":
        factor, far, corner = 2 * math.tan(_FIELD_OF_VIEW / 2), -_FAR, 0.0
    else:
        factor, far, corner = 2 * math.tan(math.radians(_FIELD_OF_VIEW / 2)), _FAR, 0.5
        depth_BHW = torch.where((depth_BHW == 0).all(dim=2).all(dim=1)[:, None, None], 1.0, depth_BHW)
    x_BHW = factor * depth_BHW * ((u_W + corner) / width - 0.5)
    y_BHW = factor * depth_BHW * ((v_H + corner) / height - 0.5)[:, None]
    return torch.stack([x_BHW, y_BHW, far * depth_BHW], dim=-1).flatten(1, 2)


def farthest_points(cloud_BN3: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of `count` points of each cloud, (B, count) int64, on its device: first point 0, then again and again
    the point farthest from all chosen so far.

    Of points equally far the first is taken, and none twice: of a cloud in one place, the first `count`. The first of
    the points chosen are the ones that a smaller count would give.

    Raises ValueError for a count below 1 or above N.
    """
    b, n = cloud_BN3.shape[:2]
    if not 1 <= count <= n:
        raise ValueError(f"farthest points: 1 to {n} of {n} points can be chosen, not {count}")
    coordinates_3BN = cloud_BN3.permute(2, 0, 1).contiguous()
    chosen_BM = torch.zeros((b, count), dtype=torch.int64, device=cloud_BN3.device)
    distance_BN = torch.full((b, n), math.inf, dtype=cloud_BN3.dtype, device=cloud_BN3.device)
    for place in range(1, count):
        last_B1 = chosen_BM[:, place - 1 : place]
        offset_3BN = coordinates_3BN - coordinates_3BN.gather(2, last_B1.expand(3, b, 1))
        torch.minimum(distance_BN, offset_3BN.square_().sum(dim=0), out=distance_BN)
        distance_BN.scatter_(1, last_B1, -1.0)  # squares are at least 0: never again
        chosen_BM[:, place] = distance_BN.argmax(dim=1)
    return chosen_BM


def farthest_coordinates(
    depth_BHW: torch.Tensor, side: int, grid: tuple[int, int], reading: Reading = "paper"
) -> torch.Tensor:
    """Where to sample maps of a grid, farthest points of the unprojected depth: (B, side, side, 2), see
    `sampling.sample`, in row-major order of the patches.

    depth_BHW: relative depth; averaged over the patches where it is finer than the grid.
    side: S; S·S points.
    grid: (h, w) of the maps.

    "paper": (x, y) of the patches' centres, so that maps are read without interpolation.
    "released": (row/h, column/w)·2 - 1 as (x, y): samples lie at the transposed place, up to a patch off.

    Raises ValueError when the grid has fewer than side·side patches.
    """
    height, width = grid
    if side * side > height * width:
        raise ValueError(
            f"{side}·{side} farthest points cannot be chosen from {height}×{width} patches: take fewer samples"
        )
    depth_Bhw = torch.nn.functional.adaptive_avg_pool2d(depth_BHW, grid)
    index_BM = farthest_points(unproject(depth_Bhw, reading), side * side).sort(dim=1).values
    row_BM, column_BM = index_BM // width, index_BM % width
    if reading == "released":
        points_BM2 = torch.stack([row_BM / height, column_BM / width], dim=-1) * 2 - 1
    else:
        points_BM2 = torch.stack([column_BM / max(width - 1, 1), row_BM / max(height - 1, 1)], dim=-1) * 2 - 1
    return points_BM2.unflatten(1, (side, side))
