"""How alike pairs of points are, and the loss that makes their codes as alike as their features or depths say.

B images · C channels · S·S points per image, P of them in row-major order · H, W grid of a map

Every loss here is -mean(max(cos(codes), 0) · pull) over all pairs of points: a pair whose pull is positive is drawn
together in code space, one whose pull is negative is pushed apart, by as much as the pull says.
"""

from __future__ import annotations

from typing import Literal

from stages.late import torch
from stages.semantics import Reading
from stages.semantics.farthest_points import unproject
from stages.semantics.sampling import sample

DepthSimilarity = Literal["centred", "distance"]

_LEAST_LENGTH = 1e-10  # a shorter vector counts as zero and has cosine 0 with everything
_FLAT = 1e-6  # relative depths that differ by less are the same


def unit(vectors_BC: torch.Tensor) -> torch.Tensor:
    """Vectors (B, C, …) scaled to length 1 along C: float32, or float64 where they are. Zero vectors stay zero."""
    vectors_BC = vectors_BC.to(torch.promote_types(vectors_BC.dtype, torch.float32))
    return torch.nn.functional.normalize(vectors_BC, dim=1, eps=_LEAST_LENGTH)


def pair_cosines(first_BCSS: torch.Tensor, second_BCSS: torch.Tensor) -> torch.Tensor:
    """Cosines of each point of the first with each of the second: (B, P, P), float32 also under autocast.

    first_BCSS, second_BCSS: values at points, see `sampling.sample`; any float dtype.
    Source: STEGO equation 1.
    """
    products_BPP = unit(first_BCSS.flatten(2)).transpose(1, 2) @ unit(second_BCSS.flatten(2))
    return products_BPP.to(torch.promote_types(products_BPP.dtype, torch.float32))


def centred_by_point(cosines_BPP: torch.Tensor) -> torch.Tensor:
    """Point-wise centring: less the mean over the second points, per first point, plus the mean over the whole batch.

    Points that are like everything thus pull no harder than others. Source: STEGO, "spatial centering".
    """
    return cosines_BPP - cosines_BPP.mean(dim=2, keepdim=True) + cosines_BPP.mean()


def feature_pull(
    first_BDSS: torch.Tensor, second_BDSS: torch.Tensor, shift: float, pointwise: bool = True
) -> torch.Tensor:
    """How hard features pull pairs together: their cosines less `shift`, (B, P, P) float32.

    first_BDSS, second_BDSS: features at points of two images, or of one.
    pointwise: with `centred_by_point`.
    Source: STEGO equations 2 and 3.
    """
    cosines_BPP = pair_cosines(first_BDSS, second_BDSS)
    return (centred_by_point(cosines_BPP) if pointwise else cosines_BPP) - shift


def depth_pull(
    depth_BHW: torch.Tensor,
    points_BSS2: torch.Tensor,
    shift: float,
    reading: Reading = "paper",
    similarity: DepthSimilarity = "centred",
) -> torch.Tensor:
    """How hard depth pulls pairs of points of one image together: their likeness in depth less `shift`, (B, P, P).

    depth_BHW: larger = farther, finite; scale does not matter, but 0 is the camera for "distance".
    points_BSS2: where codes are sampled.

    "paper": likeness in [-1, 1] at the points. An image in which it says nothing (flat depth) pulls nowhere: 0.
        "centred": z_p·z_q / max z², with z the depth less its mean over the image's points: the paper's product of
            depths, but points on one side of the mean attract and points on different sides repel each other.
        "distance": 1 - 2·|x_p - x_q| / max |x - x'|, with x the unprojected points.
    "released": the code normalises each depth by itself, which leaves its sign: 1 wherever both depths are above 0,
        whatever they are, and it takes them from the map shrunk to S×S, not at the points.
    """
    if reading == "released":
        return _released_likeness(depth_BHW, points_BSS2.shape[1]) - shift
    if similarity == "distance":
        likeness_BPP, tells_B = _near(depth_BHW, points_BSS2)
    else:
        likeness_BPP, tells_B = _same_side(depth_BHW, points_BSS2)
    return (likeness_BPP - shift) * tells_B[:, None, None]


def _same_side(depth_BHW: torch.Tensor, points_BSS2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of centred depths in [-1, 1], and which images have any (B,) bool."""
    depth_BP = sample(depth_BHW[:, None], points_BSS2).flatten(1)
    z_BP = depth_BP - depth_BP.mean(dim=1, keepdim=True)
    largest_B = z_BP.abs().amax(dim=1)
    tells_B = largest_B > _FLAT * depth_BP.abs().amax(dim=1)
    z_BP = z_BP / torch.where(tells_B, largest_B, 1.0)[:, None]
    return z_BP[:, :, None] * z_BP[:, None, :], tells_B


def _near(depth_BHW: torch.Tensor, points_BSS2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearness of unprojected points in [-1, 1], and which images have any (B,) bool."""
    cloud_B3HW = unproject(depth_BHW, "paper").transpose(1, 2).unflatten(2, depth_BHW.shape[1:])
    cloud_BP3 = sample(cloud_B3HW, points_BSS2).flatten(2).transpose(1, 2)
    distance_BPP = torch.cdist(cloud_BP3, cloud_BP3, compute_mode="donot_use_mm_for_euclid_dist")
    largest_B = distance_BPP.amax(dim=(1, 2))
    tells_B = largest_B > _FLAT * cloud_BP3.abs().amax(dim=(1, 2))
    return 1 - 2 * distance_BPP / torch.where(tells_B, largest_B, 1.0)[:, None, None], tells_B


def _released_likeness(depth_BHW: torch.Tensor, side: int) -> torch.Tensor:
    """sign·sign of the map shrunk to S×S. The released sampling transposes the grid of points, so that the code of
    point (i, j) meets the depth of cell (j, i).
    """
    depth_B1SS = torch.nn.functional.interpolate(
        depth_BHW[:, None], size=(side, side), mode="bilinear", align_corners=True
    )
    sign_BP = unit(depth_B1SS).transpose(2, 3).flatten(1)
    return sign_BP[:, :, None] * sign_BP[:, None, :]


def correlation_loss(pull_BPP: torch.Tensor, code_cosines_BPP: torch.Tensor, zero_clamp: bool = True) -> torch.Tensor:
    """-mean(max(cos(codes), 0) · pull) over all pairs: a scalar.

    zero_clamp: cosines below 0 count as 0, so that codes which are unlike already are pushed no further.
    Source: STEGO equation 3 (features), DepthG (depth).
    """
    return -((code_cosines_BPP.clamp(min=0) if zero_clamp else code_cosines_BPP) * pull_BPP).mean()
