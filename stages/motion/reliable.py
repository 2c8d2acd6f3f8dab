"""What a clip's maps can be relied on for: noise, reliable pixels, and where these are in space.

H, W pixels of the left picture at t

Source: SF2SE3 (arXiv 2209.08532), as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion
from stages.motion.movers_config import MoversConfig

_CUT = 10 * math.sqrt(2)  # pixels: what disagrees by more is an outlier, and no part of the noise
_MOST = 10.0
_UNKNOWN = 2.0  # pixels, of noise that cannot be measured
_FEW = 0.1  # of the pixels: noise is not measured on fewer
_BAND = 5  # pixels across the band around an edge

Noise = tuple[float, float, float]
"""Standard deviations of the flow's u and v and of the disparity, pixels."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of the pixels of the left picture at t.

    depth_HW: metres, float32; NaN where there is no disparity.
    landing_HW2: where the pixel is at t + 1, float32 (x, y).
    disparity_next_HW: where it lands, at the nearest pixel, float32; NaN where there is none.
    flow_HW: bool, where the flow can be relied on. reliable_HW: bool, where all can.
    """

    depth_HW: np.ndarray
    landing_HW2: np.ndarray
    disparity_next_HW: np.ndarray
    flow_HW: np.ndarray
    reliable_HW: np.ndarray
    noise: Noise


def look(motion: ClipMotion, camera: Camera, config: MoversConfig) -> Seen:
    """What is reliable: flow and the disparity of both times agree in both directions, the depth is trusted at both
    times, no edge of the disparity is near, nor the borders of the picture that `config` leaves out.
    """
    height, width = motion.disparity_HW.shape
    columns_W, rows_H1 = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    landing_HW2 = motion.flow_HW2 + np.stack(np.broadcast_arrays(columns_W, rows_H1), axis=-1)
    back_HW2 = _at(motion.flow_back_HW2, landing_HW2[..., 0], landing_HW2[..., 1])
    there_and_back_HW2 = motion.flow_HW2 + back_HW2
    inside_HW, landing_row_HW, landing_column_HW = _landing_pixels(landing_HW2)
    flow_HW = inside_HW & _window((height, width), config) & _agrees(there_and_back_HW2, motion.flow_HW2, back_HW2)

    trusted_HW, residual_HW = _disparity(motion.disparity_HW, motion.disparity_right_HW, camera, config)
    trusted_next_HW, _ = _disparity(motion.disparity_next_HW, motion.disparity_right_next_HW, camera, config)
    with np.errstate(divide="ignore"):
        depth_HW = np.float32(camera.fx * camera.baseline) / motion.disparity_HW
    return Seen(
        depth_HW,
        landing_HW2,
        motion.disparity_next_HW[landing_row_HW, landing_column_HW],
        flow_HW,
        flow_HW & trusted_HW & trusted_next_HW[landing_row_HW, landing_column_HW],
        noise_scales(there_and_back_HW2, residual_HW, config),
    )


def _disparity(
    left_HW: np.ndarray, right_HW: np.ndarray, camera: Camera, config: MoversConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Where the disparity of a left picture can be relied on, and by how much it disagrees with the right one's."""
    height, width = left_HW.shape
    columns_HW = np.arange(width, dtype=np.float32) - left_HW
    back_HW = _at(right_HW, columns_HW, np.arange(height, dtype=np.float32)[:, None])
    residual_HW = left_HW - back_HW
    scale = camera.fx * camera.baseline
    in_range_HW = (left_HW >= scale / config.far) & (left_HW <= scale / config.near)
    agrees_HW = _agrees(residual_HW[..., None], left_HW[..., None], back_HW[..., None])
    return in_range_HW & agrees_HW & ~disparity_edges(left_HW, config.edge), residual_HW


def noise_scales(flow_residual_HW2: np.ndarray, disparity_residual_HW: np.ndarray, config: MoversConfig) -> Noise:
    """From what is left of flow and disparity after going there and back, NaN where unknown.

    It is 2, or `noise` if that is more, where less than a tenth of the pixels agree to 14 pixels.
    """
    squares_HW = np.square(flow_residual_HW2).sum(axis=-1)
    flow_n2 = flow_residual_HW2[squares_HW < _CUT**2]  # NaN is not
    disparity_n = disparity_residual_HW[np.abs(disparity_residual_HW) < _CUT]
    u, v, d = (
        _scale(residual_n, squares_HW.size, config) for residual_n in (flow_n2[:, 0], flow_n2[:, 1], disparity_n)
    )
    return u, v, d


def _scale(residual_n: np.ndarray, pixels: int, config: MoversConfig) -> float:
    if len(residual_n) < _FEW * pixels:
        return max(config.noise, _UNKNOWN)
    rms = math.sqrt(float(np.mean(np.square(residual_n, dtype=np.float64))))
    # two maps err, the one there and the one back
    return min(max(config.noise_factor * untruncated(rms) / math.sqrt(2), config.noise), _MOST)


def untruncated(rms: float) -> float:
    """The deviation of a normal distribution whose part within ±10√2 has this root mean square.

    Their ratio ρ solves 1 - (2/√π)·aρ·exp(-a²ρ²)/erf(aρ) = ρ² with a = 10√2/(√2·rms): the largest of 100 steps from 0.1
    to 1 that does so to 0.01, 0.1 if none does.
    """
    if rms == 0:
        return 0.0
    for ratio in np.linspace(1.0, 0.1, 100).tolist():
        cut = _CUT / (math.sqrt(2) * rms) * ratio
        kept = 1 - 2 / math.sqrt(math.pi) * cut * math.exp(-(cut**2)) / math.erf(cut)
        if abs(kept - ratio**2) < 0.01:
            return rms / float(ratio)
    return rms / 0.1


def disparity_edges(disparity_HW: np.ndarray, least: float) -> np.ndarray:
    """Bands around the edges of log disparity, bool (H, W): 5×5 pixels around ridges of its gradient above `least`.

    The first half of Canny's detector: a Gaussian of 5×5 pixels and deviation 1, Sobel's sums, and of their magnitude
    what is not below its neighbours across the edge. Pixels without disparity have that of the nearest one with some.
    """
    import cv2

    log_HW = cv2.GaussianBlur(np.log(_filled(disparity_HW) + np.float32(0.001)), (5, 5), 1.0)
    across_HW, down_HW = cv2.Sobel(log_HW, cv2.CV_32F, 1, 0), cv2.Sobel(log_HW, cv2.CV_32F, 0, 1)
    magnitude_HW = cv2.copyMakeBorder(cv2.magnitude(across_HW, down_HW), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    row_n, column_n = np.nonzero(magnitude_HW > least)
    eighth_n = np.rint(np.arctan2(down_HW[row_n - 1, column_n - 1], across_HW[row_n - 1, column_n - 1]) / (math.pi / 4))
    step_row_n, step_column_n = (np.rint(ratio(eighth_n * (math.pi / 4))).astype(np.intp) for ratio in (np.sin, np.cos))
    value_n = magnitude_HW[row_n, column_n]
    # of two that are equal, as at a step between two pixels, one is the ridge
    ridge_n = (value_n >= magnitude_HW[row_n + step_row_n, column_n + step_column_n]) & (
        value_n > magnitude_HW[row_n - step_row_n, column_n - step_column_n]
    )
    edges_HW = np.zeros(disparity_HW.shape, np.uint8)
    edges_HW[row_n[ridge_n] - 1, column_n[ridge_n] - 1] = 1
    return cv2.dilate(edges_HW, np.ones((_BAND, _BAND), np.uint8)).astype(bool)


def _filled(disparity_HW: np.ndarray) -> np.ndarray:
    """Without holes: each pixel without disparity has that of the nearest one with some; 0 where no pixel has any."""
    hole_HW = np.isnan(disparity_HW)
    if hole_HW.all() or not hole_HW.any():
        return np.nan_to_num(disparity_HW)
    return nearest(disparity_HW, ~hole_HW)


def nearest(values_HW: np.ndarray, known_HW: np.ndarray) -> np.ndarray:
    """At each pixel the value of the nearest one where it is known, float32 (H, W); some are known."""
    import cv2

    _, region_HW = cv2.distanceTransformWithLabels(
        (~known_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value_of = np.zeros(int(region_HW.max()) + 1, np.float32)
    value_of[region_HW[known_HW]] = values_HW[known_HW]
    return value_of[region_HW]


def _at(map_: np.ndarray, x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    """A map between its pixels, bilinear; NaN outside, and where one of the four pixels has no value."""
    import cv2

    height, width = map_.shape[:2]
    y_HW = np.broadcast_to(y_HW, x_HW.shape)
    outside_HW = ~((x_HW >= 0) & (x_HW <= width - 1) & (y_HW >= 0) & (y_HW <= height - 1))  # NaN is
    x_HW, y_HW = (np.where(outside_HW, np.float32(0), at) for at in (x_HW, y_HW))
    found: np.ndarray = cv2.remap(map_, x_HW, y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found[outside_HW] = np.nan
    return found


def _agrees(residual_HWC: np.ndarray, there_HWC: np.ndarray, back_HWC: np.ndarray) -> np.ndarray:
    """Whether what goes there and back ends where it began, bool (H, W); NaN does not."""
    residual_HW, there_HW, back_HW = (np.einsum("hwc,hwc->hw", way, way) for way in (residual_HWC, there_HWC, back_HWC))
    agrees_HW: np.ndarray = residual_HW < 0.01 * (there_HW + back_HW) + 0.5
    return agrees_HW


def _window(size: tuple[int, int], config: MoversConfig) -> np.ndarray:
    """Where objects are looked for, bool (H, W)."""
    height, width = size
    window_HW = np.zeros(size, bool)
    side = round(config.sides * width)
    window_HW[round(config.top * height) : height - round(config.bottom * height), side : width - side] = True
    return window_HW


def _landing_pixels(landing_HW2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether a pixel lands in the picture, and row and column of the pixel nearest to there; 0 if it does not."""
    height, width = landing_HW2.shape[:2]
    x_HW, y_HW = landing_HW2[..., 0], landing_HW2[..., 1]
    inside_HW = (x_HW >= 0) & (x_HW <= width - 1) & (y_HW >= 0) & (y_HW <= height - 1)  # NaN is not
    row_HW, column_HW = (np.rint(np.where(inside_HW, at, 0)).astype(np.intp) for at in (y_HW, x_HW))
    return inside_HW, row_HW, column_HW
