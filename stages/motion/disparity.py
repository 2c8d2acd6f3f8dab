"""Disparity without weights: semi-global matching (Hirschmüller, PAMI 2008), as OpenCV has it.

H, W pixels
"""

from dataclasses import dataclass

import numpy as np

_FRACTION = 16  # of a pixel, that OpenCV's whole numbers stand for


@dataclass(frozen=True)
class DisparityConfig:
    """Semi-global matching. The defaults are those of OpenCV's sample `stereo_match`, the range of speckles
    that of its documentation (the sample's, 32, lets nearly everything pass).

    largest: disparity that is looked for, as a share of the width; a tenth is what lies 3 m before KITTI's camera, and
        2.3 m before that of Cityscapes. Rounded up to a multiple of 16.
    block: side in pixels of the blocks that are compared, odd.
    uniqueness: percent by which the best match must beat the second.
    speckle: pixels of the largest piece that is dropped as noise.
    speckle_range: pixels by which neighbours in a piece differ.
    pre_filter: cut of the horizontal gradients that are compared.
    """

    largest: float = 0.1
    block: int = 3
    uniqueness: int = 10
    speckle: int = 100
    speckle_range: int = 2
    pre_filter: int = 63

    def __post_init__(self) -> None:
        if not 0 < self.largest <= 1:
            raise ValueError(f"disparity.largest must be in 0..1, above 0, got {self.largest}")
        if self.block < 1 or self.block % 2 == 0:
            raise ValueError(f"disparity.block must be odd, 1 or more, got {self.block}")


def stereo_disparity(grey_left_HW: np.ndarray, grey_right_HW: np.ndarray, config: DisparityConfig) -> np.ndarray:
    """Disparity float32 (H, W) of the left picture, pixels >= 0; NaN where no match is good, or it is another one from
    the right picture.

    grey_left_HW, grey_right_HW: uint8.
    """
    import cv2

    count = max(16, -(-round(grey_left_HW.shape[1] * config.largest) // 16) * 16)
    area = config.block**2
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=count,
        blockSize=config.block,
        P1=8 * area,
        P2=32 * area,
        disp12MaxDiff=1,
        preFilterCap=config.pre_filter,
        uniquenessRatio=config.uniqueness,
        speckleWindowSize=config.speckle,
        speckleRange=config.speckle_range,
        mode=cv2.STEREO_SGBM_MODE_SGBM,
    )
    # The matcher leaves out as many columns at the left as there are disparities: it gets them from beyond the border.
    left, right = (
        cv2.copyMakeBorder(grey, 0, 0, count, 0, cv2.BORDER_REPLICATE) for grey in (grey_left_HW, grey_right_HW)
    )
    disparity = matcher.compute(left, right)[:, count:].astype(np.float32) / _FRACTION
    reach = np.arange(disparity.shape[1], dtype=np.float32)
    # of what the right picture does not show there is no match
    disparity[(disparity < 0) | (disparity > reach)] = np.nan
    return disparity


def right_disparity(grey_left_HW: np.ndarray, grey_right_HW: np.ndarray, config: DisparityConfig) -> np.ndarray:
    """The same of the right picture: in a mirror, it is the left one."""
    mirrored = stereo_disparity(
        np.ascontiguousarray(grey_right_HW[:, ::-1]), np.ascontiguousarray(grey_left_HW[:, ::-1]), config
    )
    return np.ascontiguousarray(mirrored[:, ::-1])
