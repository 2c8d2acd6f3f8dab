"""Rigid motions: fitted to points in space, refined on their pixels, and how well they explain what was seen.

M motions · N points · G points of a group. A motion takes a point p, in the left camera's frame at t, to where it is in
that frame at t + 1, R·p + t. Metres.

Source: SF2SE3 (arXiv 2209.08532), as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from stages.motion.camera import Camera
from stages.motion.reliable import Noise

_NEAREST = np.float32(1e-3)  # metres: what is nearer, or behind the camera, is seen nowhere
_LITTLE = 1e-8
_NEVER = 13.0  # deviations: what errs by more has a probability of 0 in float32


@dataclass(frozen=True, eq=False)
class Motions:
    """rotation_M33, shift_M3: R and t, float64."""

    rotation_M33: np.ndarray
    shift_M3: np.ndarray

    @staticmethod
    def of(parts: Sequence[Motions]) -> Motions:
        """All of them, in this order; none of nothing."""
        return Motions(
            np.concatenate([np.zeros((0, 3, 3)), *(part.rotation_M33 for part in parts)]),
            np.concatenate([np.zeros((0, 3)), *(part.shift_M3 for part in parts)]),
        )

    @staticmethod
    def at_rest() -> Motions:
        """One that moves nothing."""
        return Motions(np.eye(3)[None], np.zeros((1, 3)))

    def __len__(self) -> int:
        return len(self.rotation_M33)

    def __getitem__(self, chosen: Sequence[int] | np.ndarray) -> Motions:
        return Motions(self.rotation_M33[chosen], self.shift_M3[chosen])

    def apply(self, points_N3: np.ndarray) -> np.ndarray:
        """Where points are at t + 1, by each motion: float32 (M, 3, N)."""
        rotation_M33, shift_M31 = self.rotation_M33.astype(np.float32), self.shift_M3.astype(np.float32)[..., None]
        moved_M3N: np.ndarray = rotation_M33 @ points_N3.astype(np.float32).T
        moved_M3N += shift_M31
        return moved_M3N


@dataclass(frozen=True, eq=False)
class Observed:
    """Points at t, and what is seen of them at t + 1.

    points_N3: metres, float32. landing_N2: pixels (x, y), float32. disparity_N: at t + 1, pixels, float32; None where
    only the flow counts.
    """

    points_N3: np.ndarray
    landing_N2: np.ndarray
    disparity_N: np.ndarray | None

    def __getitem__(self, chosen: np.ndarray) -> Observed:
        disparity_N = None if self.disparity_N is None else self.disparity_N[chosen]
        return Observed(self.points_N3[chosen], self.landing_N2[chosen], disparity_N)


def fit(before_MG3: np.ndarray, after_MG3: np.ndarray, member_MG: np.ndarray) -> Motions:
    """The motions that take groups of points to others with the least sum of squared distances (Kabsch).

    member_MG: bool, which places of a group are filled; one at least.

    Of those that are as good the one that turns least is taken: two points leave a turn about their line open.
    """
    weight_MG1 = (member_MG / member_MG.sum(axis=1, keepdims=True))[..., None]
    centre_M13, centre_after_M13 = (
        (weight_MG1 * points_MG3).sum(axis=1, keepdims=True) for points_MG3 in (before_MG3, after_MG3)
    )
    products_M33 = (weight_MG1 * (before_MG3 - centre_M13)).swapaxes(1, 2) @ (after_MG3 - centre_after_M13)
    # what is maximised is the trace of R·H, and with this a little of that of R, which is largest for small turns
    products_M33 += _LITTLE * np.linalg.norm(products_M33, axis=(1, 2))[:, None, None] * np.eye(3)
    u_M33, _, vt_M33 = np.linalg.svd(products_M33)
    v_M33 = vt_M33.swapaxes(1, 2).copy()
    v_M33[:, :, 2] *= np.linalg.det(u_M33 @ vt_M33)[:, None]  # a rotation, never a mirror
    rotation_M33 = v_M33 @ u_M33.swapaxes(1, 2)
    shift_M3 = centre_after_M13[:, 0] - (rotation_M33 @ centre_M13.swapaxes(1, 2))[..., 0]
    return Motions(rotation_M33, shift_M3)


def refine(start: Motions, seen: Observed, camera: Camera) -> Motions:
    """The motion near `start`, a single one, that brings points closest to the pixels where they are seen at t + 1:
    iterative PnP, of 4 points at least. The disparity does not count.
    """
    import cv2

    matrix_33 = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    turn_3, _ = cv2.Rodrigues(start.rotation_M33[0])
    turn_3, shift_3 = cv2.solvePnPRefineLM(
        seen.points_N3.astype(np.float64),
        seen.landing_N2.astype(np.float64),
        matrix_33,
        None,
        turn_3,
        start.shift_M3[0].reshape(3, 1).copy(),  # which is written to
    )
    rotation_33, _ = cv2.Rodrigues(turn_3)
    return Motions(rotation_33[None], shift_3.reshape(1, 3))


def errors(motions: Motions, seen: Observed, camera: Camera, noise_M3: np.ndarray | Noise) -> np.ndarray:
    """How far a motion is from what is seen, in standard deviations: float32 (3, M, N), of u, v and disparity, or
    (2, M, N) without disparity. Infinite or NaN where a point would be behind the camera.

    noise_M3: of each motion, or that of all.
    """
    precise_3M1 = (1 / np.atleast_2d(noise_M3)).T[..., None].astype(np.float32)
    moved_M3N = motions.apply(seen.points_N3)
    depth_MN = moved_M3N[:, 2]
    inverse_MN = np.divide(1, depth_MN, out=np.full_like(depth_MN, np.inf), where=depth_MN > _NEAREST)
    errors_3MN = np.empty((2 if seen.disparity_N is None else 3, *inverse_MN.shape), np.float32)
    with np.errstate(invalid="ignore"):  # 0·∞ behind the camera
        for axis, (focal, centre) in enumerate(((camera.fx, camera.cx), (camera.fy, camera.cy))):
            np.multiply(moved_M3N[:, axis], inverse_MN, out=errors_3MN[axis])
            errors_3MN[axis] *= np.float32(focal)
            errors_3MN[axis] -= seen.landing_N2[:, axis] - np.float32(centre)
            errors_3MN[axis] *= precise_3M1[axis]
    if seen.disparity_N is not None:
        np.multiply(inverse_MN, np.float32(camera.fx * camera.baseline), out=errors_3MN[2])
        errors_3MN[2] -= seen.disparity_N
        errors_3MN[2] *= precise_3M1[2]
    return errors_3MN


def explained(errors_3MN: np.ndarray) -> np.ndarray:
    """Probability that nothing but noise is behind the errors, float32 (M, N), 0..1: the product over u, v and
    disparity of 2·(1 - Φ(|e|)). 0 beyond 13 deviations, and where an error is not finite.
    """
    share_MN = np.zeros(errors_3MN.shape[1:], np.float32)
    close_MN = (np.abs(errors_3MN) < _NEVER).all(axis=0)
    share_MN[close_MN] = two_sided(errors_3MN[:, close_MN]).prod(axis=0)
    return share_MN


def farthest(share: float) -> float:
    """Deviations beyond which `two_sided` is less than this."""
    return float(math.sqrt(2) * scipy.special.erfcinv(share))


def two_sided(deviations: np.ndarray) -> np.ndarray:
    """Probability that a normal variable is at least so far from its mean, 2·(1 - Φ(|e|))."""
    found: np.ndarray = scipy.special.erfc(np.abs(deviations) * deviations.dtype.type(math.sqrt(0.5)))
    return found
