"""What moves between two stereo pairs, as maps: the one form that every model of motion answers in.

H, W pixels of the pictures, which have one size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np


class ClipPictures(NamedTuple):
    """The two pairs that a motion lies between: left and right at t, left and right at t + 1; uint8 RGB (H, W, 3), of
    one size.
    """

    left: np.ndarray
    right: np.ndarray
    left_next: np.ndarray
    right_next: np.ndarray


@dataclass(frozen=True, eq=False)
class ClipMotion:
    """Flow and disparity of a clip, both ways each: all that SF2SE3 checks and fits. float32, NaN where not known.

    A flow (u, v) is in pixels to the right and down: what is at (x, y) is at (x + u, y + v) in the other picture. A
    disparity is >= 0, in pixels: what is at (x, y) of a left picture is at (x - d, y) of the right one.

    flow_HW2: left picture at t -> left at t + 1.
    flow_back_HW2: left at t + 1 -> left at t.
    disparity_HW: of the left picture at t.
    disparity_right_HW: of the right picture at t.
    disparity_next_HW: of the left picture at t + 1.
    disparity_right_next_HW: of the right picture at t + 1.

    Raises ValueError, which names the map, for another shape or dtype.
    """

    flow_HW2: np.ndarray
    flow_back_HW2: np.ndarray
    disparity_HW: np.ndarray
    disparity_right_HW: np.ndarray
    disparity_next_HW: np.ndarray
    disparity_right_next_HW: np.ndarray

    def __post_init__(self) -> None:
        size = self.disparity_HW.shape[:2]
        for name in MAPS:
            map_ = getattr(self, name)
            expected = (*size, 2) if name.endswith("2") else size
            if map_.shape != expected or map_.dtype != np.float32:
                raise ValueError(f"{name} is {map_.dtype} {map_.shape}, it must be float32 {expected}")


MAPS = tuple(field.name for field in fields(ClipMotion))


class MotionModel(Protocol):
    """What every way to flow and disparity offers.

    name: for messages and logs.
    device: where it computes, "cpu" or "cuda:0".
    in_processes: whether it is the CPU's alone and light to send, so that processes share the clips of a batch.
    """

    name: str
    device: str
    in_processes: bool

    @property
    def fingerprint(self) -> str:
        """Digest of weights and settings, or of stored maps: equal only where the answers are."""

    def __call__(self, clips: Sequence[ClipPictures], ids: Sequence[str]) -> list[ClipMotion]:
        """The motion of clips.

        clips: of any sizes.
        ids: of the clips, for messages and for maps on disk.

        Raises ValueError when the motion of one clip cannot be had; a caller with a batch then asks for them singly.
        """
        ...
