"""Rendered stereo clips with exact truth: two cameras move along a street, and bodies move in it.

All is a plane, a box or an ellipsoid and met by one ray per pixel, so depth, flow, disparity and instances are exact.
Pictures have solid textures, which stay with their bodies. There is no open3d in it, whose import takes seconds.

World frame: that of the left camera at t; x right, y down, z forward, metres. H, W pixels · n rays
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import scipy.ndimage

from stages.motion.camera import Camera
from stages.motion.clip_motion import MAPS, ClipMotion

KITTI = Camera(721.5, 721.5, 609.6, 172.9, 0.54)
KITTI_SIZE = (375, 1242)
GROUND = 1.65  # metres below the cameras
SKY = -1
_FAR = 1e6  # metres, of the sky
_NEAR = 0.1
_CELLS = (1.6, 0.8, 0.4, 0.2, 0.1, 0.05)  # metres, of the textures' noise
_TINTS = np.array([(1.0, 1.0, 1.0), (1.1, 0.9, 0.8), (0.8, 1.0, 1.1), (0.9, 1.1, 0.9), (1.1, 1.0, 0.8)])


@dataclass(frozen=True)
class Body:
    """A box or an ellipsoid, and how it moves from t to t + 1.

    half: half lengths along its own x, y, z, metres. turn: radians about the vertical at t; turned: those added till
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
        """Whether it is elsewhere at t + 1."""
        return any(self.shift) or bool(self.turned)

    def pose(self, later: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and centre: world = rotation · own + centre."""
        if not later:
            return _about_y(self.turn), np.array(self.centre)
        return _about_y(self.turn + self.turned), np.array(self.centre) + self.shift


@dataclass(frozen=True)
class Ego:
    """Motion of the cameras from t to t + 1: metres, and radians to the right and up."""

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    pitch: float = 0.0

    def pose(self, later: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and place of the left camera: world = rotation · own + place."""
        if not later:
            return np.eye(3), np.zeros(3)
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        return _about_y(self.yaw) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), np.array(self.shift)


@dataclass(frozen=True, eq=False)
class View:
    """What a camera sees. body_HW: index of the body, `SKY`, or the number of bodies for the ground. own_HW3: the point
    in the body's own frame, metres. depth_HW: metres.
    """

    body_HW: np.ndarray
    own_HW3: np.ndarray
    depth_HW: np.ndarray


@dataclass(frozen=True, eq=False)
class StereoScene:
    """bodies: those that move first. motion: exact maps; what is hidden at t + 1 has the flow to where it is hidden.
    instances_HW: int32, 0 = nothing that moves, i = the body i - 1. views: by (later, right).
    """

    bodies: tuple[Body, ...]
    ego: Ego
    camera: Camera
    motion: ClipMotion
    instances_HW: np.ndarray
    views: dict[tuple[bool, bool], View]

    @property
    def depth_HW(self) -> np.ndarray:
        """Of the left picture at t, metres, float64."""
        return self.views[False, False].depth_HW

    @property
    def movers(self) -> tuple[Body, ...]:
        """The bodies that move."""
        return tuple(body for body in self.bodies if body.moves)

    def picture(self, later: bool = False, right: bool = False) -> np.ndarray:
        """What a camera sees at t or t + 1, uint8 (H, W, 3). It takes seconds at KITTI's size."""
        return _picture(self.views[later, right], len(self.bodies))


def render(
    bodies: Sequence[Body], ego: Ego | None = None, camera: Camera = KITTI, size: tuple[int, int] = KITTI_SIZE
) -> StereoScene:
    """The clip of a street: ground, sky and bodies."""
    bodies, ego = tuple(sorted(bodies, key=lambda body: not body.moves)), ego or Ego()
    views = {
        (later, right): _view(bodies, ego, camera, size, later, right)
        for later in (False, True)
        for right in (False, True)
    }
    pixels_HW2 = np.stack(np.broadcast_arrays(np.arange(size[1]), np.arange(size[0])[:, None]), axis=-1)
    flows = [
        (_pixels(views[later, False], bodies, ego, camera, not later) - pixels_HW2).astype(np.float32)
        for later in (False, True)
    ]
    disparities = [
        np.where(view.body_HW == SKY, 0, camera.fx * camera.baseline / view.depth_HW).astype(np.float32)
        for view in views.values()
    ]
    body_HW = views[False, False].body_HW
    moves_HW = (body_HW >= 0) & (body_HW < sum(body.moves for body in bodies))
    instances_HW = np.where(moves_HW, body_HW + 1, 0).astype(np.int32)
    return StereoScene(bodies, ego, camera, ClipMotion(*flows, *disparities), instances_HW, views)


def _about_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _view(bodies: tuple[Body, ...], ego: Ego, camera: Camera, size: tuple[int, int], later: bool, right: bool) -> View:
    rotation, place = ego.pose(later)
    x_W, y_H = (np.arange(size[1]) - camera.cx) / camera.fx, (np.arange(size[0]) - camera.cy) / camera.fy
    # of length 1 along the camera's axis, so that what is measured along them is depth
    rays_n3 = np.stack(np.broadcast_arrays(x_W, y_H[:, None], 1.0), axis=-1).reshape(-1, 3) @ rotation.T
    if right:
        place = place + rotation @ (camera.baseline, 0, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ground_n = (GROUND - place[1]) / rays_n3[:, 1]
        met_n = (ground_n > _NEAR) & (ground_n < _FAR)
        depth_n, body_n = np.where(met_n, ground_n, _FAR), np.where(met_n, len(bodies), SKY)
        for index, body in enumerate(bodies):
            turn, centre = body.pose(later)
            near = _near(body, (centre - place) @ rotation, rotation.T @ turn, camera, size)
            hit = _hit(body, (place - centre) @ turn, rays_n3[near] @ turn)
            nearer = (hit > _NEAR) & (hit < depth_n[near])
            depth_n[near[nearer]], body_n[near[nearer]] = hit[nearer], index
    own_n3 = place + depth_n[:, None] * rays_n3
    for index, body in enumerate(bodies):
        turn, centre = body.pose(later)
        own_n3[body_n == index] = (own_n3[body_n == index] - centre) @ turn
    return View(body_n.reshape(size), own_n3.reshape(*size, 3), depth_n.reshape(size))


def _near(body: Body, centre: np.ndarray, turn: np.ndarray, camera: Camera, size: tuple[int, int]) -> np.ndarray:
    """The rays that may meet a body: those in the rectangle around its corners; all if one is beside the camera."""
    corners = centre + ((np.array(list(np.ndindex(2, 2, 2))) * 2 - 1) * body.half) @ turn.T
    first, last = np.zeros(2, int), np.array(size)
    if (corners[:, 2] > _NEAR).all():
        pixels = corners[:, 1::-1] / corners[:, 2:] * (camera.fy, camera.fx) + (camera.cy, camera.cx)
        first, last = np.clip([pixels.min(axis=0) - 1, pixels.max(axis=0) + 2], 0, size).astype(int)
    return (np.arange(first[0], last[0])[:, None] * size[1] + np.arange(first[1], last[1])).ravel()


def _hit(body: Body, place: np.ndarray, rays_n3: np.ndarray) -> np.ndarray:
    """How far along rays from a place, in the body's own frame, they enter it; NaN or infinite if they do not."""
    half = np.array(body.half)
    if body.shape == "box":
        sides_2n3 = np.stack([(-half - place) / rays_n3, (half - place) / rays_n3])
        enter_n, leave_n = sides_2n3.min(axis=0).max(axis=1), sides_2n3.max(axis=0).min(axis=1)
        return np.where(enter_n < leave_n, enter_n, np.inf)
    rays_n3, place = rays_n3 / half, place / half
    a_n, b_n, c = np.square(rays_n3).sum(axis=1), rays_n3 @ place, place @ place - 1
    return (-b_n - np.sqrt(np.square(b_n) - a_n * c)) / a_n


def _pixels(view: View, bodies: tuple[Body, ...], ego: Ego, camera: Camera, later: bool) -> np.ndarray:
    """Where the left camera has the points of a view at t or t + 1: (H, W, 2), x and y."""
    points_HW3 = view.own_HW3.copy()
    for index, body in enumerate(bodies):
        turn, centre = body.pose(later)
        points_HW3[view.body_HW == index] = view.own_HW3[view.body_HW == index] @ turn.T + centre
    rotation, place = ego.pose(later)
    points_HW3 = (points_HW3 - place) @ rotation
    points_HW3[..., 2] = np.maximum(points_HW3[..., 2], 1e-3)  # what is behind the camera lands far outside
    return points_HW3[..., :2] / points_HW3[..., 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy)


def _picture(view: View, ground: int) -> np.ndarray:
    """Noise of several sizes, as far as pixels can show it, with a tint for each body."""
    world_HW = view.body_HW != SKY
    own_n3, depth_n, body_n = view.own_HW3[world_HW], view.depth_HW[world_HW], view.body_HW[world_HW]
    grey_n = np.full(len(own_n3), 0.45)
    for octave, cell in enumerate(_CELLS):
        shown_n = np.clip(150 * cell / depth_n, 0, 1)
        grey_n += 0.22 * (_solid_noise(own_n3 / cell + 17.3 * body_n[:, None], octave) - 0.5) * shown_n
    rgb_HW3 = np.full((*view.body_HW.shape, 3), 0.9)
    rgb_HW3[world_HW] = grey_n[:, None] * _TINTS[np.where(body_n == ground, 0, (body_n + 1) % len(_TINTS))]
    return (np.clip(rgb_HW3, 0, 1) * 255).astype(np.uint8)


def _solid_noise(points_n3: np.ndarray, octave: int) -> np.ndarray:
    """Random numbers 0..1 at whole coordinates, and between them the trilinear mean."""
    floor_n3 = np.floor(points_n3).astype(np.int64)
    part_n3 = points_n3 - floor_n3
    total_n = np.zeros(len(points_n3))
    for corner in np.ndindex(2, 2, 2):
        hash_n = ((floor_n3 + corner) * (73856093, 19349663, 83492791)).sum(axis=1) + octave * 2654435761
        for factor in (2246822519, 3266489917):
            hash_n = ((hash_n ^ (hash_n >> 15)) * factor) & 0xFFFFFFFF
        total_n += np.where(corner, part_n3, 1 - part_n3).prod(axis=1) * ((hash_n >> 8) & 0xFFFF) / 0xFFFF
    return total_n


def street(
    seed: int,
    movers: int = 3,
    speed: tuple[float, float] = (0.1, 0.9),
    turn: float = 0.02,
    driving: bool = True,
    along: bool = False,
) -> tuple[tuple[Body, ...], Ego]:
    """A street drawn at random: houses at the sides and at the end, three to six parked cars, and so many cars and
    walkers that move by lengths in `speed`, metres; walkers by 0.2 at most. Cars turn by up to `turn`, radians.

    driving: the cameras go 0.2 to 1 m forward and turn a little; else they stand still.
    along: bodies move along the street, within half a radian; else across it.
    """
    rng = np.random.default_rng(seed)
    bodies = [
        Body("box", (-rng.uniform(11, 14), GROUND - 5, 32), (2, 5, 22), rng.uniform(-0.04, 0.04)),
        Body("box", (rng.uniform(11, 14), GROUND - 4, 34), (2, 4, 22), rng.uniform(-0.04, 0.04)),
        Body("box", (0, GROUND - 6, rng.uniform(52, 66)), (30, 6, 2)),
    ]
    taken: list[tuple[float, float, float]] = []
    for index in range(movers + int(rng.integers(3, 7))):
        moves = index < movers
        walks = moves and rng.random() < 0.4
        half = (0.4, 0.9, 0.35) if walks else (2.1, rng.uniform(0.7, 1.0), 0.9)
        place = _free_place(rng, half[0], 12 if walks else 22, taken)
        if place is None:
            continue
        taken.append((*place, half[0]))
        heading = rng.choice([0.0, np.pi]) + rng.uniform(-0.5, 0.5) + (np.pi / 2 if along else 0.0)
        length = rng.uniform(speed[0], min(speed[1], 0.2) if walks else speed[1]) if moves else 0.0
        bodies.append(
            Body(
                "ellipsoid" if walks else "box",
                (place[0], GROUND - half[1], place[1]),
                half,
                heading if moves else np.pi / 2 + rng.uniform(-0.1, 0.1),
                (length * np.cos(heading), 0.0, -length * np.sin(heading)) if moves else (0.0, 0.0, 0.0),
                rng.uniform(-turn, turn) if moves and not walks else 0.0,
            )
        )
    ego = Ego((rng.uniform(-0.02, 0.02), 0, rng.uniform(0.2, 1)), rng.uniform(-0.02, 0.02), rng.uniform(-0.003, 0.003))
    return tuple(bodies), ego if driving else Ego()


def _free_place(
    rng: np.random.Generator, half: float, farthest: float, taken: Sequence[tuple[float, float, float]]
) -> tuple[float, float] | None:
    """x and z where a body hides none of those before it; None if 200 trials found none."""
    for _ in range(200):
        z = rng.uniform(7, farthest)
        x = rng.uniform(-0.6, 0.6) * z
        apart = (abs(x / z - other_x / other_z) * min(z, other_z) > half + other for other_x, other_z, other in taken)
        if abs(x) < 8 and all(apart):
            return x, z
    return None


def noisy(motion: ClipMotion, flow: float, disparity: float, seed: int) -> ClipMotion:
    """Maps with normal errors of these deviations in pixels, half of their variance smooth over about 16 pixels, half
    from pixel to pixel. Errors of one seed differ in strength alone.
    """
    rng = np.random.default_rng(seed)

    def errors_HW(size: tuple[int, ...]) -> np.ndarray:
        smooth = scipy.ndimage.gaussian_filter(rng.standard_normal((-(-size[0] // 8), -(-size[1] // 8))), 2)
        smooth_HW = cv2.resize(smooth / smooth.std(), size[1::-1], interpolation=cv2.INTER_CUBIC)
        return ((smooth_HW + rng.standard_normal(size[:2])) * np.sqrt(0.5)).astype(np.float32)

    maps = []
    for map_ in (getattr(motion, name) for name in MAPS):
        if map_.ndim == 3:
            maps.append(map_ + np.float32(flow) * np.stack([errors_HW(map_.shape) for _ in range(2)], axis=-1))
        else:
            maps.append(np.maximum(map_ + np.float32(disparity) * errors_HW(map_.shape), 0))
    return ClipMotion(*maps)


@dataclass(frozen=True)
class Judged:
    """ious: of each mover that can be asked for, with the best mask. false: masks that are no mover."""

    ious: tuple[float, ...]
    false: int

    def found(self, least: float = 0.5) -> int:
        """Movers that are found."""
        return sum(iou >= least for iou in self.ious)


def judge(masks_MHW: np.ndarray, scene: StereoScene, surface: float = 0.65, least: float = 0.5) -> Judged:
    """Masks against the truth. A mover is asked for if what is seen of it has so many square metres facing the camera.
    One that is not is no matter: a mask that is mostly on it is neither right nor false.
    """
    pixel_HW = np.square(scene.depth_HW) / (scene.camera.fx * scene.camera.fy)
    truths = [scene.instances_HW == number for number in range(1, len(scene.movers) + 1)]
    asked = [truth_HW for truth_HW in truths if pixel_HW[truth_HW].sum() >= surface]
    ious = [[overlap(truth_HW, mask_HW) for mask_HW in masks_MHW] for truth_HW in asked]
    right = {int(np.argmax(row)) for row in ious if max(row, default=0) >= least}
    small = [truth_HW for truth_HW in truths if pixel_HW[truth_HW].sum() < surface]
    false = [
        place
        for place, mask_HW in enumerate(masks_MHW)
        if place not in right and not any(truth_HW[mask_HW].mean() > 0.5 for truth_HW in small)
    ]
    return Judged(tuple(max(row, default=0.0) for row in ious), len(false))


def overlap(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    """IoU of two masks; 0 of two empty ones."""
    union = np.count_nonzero(first_HW | second_HW)
    return np.count_nonzero(first_HW & second_HW) / union if union else 0.0


SMALL = Camera(240, 240, 207.5, 58, 0.54)
SMALL_SIZE = (128, 416)


def small_street(
    car: tuple[float, float, float] = (0.3, 0.0, 0.02), walker: tuple[float, float, float] = (-0.35, 0.0, 0.0)
) -> StereoScene:
    """A car and a walker that move so far, metres, a house at the left and one at the end; the cameras drive. A tenth
    of KITTI's pixels, for tests.
    """
    bodies = (
        Body("box", (-2, GROUND - 0.8, 9), (1.4, 0.8, 0.9), 0.1, car),
        Body("ellipsoid", (3, GROUND - 0.9, 8), (0.5, 0.9, 0.4), 0.0, walker),
        Body("box", (0, GROUND - 6, 20), (30, 6, 2)),
        Body("box", (-9, GROUND - 4, 14), (2, 4, 8)),
    )
    return render(bodies, Ego((0, 0, 0.3), 0.004), SMALL, SMALL_SIZE)
