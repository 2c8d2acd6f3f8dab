"""Local hidden positives: codes mixed with those of neighbouring patches that are near in space, so that what a
sampled patch learns reaches them, too.

B images · K code width · h, w patch grid · N = h·w patches

Source: DepthG, after "Leveraging Hidden Positives" (arXiv 2303.15014), with depth in place of attention.
"""

from __future__ import annotations

from stages.late import torch
from stages.semantics import Reading
from stages.semantics.farthest_points import unproject

_STEPS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]  # to the 3×3 neighbours of a patch
_NEAREST = 0.01  # the quantile of the released code


def mixed_by_depth(codes_BKhw: torch.Tensor, depth_BHW: torch.Tensor, reading: Reading = "paper") -> torch.Tensor:
    """Codes mixed with those of patches that are near in space: (B, K, h, w) float32, or float64 where they are;
    differentiable in the codes.

    depth_BHW: relative depth, larger = farther, finite; averaged over the patches where it is finer than the grid.

        d_ij = distance of the unprojected patches i and j, / the largest of row i
        w_ij = 1 - d_ij where d_ij is at most a limit, else 0

    "paper": j is one of the 3×3 neighbours of i, itself among them; the limit is the mean of row i; Σ_j w_ij·c_j is
        divided by the number of neighbours that lie in the image.
    "released": j is any patch, the limit is the 1 % quantile of row i, and the sum is divided by N; NaN where all
        patches are in one place (a map of zeros). So is it in the class that training builds. Another one there, of
        experiments named lhp_original, does as the paper, but divides by a count that stays 0: NaN for every image.
    """
    height, width = codes_BKhw.shape[-2:]
    dtype = torch.promote_types(codes_BKhw.dtype, torch.float32)
    codes_BKhw, depth_BHW = codes_BKhw.to(dtype), depth_BHW.to(dtype)
    depth_Bhw = torch.nn.functional.adaptive_avg_pool2d(depth_BHW, (height, width))
    mix = _mixed_as_released if reading == "released" else _mixed_with_neighbours
    # image by image: there are N² distances
    return torch.stack([mix(codes, depth) for codes, depth in zip(codes_BKhw, depth_Bhw, strict=True)])


def _mixed_with_neighbours(codes_Khw: torch.Tensor, depth_hw: torch.Tensor) -> torch.Tensor:
    cloud_N3 = unproject(depth_hw[None])[0]
    distance_NN = _distances(cloud_N3)
    largest_hw = distance_NN.amax(dim=1).reshape(depth_hw.shape)
    largest_hw = torch.where(largest_hw > 0, largest_hw, 1.0)  # all patches in one place: each counts in full
    limit_hw = distance_NN.mean(dim=1).reshape(depth_hw.shape)
    cloud_3hw = cloud_N3.T.reshape(3, *depth_hw.shape)
    inside_hw = torch.ones_like(depth_hw)
    mixed_Khw, count_hw = torch.zeros_like(codes_Khw), torch.zeros_like(depth_hw)
    for step in _STEPS:
        distance_hw = (_moved(cloud_3hw, step) - cloud_3hw).square().sum(dim=0).sqrt()
        is_there_hw = _moved(inside_hw, step)
        weight_hw = (1 - distance_hw / largest_hw) * (distance_hw <= limit_hw) * is_there_hw
        mixed_Khw = mixed_Khw + weight_hw * _moved(codes_Khw, step)
        count_hw = count_hw + is_there_hw
    return mixed_Khw / count_hw


def _mixed_as_released(codes_Khw: torch.Tensor, depth_hw: torch.Tensor) -> torch.Tensor:
    distance_NN = _distances(unproject(depth_hw[None], "released")[0])
    least_N1 = distance_NN.amin(dim=1, keepdim=True)
    distance_NN = (distance_NN - least_N1) / (distance_NN.amax(dim=1, keepdim=True) - least_N1)
    limit_N1 = distance_NN.quantile(_NEAREST, dim=1, keepdim=True)
    weight_NN = torch.where(distance_NN > limit_N1, 0.0, 1 - distance_NN)
    return (codes_Khw.flatten(1) @ weight_NN.T / len(weight_NN)).reshape(codes_Khw.shape)


def _distances(cloud_N3: torch.Tensor) -> torch.Tensor:
    return torch.cdist(cloud_N3, cloud_N3, compute_mode="donot_use_mm_for_euclid_dist")


def _moved(map_hw: torch.Tensor, step: tuple[int, int]) -> torch.Tensor:
    """At each patch the value of the patch `step` (down, right) from it, 0 where there is none: (…, h, w)."""
    height, width = map_hw.shape[-2:]
    down, right = step
    padded = torch.nn.functional.pad(map_hw, (1, 1, 1, 1))
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]
