"""How alike pairs of points are, and the loss that makes their codes as alike as their features or depths say.

B images · C channels, D of features · S·S points per image, P of them, row-major · H, W grid of a map

Every loss here is -mean(max(cos(codes), 0) · pull) over all pairs of points: a pair whose pull is positive is drawn
together in code space, one whose pull is negative is pushed apart, by as much as the pull says.
"""

from __future__ import annotations

from typing import Literal

from stages.late import torch
from stages.semantics import Reading
from stages.semantics.farthest_points import unproject
from stages.semantics.sampling import MapRows

DepthSimilarity = Literal["centred", "distance"]

_LEAST_LENGTH = 1e-10  # a shorter vector counts as zero and has cosine 0 with everything
_FLAT = 1e-6  # relative depths that differ by less are the same


def unit(vectors: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Vectors along `dim`, the channels, scaled to length 1: float32, or float64 where they are. Zero vectors stay
    zero.
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return torch.nn.functional.normalize(vectors, dim=dim, eps=_LEAST_LENGTH)


def pair_cosines(first_BPC: torch.Tensor, second_BQC: torch.Tensor) -> torch.Tensor:
    """Cosines of each point of the first with each of the second: (B, P, Q), float32 also under autocast.

    first_BPC, second_BQC: values at points, see `MapRows.at`; any float dtype.
    Source: STEGO equation 1.
    """
    products_BPQ = unit(first_BPC, dim=2) @ unit(second_BQC, dim=2).mT
    return products_BPQ.to(torch.promote_types(products_BPQ.dtype, torch.float32))


def centred_by_point(cosines_BPP: torch.Tensor) -> torch.Tensor:
    """Point-wise centring: less the mean over the second points, per first point, plus the mean over the whole batch
    (the last three axes).

    Points that are like everything thus pull no harder than others. Source: STEGO, "spatial centering".
    """
    return cosines_BPP - cosines_BPP.mean(dim=-1, keepdim=True) + cosines_BPP.mean(dim=(-3, -2, -1), keepdim=True)


def feature_pull(cosines_BPP: torch.Tensor, shift: float, pointwise: bool = True) -> torch.Tensor:
    """How hard features pull pairs together: their cosines less `shift`, (…, B, P, P).

    cosines_BPP: of features, see `pair_cosines`.
    pointwise: with `centred_by_point`.
    Source: STEGO equations 2 and 3.
    """
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
    depth_BP = MapRows.of(depth_BHW[:, None]).at(points_BSS2)[..., 0]
    z_BP = depth_BP - depth_BP.mean(dim=1, keepdim=True)
    largest_B = z_BP.abs().amax(dim=1)
    tells_B = largest_B > _FLAT * depth_BP.abs().amax(dim=1)
    z_BP = z_BP / torch.where(tells_B, largest_B, 1.0)[:, None]
    return z_BP[:, :, None] * z_BP[:, None, :], tells_B


def _near(depth_BHW: torch.Tensor, points_BSS2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearness of unprojected points in [-1, 1], and which images have any (B,) bool."""
    cloud_B3HW = unproject(depth_BHW, "paper").transpose(1, 2).unflatten(2, depth_BHW.shape[1:])
    cloud_BP3 = MapRows.of(cloud_B3HW).at(points_BSS2)
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
