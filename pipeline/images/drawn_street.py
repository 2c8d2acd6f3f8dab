"""A short stereo video of a street that is drawn, for those who have none at hand: two cars drive, one is parked, and
the camera drives, too.

Everything is a box or a plane with a pattern of its own, in metres, x to the right, y down, z forward. H, W pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.images.stereo_clips import COLUMNS, PREFIX
from pipeline.storage.atomic import written_whole
from stages.motion.camera import Camera

SIZE = (256, 512)
CAMERA = Camera(fx=320.0, fy=320.0, cx=255.5, cy=112.0, baseline=0.54)
_SPEED = 0.4  # of the camera, metres a picture
_FINER = 2  # as many rays a pixel along each axis, or far patterns would flicker


@dataclass(frozen=True)
class _Box:
    """low, high: corners at the first picture. colour: red, green, blue, 0..1. step: metres a picture."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colour: tuple[float, float, float]
    step: tuple[float, float, float] = (0.0, 0.0, 0.0)


_WORLD = (
    _Box((-40, 1.6, -10), (40, 2.0, 90), (0.36, 0.36, 0.38)),  # road
    _Box((-12, 1.45, -10), (-5.5, 1.6, 90), (0.62, 0.58, 0.52)),  # pavements
    _Box((5.5, 1.45, -10), (12, 1.6, 90), (0.62, 0.58, 0.52)),
    _Box((-30, -7, -10), (-11, 1.6, 60), (0.58, 0.33, 0.25)),  # houses
    _Box((11, -5, -10), (30, 1.6, 45), (0.66, 0.6, 0.4)),
    _Box((-40, -4, 60), (40, 1.6, 70), (0.3, 0.45, 0.28)),  # trees
    _Box((3.2, 0.2, 14), (5.0, 1.6, 18), (0.75, 0.75, 0.8)),  # parked
    _Box((-7.5, 0.0, 14), (-3.5, 1.6, 16), (0.75, 0.15, 0.12), (0.5, 0.0, 0.0)),  # crosses
    _Box((0.2, -0.1, 11), (2.2, 1.6, 15), (0.12, 0.25, 0.7), (-0.25, 0.0, 0.9)),  # overtakes
)


def draw_street(folder: Path, clips: int = 6) -> str:
    """Draw pictures of both cameras into a folder, with a list of the clips; the list as `--images` takes it.

    clips: of two pictures in a row each.
    """
    names = [f"{number:03d}.png" for number in range(clips + 1)]
    for side, offset in (("left", 0.0), ("right", CAMERA.baseline)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            if not (folder / side / name).exists():
                with written_whole(folder / side / name, "wb") as file:
                    Image.fromarray(drawn(number, offset)).save(file, "PNG")
    camera = [str(value) for value in astuple(CAMERA)]
    rows = [[f"left/{now}", f"right/{now}", f"left/{then}", f"right/{then}"] for now, then in pairwise(names)]
    assert COLUMNS[4:] == tuple(field.name for field in fields(CAMERA))
    with written_whole(folder / "clips.csv") as file:
        file.writelines(",".join(row) + "\n" for row in (COLUMNS, *(row + camera for row in rows)))
    return f"{PREFIX}{folder / 'clips.csv'}"


def drawn(number: int, offset: float = 0.0) -> np.ndarray:
    """One picture, uint8 (H, W, 3). number: of it, from 0. offset: of the camera to the right, metres."""
    height, width = SIZE[0] * _FINER, SIZE[1] * _FINER
    y_H, x_W = ((np.arange(n) + 0.5) / _FINER - 0.5 for n in (height, width))
    # A ray has a length of 1 along the camera's axis; across it, it depends on the column or on the row alone.
    rays = (x_W - CAMERA.cx) / CAMERA.fx, (y_H[:, None] - CAMERA.cy) / CAMERA.fy, np.ones((1, 1))
    ray_HW3 = np.stack(np.broadcast_arrays(*rays), axis=2)
    eye = np.array([offset, 0.0, _SPEED * number])
    nearest_HW = np.full((height, width), np.inf)
    sky = np.clip(0.95 - 0.5 * (CAMERA.cy - y_H) / CAMERA.cy, 0, 1)[:, None, None]
    rgb_HW3 = np.broadcast_to(sky * np.array([0.75, 0.85, 1.0]), ray_HW3.shape).copy()
    for place, box in enumerate(_WORLD):
        low, high = (np.array(corner) + number * np.array(box.step) for corner in (box.low, box.high))
        hit_HW, face_HW = _hit(eye, rays, low, high)
        seen_HW = hit_HW < nearest_HW
        nearest_HW[seen_HW] = hit_HW[seen_HW]
        points_N3 = eye + hit_HW[seen_HW][:, None] * ray_HW3[seen_HW] - low
        shade_N = 0.9 + 0.15 * face_HW[seen_HW] - 0.9 * _pattern(points_N3, face_HW[seen_HW], place)
        rgb_HW3[seen_HW] = np.array(box.colour) * (1.4 * shade_N[:, None])
    blocks = rgb_HW3.reshape(SIZE[0], _FINER, SIZE[1], _FINER, 3).mean(axis=(1, 3))
    return np.rint(255 * np.clip(blocks, 0, 1)).astype(np.uint8)


def _hit(
    eye: np.ndarray, rays: Sequence[np.ndarray], low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far along each ray a box begins, infinite where it is missed; and the axis that the face is across."""
    with np.errstate(divide="ignore"):
        edges = [((low[i] - eye[i]) / ray, (high[i] - eye[i]) / ray) for i, ray in enumerate(rays)]
    enter_x, enter_y, enter_z = (np.minimum(*pair) for pair in edges)
    leave_x, leave_y, leave_z = (np.maximum(*pair) for pair in edges)
    enter_HW = np.maximum(np.maximum(enter_x, enter_y), enter_z)
    is_hit = (enter_HW < np.minimum(np.minimum(leave_x, leave_y), leave_z)) & (enter_HW > 0)
    face_HW = np.where(enter_HW == enter_z, 2, np.where(enter_HW == enter_y, 1, 0))
    return np.where(is_hit, enter_HW, np.inf), face_HW


def _pattern(points_N3: np.ndarray, face_N: np.ndarray, place: int) -> np.ndarray:
    """Noise 0..1 at points of a box, of two grains, fixed to the box."""
    others = np.array([[1, 2], [0, 2], [0, 1]])[face_N]
    uv_N2 = np.take_along_axis(points_N3, others, axis=1)
    return 0.6 * _noise(uv_N2 / 0.9, place) + 0.4 * _noise(uv_N2 / 0.25, place + 50)


def _noise(uv_N2: np.ndarray, seed: int) -> np.ndarray:
    """Values 0..1 at the corners of a grid of squares, at random, and bilinear between them."""
    table = np.random.default_rng(seed).random((256, 256))
    cell_N2 = np.floor(uv_N2)
    (u, v), (i, j) = (uv_N2 - cell_N2).T, cell_N2.astype(np.int64).T
    corners = [table[(j + down) % 256, (i + right) % 256] for down in (0, 1) for right in (0, 1)]
    return (corners[0] * (1 - u) + corners[1] * u) * (1 - v) + (corners[2] * (1 - u) + corners[3] * u) * v
