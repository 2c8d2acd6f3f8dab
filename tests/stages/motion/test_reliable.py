"""What of a clip's maps is relied on: noise against sampled distributions, checks one by one, and a plain
transcription.
"""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from support import reference_movers as reference
from support.stereo_scenes import SMALL, StereoScene, noisy, small_street

from stages.motion.clip_motion import ClipMotion
from stages.motion.movers_config import MoversConfig
from stages.motion.reliable import disparity_edges, look, nearest, noise_scales, untruncated

OPEN = MoversConfig(top=0, bottom=0)
SIZE = (40, 60)


@pytest.fixture(scope="module")
def scene() -> StereoScene:
    return small_street()


def flat(disparity: float = 10.0, flow: tuple[float, float] = (0.0, 0.0)) -> ClipMotion:
    """A wall that faces the camera, 13 m away with SMALL, and moves as a whole."""
    flow_HW2 = np.full((*SIZE, 2), flow, np.float32)
    disparity_HW = np.full(SIZE, disparity, np.float32)
    return ClipMotion(flow_HW2, -flow_HW2, *[disparity_HW] * 4)


def changed(motion: ClipMotion, name: str, value: float) -> ClipMotion:
    """One map with another value at (20, 30)."""
    map_ = getattr(motion, name).copy()
    map_[20, 30] = value
    return replace(motion, **{name: map_})


@pytest.mark.parametrize("deviation", [0.5, 3.0, 6.0, 9.0])
def test_noise_is_measured_in_spite_of_the_cut(deviation: float) -> None:
    cut = 10 * np.sqrt(2)
    inside = scipy.stats.truncnorm(-cut / deviation, cut / deviation, scale=deviation).rvs(200_000, random_state=0)
    assert untruncated(float(np.sqrt(np.mean(inside**2)))) == pytest.approx(deviation, rel=0.06)


def test_noise_scales_are_of_one_map_and_bounded() -> None:
    rng = np.random.default_rng(0)
    published = MoversConfig(noise=2.0, noise_factor=1.0)
    flow, disparity = rng.normal(0, (3.0, 5.0), (200, 300, 2)), rng.normal(0, 0.3, (200, 300))
    u, v, d = noise_scales(flow, disparity, published)
    # of two maps that err alike each has 1/√2 of what they differ by
    assert (u, v) == pytest.approx((3 / np.sqrt(2), 5 / np.sqrt(2)), rel=0.06)
    assert d == 2.0
    assert noise_scales(flow, disparity, MoversConfig(noise=0.1))[2] == pytest.approx(0.6 / np.sqrt(2), rel=0.05)
    assert noise_scales(flow, disparity, MoversConfig())[:2] == pytest.approx((2 * u, 2 * v))
    uniform = rng.uniform(-14, 14, (200, 300, 2))
    assert max(noise_scales(uniform * 0.7, uniform[..., 0], published)) == 10.0
    few = np.full((200, 300), np.nan)
    few[:10] = 8.0
    assert noise_scales(np.full((200, 300, 2), np.nan), few, MoversConfig()) == (2, 2, 2), "too few to measure it"


def test_a_wall_is_reliable_but_for_its_borders() -> None:
    seen = look(flat(), SMALL, OPEN)
    # what lies beyond the left border of the right picture has no partner
    assert seen.reliable_HW[:, 10:].all()
    assert not seen.reliable_HW[:, :10].any()
    np.testing.assert_allclose(seen.depth_HW, SMALL.fx * SMALL.baseline / 10, rtol=1e-6)
    moved = look(flat(flow=(4, -3)), SMALL, OPEN)
    assert moved.reliable_HW[3:, 10:-4].all()
    assert not moved.flow_HW[:, -4:].any()
    assert not moved.flow_HW[:3].any()
    np.testing.assert_array_equal(moved.landing_HW2[20, 30], (34, 17))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flow_HW2", 1.5),
        ("flow_back_HW2", 1.5),
        ("disparity_right_HW", np.nan),
        ("disparity_right_next_HW", 12.0),
        ("disparity_HW", np.nan),
        ("disparity_next_HW", np.nan),
    ],
)
def test_each_map_is_checked(name: str, value: float) -> None:
    shift = 10 if name.startswith("disparity_right") else 0
    for fine, worse in ((True, 10.0 if name.startswith("d") else 0.0), (False, value)):
        seen = look(changed(flat(), name, worse), SMALL, OPEN)
        assert seen.reliable_HW[20, 30 + shift] == fine
        assert seen.flow_HW[20, 30 + shift] == (fine or name.startswith("d"))
        assert seen.reliable_HW[20, 55]
        assert seen.reliable_HW[35, 30]


def test_depth_and_place_decide_where_objects_are_looked_for() -> None:
    scale = SMALL.fx * SMALL.baseline
    for depth, fine in ((5.4, False), (5.6, True), (69, True), (71, False)):
        seen = look(flat(scale / depth), SMALL, replace(OPEN, near=5.5, far=70))
        assert seen.reliable_HW[:, 30:].any() == fine
        assert seen.flow_HW.all()
    seen = look(flat(), SMALL, MoversConfig(sides=0.25, top=0.1, bottom=0.2))
    expected = np.zeros(SIZE, bool)
    expected[4:32, 15:45] = True
    np.testing.assert_array_equal(seen.reliable_HW, expected)
    np.testing.assert_array_equal(seen.flow_HW, expected)


def test_no_map_is_known() -> None:
    nothing = ClipMotion(*[np.full((*SIZE, 2), np.nan, np.float32)] * 2, *[np.full(SIZE, np.nan, np.float32)] * 4)
    seen = look(nothing, SMALL, OPEN)
    assert not seen.reliable_HW.any()
    assert not seen.flow_HW.any()
    assert seen.noise == (2, 2, 2)
    infinite = replace(flat(), disparity_HW=np.zeros(SIZE, np.float32))
    assert not look(infinite, SMALL, OPEN).reliable_HW.any()


def test_edges_are_where_the_disparity_jumps() -> None:
    disparity = np.full(SIZE, 10.0, np.float32)
    disparity[:, 30:] = 20.0
    columns = np.flatnonzero(disparity_edges(disparity, 0.2).all(axis=0))
    assert set(range(28, 32)) <= set(columns) <= set(range(26, 34))
    assert np.flatnonzero(disparity_edges(disparity.T.copy(), 0.2).all(axis=1)).tolist() == columns.tolist()
    # a road: its disparity falls steadily to the horizon
    road = np.repeat(np.linspace(10, 40, 40, dtype=np.float32)[:, None], 60, axis=1)
    assert not disparity_edges(road, 0.2)[5:].any()  # the picture is mirrored at its border, where the slope turns
    disparity[:, 28:32] = np.nan  # the jump is somewhere in the hole
    assert disparity_edges(disparity, 0.2)[:, 28:32].any(axis=1).all()


def test_holes_have_the_nearest_value() -> None:
    rng = np.random.default_rng(0)
    known, values = rng.random(SIZE) < 0.1, rng.random(SIZE).astype(np.float32)
    filled = nearest(values, known)
    np.testing.assert_array_equal(filled[known], values[known])
    places = np.argwhere(known)
    for y, x in np.argwhere(~known)[::17]:
        distances = np.linalg.norm(places - (y, x), axis=1)
        # OpenCV's distances are off by 2 % at most
        near = places[distances <= distances.min() * 1.03 + 1e-6]
        assert filled[y, x] in values[near[:, 0], near[:, 1]]


@pytest.mark.parametrize("holes", [False, True])
def test_as_a_plain_transcription(scene: StereoScene, holes: bool) -> None:
    motion = noisy(scene.motion, 0.6, 0.3, seed=0)
    if holes:
        rng = np.random.default_rng(1)
        for map_ in (motion.disparity_HW, motion.disparity_next_HW, motion.disparity_right_HW):
            map_[rng.random(map_.shape) < 0.03] = np.nan
    seen, expected = look(motion, SMALL, MoversConfig()), reference.look(motion, SMALL, MoversConfig())
    assert seen.noise == pytest.approx(expected.sigma, rel=2e-3)
    np.testing.assert_allclose(seen.depth_HW, expected.depth, rtol=1e-5)
    # OpenCV reads maps at 32nds of a pixel, and holes have the value of one neighbour or another as near
    assert np.mean(seen.flow_HW != expected.flow_ok) < 0.005
    assert np.mean(seen.reliable_HW != expected.reliable) < (0.01 if holes else 0.005)
    assert 0.1 < seen.reliable_HW.mean() < 0.6


def test_what_is_hidden_is_not_reliable(scene: StereoScene) -> None:
    seen = look(scene.motion, SMALL, MoversConfig())
    landing, (height, width) = np.rint(seen.landing_HW2).astype(int), seen.reliable_HW.shape
    rows, columns = np.nonzero(seen.reliable_HW)
    x, y = landing[rows, columns].T
    assert ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all()
    later = scene.views[True, False]
    body, lands_on = scene.views[False, False].body_HW[rows, columns], later.body_HW[y, x]
    assert np.mean(body == lands_on) > 0.999
