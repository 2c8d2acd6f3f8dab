"""Moving objects of a clip: the masks on which an ensemble of runs of SF2SE3 agrees.

H, W pixels of the left picture at t · M movers
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion
from stages.motion.movers_config import MoversConfig

EMPTY_REASONS = ("few_reliable", "no_proposal", "no_agreement", "too_small", "all_background")


@dataclass(frozen=True, eq=False)
class Movers:
    """What moves in a clip, by falling agreement.

    masks_MHW: bool, disjoint, in pixels of the left picture at t.
    agreement_M: float32, 0..1, share of the runs that find the mask, on average over its pixels.
    reason: why there is none, of `EMPTY_REASONS`; "" where there is one.
    reliable: share of the pixels whose flow and disparity could be relied on, 0..1.
    """

    masks_MHW: np.ndarray
    agreement_M: np.ndarray
    reason: str
    reliable: float


def find_movers(motion: ClipMotion, camera: Camera, config: MoversConfig, seed: int) -> Movers:
    """The objects that move unlike the background, each as one mask. Equal seeds give equal answers.

    camera: of pictures as large as the maps.
    """
    raise NotImplementedError
