"""The scenes of benchmarks/depth_quality.py are what it says, and its figures are those of the evaluation."""

import itertools

import depth_quality
import numpy as np
import pytest
import scipy.ndimage
from depth_quality import GAPS, GRID, SIZE, Condition, Example
from pycocotools import mask as coco_mask
from support.rendered_scenes import HORIZON, SceneObject, place_groups, render_objects


@pytest.fixture(scope="module")
def scenes() -> list[Example]:
    """One of each gap."""
    return list(depth_quality.examples(3, seed=3))


@pytest.mark.parametrize("seed", range(12))
def test_groups_stand_on_the_floor_a_gap_apart(seed: int) -> None:
    gap = GAPS[seed % 3]
    objects = place_groups(gap, seed)
    assert objects == place_groups(gap, seed) != place_groups(gap, seed + 1)
    for class_id in (0, 1):
        group = [placed for placed in objects if placed.class_id == class_id]
        assert len(group) in (2, 3)
        for left, right in itertools.pairwise(group):
            mean_width = left.half[0] + right.half[0]
            overlap = left.centre[0] + left.half[0] - (right.centre[0] - right.half[0])
            assert 0.05 <= overlap / mean_width <= 0.3 + 1e-9
        nearest_first = sorted(group, key=lambda placed: placed.centre[2])
        for near, far in itertools.pairwise(nearest_first):
            assert far.centre[2] - far.half[2] - (near.centre[2] + near.half[2]) == pytest.approx(gap)
    scene = render_objects(objects, 240, floor=True)
    for number, placed in enumerate(objects, start=1):
        foot = placed.centre[1] + placed.half[1]
        assert (1 - foot) / (1 - HORIZON) == pytest.approx(placed.centre[2]), "the floor is as far as what stands there"
        seen = scene.instances == number
        assert seen.mean() > 0.003, "visible"
        assert np.abs(scene.exact_depth[seen] - placed.centre[2]).max() <= placed.half[2] + 1e-4
    assert not scene.instances[[0, -1]].any()


def test_the_floor_rises_from_the_horizon() -> None:
    scene = render_objects((SceneObject("box", 0, (0.5, 0.5, 0.2), (0.1, 0.1, 0.1), 0.0),), 120, floor=True)
    y = (np.arange(120) + 0.5) / 120
    np.testing.assert_allclose(scene.exact_depth[:, 3], np.minimum(1.0, (1 - y) / (1 - HORIZON)), atol=1e-5)
    assert np.unique(scene.instances).tolist() == [0, 1]
    assert (scene.instances == 1).mean() == pytest.approx(0.04, rel=0.05)


def test_a_torus_is_a_ring() -> None:
    scene = render_objects((SceneObject("torus", 0, (0.5, 0.5, 0.5), (0.3, 0.2, 0.1), 0.0),), 240)
    assert scene.instances.mean() == pytest.approx(np.pi * 0.3 * 0.2 * (1 - 1 / 9), rel=0.01)
    assert scene.instances[120, 120] == 0
    assert scene.exact_depth.min() == pytest.approx(0.4, abs=1e-3)


def test_worsened_depth() -> None:
    step = np.repeat([[0.0] * (SIZE // 2) + [1.0] * (SIZE // 2)], SIZE, axis=0).astype(np.float32)
    exact, soft, noisy, noisier = (
        depth_quality.worsened(step, condition, seed=1)
        for condition in (Condition(), Condition(blur=2), Condition(noise=0.01), Condition(noise=0.02))
    )
    assert exact.shape == GRID
    assert exact.dtype == np.float32
    assert (exact[:, :29] == 0).all()
    assert (exact[:, 31:] == 1).all()
    profile = scipy.ndimage.gaussian_filter1d(step[0], 2 * SIZE / GRID[1], mode="nearest").reshape(GRID[1], -1)
    np.testing.assert_allclose(soft[0], profile.mean(axis=1), atol=0.02)
    near, nearer = noisy[:, :28], noisier[:, :28]
    assert 0.007 < near.std() < 0.02
    assert 1.7 < nearer.std() / near.std() < 2.1
    assert np.corrcoef(near.ravel(), nearer.ravel())[0, 1] > 0.999
    fine = near - scipy.ndimage.uniform_filter(near, 5)
    assert 0.4 < fine.std() / near.std() < 0.8, "neither all smooth nor all fine"
    assert [str(condition) for condition in (Condition(), Condition(1, 0.01))] == ["exact", "blur 1 + noise 0.01"]


def test_truth_is_what_is_visible(scenes: list[Example]) -> None:
    truth = depth_quality.truth_of(scenes)
    for example in scenes:
        objects = truth.objects(example.id)
        assert [entry["category"] for entry in objects] == [placed.class_id + 1 for placed in example.scene.objects]
        masks = coco_mask.decode([entry["segmentation"] for entry in objects])
        np.testing.assert_array_equal(masks @ np.arange(1, len(objects) + 1), example.scene.instances)
    assert sum(len(truth.touching_pairs(example.id)) for example in scenes) >= 4


@pytest.mark.slow
def test_depth_buys_what_it_should(scenes: list[Example]) -> None:
    """Features cannot part the pairs; with exact depth the tree parts them all."""
    truth = depth_quality.truth_of(scenes)
    found = {v: depth_quality.all_detections(scenes, v, Condition(), 0) for v in ("maskcut", "cuts3d")}
    columns = {v: depth_quality.estimates(scenes, truth, found[v], found["maskcut"], 20) for v in found}
    assert columns["maskcut"]["pairs_separated"].value == 0.0
    assert columns["maskcut"]["AP_own_gain"].value == 0.0
    assert columns["cuts3d"]["pairs_separated"].value >= 0.75
    gain = columns["cuts3d"]["AR100_gain"].value
    difference = columns["cuts3d"]["mask_AR100"].value - columns["maskcut"]["mask_AR100"].value
    assert gain == pytest.approx(difference)
    assert gain > 0.3
