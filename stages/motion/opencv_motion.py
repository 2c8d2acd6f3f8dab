"""Flow and disparity without weights: the model "opencv"."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from stages.fingerprint import text_digest
from stages.motion.clip_motion import ClipMotion
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

    threads: maps that are computed at a time; the answers do not depend on it.
    """

    name, device = "opencv", "cpu"

    def __init__(self, config: OpencvConfig | None = None, threads: int = 2) -> None:
        self.config = config or OpencvConfig()
        self._threads = threads

    @property
    def fingerprint(self) -> str:
        """See `MotionModel`."""
        return text_digest("opencv motion", _VERSION, repr(self.config))

    def __call__(
        self,
        left: Sequence[np.ndarray],
        right: Sequence[np.ndarray],
        left_next: Sequence[np.ndarray],
        right_next: Sequence[np.ndarray],
        ids: Sequence[str],
    ) -> list[ClipMotion]:
        """See `MotionModel`."""
        clips = [tuple(map(_grey, pictures)) for pictures in zip(left, right, left_next, right_next, strict=True)]
        tasks = [task for clip in clips for task in self._tasks(*clip)]
        with one_thread(), ThreadPoolExecutor(self._threads, thread_name_prefix="motion") as pool:
            found = list(pool.map(lambda task: task(), tasks))
        return [ClipMotion(*found[first : first + 6]) for first in range(0, len(found), 6)]

    def _tasks(
        self, left: np.ndarray, right: np.ndarray, left_next: np.ndarray, right_next: np.ndarray
    ) -> list[Callable[[], np.ndarray]]:
        """What gives the six maps, in the order of `ClipMotion`."""
        flow, disparity = self.config.flow, self.config.disparity
        return [
            lambda: dense_flow(left, left_next, flow),
            lambda: dense_flow(left_next, left, flow),
            lambda: stereo_disparity(left, right, disparity),
            lambda: right_disparity(left, right, disparity),
            lambda: stereo_disparity(left_next, right_next, disparity),
            lambda: right_disparity(left_next, right_next, disparity),
        ]


def _grey(rgb: np.ndarray) -> np.ndarray:
    import cv2

    grey: np.ndarray = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return grey


_LOCK = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """With one thread within each call of OpenCV: its dense inverse search cuts a picture into as many stripes as there
    are threads, and finds other flow at their borders, so that answers would depend on the machine.
    """
    import cv2

    with _LOCK:
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            cv2.setNumThreads(before)
