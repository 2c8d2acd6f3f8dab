"""Moving objects of a clip: the masks on which an ensemble of runs of SF2SE3 agrees.

H, W pixels of the left picture at t · M movers

Source: CUPS (arXiv 2504.01955), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion
from stages.motion.mask_agreement import agreement, matrix_nms, painted, surface
from stages.motion.movers_config import MoversConfig
from stages.motion.object_masks import Piece, pieces
from stages.motion.reliable import Seen, look
from stages.motion.rigid_objects import find_objects, grid_points
from stages.refine import without_holes

EMPTY_REASONS = ("few_reliable", "no_proposal", "all_background", "too_small", "no_agreement")
"""Why a clip may have no movers: too few reliable pixels; no run found a motion; every run found no more than the
background; all masks are too small; the runs do not agree on any."""


@dataclass(frozen=True, eq=False)
class Movers:
    """What moves in a clip, by falling agreement.

    masks_MHW: bool, disjoint, pixels of the left picture at t.
    agreement_M: float32, 0..1, share of the runs that find the mask, on average over its pixels.
    reason: why there are none, of `EMPTY_REASONS`; "" where there are some.
    reliable: share of the pixels whose flow and disparity can be relied on, 0..1.
    """

    masks_MHW: np.ndarray
    agreement_M: np.ndarray
    reason: str
    reliable: float


def find_movers(motion: ClipMotion, camera: Camera, config: MoversConfig, seed: int) -> Movers:
    """The objects that move unlike the background. Each of `config.runs` runs draws from (seed, its number) alone.

    camera: of pictures as large as the maps.
    seed: >= 0.
    """
    seen = look(motion, camera, config)
    if np.count_nonzero(seen.reliable_HW) < config.fewest:
        return _empty("few_reliable", seen)
    points = grid_points(seen, camera, config)
    runs = [find_objects(points, config, np.random.default_rng((seed, run))) for run in range(config.runs)]
    runs = [objects for objects in runs if len(objects)]
    if not runs:
        return _empty("no_proposal", seen)
    found = [pieces(objects, seen, points, config) for objects in runs]
    if all(masks is None for masks in found):
        return _empty("all_background", seen)
    pooled = [piece for masks in found for piece in masks or ()]
    return _agreed(pooled, seen, camera, config) if pooled else _empty("too_small", seen)


def _agreed(pooled: list[Piece], seen: Seen, camera: Camera, config: MoversConfig) -> Movers:
    """The movers of all runs' masks."""
    share_M = agreement(pooled, config.runs)
    agreed = [index for index, share in enumerate(share_M) if share >= config.agreement]
    kept = [agreed[index] for index in matrix_nms([pooled[index] for index in agreed], config.nms)]
    if not kept:
        return _empty("no_agreement", seen)
    size = (seen.reliable_HW.shape[0], seen.reliable_HW.shape[1])
    label_HW = painted([without_holes(_mask(pooled[index], size)) for index in kept], size)
    masks = [label_HW == place + 1 for place in range(len(kept))]
    large = [place for place, mask_HW in enumerate(masks) if _is_large(mask_HW, seen, camera, config)]
    if not large:
        return _empty("too_small", seen)
    large.sort(key=lambda place: -share_M[kept[place]])
    return Movers(
        np.stack([masks[place] for place in large]),
        share_M[[kept[place] for place in large]].astype(np.float32),
        "",
        _share(seen),
    )


def _mask(piece: Piece, size: tuple[int, int]) -> np.ndarray:
    mask_HW = np.zeros(size, bool)
    mask_HW.ravel()[piece.pixels] = True
    return mask_HW


def _is_large(mask_HW: np.ndarray, seen: Seen, camera: Camera, config: MoversConfig) -> bool:
    if np.count_nonzero(mask_HW) < config.area:
        return False
    return surface(mask_HW, seen.depth_HW, seen.reliable_HW, (camera.fx, camera.fy)) >= config.surface


def _empty(reason: str, seen: Seen) -> Movers:
    size = seen.reliable_HW.shape
    return Movers(np.zeros((0, *size), bool), np.zeros(0, np.float32), reason, _share(seen))


def _share(seen: Seen) -> float:
    return float(seen.reliable_HW.mean())
