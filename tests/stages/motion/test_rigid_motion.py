"""Rigid motions: against motions that are known, and scipy."""

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.transform import Rotation

from stages.motion.camera import Camera
from stages.motion.rigid_motion import Motions, Observed, errors, explained, farthest, fit, refine, two_sided

CAMERA = Camera(700, 690, 600, 170, 0.5)
NOISE = (2.0, 3.0, 4.0)


def motion(seed: int = 0, turn: float = 0.05) -> Motions:
    rng = np.random.default_rng(seed)
    return Motions(Rotation.from_rotvec(rng.normal(0, turn, 3)).as_matrix()[None], rng.normal(0, 0.3, (1, 3)))


def points(count: int = 40, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform((-5, -1, 6), (5, 2, 30), (count, 3)).astype(np.float32)


def seen_by(motions: Motions, points_N3: np.ndarray) -> Observed:
    """Without noise, in double precision."""
    moved = points_N3 @ motions.rotation_M33[0].T + motions.shift_M3[0]
    pixels = moved[:, :2] / moved[:, 2:] * (CAMERA.fx, CAMERA.fy) + (CAMERA.cx, CAMERA.cy)
    return Observed(
        points_N3, pixels.astype(np.float32), (CAMERA.fx * CAMERA.baseline / moved[:, 2]).astype(np.float32)
    )


def test_groups_of_several_sizes_are_fitted_at_once() -> None:
    true, before = motion(), points(20).reshape(4, 5, 3)
    member = np.arange(5) < np.array([[3], [4], [5], [5]])
    after = before @ true.rotation_M33[0].T + true.shift_M3
    after[~member] = 99.0  # places that are not filled do not count
    found = fit(before, after, member)
    np.testing.assert_allclose(found.rotation_M33, np.repeat(true.rotation_M33, 4, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.shift_M3, np.repeat(true.shift_M3, 4, axis=0), atol=1e-5)


def test_noisy_points_get_the_rotation_that_scipy_finds() -> None:
    before, rng = points(5), np.random.default_rng(2)
    after = before @ motion().rotation_M33[0].T + rng.normal(0, 0.1, before.shape)
    found = fit(before[None], after[None], np.ones((1, 5), bool))
    expected, _ = Rotation.align_vectors(after - after.mean(axis=0), before - before.mean(axis=0))
    np.testing.assert_allclose(found.rotation_M33[0], expected.as_matrix(), atol=1e-6)


def test_there_are_no_mirrors() -> None:
    # flat groups, whose mirror image fits as well as their rotation does
    before = np.random.default_rng(0).normal(0, 1, (50, 5, 3)) * (1, 1, 0)
    found = fit(before, before * (-1, 1, 1), np.ones((50, 5), bool))
    np.testing.assert_allclose(np.linalg.det(found.rotation_M33), 1, atol=1e-9)
    np.testing.assert_allclose(
        found.rotation_M33 @ found.rotation_M33.swapaxes(1, 2), np.eye(3)[None].repeat(50, 0), atol=1e-9
    )


def test_two_points_turn_no_more_than_they_must() -> None:
    """They leave a turn about their line open."""
    before = np.random.default_rng(0).normal(0, 1, (50, 2, 3))
    unmoved = fit(before, before + 1, np.ones((50, 2), bool))
    np.testing.assert_allclose(unmoved.rotation_M33, np.eye(3)[None].repeat(50, 0), atol=1e-6)
    turns = Rotation.random(50, random_state=0)
    after = np.stack([turn.apply(points) for turn, points in zip(turns, before, strict=True)])
    found = fit(before, after, np.ones((50, 2), bool))
    lines, turned = before[:, 1] - before[:, 0], after[:, 1] - after[:, 0]
    np.testing.assert_allclose((found.rotation_M33 @ lines[..., None])[..., 0], turned, atol=1e-6)
    cosines = (lines * turned).sum(axis=1) / np.linalg.norm(lines, axis=1) / np.linalg.norm(turned, axis=1)
    np.testing.assert_allclose(Rotation.from_matrix(found.rotation_M33).magnitude(), np.arccos(cosines), atol=1e-3)


def test_the_true_motion_has_no_errors_and_others_have_those_of_the_pixels() -> None:
    true, seen = motion(), seen_by(motion(), points())
    assert np.abs(errors(true, seen, CAMERA, NOISE)).max() < 1e-3
    other = Motions(true.rotation_M33, true.shift_M3 + np.array((0.1, 0, 0.2)))
    expected = seen_by(other, seen.points_N3)
    u, v, d = errors(other, seen, CAMERA, NOISE)[:, 0]
    difference = (expected.landing_N2 - seen.landing_N2) / NOISE[:2]
    np.testing.assert_allclose(np.stack([u, v], axis=1), difference, atol=1e-3)
    np.testing.assert_allclose(d, (expected.disparity_N - seen.disparity_N) / NOISE[2], atol=1e-3)
    flow_alone = errors(other, Observed(seen.points_N3, seen.landing_N2, None), CAMERA, NOISE)
    np.testing.assert_array_equal(flow_alone, errors(other, seen, CAMERA, NOISE)[:2])


def test_a_point_is_explained_by_the_probability_of_its_errors() -> None:
    deviations = np.linspace(-8, 8, 81)
    np.testing.assert_allclose(two_sided(deviations), 2 * scipy.stats.norm.sf(np.abs(deviations)), rtol=1e-6)
    assert two_sided(np.array([2.0])) == pytest.approx(0.0455, abs=1e-5)
    assert farthest(0.0455) == pytest.approx(2, abs=1e-4)
    assert two_sided(np.array([farthest(0.003)])) == pytest.approx(0.003)
    found = explained(np.float32([[[0.0, 1.0, 1.0, 14.0, np.nan]], [[0.0, 2.0, np.inf, 0.0, 0.0]]]))
    expected = 4 * scipy.stats.norm.sf(1) * scipy.stats.norm.sf(2)
    np.testing.assert_allclose(found, [[1, expected, 0, 0, 0]], rtol=1e-5)


def test_what_would_be_behind_the_camera_is_not_explained() -> None:
    seen = Observed(np.float32([[0, 0, 1], [0, 0, 9]]), np.float32([[600, 170], [600, 170]]), np.float32([300, 35]))
    backwards = Motions(np.eye(3)[None], np.array([[0, 0, -2.0]]))
    share = explained(errors(backwards, seen, CAMERA, NOISE))
    assert share[0, 0] == 0
    assert share[0, 1] > 0


def test_iterative_pnp_finds_the_motion_from_nearby() -> None:
    true, seen = motion(), seen_by(motion(), points())
    start = Motions(
        Rotation.from_rotvec([0.01, -0.02, 0.01]).as_matrix()[None] @ true.rotation_M33, true.shift_M3 + 0.1
    )
    found = refine(start, seen, CAMERA)
    np.testing.assert_allclose(found.rotation_M33, true.rotation_M33, atol=1e-5)
    np.testing.assert_allclose(found.shift_M3, true.shift_M3, atol=1e-4)
    np.testing.assert_allclose(start.shift_M3, true.shift_M3 + 0.1)  # what it starts from is not written over
    # the disparity does not count
    assert refine(start, Observed(seen.points_N3, seen.landing_N2, None), CAMERA).shift_M3 == pytest.approx(
        found.shift_M3
    )


def test_motions_join_and_part() -> None:
    joined = Motions.of([motion(0), motion(1), motion(2)])
    assert len(joined) == 3
    assert len(Motions.of([])) == 0
    np.testing.assert_array_equal(joined[[1]].shift_M3, motion(1).shift_M3)
    np.testing.assert_allclose(
        joined.apply(points())[2].T, points() @ motion(2).rotation_M33[0].T + motion(2).shift_M3, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(Motions.at_rest().apply(points())[0].T, points())
