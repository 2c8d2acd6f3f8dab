"""What a clip's maps can be relied on for: noise scales, reliable pixels, and the points that they are in space.

H, W pixels of the left picture at t

Source: CUPS (arXiv 2504.01955), its copy of SF2SE3 (arXiv 2209.08532).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion
from stages.motion.movers_config import MoversConfig

_CUT = 10 * math.sqrt(2)  # pixels: larger residuals are outliers, and no part of the noise
_LEAST = 2 * math.sqrt(2)
_FEW = 0.1  # share of the pixels that a noise scale is measured on, at least
_EDGE = 0.2  # of the gradient of log disparity, by Sobel's sums
_BAND = 5  # pixels of the band around an edge


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of each pixel of the left picture at t. Values of pixels that are not reliable mean nothing.

    depth_HW: metres, float32; NaN where there is no disparity.
    landing_HW2: where the pixel is at t + 1, float32 (x, y).
    disparity_next_HW: of the pixel it lands on, float32.
    reliable_HW: bool.
    noise: standard deviations of the flow's u and v and of the disparity, pixels.
    """

    depth_HW: np.ndarray
    landing_HW2: np.ndarray
    disparity_next_HW: np.ndarray
    reliable_HW: np.ndarray
    noise: tuple[float, float, float]


def look(motion: ClipMotion, camera: Camera, config: MoversConfig) -> Seen:
    """Depth, landing pixels and reliable pixels of a clip."""
    height, width = motion.disparity_HW.shape
    x_W = np.arange(width, dtype=np.float32)
    y_H1 = np.arange(height, dtype=np.float32)[:, None]
    landing_HW2 = np.empty_like(motion.flow_HW2)
    landing_HW2[..., 0] = motion.flow_HW2[..., 0] + x_W
    landing_HW2[..., 1] = motion.flow_HW2[..., 1] + y_H1

    disparity_back_HW = _at(motion.disparity_right_HW, x_W - motion.disparity_HW, y_H1)
    flow_back_HW2 = _at(motion.flow_back_HW2, landing_HW2[..., 0], landing_HW2[..., 1])
    noise = noise_scales(motion.flow_HW2 + flow_back_HW2, motion.disparity_HW - disparity_back_HW)

    here_HW = (
        _in_range(motion.disparity_HW, camera, config)
        & _agrees(motion.disparity_HW - disparity_back_HW, motion.disparity_HW, disparity_back_HW)
        & ~disparity_edges(motion.disparity_HW)
        & _window(height, width, config)
    )
    next_back_HW = _at(motion.disparity_right_next_HW, x_W - motion.disparity_next_HW, y_H1)
    there_HW = (
        _in_range(motion.disparity_next_HW, camera, config)
        & _agrees(motion.disparity_next_HW - next_back_HW, motion.disparity_next_HW, next_back_HW)
        & ~disparity_edges(motion.disparity_next_HW)
    )
    inside_HW, row_HW, column_HW = _landing_pixels(landing_HW2)
    reliable_HW = here_HW & inside_HW & there_HW[row_HW, column_HW]
    reliable_HW &= _agrees(motion.flow_HW2 + flow_back_HW2, motion.flow_HW2, flow_back_HW2)
    with np.errstate(divide="ignore"):
        depth_HW = np.float32(camera.fx * camera.baseline) / motion.disparity_HW
    return Seen(depth_HW, landing_HW2, motion.disparity_next_HW[row_HW, column_HW], reliable_HW, noise)


def noise_scales(residual_flow_HW2: np.ndarray, residual_disparity_HW: np.ndarray) -> tuple[float, float, float]:
    """Standard deviations of u, v and disparity in pixels, 2 to 10, from what is left after going there and back."""
    flow_ok_HW = np.hypot(residual_flow_HW2[..., 0], residual_flow_HW2[..., 1]) < _CUT  # NaN is not
    disparity_ok_HW = np.abs(residual_disparity_HW) < _CUT
    least = _FEW * flow_ok_HW.size
    return (
        _scale(residual_flow_HW2[..., 0][flow_ok_HW], least),
        _scale(residual_flow_HW2[..., 1][flow_ok_HW], least),
        _scale(residual_disparity_HW[disparity_ok_HW], least),
    )


def _scale(residuals: np.ndarray, least: float) -> float:
    """One standard deviation; of a forward and a backward map, so it is divided by √2."""
    if len(residuals) < least:
        return _LEAST / math.sqrt(2)
    rms = math.sqrt(float(np.mean(np.square(residuals, dtype=np.float64))))
    return min(max(untruncated(rms), _LEAST), _CUT) / math.sqrt(2)


def untruncated(rms: float) -> float:
    """The deviation of a normal distribution of which the part within ±10√2 pixels has this root mean square.

    The ratio of the two, ρ, solves 1 - (2/√π)·aρ·exp(-a²ρ²)/erf(aρ) = ρ² with a = 10√2/(√2·rms); the largest of 100
    steps from 0.1 to 1 that does so to 0.01, 0.1 if none does.
    """
    if rms == 0:
        return 0.0
    for rho in np.linspace(1.0, 0.1, 100):
        a = _CUT / (math.sqrt(2) * rms) * rho
        if abs(1 - 2 / math.sqrt(math.pi) * a * math.exp(-(a**2)) / math.erf(a) - rho**2) < 0.01:
            return rms / float(rho)
    return rms / 0.1


def disparity_edges(disparity_HW: np.ndarray) -> np.ndarray:
    """A band around the edges of log disparity, bool (H, W): 5×5 pixels around every ridge of its gradient.

    As Canny's first half: Gaussian 5×5 of deviation 1, Sobel, no more than the ridges of the magnitude; those above 0.2
    count. Pixels without disparity have that of the nearest one that has some.
    """
    import cv2

    log_HW = np.log(_filled(disparity_HW) + np.float32(0.001))
    log_HW = cv2.GaussianBlur(log_HW, (5, 5), 1.0)
    gx_HW, gy_HW = cv2.Sobel(log_HW, cv2.CV_32F, 1, 0), cv2.Sobel(log_HW, cv2.CV_32F, 0, 1)
    magnitude_HW = np.sqrt(gx_HW**2 + gy_HW**2)
    padded = np.pad(magnitude_HW, 1)
    y, x = np.nonzero(magnitude_HW > _EDGE)
    direction = np.round(np.arctan2(gy_HW[y, x], gx_HW[y, x]) / (math.pi / 4)).astype(int)
    dx, dy = np.round(np.cos(direction * math.pi / 4)).astype(int), np.round(np.sin(direction * math.pi / 4)).astype(int)
    value = magnitude_HW[y, x]
    ridge = (value > padded[y + 1 + dy, x + 1 + dx]) & (value > padded[y + 1 - dy, x + 1 - dx])
    edges_HW = np.zeros(disparity_HW.shape, np.uint8)
    edges_HW[y[ridge], x[ridge]] = 1
    return cv2.dilate(edges_HW, np.ones((_BAND, _BAND), np.uint8)).astype(bool)


def _filled(disparity_HW: np.ndarray) -> np.ndarray:
    """Without holes: where there is no disparity, that of the nearest pixel that has some; 0 where none has."""
    import cv2

    hole_HW = np.isnan(disparity_HW)
    if not hole_HW.any() or hole_HW.all():
        return np.nan_to_num(disparity_HW)
    _, nearest_HW = cv2.distanceTransformWithLabels(
        hole_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value_of = np.zeros(int(nearest_HW.max()) + 1, np.float32)
    value_of[nearest_HW[~hole_HW]] = disparity_HW[~hole_HW]
    return value_of[nearest_HW]


def _at(map_: np.ndarray, x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    """A map between its pixels, bilinear; NaN outside, and where one of the four pixels is."""
    import cv2

    y_HW = np.broadcast_to(y_HW, x_HW.shape)
    x_HW, y_HW = (np.nan_to_num(at, nan=-10.0) for at in (x_HW, y_HW))
    return cv2.remap(
        map_, x_HW, y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(np.nan, np.nan, np.nan, np.nan)
    )


def _agrees(residual: np.ndarray, there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Whether the way there and back ends where it began; bool (H, W). NaN does not."""
    squares = [np.square(v) if v.ndim == 2 else np.square(v).sum(axis=-1) for v in (residual, there, back)]
    return squares[0] < 0.01 * (squares[1] + squares[2]) + 0.5


def _in_range(disparity_HW: np.ndarray, camera: Camera, config: MoversConfig) -> np.ndarray:
    scale = camera.fx * camera.baseline
    return (disparity_HW >= scale / config.far) & (disparity_HW <= scale / config.near)


def _window(height: int, width: int, config: MoversConfig) -> np.ndarray:
    """Where objects are looked for at all."""
    window_HW = np.zeros((height, width), bool)
    side = round(config.sides * width)
    window_HW[round(config.top * height) : height - round(config.bottom * height), side : width - side] = True
    return window_HW


def _landing_pixels(landing_HW2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether a pixel lands in the picture, and row and column of the nearest pixel there, 0 if it does not."""
    height, width = landing_HW2.shape[:2]
    x_HW, y_HW = landing_HW2[..., 0], landing_HW2[..., 1]
    inside_HW = (x_HW >= 0) & (x_HW <= width - 1) & (y_HW >= 0) & (y_HW <= height - 1)
    row_HW, column_HW = (np.rint(np.where(inside_HW, at, 0)).astype(np.int32) for at in (y_HW, x_HW))
    return inside_HW, row_HW, column_HW
