"""Rigid motions: fitted to points in space, refined on their pixels, and how well they explain what was seen.

N points · M motions · K camera matrix. A motion takes a point at t, in the camera's frame at t, to where it is at t + 1
in the camera's frame at t + 1: q = R·p + t. Metres, radians, pixels.

Source: SF2SE3 (arXiv 2209.08532), section 3, as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.special

from stages.motion.camera import Camera

_NEVER = np.float32(1e-3)  # metres: nearer points, and those behind the camera, are seen nowhere


@dataclass(frozen=True, eq=False)
class Motions:
    """rotation_M33, shift_M3: R and t, float64; a batch of M."""

    rotation_M33: np.ndarray
    shift_M3: np.ndarray

    def __len__(self) -> int:
        return len(self.rotation_M33)

    def __getitem__(self, chosen: slice | np.ndarray | list[int]) -> Motions:
        return Motions(self.rotation_M33[chosen], self.shift_M3[chosen])

    def apply(self, points_N3: np.ndarray) -> np.ndarray:
        """(M, 3, N) float32: where points are at t + 1, by each motion."""
        moved_M3N = self.rotation_M33.astype(np.float32) @ points_N3.T.astype(np.float32)
        return moved_M3N + self.shift_M3.astype(np.float32)[:, :, None]


def stacked(motions: list[Motions]) -> Motions:
    """All of them as one batch."""
    return Motions(
        np.concatenate([np.zeros((0, 3, 3)), *(m.rotation_M33 for m in motions)]),
        np.concatenate([np.zeros((0, 3)), *(m.shift_M3 for m in motions)]),
    )


def fit(before_MG3: np.ndarray, after_MG3: np.ndarray, weight_MG: np.ndarray) -> Motions:
    """The rigid motions that take groups of points to others with the least sum of weighted squares (Kabsch).

    before_MG3, after_MG3: (M, G, 3). weight_MG: >= 0, 0 for places of a group that are not filled.
    """
    weight_MG1 = (weight_MG / weight_MG.sum(axis=1, keepdims=True))[..., None]
    centre_M13, centre_after_M13 = (
        (weight_MG1 * points).sum(axis=1, keepdims=True) for points in (before_MG3, after_MG3)
    )
    products_M33 = (weight_MG1 * (before_MG3 - centre_M13)).swapaxes(1, 2) @ (after_MG3 - centre_after_M13)
    u_M33, _, vt_M33 = np.linalg.svd(products_M33)
    v_M33, ut_M33 = vt_M33.swapaxes(1, 2), u_M33.swapaxes(1, 2)
    # no mirror images: the last axis is turned where needed
    v_M33 = v_M33 * np.stack([np.ones(len(v_M33)), np.ones(len(v_M33)), np.linalg.det(v_M33 @ ut_M33)], axis=1)[:, None]
    rotation_M33 = v_M33 @ ut_M33
    shift_M3 = centre_after_M13[:, 0] - (rotation_M33 @ centre_M13.swapaxes(1, 2))[..., 0]
    return Motions(rotation_M33, shift_M3)


def refine(start: Motions, points_N3: np.ndarray, pixels_N2: np.ndarray, camera: Camera) -> Motions:
    """The motion with the least squared distance in pixels between where points are seen and where they should be:
    iterative PnP, from one motion (M = 1). At least 4 points.
    """
    import cv2

    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    turn, _ = cv2.Rodrigues(start.rotation_M33[0])
    turn, shift = cv2.solvePnPRefineLM(
        points_N3.astype(np.float64), pixels_N2.astype(np.float64), matrix, None, turn, start.shift_M3[0].reshape(3, 1).copy()
    )
    rotation_33, _ = cv2.Rodrigues(turn)
    return Motions(rotation_33[None], shift.reshape(1, 3))


@dataclass(frozen=True, eq=False)
class Observed:
    """Points at t, and what was seen of them at t + 1.

    points_N3: metres. landing_N2: pixels. disparity_N: pixels, at t + 1.
    """

    points_N3: np.ndarray
    landing_N2: np.ndarray
    disparity_N: np.ndarray

    def __getitem__(self, chosen: slice | np.ndarray) -> Observed:
        return Observed(self.points_N3[chosen], self.landing_N2[chosen], self.disparity_N[chosen])


def errors(motions: Motions, seen: Observed, camera: Camera, noise: tuple[float, float, float]) -> list[np.ndarray]:
    """Of u, v and disparity, (M, N) float32 each, in their standard deviations; infinite behind the camera."""
    moved_M3N = motions.apply(seen.points_N3)
    depth_MN = moved_M3N[:, 2]
    inverse_MN = np.where(depth_MN > _NEVER, 1 / np.maximum(depth_MN, _NEVER), np.float32(np.inf))
    found = []
    for axis, (focal, centre) in enumerate(((camera.fx, camera.cx), (camera.fy, camera.cy))):
        target_N = (seen.landing_N2[:, axis] - centre) / noise[axis]
        error_MN = moved_M3N[:, axis] * inverse_MN
        error_MN *= np.float32(focal / noise[axis])
        error_MN -= target_N.astype(np.float32)
        found.append(error_MN)
    inverse_MN *= np.float32(camera.fx * camera.baseline / noise[2])
    inverse_MN -= (seen.disparity_N / noise[2]).astype(np.float32)
    return [*found, inverse_MN]


def two_sided(error: np.ndarray) -> np.ndarray:
    """Probability that a normal variable lies at least so many deviations away, 2·(1 - Φ(|e|)). NaN: 0."""
    return np.nan_to_num(scipy.special.erfc(np.abs(error) * np.float32(math.sqrt(0.5))))
