"""From the objects of a run, on the grid, to masks of what moves, at full resolution.

K objects, the first the background · H, W pixels · n pixels that are looked at

Source: SF2SE3 (arXiv 2209.08532), as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.motion.grid import REACH, Grid
from stages.motion.movers_config import MoversConfig
from stages.motion.reliable import Seen, nearest
from stages.motion.rigid_motion import Observed, errors, explained, farthest
from stages.motion.rigid_objects import Objects, Points, in_space

_TURN = 0.04  # radians, of the released rule
_MOST = 0.5  # of an object's points


@dataclass(frozen=True, eq=False)
class Piece:
    """A connected mask of something that moves.

    pixels: int, row · W + column of each. certainty: that their motion is this and no other, mean over them, 0..1.
    """

    pixels: np.ndarray
    certainty: float


def bodies(objects: Objects, points: Points, config: MoversConfig) -> np.ndarray:
    """Which objects are one body, int (K): each has the number of its body's first object, 0 is the background."""
    body_K = np.arange(len(objects))
    if config.background == "released":
        turn_K = [angle(objects.motions.rotation_M33[0], turned_33) for turned_33 in objects.motions.rotation_M33]
        return np.where(np.array(turn_K) >= _TURN, 0, body_K)
    own_KN = objects.own_KN.astype(np.float32)
    inlier_KN = (points.explained(objects.motions, objects.noise_K3) > config.inlier).astype(np.float32)
    alike_KK = own_KN @ inlier_KN.T >= _MOST * own_KN.sum(axis=1)[:, None]
    for k in range(1, len(objects)):
        if alike_KK[k, 0]:
            body_K[k] = 0
            continue
        others = [j for j in range(1, k) if body_K[j] and (alike_KK[k, j] or alike_KK[j, k])]
        body_K[k] = body_K[others[0]] if others else k
    return body_K


def angle(first_33: np.ndarray, second_33: np.ndarray) -> float:
    """Between two rotations, radians, 0..π."""
    return math.acos(min(1.0, max(-1.0, (float(np.trace(first_33.T @ second_33)) - 1) / 2)))


def pieces(objects: Objects, seen: Seen, points: Points, config: MoversConfig) -> list[Piece] | None:
    """The masks of what moves, those of one body together, larger than `smallest`; None where nothing moves."""
    body_K = bodies(objects, points, config)
    if not body_K.any():
        return None
    judge = _Judge(objects, body_K, seen, points, config)
    region_HW = _around(points.surroundings.grid, judge.assigned_KN[body_K > 0])
    labels = judge.labels(*np.nonzero(region_HW & seen.reliable_HW))
    if config.labels == "corrected":
        rows_n, columns_n = np.nonzero(region_HW & seen.flow_HW & ~seen.reliable_HW)
        labels = labels.joined(judge.labels(rows_n, columns_n, judge.depths(labels, region_HW, rows_n, columns_n)))
    return list(_components(labels, body_K, seen.reliable_HW.shape[1], config.smallest))


@dataclass(frozen=True, eq=False)
class _Labels:
    """Pixels, the object of each, and how certain its body is, 0..1; those without an object are left out."""

    rows_n: np.ndarray
    columns_n: np.ndarray
    object_n: np.ndarray
    certainty_n: np.ndarray

    def joined(self, other: _Labels) -> _Labels:
        return _Labels(
            *(np.concatenate([a, b]) for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )


class _Judge:
    """Which object a pixel is of."""

    def __init__(self, objects: Objects, body_K: np.ndarray, seen: Seen, points: Points, config: MoversConfig) -> None:
        self._objects, self._body_K, self._seen, self._points, self._config = objects, body_K, seen, points, config
        self.assigned_KN = points.on_grid(objects.assigned_KN)

    def labels(self, rows_n: np.ndarray, columns_n: np.ndarray, depth_Kn: np.ndarray | None = None) -> _Labels:
        """Of each pixel the object that is most likely, by its motion and by how near its points are.

        depth_Kn: of each pixel, if it is of this object or that, where it has no reliable depth itself; then flow alone
        counts. "corrected" leaves out pixels that no moving object's motion explains, and those that the most likely
        object's does not.
        """
        if self._config.labels == "corrected":
            errors_3Kn = self._errors(np.flatnonzero(self._body_K), rows_n, columns_n, depth_Kn)
            maybe_n = (np.abs(errors_3Kn) < farthest(self._config.inlier)).all(axis=0).any(axis=0)
            rows_n, columns_n = rows_n[maybe_n], columns_n[maybe_n]
            depth_Kn = None if depth_Kn is None else depth_Kn[:, maybe_n]
        errors_3Kn = self._errors(np.arange(len(self._body_K)), rows_n, columns_n, depth_Kn)
        log_Kn = self._points.surroundings.log_density(self.assigned_KN, rows_n, columns_n)
        for error_Kn, noise_K in zip(errors_3Kn, self._objects.noise_K3.T, strict=False):
            log_Kn -= 0.5 * np.square(error_Kn) + np.log(noise_K * math.sqrt(2 * math.pi))[:, None].astype(np.float32)
        log_Kn[np.isnan(log_Kn)] = -np.inf
        object_n, share_Kn = log_Kn.argmax(axis=0), explained(errors_3Kn)
        if self._config.labels == "corrected":
            known_n = np.take_along_axis(share_Kn, object_n[None], axis=0)[0] > self._config.inlier
        else:
            known_n = (share_Kn > 0).any(axis=0)
        known_n &= np.isfinite(log_Kn.max(axis=0))
        return self._known(rows_n, columns_n, object_n, log_Kn, known_n)

    def _known(
        self, rows_n: np.ndarray, columns_n: np.ndarray, object_n: np.ndarray, log_Kn: np.ndarray, known_n: np.ndarray
    ) -> _Labels:
        object_n, log_Kn = object_n[known_n], log_Kn[:, known_n]
        likelihood_Kn = np.exp(log_Kn - log_Kn.max(axis=0))
        same_Kn = self._body_K[:, None] == self._body_K[object_n]
        certainty_n = (likelihood_Kn * same_Kn).sum(axis=0) / likelihood_Kn.sum(axis=0)
        return _Labels(rows_n[known_n], columns_n[known_n], object_n, certainty_n)

    def depths(self, labels: _Labels, region_HW: np.ndarray, rows_n: np.ndarray, columns_n: np.ndarray) -> np.ndarray:
        """The depth (K, n) that pixels without a reliable one would have, if they were of an object: that of its pixel
        nearest to them, of the background that of the nearest reliable pixel of no moving object. NaN if it has none.
        """
        window = _box(region_HW)
        depth_HW, object_HW = self._seen.depth_HW[window], np.full(region_HW.shape, -1, np.int16)
        object_HW[labels.rows_n, labels.columns_n] = labels.object_n
        object_HW = object_HW[window]
        moving = np.flatnonzero(self._body_K)
        at_rest_HW = self._seen.reliable_HW[window] & ~np.isin(object_HW, moving)
        depth_Kn = np.full((len(self._body_K), len(rows_n)), np.nan, np.float32)
        inside_n = rows_n - window[0].start, columns_n - window[1].start
        if at_rest_HW.any():
            depth_Kn[self._body_K == 0] = nearest(depth_HW, at_rest_HW)[inside_n]
        for k in moving:
            if (object_HW == k).any():
                depth_Kn[k] = nearest(depth_HW, object_HW == k)[inside_n]
        return depth_Kn

    def _errors(
        self, chosen: np.ndarray, rows_n: np.ndarray, columns_n: np.ndarray, depth_Kn: np.ndarray | None
    ) -> np.ndarray:
        """Of the motions of some objects at pixels, (3, chosen, n); (2, chosen, n) where depth_Kn is given."""
        seen, camera, noise_K3 = self._seen, self._points.camera, self._objects.noise_K3
        landing_n2 = seen.landing_HW2[rows_n, columns_n]
        if depth_Kn is None:
            points_n3 = in_space(columns_n, rows_n, seen.depth_HW[rows_n, columns_n], camera)
            observed = Observed(points_n3, landing_n2, seen.disparity_next_HW[rows_n, columns_n])
            return errors(self._objects.motions[chosen], observed, camera, noise_K3[chosen])
        parts = []
        for k in chosen:
            observed = Observed(in_space(columns_n, rows_n, depth_Kn[k], camera), landing_n2, None)
            parts.append(errors(self._objects.motions[[k]], observed, camera, noise_K3[[k]]))
        return np.concatenate(parts, axis=1)


def _around(grid: Grid, assigned_KN: np.ndarray) -> np.ndarray:
    """Rectangles of pixels, bool (H, W), that hold all that points of objects speak for."""
    region_HW = np.zeros(grid.size, bool)
    for assigned_N in assigned_KN:
        cells = np.flatnonzero(assigned_N)
        if len(cells):
            sides = (
                grid.between(axis, int(at.min()) - REACH, int(at.max()) + REACH + 1)
                for axis, at in enumerate(np.divmod(cells, grid.shape[1]))
            )
            region_HW[tuple(sides)] = True
    return region_HW


def _box(region_HW: np.ndarray) -> tuple[slice, slice]:
    """The rectangle around a region."""
    rows, columns = (np.flatnonzero(region_HW.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _components(labels: _Labels, body_K: np.ndarray, width: int, smallest: int) -> Iterator[Piece]:
    """The connected masks of bodies that move, by eight neighbours."""
    import cv2

    body_n = body_K[labels.object_n]
    for body in np.unique(body_n[body_n > 0]):
        rows_n, columns_n = labels.rows_n[body_n == body], labels.columns_n[body_n == body]
        certainty_n, pixel_n = labels.certainty_n[body_n == body], rows_n * width + columns_n
        rows_n, columns_n = rows_n - rows_n.min(), columns_n - columns_n.min()
        mask_HW = np.zeros((rows_n.max() + 1, columns_n.max() + 1), np.uint8)
        mask_HW[rows_n, columns_n] = 1
        component_n = cv2.connectedComponents(mask_HW, connectivity=8)[1][rows_n, columns_n]
        for component in np.flatnonzero(np.bincount(component_n) >= smallest):
            own_n = component_n == component
            yield Piece(pixel_n[own_n], float(certainty_n[own_n].mean()))
