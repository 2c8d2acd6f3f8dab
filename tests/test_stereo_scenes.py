"""The rendered stereo clips: their maps against points projected one by one, their pictures against the maps."""

import cv2
import numpy as np
import pytest
from support.stereo_scenes import (
    GROUND,
    KITTI,
    SMALL,
    SMALL_SIZE,
    Body,
    Ego,
    StereoScene,
    judge,
    noisy,
    render,
    small_street,
    street,
)  # fmt: skip

from stages.motion.clip_motion import MAPS

PLATE = Body("box", (0.5, 0, 10.5), (2, 1, 0.5), shift=(0.25, 0, -1))  # its front is at 10 m, then at 9 m


@pytest.fixture(scope="module")
def scene() -> StereoScene:
    return small_street()


def test_a_plate_that_comes_nearer() -> None:
    scene = render([PLATE], camera=SMALL, size=SMALL_SIZE)
    on_HW = scene.instances_HW == 1
    rows, columns = np.nonzero(on_HW)
    # it reaches from -1.5 to 2.5 m, and a pixel is 10/240 m wide there
    assert columns.min() == np.ceil(SMALL.cx - 1.5 * 24)
    assert columns.max() == np.floor(SMALL.cx + 2.5 * 24)
    assert rows.min() - (SMALL.cy - 24) in (0, 1)  # its edge passes through centres of pixels
    np.testing.assert_allclose(scene.depth_HW[on_HW], 10)
    np.testing.assert_allclose(scene.motion.disparity_HW[on_HW], 240 * 0.54 / 10, rtol=1e-6)
    x, y = columns - SMALL.cx, rows - SMALL.cy
    expected = np.stack([(x / 24 + 0.25) * 240 / 9 - x, y / 24 * 240 / 9 - y], axis=-1)
    np.testing.assert_allclose(scene.motion.flow_HW2[on_HW], expected, atol=1e-4)


def test_the_ground_moves_as_the_cameras_drive() -> None:
    scene = render([], Ego((0, 0, 0.5)), SMALL, SMALL_SIZE)
    row, column = 100, 300
    depth = GROUND * SMALL.fy / (row - SMALL.cy)
    assert scene.depth_HW[row, column] == pytest.approx(depth)
    factor = depth / (depth - 0.5)
    expected = (column - SMALL.cx) * (factor - 1), (row - SMALL.cy) * (factor - 1)
    assert scene.motion.flow_HW2[row, column] == pytest.approx(expected, rel=1e-5)
    assert scene.motion.disparity_HW[: int(SMALL.cy)].max() == 0, "sky is endlessly far"
    turned = render([], Ego(yaw=0.01), SMALL, SMALL_SIZE).motion.flow_HW2[10, int(SMALL.cx)]
    assert turned[0] == pytest.approx(-0.01 * SMALL.fx, rel=0.01), "the sky moves as the cameras turn"


def test_a_turn_about_its_centre_moves_the_ends_of_a_body() -> None:
    plate = Body("box", (0, 0, 10), (2, 1, 0.001), turned=0.05)
    scene = render([plate], camera=SMALL, size=SMALL_SIZE)
    row, column = int(SMALL.cy), int(SMALL.cx + 40)
    x = (column - SMALL.cx) / 24
    # about the downward axis, z to x: what is right of the centre comes nearer
    expected = x * np.cos(0.05) / (10 - x * np.sin(0.05)) * SMALL.fx - (column - SMALL.cx)
    assert scene.motion.flow_HW2[row, column, 0] == pytest.approx(expected, abs=2e-3)


def test_there_and_back_ends_where_it_began_unless_it_is_hidden(scene: StereoScene) -> None:
    height, width = SMALL_SIZE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    landing = scene.motion.flow_HW2 + np.stack([x, y], axis=-1)
    back = cv2.remap(
        scene.motion.flow_back_HW2, landing[..., 0], landing[..., 1], cv2.INTER_LINEAR, borderValue=(99,) * 4
    )
    away_HW = np.linalg.norm(scene.motion.flow_HW2 + back, axis=-1)
    assert np.mean(away_HW < 0.3) > 0.9
    assert np.mean(away_HW > 3) > 0.01, "some is hidden"


@pytest.mark.parametrize(("later", "right"), [(True, False), (False, True)])
def test_pictures_agree_with_the_maps(scene: StereoScene, later: bool, right: bool) -> None:
    y, x = np.mgrid[: SMALL_SIZE[0], : SMALL_SIZE[1]].astype(np.float32)
    if later:
        x, y = x + scene.motion.flow_HW2[..., 0], y + scene.motion.flow_HW2[..., 1]
    else:
        x = x - scene.motion.disparity_HW
    first, other = scene.picture(), scene.picture(later, right)
    inside = (x > 1) & (x < SMALL_SIZE[1] - 2) & (y > 1) & (y < SMALL_SIZE[0] - 2)
    error = np.abs(cv2.remap(other, x, y, cv2.INTER_LINEAR).astype(float) - first).mean(axis=-1)[inside]
    unmoved = np.abs(other.astype(float) - first).mean(axis=-1)[inside]
    assert np.median(error) < 3 < np.median(unmoved)


def test_movers_are_numbered_and_the_rest_is_not(scene: StereoScene) -> None:
    assert [body.shape for body in scene.movers] == ["box", "ellipsoid"]
    assert len(scene.bodies) == 4
    assert sorted(np.unique(scene.instances_HW)) == [0, 1, 2]
    assert not small_street((0, 0, 0), (0, 0, 0)).instances_HW.any()


def test_streets_are_drawn_from_their_seed() -> None:
    assert street(3) == street(3) != street(4)
    for seed in range(20):
        bodies, ego = street(seed, movers=2)
        moving = [body for body in bodies if body.moves]
        assert len(moving) == 2
        assert ego.shift[2] >= 0.2
        for body in moving:
            assert 0.1 <= np.linalg.norm(body.shift) <= 0.9
            assert body.centre[1] + body.half[1] == pytest.approx(GROUND), "it stands on the ground"
            assert abs(body.shift[0]) > abs(body.shift[2]), "across"
        assert all(abs(body.shift[2]) > abs(body.shift[0]) for body in street(seed, along=True)[0] if body.moves)
    assert street(3, driving=False)[1] == Ego()


def test_noise_has_the_strength_asked_for(scene: StereoScene) -> None:
    weak, strong = noisy(scene.motion, 0.5, 0.25, seed=1), noisy(scene.motion, 1.0, 0.25, seed=1)
    for name in MAPS:
        error = getattr(weak, name) - getattr(scene.motion, name)
        seen = getattr(scene.motion, name) > 1 if error.ndim == 2 else np.ones(error.shape, bool)  # none is below 0
        assert error[seen].std() == pytest.approx(0.5 if error.ndim == 3 else 0.25, rel=0.15)
    np.testing.assert_allclose(
        strong.flow_HW2 - scene.motion.flow_HW2, 2 * (weak.flow_HW2 - scene.motion.flow_HW2), atol=1e-4
    )
    np.testing.assert_array_equal(weak.disparity_HW, strong.disparity_HW)


def test_masks_are_judged_against_the_truth(scene: StereoScene) -> None:
    car, walker = (scene.instances_HW == number for number in (1, 2))
    nothing = np.zeros((0, *SMALL_SIZE), bool)
    assert judge(nothing, scene).ious == (0, 0)
    assert judge(nothing, scene).false == 0
    assert judge(np.stack([walker, car]), scene).ious == (1, 1)
    wrong = np.roll(car, 90, axis=1)
    judged = judge(np.stack([car, wrong]), scene)
    assert (judged.found(), judged.false) == (1, 1)
    # two halves: neither is half of it and a bit more
    left = car & (np.arange(SMALL_SIZE[1]) < np.median(np.nonzero(car)[1]))
    assert judge(np.stack([left, car & ~left]), scene).false in (1, 2)
    # nobody asks for the walker any more, and a mask on it is not false
    judged = judge(np.stack([car, walker]), scene, surface=2.0)
    assert (judged.ious, judged.false) == ((1,), 0)
    assert KITTI.fx == 721.5
