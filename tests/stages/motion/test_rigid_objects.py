"""A run of SF2SE3: its greedy selection, the split in space, and equality with a plain transcription."""

from dataclasses import replace

import numpy as np
import pytest
from support import reference_movers as reference
from support.stereo_scenes import SMALL, StereoScene, noisy, small_street

from stages.motion.movers_config import SWITCHES, MoversConfig
from stages.motion.object_masks import bodies
from stages.motion.reliable import Seen, look
from stages.motion.rigid_motion import Motions
from stages.motion.rigid_objects import _refined, _split, find_objects, grid_points, select, soft_iou

# finer than published, since the pictures are smaller
CONFIG = MoversConfig(proposals=25, grid=0.08)
NOISE = (0.4, 0.2)


@pytest.fixture(scope="module")
def scene() -> StereoScene:
    return small_street()


@pytest.fixture(scope="module")
def seen(scene: StereoScene) -> Seen:
    return look(noisy(scene.motion, *NOISE, seed=0), SMALL, CONFIG)


def test_soft_iou_of_hard_masks_is_their_iou() -> None:
    rng = np.random.default_rng(0)
    masks = (rng.random((5, 40)) < 0.4).astype(np.float32)
    masks[4] = 0
    found = soft_iou(masks, masks)
    for i in range(5):
        for j in range(5):
            union = np.maximum(masks[i], masks[j]).sum()
            assert found[i, j] == pytest.approx((masks[i] * masks[j]).sum() / union if union else 0)


def test_what_explains_most_is_chosen_first_and_nothing_twice() -> None:
    shares = np.zeros((5, 1000), np.float32)
    shares[0, :600] = 1
    shares[1, 560:800] = 1  # overlaps 0 by little
    shares[2, :590] = 1  # is 0 nearly
    shares[3, 995:996] = 1  # explains a thousandth
    shares[4, 900:950] = 0.9
    reliable, none = np.ones(1000, bool), shares[:0]
    assert select(shares, none, reliable, 10, CONFIG) == [0, 1, 4]
    assert select(shares, none, reliable, 2, CONFIG) == [0, 1]
    assert select(shares, shares[[2]], reliable, 10, CONFIG) == [1, 4]
    # 0.0009 of 1000 points are below the gain, of 500 above it
    assert select(shares[3:4], none, np.arange(1000) < 500, 10, CONFIG) == [0]
    assert select(shares, shares[[0, 1, 4]], reliable, 10, CONFIG) == []
    assert select(none, shares, reliable, 10, CONFIG) == []


@pytest.mark.parametrize("switch", [None, *SWITCHES[:3]])
def test_as_a_plain_transcription(scene: StereoScene, switch: str | None) -> None:
    config = replace(CONFIG, **{switch: "released"} if switch else {})
    motion = noisy(scene.motion, *NOISE, seed=0)
    seen = look(motion, SMALL, config)
    plain = reference.relying_on(reference.look(motion, SMALL, config), seen.reliable_HW, seen.flow_HW)
    points = grid_points(seen, SMALL, config)
    for run in range(2):
        objects = find_objects(points, config, np.random.default_rng((0, run)))
        expected = reference.one_run(plain, config, np.random.default_rng((0, run)))
        assert len(objects) == len(expected) >= 3
        np.testing.assert_array_equal(points.on_grid(objects.assigned_KN), [one.assigned for one in expected])
        np.testing.assert_array_equal(points.on_grid(objects.own_KN), [one.own for one in expected])
        many = objects.assigned_KN.sum(axis=1) >= 8  # fewer leave much of a motion open
        rotation_K33, shift_K3 = np.array([one.r for one in expected]), np.array([one.t for one in expected])
        np.testing.assert_allclose(objects.motions.rotation_M33[many], rotation_K33[many], atol=1e-4)
        np.testing.assert_allclose(objects.motions.shift_M3[many], shift_K3[many], atol=2e-3)
        share_KN = np.array([one.p[points.cell_N] for one in expected])
        assert many.sum() >= 2
        np.testing.assert_allclose(objects.share_KN[many], share_KN[many], atol=0.01)


def test_the_background_has_the_motion_of_the_world(scene: StereoScene) -> None:
    points = grid_points(look(scene.motion, SMALL, CONFIG), SMALL, CONFIG)
    objects = find_objects(points, CONFIG, np.random.default_rng(0))
    turn, place = scene.ego.pose(later=True)
    np.testing.assert_allclose(objects.motions.rotation_M33[0], turn.T, atol=1e-3)
    np.testing.assert_allclose(objects.motions.shift_M3[0], -turn.T @ place, atol=0.02)


@pytest.mark.parametrize("noise", [(0.0, 0.0), NOISE])
def test_the_background_has_the_noise_of_its_points(scene: StereoScene, noise: tuple[float, float]) -> None:
    """Twice the deviation of what its motion leaves, 0.3 pixels at least; what moves has the noise of the clip."""
    motion = noisy(scene.motion, *noise, seed=0)
    points = grid_points(look(motion, SMALL, CONFIG), SMALL, CONFIG)
    objects = find_objects(points, CONFIG, np.random.default_rng(0))
    wrong_HW2 = motion.flow_HW2 - scene.motion.flow_HW2
    wrong_n2 = points.surroundings.grid.sampled(wrong_HW2)[points.cell_N][objects.assigned_KN[0]]
    for found, wrong_n in zip(objects.noise_K3[0], wrong_n2.T, strict=False):
        assert found == pytest.approx(max(0.3, np.quantile(np.abs(wrong_n), 0.9545)), rel=0.2)
    assert min(points.noise) >= 1
    body_K = bodies(objects, points, CONFIG)
    assert (objects.noise_K3[body_K > 0] == points.noise).all()
    released = replace(CONFIG, background="released")
    assert (find_objects(points, released, np.random.default_rng(0)).noise_K3 == points.noise).all()


def test_what_moves_by_less_than_the_noise_of_the_clip() -> None:
    """A car comes nearer by 0.2 m, a pixel: at the noise of the clip the background's motion explains that."""
    scene = small_street((0.0, 0.0, -0.2))
    points = grid_points(look(scene.motion, SMALL, CONFIG), SMALL, CONFIG)
    car_N = points.surroundings.grid.sampled(scene.instances_HW)[points.cell_N] == 1
    objects = find_objects(points, CONFIG, np.random.default_rng(0))
    assert (points.explained(objects.motions[[0]])[0, car_N] > CONFIG.inlier).mean() > 0.9
    assert objects.assigned_KN[0, car_N].mean() < 0.3
    own = objects.own_KN[bodies(objects, points, CONFIG) > 0]
    assert (own[:, car_N].mean(axis=1) > 0.7).sum() == 1


def test_one_motion_of_two_places_is_two_objects() -> None:
    """A car and a walker that move alike, far from each other."""
    scene = small_street((0.3, 0, 0.02), (0.3, 0, 0.02))
    seen = look(scene.motion, SMALL, CONFIG)
    points = grid_points(seen, SMALL, CONFIG)
    body_N = points.surroundings.grid.sampled(scene.instances_HW)[points.cell_N]
    objects = find_objects(points, CONFIG, np.random.default_rng(0))
    on = [set(body_N[own_N].tolist()) for own_N in objects.own_KN]
    assert {1} in on
    assert {2} in on
    assert {1, 2} not in on


@pytest.mark.parametrize("small", ["corrected", "released"])
def test_fewer_than_four_points_are_no_object(scene: StereoScene, small: str) -> None:
    """The walker's motion is known, and of the walker four points of the grid are reliable, or three."""
    config = replace(CONFIG, small=small)
    seen = look(scene.motion, SMALL, config)
    grid = grid_points(seen, SMALL, config).surroundings.grid
    on_walker = np.flatnonzero(grid.sampled((scene.instances_HW == 2) & seen.reliable_HW))
    turn, place = scene.ego.pose(later=True)
    motion = Motions(turn.T[None], (turn.T @ (np.array(scene.movers[1].shift) - place))[None])
    for kept in (4, 3):
        reliable_HW = np.zeros_like(seen.reliable_HW)
        reliable_HW[grid.pixels(on_walker[:kept])] = True
        points = grid_points(replace(seen, reliable_HW=reliable_HW), SMALL, config)
        share_N = points.explained(motion)[0]
        assert (share_N[points.reliable_N] > 0.9).all()
        assert np.count_nonzero(points.reliable_N) == kept
        objects = _refined(points, _split(points, motion, share_N, points.reliable_N, config))
        assert len(objects) == (0 if (kept, small) == (3, "corrected") else 1)
        if kept == 4:
            assert (points.explained(objects.motions)[0, points.reliable_N] > 0.9).all()
        elif small == "released":  # it is said to stand still before the camera, whatever it does
            np.testing.assert_array_equal(objects.motions.rotation_M33[0], np.eye(3))
            np.testing.assert_array_equal(objects.motions.shift_M3[0], 0)


def test_nothing_is_found_where_no_point_is_reliable(seen: Seen) -> None:
    nothing = replace(seen, reliable_HW=np.zeros_like(seen.reliable_HW))
    for seeds in ("corrected", "released"):
        config = replace(CONFIG, seeds=seeds)
        assert len(find_objects(grid_points(nothing, SMALL, config), config, np.random.default_rng(0))) == 0


def test_points_that_move_at_random_have_no_motion(seen: Seen) -> None:
    rng = np.random.default_rng(0)
    random = replace(
        seen,
        landing_HW2=seen.landing_HW2 + rng.normal(0, 60, seen.landing_HW2.shape).astype(np.float32),
        disparity_next_HW=rng.uniform(4, 40, seen.depth_HW.shape).astype(np.float32),
    )
    assert len(find_objects(grid_points(random, SMALL, CONFIG), CONFIG, np.random.default_rng(0))) == 0
