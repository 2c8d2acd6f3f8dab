"""Rendered stereo clips with exact truth: two cameras that move through a street, and bodies that move in it.

Everything is a plane, a box or an ellipsoid, met by one ray per pixel, so that depth, flow, disparity and instances are
exact, and the pictures are too: solid textures that stay with their bodies. No open3d: a scene takes tenths of a
second.

World frame, that of the left camera at t: x right, y down, z forward, metres. H, W pixels · n rays
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion

GROUND = 1.65  # metres below the camera
SKY = -1
FAR = 1e6  # metres: where the sky is


@dataclass(frozen=True)
class Body:
    """A box or an ellipsoid on the ground, and how it moves from t to t + 1.

    half: half lengths along its own axes x, y, z, metres. turn, turned: radians about the vertical, at t and added till
    t + 1, about its centre. shift: metres till t + 1.
    """

    shape: Literal["box", "ellipsoid"]
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turned: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether it moves in the world."""
        return any(self.shift) or bool(self.turned)

    def pose(self, later: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and centre: world = rotation · own + centre."""
        angle = self.turn + (self.turned if later else 0.0)
        return _about_y(angle), np.array(self.centre) + (np.array(self.shift) if later else 0.0)


@dataclass(frozen=True)
class Ego:
    """Motion of the cameras from t to t + 1: forward by `shift`, turned about the vertical (to the right) and pitched."""

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    pitch: float = 0.0

    def pose(self, later: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and place of the left camera: world = rotation · own + place."""
        if not later:
            return np.eye(3), np.zeros(3)
        return _about_y(self.yaw) @ _about_x(self.pitch), np.array(self.shift)


def _about_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _about_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


@dataclass(frozen=True, eq=False)
class _View:
    """What a camera sees: body of each pixel (index, -1 sky, len(bodies) ground), the point in the body's own frame,
    depth.
    """

    body_HW: np.ndarray
    own_HW3: np.ndarray
    depth_HW: np.ndarray


def _look(bodies: tuple[Body, ...], ego: Ego, camera: Camera, size: tuple[int, int], later: bool, right: bool) -> _View:
    height, width = size
    rotation, place = ego.pose(later)
    x_W, y_H = (np.arange(width) - camera.cx) / camera.fx, (np.arange(height) - camera.cy) / camera.fy
    rays_n3 = np.stack(np.broadcast_arrays(x_W, y_H[:, None], 1.0), axis=-1).reshape(-1, 3) @ rotation.T
    if right:
        place = place + rotation @ np.array([camera.baseline, 0, 0])
    # rays have length 1 along the camera's axis, so what is measured along them is depth
    depth_n = np.full(len(rays_n3), FAR)
    body_n = np.full(len(rays_n3), SKY)
    for index in range(len(bodies) + 1):
        with np.errstate(divide="ignore", invalid="ignore"):
            if index == len(bodies):
                near_n = slice(None)
                hit_n = (GROUND - place[1]) / rays_n3[:, 1]
            else:
                turn, centre = bodies[index].pose(later)
                near_n = _near(bodies[index], (centre - place) @ rotation, rotation.T @ turn, camera, size)
                hit_n = _hit(bodies[index], (place - centre) @ turn, rays_n3[near_n] @ turn)
        nearer_n = np.zeros(len(rays_n3), bool)
        nearer_n[near_n] = (hit_n > 0.1) & (hit_n < depth_n[near_n])
        found_n = np.full(len(rays_n3), np.inf)
        found_n[near_n] = hit_n
        depth_n[nearer_n], body_n[nearer_n] = found_n[nearer_n], index
    points_n3 = place + depth_n[:, None] * rays_n3
    own_n3 = points_n3.copy()
    for index, body in enumerate(bodies):
        turn, centre = body.pose(later)
        own_n3[body_n == index] = (points_n3[body_n == index] - centre) @ turn
    return _View(body_n.reshape(size), own_n3.reshape(*size, 3), depth_n.reshape(size))


def _near(body: Body, centre: np.ndarray, turn: np.ndarray, camera: Camera, size: tuple[int, int]) -> np.ndarray:
    """The rays that may meet a body, indices: those of the rectangle around its corners, all if it passes the camera."""
    corners = centre + (np.array(list(np.ndindex(2, 2, 2))) * 2 - 1) * body.half @ turn.T
    rows, columns = (0, size[0]), (0, size[1])
    if (corners[:, 2] > 0.1).all():
        x, y = (
            corners[:, axis] / corners[:, 2] * focal + middle
            for axis, focal, middle in ((0, camera.fx, camera.cx), (1, camera.fy, camera.cy))
        )
        rows, columns = (
            tuple(np.clip((int(v.min()) - 1, int(v.max()) + 2), 0, side))
            for v, side in zip((y, x), size, strict=True)
        )
    return (np.arange(*rows)[:, None] * size[1] + np.arange(*columns)).ravel()


def _hit(body: Body, place: np.ndarray, rays_n3: np.ndarray) -> np.ndarray:
    """Along rays, in the body's own frame: where they enter it; NaN or inf if they do not."""
    half = np.array(body.half)
    if body.shape == "box":
        sides_2n3 = np.stack([(-half - place) / rays_n3, (half - place) / rays_n3])
        enters_n, leaves_n = sides_2n3.min(axis=0).max(axis=1), sides_2n3.max(axis=0).min(axis=1)
        return np.where(enters_n < leaves_n, enters_n, np.inf)
    rays_n3, place = rays_n3 / half, place / half
    a_n, b_n, c = np.square(rays_n3).sum(axis=1), rays_n3 @ place, place @ place - 1
    return (-b_n - np.sqrt(np.square(b_n) - a_n * c)) / a_n


def _seen_by(view: _View, bodies: tuple[Body, ...], ego: Ego, camera: Camera, later: bool) -> np.ndarray:
    """The pixels (H, W, 2) at which the left camera, at t or t + 1, has the points of a view."""
    points_HW3 = view.own_HW3.copy()
    for index, body in enumerate(bodies):
        turn, centre = body.pose(later)
        here = view.body_HW == index
        points_HW3[here] = view.own_HW3[here] @ turn.T + centre
    rotation, place = ego.pose(later)
    inside_HW3 = (points_HW3 - place) @ rotation
    inside_HW3[..., 2] = np.maximum(inside_HW3[..., 2], 1e-3)  # those behind the camera land far outside
    return inside_HW3[..., :2] / inside_HW3[..., 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy)


@dataclass(frozen=True, eq=False)
class StereoScene:
    """bodies: all, those that move first. motion: exact maps. instances_HW: int32, 0 = the world at rest, i the i-th
    body that moves. depth_HW: float64, metres, of the left picture at t.
    """

    bodies: tuple[Body, ...]
    ego: Ego
    camera: Camera
    motion: ClipMotion
    instances_HW: np.ndarray
    depth_HW: np.ndarray
    views: dict[tuple[bool, bool], _View]

    @property
    def movers(self) -> tuple[Body, ...]:
        """The bodies that move."""
        return tuple(body for body in self.bodies if body.moves)

    def picture(self, later: bool = False, right: bool = False) -> np.ndarray:
        """What a camera sees at t or t + 1, uint8 (H, W, 3)."""
        return _picture(self.views[later, right], len(self.bodies))


def render(bodies: tuple[Body, ...], ego: Ego, camera: Camera, size: tuple[int, int]) -> StereoScene:
    """The clip of a street: ground, sky, and bodies."""
    bodies = tuple(sorted(bodies, key=lambda body: not body.moves))
    looks = {
        (later, right): _look(bodies, ego, camera, size, later, right)
        for later in (False, True)
        for right in (False, True)
    }
    pixels_HW2 = np.stack(np.broadcast_arrays(np.arange(size[1]), np.arange(size[0])[:, None]), axis=-1)
    flows = [
        (_seen_by(looks[later, False], bodies, ego, camera, not later) - pixels_HW2).astype(np.float32)
        for later in (False, True)
    ]
    disparities = {
        key: np.where(view.body_HW == SKY, 0, camera.fx * camera.baseline / view.depth_HW).astype(np.float32)
        for key, view in looks.items()
    }
    moving = sum(body.moves for body in bodies)
    body_HW = looks[False, False].body_HW
    return StereoScene(
        bodies=bodies,
        ego=ego,
        camera=camera,
        motion=ClipMotion(
            *flows, disparities[False, False], disparities[False, True], disparities[True, False], disparities[True, True]
        ),
        instances_HW=np.where((body_HW >= 0) & (body_HW < moving), body_HW + 1, 0).astype(np.int32),
        depth_HW=looks[False, False].depth_HW,
        views=looks,
    )


def _picture(view: _View, ground: int) -> np.ndarray:
    """Grey solid noise of several sizes with a tint for each body; detail finer than a pixel is left out."""
    value_HW = np.full(view.body_HW.shape, 0.9)
    world_HW = view.body_HW != SKY
    own_n3, depth_n, body_n = view.own_HW3[world_HW], view.depth_HW[world_HW], view.body_HW[world_HW]
    value_n = np.full(len(own_n3), 0.45)
    for octave, cell in enumerate((1.6, 0.8, 0.4, 0.2, 0.1, 0.05)):
        visible_n = np.clip(cell * 300 / depth_n / 2, 0, 1)
        value_n += 0.22 * (_solid_noise(own_n3 / cell + 17.3 * body_n[:, None], octave) - 0.5) * visible_n
    value_HW[world_HW] = value_n
    tint_13 = np.array([(1.0, 1.0, 1.0), (1.1, 0.9, 0.8), (0.8, 1.0, 1.1), (0.9, 1.1, 0.9), (1.1, 1.0, 0.8)])
    tint_HW3 = tint_13[np.where(view.body_HW == ground, 0, (view.body_HW + 1) % len(tint_13))]
    return (np.clip(value_HW[..., None] * tint_HW3, 0, 1) * 255).astype(np.uint8)


def _solid_noise(points_n3: np.ndarray, octave: int) -> np.ndarray:
    """Value noise 0..1: random numbers at whole coordinates, trilinear between them."""
    floor_n3 = np.floor(points_n3).astype(np.int64)
    part_n3 = points_n3 - floor_n3
    total_n = np.zeros(len(points_n3))
    for corner in np.ndindex(2, 2, 2):
        at_n3 = floor_n3 + corner
        mixed_n = (at_n3 * (73856093, 19349663, 83492791)).sum(axis=1) + octave * 2654435761
        mixed_n = ((mixed_n ^ (mixed_n >> 15)) * 2246822519) & 0xFFFFFFFF
        mixed_n = ((mixed_n ^ (mixed_n >> 13)) * 3266489917) & 0xFFFFFFFF
        weight_n = np.where(np.array(corner), part_n3, 1 - part_n3).prod(axis=1)
        total_n += weight_n * ((mixed_n ^ (mixed_n >> 16)) & 0xFFFF) / 0xFFFF
    return total_n


KITTI = Camera(721.5, 721.5, 609.6, 172.9, 0.54)


def street(seed: int, movers: int = 3, speed: tuple[float, float] = (0.1, 0.9), driving: bool = True) -> tuple[tuple[Body, ...], Ego]:
    """A street drawn at random: houses at both sides and at the end, three to six parked cars, and so many bodies that
    move by lengths in `speed`, metres, most of them across.
    """
    rng = np.random.default_rng(seed)
    bodies = [
        Body("box", (-rng.uniform(9, 12) - 2, GROUND - 5, 32), (2, 5, 22), rng.uniform(-0.04, 0.04)),
        Body("box", (rng.uniform(9, 12) + 2, GROUND - 4, 34), (2, 4, 22), rng.uniform(-0.04, 0.04)),
        Body("box", (0, GROUND - 6, rng.uniform(52, 66)), (30, 6, 2)),
    ]
    places: list[tuple[float, float, float]] = []
    for index in range(movers + int(rng.integers(3, 7))):
        moves = index < movers
        walks = moves and rng.random() < 0.4
        shape, half = ("ellipsoid", (0.4, 0.9, 0.35)) if walks else ("box", (2.1, rng.uniform(0.7, 1.0), 0.9))
        for _ in range(200):
            z = rng.uniform(7, 12 if walks else 22)
            x = rng.uniform(-0.6, 0.6) * z
            if abs(x) < 8 and all(
                abs(x / z - other_x / other_z) > (half[0] + other_half) / min(z, other_z) for other_x, other_z, other_half in places
            ):
                break
        else:
            continue
        places.append((x, z, half[0]))
        heading = rng.choice([0.0, np.pi]) + rng.uniform(-0.5, 0.5)
        length = rng.uniform(speed[0], min(speed[1], 0.2) if walks else speed[1])
        shift = (length * np.cos(heading), 0.0, -length * np.sin(heading)) if moves else (0.0, 0.0, 0.0)
        turned = rng.uniform(-0.02, 0.02) if moves and not walks else 0.0
        turn = heading if moves else np.pi / 2 + rng.uniform(-0.1, 0.1)
        bodies.append(Body(shape, (x, GROUND - half[1], z), half, turn, shift, turned))
    ego = Ego((rng.uniform(-0.02, 0.02), 0.0, rng.uniform(0.2, 1.0)), rng.uniform(-0.02, 0.02), rng.uniform(-0.003, 0.003))
    return tuple(bodies), ego if driving else Ego()
