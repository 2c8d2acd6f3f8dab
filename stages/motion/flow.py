"""Optical flow without weights: dense inverse search (Kroeger et al., ECCV 2016), as OpenCV has it.

H, W pixels
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FlowConfig:
    """Dense inverse search. OpenCV's presets stop at a half or a quarter of the picture's scale; the defaults go on to
    every pixel, which costs three times as much and pays (decision 30).

    finest_scale: of the pyramid, 0 for every pixel; each further one halves the sides.
    patch: side in pixels of the patches that are matched.
    stride: pixels between patches.
    descent: iterations of the gradient descent of a patch.
    variational: iterations of the refinement of the whole map.
    """

    finest_scale: int = 0
    patch: int = 8
    stride: int = 4
    descent: int = 32
    variational: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.patch:
            raise ValueError(f"flow.stride must be in 1..patch ({self.patch}), got {self.stride}")


def dense_flow(grey_HW: np.ndarray, grey_next_HW: np.ndarray, config: FlowConfig) -> np.ndarray:
    """Flow float32 (H, W, 2), (u, v), from the first picture to the second, known everywhere.

    grey_HW, grey_next_HW: uint8.
    """
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(config.finest_scale)
    search.setPatchSize(config.patch)
    search.setPatchStride(config.stride)
    search.setGradientDescentIterations(config.descent)
    search.setVariationalRefinementIterations(config.variational)
    start: Any = None  # an array would be where the search starts, not where it writes
    return search.calc(grey_HW, grey_next_HW, start)
