"""From objects on the coarse grid to masks at full resolution.

K objects, the first the background · H, W pixels · n pixels looked at
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special

from stages.motion.grid import REACH, Surroundings
from stages.motion.movers_config import MoversConfig
from stages.motion.reliable import Seen
from stages.motion.rigid_motion import Observed, errors
from stages.motion.rigid_objects import Objects, Points, in_space


@dataclass(frozen=True, eq=False)
class Piece:
    """A connected mask of a mover: its pixels (rows · W + columns, rising), and how certain its motion is, 0..1."""

    pixels: np.ndarray
    certainty: float


def moving(objects: Objects, points: Points, config: MoversConfig) -> np.ndarray:
    """Which objects move unlike the background, bool (K)."""
    move = np.zeros(len(objects), bool)
    for k in range(1, len(objects)):
        own = points.observed.points_N3[objects.assigned_KN[k]]
        if config.background == "released":
            a, b = objects.motions.rotation_M33[[0, k]]
            angle = np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1))
            move[k] = 0.5 * angle < 0.02
        else:
            a, b = objects.motions[[0, k]].apply(own)
            move[k] = np.sqrt(np.square(a - b).sum(0).mean()) >= config.moved
    return move


def pieces(objects: Objects, seen: Seen, points: Points, config: MoversConfig) -> list[Piece]:
    import cv2
    move_K = moving(objects, points, config)
    if not move_K.any():
        return []
    grid = points.surroundings.grid
    H, W = seen.reliable_HW.shape
    assigned_KG = np.zeros((len(objects), grid.count), bool)
    assigned_KG[:, points.cell_N] = objects.assigned_KN
    region = np.zeros((H, W), bool)
    for k in np.flatnonzero(move_K):
        cells = np.flatnonzero(assigned_KG[k])
        r, c = cells // grid.shape[1], cells % grid.shape[1]
        r0, r1, c0, c1 = r.min() - REACH, r.max() + REACH + 1, c.min() - REACH, c.max() + REACH + 1
        f = lambda v, n, side: int(np.clip(-(-v * side // n), 0, side))
        region[f(r0, grid.shape[0], H) : f(r1, grid.shape[0], H), f(c0, grid.shape[1], W) : f(c1, grid.shape[1], W)] = True
    rows, columns = np.nonzero(region & seen.reliable_HW)
    landing = seen.landing_HW2[rows, columns]
    obs = Observed(in_space(np.stack([columns, rows], 1), seen.depth_HW[rows, columns], points.camera), landing, seen.disparity_next_HW[rows, columns])
    ll = points.surroundings.log_density(assigned_KG, rows, columns)
    e = errors(objects.motions, obs, points.camera, points.noise)
    for x, s in zip(e, points.noise):
        ll = ll - 0.5 * np.square(x) - np.float32(np.log(s * np.sqrt(2 * np.pi)))
    label = ll.argmax(axis=0)
    best = ll.max(axis=0)
    with np.errstate(invalid="ignore"):
        sure = 1 / np.exp(ll - best).sum(axis=0)
    label[~np.isfinite(best)] = 0
    found = []
    for k in np.flatnonzero(move_K):
        on = label == k
        mask = np.zeros((H, W), np.uint8)
        mask[rows[on], columns[on]] = 1
        n, lab, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        lab_n = lab[rows, columns]
        for j in range(1, n):
            if stats[j, cv2.CC_STAT_AREA] >= config.smallest:
                mine = on & (lab_n == j)
                found.append(Piece(rows[mine] * W + columns[mine], float(sure[mine].mean())))
    return found
