"""From objects to masks: what moves, which pixels are whose, and equality with a plain transcription."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation
from support import reference_movers as reference
from support.stereo_scenes import (
    GROUND,
    SMALL,
    SMALL_SIZE,
    Body,
    Ego,
    StereoScene,
    noisy,
    overlap,
    render,
    small_street,
)

from stages.motion.movers_config import SWITCHES, MoversConfig
from stages.motion.object_masks import Piece, angle, bodies, pieces
from stages.motion.reliable import Seen, look
from stages.motion.rigid_motion import Motions, Observed
from stages.motion.rigid_objects import Objects, Points, find_objects, grid_points

CONFIG = MoversConfig(proposals=25, grid=0.08, smallest=32)
OPEN = replace(CONFIG, top=0, bottom=0)


@pytest.fixture(scope="module")
def scene() -> StereoScene:
    return small_street()


def mask_of(piece: Piece, size: tuple[int, int] = SMALL_SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask.ravel()[piece.pixels] = True
    return mask


def found_in(scene: StereoScene, config: MoversConfig) -> list[Piece]:
    seen = look(scene.motion, SMALL, config)
    points = grid_points(seen, SMALL, config)
    return pieces(find_objects(points, config, np.random.default_rng(0)), seen, points, config) or []


def wall(motions: Callable[[np.ndarray], np.ndarray], known: float = 1.0) -> tuple[Seen, Points]:
    """A wall 10 m away of which each pixel moves by a motion of its own; `known` of the pixels have a disparity.

    motions: from points (…, 3) to where they are at t + 1.
    """
    y, x = np.mgrid[: SMALL_SIZE[0], : SMALL_SIZE[1]].astype(float)
    before = np.stack([(x - SMALL.cx) / SMALL.fx * 10, (y - SMALL.cy) / SMALL.fy * 10, np.full_like(x, 10)], axis=-1)
    after = motions(before)
    landing = after[..., :2] / after[..., 2:] * (SMALL.fx, SMALL.fy) + (SMALL.cx, SMALL.cy)
    reliable = np.random.default_rng(0).random(SMALL_SIZE) < known
    seen = Seen(
        np.where(reliable, 10, np.nan).astype(np.float32),
        landing.astype(np.float32),
        np.where(reliable, SMALL.fx * SMALL.baseline / after[..., 2], np.nan).astype(np.float32),
        np.ones(SMALL_SIZE, bool),
        reliable,
        (2.0, 2.0, 2.0),
    )
    return seen, grid_points(seen, SMALL, OPEN)


def objects_of(points: Points, parts: list[tuple[Motions, np.ndarray]]) -> Objects:
    """Objects with known motions and points, bool maps (H, W)."""
    motions = Motions.of([motion for motion, _ in parts])
    on_KN = np.stack([points.surroundings.grid.sampled(map_)[points.cell_N] for _, map_ in parts])
    noise_K3 = np.tile(points.noise, (len(parts), 1))
    return Objects(motions, on_KN, on_KN, points.explained(motions) * points.spread(on_KN), noise_K3)


def moved(shift: tuple[float, float, float] = (0, 0, 0), turn: float = 0.0, about: float = 10.0) -> Motions:
    """A shift, and a turn about the vertical through a point ahead."""
    rotation = Rotation.from_rotvec([0, turn, 0]).as_matrix()
    centre = np.array([0, 0, about])
    return Motions(rotation[None], (centre - rotation @ centre + shift)[None])


LEFT, RIGHT = (np.broadcast_to(np.arange(SMALL_SIZE[1]) // 208 == half, SMALL_SIZE) for half in (0, 1))
DRIVE = moved((0, 0, -0.4), 0.01)


@pytest.mark.parametrize(
    ("motion", "far", "corrected", "released"),
    [
        (moved((0.5, 0, -0.4), 0.01), False, True, True),  # moves across, and does not turn
        (moved((0, 0, -0.4), 0.08), True, True, False),  # turns against the background by more than 0.04
        (moved((0.5, 0, -0.4), 0.08), False, True, False),  # both
        (DRIVE, False, False, True),  # a part of the background, which the released rule takes for an object
        (moved((0.02, 0, -0.4), 0.01), False, False, True),  # half a pixel
        (moved((0.02, 0, -0.4), 0.055), False, False, False),  # a turn that moves nothing by more than a pixel
    ],
)
def test_what_moves_unlike_the_background(motion: Motions, far: bool, corrected: bool, released: bool) -> None:
    """A part of the wall has a motion of its own: at the axis about which it turns, or far from it."""
    own = RIGHT & ((np.arange(SMALL_SIZE[1]) > 300) == far) & (far | (np.arange(SMALL_SIZE[1]) < 260))

    def both(before: np.ndarray) -> np.ndarray:
        after = [(before @ m.rotation_M33[0].T + m.shift_M3[0]) for m in (DRIVE, motion)]
        return np.where(own[..., None], after[1], after[0])

    _, points = wall(both)
    objects = objects_of(points, [(DRIVE, ~own), (motion, own)])
    for background, moves in (("corrected", corrected), ("released", released)):
        config = replace(OPEN, background=background)
        assert bodies(objects, points, config).tolist() == [0, int(moves)], background


def test_turns_are_measured_between_rotations() -> None:
    first, second = (Rotation.from_rotvec(v).as_matrix() for v in ([0, 0.3, 0], [0, 0.3 + 0.037, 0]))
    assert angle(first, second) == pytest.approx(0.037, rel=1e-6)
    assert angle(first, first) == pytest.approx(0, abs=1e-6)
    assert angle(np.eye(3), np.diag([-1.0, 1, -1])) == np.pi


def test_objects_that_move_alike_are_one_body() -> None:
    """A long van of which the middle has no reliable pixels: two objects with motions that differ by noise."""
    van = moved((0.5, 0, 0))
    front, rear, other = (np.zeros(SMALL_SIZE, bool) for _ in range(3))
    front[40:90, 60:140], rear[40:90, 200:280], other[40:90, 330:380] = True, True, True

    def each(before: np.ndarray) -> np.ndarray:
        after = np.where((front | rear)[..., None], before + np.array((0.5, 0, 0)), before)
        return np.where(other[..., None], before - np.array((0.6, 0, 0)), after)

    _, points = wall(each)
    rest = ~front & ~rear & ~other
    parts = [(moved(), rest), (van, front), (moved((-0.6, 0, 0)), other), (moved((0.48, 0.01, 0), 0.003), rear)]
    objects = objects_of(points, parts)
    assert bodies(objects, points, OPEN).tolist() == [0, 1, 2, 1]
    assert bodies(objects, points, replace(OPEN, background="released")).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("labels", ["corrected", "released"])
def test_pixels_without_disparity_are_judged_by_their_flow(labels: str) -> None:
    """A square of a wall moves to the right; nine of ten pixels have no disparity."""
    square = np.zeros(SMALL_SIZE, bool)
    square[30:100, 100:220] = True

    def each(before: np.ndarray) -> np.ndarray:
        return before + np.where(square[..., None], (0.5, 0, 0), 0)

    seen, points = wall(each, known=0.1)
    objects = objects_of(points, [(moved(), ~square), (moved((0.5, 0, 0)), square)])
    found = pieces(objects, seen, points, replace(OPEN, labels=labels, smallest=1))
    assert found is not None
    if labels == "corrected":
        (piece,) = found
        assert overlap(mask_of(piece), square) == 1
        assert piece.certainty > 0.99
    else:
        covered = np.logical_or.reduce([mask_of(piece) for piece in found])
        np.testing.assert_array_equal(covered & square, square & seen.reliable_HW)


@pytest.mark.parametrize("labels", ["corrected", "released"])
def test_what_no_motion_explains_is_no_object(labels: str) -> None:
    """Beside an object that moves there is one that moves by 12 pixels more, of which no motion is known."""
    known, unknown = (np.zeros(SMALL_SIZE, bool) for _ in range(2))
    known[30:100, 100:180], unknown[30:100, 180:220] = True, True

    def each(before: np.ndarray) -> np.ndarray:
        return before + np.where(known[..., None], (0.5, 0, 0), 0) + np.where(unknown[..., None], (1.0, 0, 0), 0)

    seen, points = wall(each)
    objects = objects_of(points, [(moved(), ~known & ~unknown), (moved((0.5, 0, 0)), known)])
    (piece,) = pieces(objects, seen, points, replace(OPEN, labels=labels)) or []
    assert (mask_of(piece) & unknown).any() == (labels == "released")
    assert overlap(mask_of(piece) & ~unknown, known) == 1


def test_pieces_are_connected_by_eight_neighbours_and_not_too_small() -> None:
    """Two squares that touch at a corner, a third that does not, and one that is too small."""
    squares = np.zeros(SMALL_SIZE, bool)
    squares[30:60, 100:130] = squares[60:90, 130:160] = squares[30:60, 200:230] = squares[80:84, 230:234] = True

    def each(before: np.ndarray) -> np.ndarray:
        return before + np.where(squares[..., None], (0.5, 0, 0), 0)

    seen, points = wall(each)
    objects = objects_of(points, [(moved(), ~squares), (moved((0.5, 0, 0)), squares)])
    found = pieces(objects, seen, points, OPEN) or []
    assert sorted(len(piece.pixels) for piece in found) == [900, 1800]
    expected, _ = scipy.ndimage.label(squares, np.ones((3, 3)))
    for piece in found:
        (number,) = np.unique(expected[mask_of(piece)])
        np.testing.assert_array_equal(mask_of(piece), expected == number)


def test_nothing_moves() -> None:
    seen, points = wall(lambda before: before)
    objects = objects_of(points, [(moved(), LEFT), (moved(), RIGHT)])
    assert pieces(objects, seen, points, OPEN) is None
    assert pieces(objects[[0]], seen, points, OPEN) is None


def test_a_body_that_turns_is_found_by_what_it_explains() -> None:
    """A carousel: it only turns about its centre, by more than the released rule lets pass."""
    carousel = Body("box", (0, GROUND - 1.2, 9), (2.4, 1.2, 0.4), turned=0.4)
    scene = render([carousel, Body("box", (0, GROUND - 6, 30), (30, 6, 2))], Ego((0, 0, 0.2)), SMALL, SMALL_SIZE)
    found = found_in(scene, CONFIG)
    assert max(overlap(mask_of(piece), scene.instances_HW == 1) for piece in found) > 0.35, "its middle stands still"
    assert not found_in(scene, replace(CONFIG, background="released"))


@pytest.mark.parametrize("switch", [None, "labels", "background", "all", "inlier"])
def test_as_a_plain_transcription(scene: StereoScene, switch: str | None) -> None:
    switched = SWITCHES if switch == "all" else [switch] * (switch in SWITCHES)
    config = replace(CONFIG, **dict.fromkeys(switched, "released"))
    if switch == "inlier":
        config = replace(config, inlier=0.003)  # three deviations
    motion = noisy(scene.motion, 0.4, 0.2, seed=0)
    for map_ in (motion.disparity_HW, motion.disparity_next_HW):
        map_[50:70, 150:165] = np.nan  # a hole in the car
    seen = look(motion, SMALL, config)
    plain = reference.relying_on(reference.look(motion, SMALL, config), seen.reliable_HW, seen.flow_HW)
    points = grid_points(seen, SMALL, config)
    objects = find_objects(points, config, np.random.default_rng((0, 0)))
    expected_objects = reference.one_run(plain, config, np.random.default_rng((0, 0)))
    assert bodies(objects, points, config).tolist() == reference.bodies(expected_objects, plain, config)
    found = pieces(objects, seen, points, config) or []
    expected = reference.run_masks(expected_objects, plain, config)
    assert len(found) >= 1
    # pieces of about the smallest size may be there or not, as single pixels decide
    for pieces_, others in (
        ([(mask_of(piece), piece.certainty) for piece in found], [(one.mask, one.score) for one in expected]),
        ([(one.mask, one.score) for one in expected], [(mask_of(piece), piece.certainty) for piece in found]),
    ):
        for mask, certainty in pieces_:
            if mask.sum() < 80:
                continue
            best = max(others, key=lambda other: overlap(mask, other[0]))
            assert overlap(mask, best[0]) > 0.97
            assert certainty == pytest.approx(best[1], abs=0.02)


def test_observed_points_can_be_without_disparity() -> None:
    seen = Observed(np.ones((3, 3), np.float32), np.zeros((3, 2), np.float32), None)
    assert seen[np.array([True, False, True])].disparity_N is None
