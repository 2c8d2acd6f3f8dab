"""Flow and disparity without weights: the model "opencv".

H, W pixels of the pictures
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from stages.fingerprint import text_digest
from stages.motion.clip_motion import MAPS, ClipMotion, ClipPictures
from stages.motion.disparity import DisparityConfig, right_disparity, stereo_disparity
from stages.motion.flow import FlowConfig, dense_flow

_VERSION = "1"  # of what the answers are, beside the settings


@dataclass(frozen=True)
class OpencvConfig:
    """flow, disparity: see there."""

    flow: FlowConfig = field(default_factory=FlowConfig)
    disparity: DisparityConfig = field(default_factory=DisparityConfig)


class OpencvMotion:
    """A `MotionModel`: OpenCV's dense inverse search and semi-global matching, on the CPU.

    threads: maps that are computed at a time. The answers do not depend on it, nor on the threads that OpenCV uses.
    """

    name, device, in_processes = "opencv", "cpu", True

    def __init__(self, config: OpencvConfig | None = None, threads: int = 1) -> None:
        self.config = config or OpencvConfig()
        self._threads = threads

    def __getstate__(self) -> dict[str, object]:
        """As it is sent to a process of many, which has one core."""
        return {**vars(self), "_threads": 1}

    @property
    def fingerprint(self) -> str:
        """See `MotionModel`."""
        return text_digest("opencv motion", _VERSION, repr(self.config))

    def __call__(self, clips: Sequence[ClipPictures], ids: Sequence[str]) -> list[ClipMotion]:
        """See `MotionModel`."""
        return [ClipMotion(**maps) for maps in self.some(MAPS, clips)]

    def some(self, names: Collection[str], clips: Sequence[ClipPictures]) -> list[dict[str, np.ndarray]]:
        """Of each clip the maps with these names of MAPS, by name."""
        greys = [tuple(map(_grey, clip)) for clip in clips]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="motion") as pool:
            started = [
                {name: pool.submit(make) for name, make in self._makers(*grey).items() if name in names}
                for grey in greys
            ]
            return [{name: future.result() for name, future in maps.items()} for maps in started]

    def _makers(
        self, left: np.ndarray, right: np.ndarray, left_next: np.ndarray, right_next: np.ndarray
    ) -> dict[str, Callable[[], np.ndarray]]:
        flow, disparity = self.config.flow, self.config.disparity
        return {
            "flow_HW2": partial(dense_flow, left, left_next, flow),
            "flow_back_HW2": partial(dense_flow, left_next, left, flow),
            "disparity_HW": partial(stereo_disparity, left, right, disparity),
            "disparity_right_HW": partial(right_disparity, left, right, disparity),
            "disparity_next_HW": partial(stereo_disparity, left_next, right_next, disparity),
            "disparity_right_next_HW": partial(right_disparity, left_next, right_next, disparity),
        }


def _grey(rgb: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
