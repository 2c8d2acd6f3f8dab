"""Spatial Confidence against T separate LocalCuts, and its properties."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
from support.rendered_scenes import SceneConfig, majority, majority_depth, render

from stages.local_cut import LocalCutConfig, image_graph, local_cut
from stages.spatial_confidence import SpatialConfidenceConfig, spatial_confidence, threshold_ladder

GRID = (40, 40)


def scene_parts(seed: int, blur: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, semantic group and an eigenvector stand-in that peaks within object 1 of a rendered scene."""
    scene = render(SceneConfig(n_objects=2, depth_gap=0.3, n_classes=1, size=240, seed=seed, depth_blur=blur))
    instances = majority(scene.instances, GRID)
    inside = scipy.ndimage.distance_transform_edt(instances == 1)
    return majority_depth(scene, GRID), instances > 0, np.where(instances > 0, inside, -1.0)


@pytest.mark.parametrize(("seed", "blur"), [(0, 0.0), (1, 8.0), (2, 16.0)])
def test_equals_the_mean_of_separate_cuts(seed: int, blur: float) -> None:
    depth, group, x = scene_parts(seed, blur)
    cut = LocalCutConfig(tau_knn=0.066)
    config = SpatialConfidenceConfig(thresholds=6, lowest=0.4)
    instance = local_cut(depth, group, x, cut)
    cuts = [
        local_cut(depth, group, x, dataclasses.replace(cut, tau_knn=float(tau))).mask
        for tau in np.linspace(0.4 * 0.066, 0.066, 6)
    ]
    got = spatial_confidence(depth, group, instance.mask, instance.source, instance.sink, cut, config)
    np.testing.assert_allclose(got, np.where(instance.mask, np.mean(cuts, axis=0), 0), atol=1e-6)
    # the last threshold is τ_knn itself, so every patch of the mask has at least its vote
    assert got[instance.mask].min() >= 1 / 6 - 1e-6
    assert got[~instance.mask].max() == 0.0
    assert got.dtype == np.float32


def test_severed_groups_share_one_graph() -> None:
    depth, group, x = scene_parts(1, 12.0)
    cut = LocalCutConfig(outside="sever")
    config = SpatialConfidenceConfig(thresholds=4, lowest=1 / 3)
    instance = local_cut(depth, group, x, cut)
    arguments = (depth, group, instance.mask, instance.source, instance.sink, cut, config)
    cuts = [
        local_cut(depth, group, x, dataclasses.replace(cut, tau_knn=float(tau))).mask
        for tau in np.linspace(cut.tau_knn / 3, cut.tau_knn, 4)
    ]
    confidence = spatial_confidence(*arguments)
    np.testing.assert_allclose(confidence, np.where(instance.mask, np.mean(cuts, axis=0), 0), atol=1e-6)
    assert len(np.unique(confidence[instance.mask])) > 1
    assert image_graph(depth, cut) is image_graph(depth.copy(), cut)
    assert image_graph(depth + 0.1, cut) is not image_graph(depth, cut)


def test_the_floor_is_no_part_of_it_and_one_threshold_is_the_cut() -> None:
    depth, group, x = scene_parts(1, 16.0)
    cut = LocalCutConfig(tau_knn=0.066)
    instance = local_cut(depth, group, x, cut)
    arguments = (depth, group, instance.mask, instance.source, instance.sink, cut)
    with_floor = spatial_confidence(*arguments, SpatialConfidenceConfig(lowest=0.2, floor=0.9))
    np.testing.assert_array_equal(
        with_floor, spatial_confidence(*arguments, SpatialConfidenceConfig(lowest=0.2, floor=0.0))
    )
    assert with_floor[instance.mask].min() < 0.9
    one = spatial_confidence(*arguments, SpatialConfidenceConfig(thresholds=1, lowest=1.0))
    np.testing.assert_array_equal(one, instance.mask.astype(np.float32))


def test_blurred_depth_lowers_the_confidence() -> None:
    means = []
    for blur in (0.0, 24.0):
        depth, group, x = scene_parts(0, blur)
        cut = LocalCutConfig(tau_knn=0.053)
        instance = local_cut(depth, group, x, cut)
        config = SpatialConfidenceConfig(lowest=0.4)
        confidence = spatial_confidence(depth, group, instance.mask, instance.source, instance.sink, cut, config)
        means.append(confidence[instance.mask].mean())
    assert means[1] < means[0]


def test_ladder_and_bad_values() -> None:
    np.testing.assert_allclose(
        threshold_ladder(0.12, SpatialConfidenceConfig(thresholds=3, lowest=0.5)), [0.06, 0.09, 0.12]
    )
    np.testing.assert_allclose(threshold_ladder(0.12, SpatialConfidenceConfig(thresholds=1)), [0.12])
    for option, value in {"thresholds": 0, "lowest": 0.0, "floor": 1.5}.items():
        with pytest.raises(ValueError, match=rf"spatial_confidence\.{option}"):
            SpatialConfidenceConfig(**{option: value})  # type: ignore[arg-type]
