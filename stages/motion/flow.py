"""Optical flow without weights: dense inverse search (Kroeger et al., ECCV 2016), as OpenCV has it.

H, W pixels
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FlowConfig:
    """Dense inverse search. The defaults are those that were best on KITTI 2012 among OpenCV's presets and this.

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


def dense_flow(grey_HW: np.ndarray, grey_next_HW: np.ndarray, config: FlowConfig) -> np.ndarray:
    """Flow float32 (H, W, 2), (u, v), from the first picture to the second, known everywhere.

    grey_HW, grey_next_HW: uint8. The answer depends on the number of threads that OpenCV has been told to use.
    """
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(config.finest_scale)
    search.setPatchSize(config.patch)
    search.setPatchStride(config.stride)
    search.setGradientDescentIterations(config.descent)
    search.setVariationalRefinementIterations(config.variational)
    return search.calc(grey_HW, grey_next_HW, np.empty((*grey_HW.shape, 2), np.float32))
