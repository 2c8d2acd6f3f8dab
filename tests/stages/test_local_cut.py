"""LocalCut against brute force and networkx on small grids, and on rendered scenes with exact depth."""

import numpy as np
import pytest
import scipy.ndimage
from support import reference_local_cut as reference
from support.rendered_scenes import SceneConfig, majority, majority_depth, render

from stages.local_cut import (
    CAPACITY_SCALE,
    KnnGraph,
    LocalCutConfig,
    component_labels,
    cut_at,
    group_graph,
    image_graph,
    integer_capacities,
    knn_graph,
    local_cut,
    local_cut_pieces,
    min_cut_pymaxflow,
    min_cut_scipy,
    terminals,
)
from stages.point_cloud import orthographic_points, to_open3d


def random_depth(seed: int, shape: tuple[int, int] = (12, 10)) -> np.ndarray:
    depth = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.0)
    return ((depth - depth.min()) / np.ptp(depth)).astype(np.float32)


def at_60(tau: float, grid: tuple[int, int]) -> float:
    """The option that makes the threshold `tau` on this grid: it is given for 60×60 patches."""
    return tau * (max(grid) - 1) / 59


def test_points_are_orthographic() -> None:
    depth = random_depth(0)
    np.testing.assert_allclose(orthographic_points(depth), reference.unproject(depth), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_knn_graph_equals_brute_force(seed: int) -> None:
    points = orthographic_points(random_depth(seed)) + np.random.default_rng(seed).normal(0, 1e-4, (120, 3))
    graph = knn_graph(points, 6)
    expected = reference.truncated_graph(points, 6, np.inf)
    assert {(int(i), int(j)) for i, j in graph.edges_E2} == set(expected)
    np.testing.assert_allclose(graph.lengths_E, [expected[int(i), int(j)] for i, j in graph.edges_E2], rtol=1e-9)
    assert (graph.truncated(0.1).lengths_E < 0.1).all()


def test_coincident_points_have_no_edge_to_themselves() -> None:
    graph = knn_graph(np.zeros((20, 3)), 4)
    assert (graph.edges_E2[:, 0] < graph.edges_E2[:, 1]).all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("capacity", ["decreasing", "exponential", "unit", "distance"])
def test_both_solvers_equal_networkx(seed: int, capacity: str) -> None:
    rng = np.random.default_rng(seed)
    graph = knn_graph(orthographic_points(random_depth(seed)), 5).truncated(0.5)
    capacities_E = integer_capacities(graph.lengths_E, 0.5, capacity)
    source, sink = (int(p) for p in rng.choice(graph.n, 2, replace=False))
    edges = {(int(i), int(j)): int(c) for (i, j), c in zip(graph.edges_E2, capacities_E, strict=True)}
    value, side_N = reference.min_cut(graph.n, edges, source, sink)
    for solve in (min_cut_pymaxflow, min_cut_scipy):
        got_N, flow = solve(graph, capacities_E, source, sink)
        assert flow == value
        np.testing.assert_array_equal(got_N, side_N)


def test_free_nodes_are_not_the_instance() -> None:
    """A path with two cuts of one value: the nodes between them belong to neither side, and not to the instance."""
    graph = KnnGraph(4, np.array([[0, 1], [1, 2], [2, 3]], np.int32), np.ones(3))
    capacities_E = np.array([5, 9, 5], np.int32)
    for solve in (min_cut_pymaxflow, min_cut_scipy):
        side_N, flow = solve(graph, capacities_E, 0, 3)
        assert flow == 5
        assert side_N.tolist() == [True, False, False, False]


@pytest.mark.parametrize("seed", range(6))
def test_component_path_equals_max_flow_where_terminals_are_apart(seed: int) -> None:
    depth = random_depth(seed)
    group = depth < np.median(depth)
    config, tau = LocalCutConfig(k=6), 0.25
    graph = group_graph(depth, group, config)
    source, sink = terminals(-depth, group, "image")
    fast_N, flow = cut_at(graph, tau, source, sink, config)
    assert flow == 0.0, "the sink was pushed away with the background"
    short = graph.truncated(tau)
    capacities_E = integer_capacities(short.lengths_E, tau, "decreasing")
    for solve in (min_cut_pymaxflow, min_cut_scipy):
        slow_N, value = solve(short, capacities_E, source, sink)
        assert value == 0
        np.testing.assert_array_equal(fast_N, slow_N)
    edges = [(int(i), int(j)) for i, j in short.edges_E2]
    np.testing.assert_array_equal(fast_N, reference.connected_component(graph.n, edges, source))


def test_the_flow_is_the_capacity_across_the_cut() -> None:
    depth = random_depth(3)
    group = np.ones_like(depth, bool)
    config = LocalCutConfig(k=5, tau_knn=at_60(0.6, depth.shape), sink="group")
    result = local_cut(depth, group, -depth, config)
    assert result.flow > 0
    short = group_graph(depth, group, config).truncated(0.6)
    side_N = result.mask.ravel()
    crossing_E = side_N[short.edges_E2[:, 0]] != side_N[short.edges_E2[:, 1]]
    capacities_E = integer_capacities(short.lengths_E, 0.6, "decreasing")
    assert result.flow == pytest.approx(capacities_E[crossing_E].sum() / CAPACITY_SCALE)
    assert side_N[result.source]
    assert not side_N[result.sink]


@pytest.mark.parametrize("seed", range(6))
def test_severed_edges_against_brute_force(seed: int) -> None:
    """One graph of the whole image, less the edges that have an end outside of the group."""
    depth = random_depth(seed) + np.random.default_rng(seed).normal(0, 1e-4, (12, 10))
    group = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(12, 10)), 1.5) > 0
    group_N = group.ravel()
    config = LocalCutConfig(k=6, tau_knn=at_60(0.2, depth.shape), outside="sever")
    everywhere = reference.truncated_graph(reference.unproject(depth), 6, np.inf)
    expected = {(i, j): length for (i, j), length in everywhere.items() if group_N[i] and group_N[j]}
    graph = group_graph(depth, group, config)
    assert {(int(i), int(j)) for i, j in graph.edges_E2} == set(expected)
    assert 0 < len(expected) < len(everywhere)
    np.testing.assert_allclose(graph.lengths_E, [expected[int(i), int(j)] for i, j in graph.edges_E2], rtol=1e-9)

    short = [edge for edge, length in expected.items() if length < 0.2]
    for peak in np.flatnonzero(group_N)[::7]:
        x = np.where(group, 0.0, -1.0)  # the sink lies outside, as that of a part of a cut does
        x.flat[peak] = 1.0
        result = local_cut(depth, group, x, config)
        assert result.source == peak
        component_N = reference.connected_component(120, short, int(peak))
        np.testing.assert_array_equal(result.mask.ravel(), component_N)
        assert result.flow == 0.0
        value, side_N = reference.min_cut(120, dict.fromkeys(short, 3), int(peak), int(np.flatnonzero(~group_N)[0]))
        assert value == 0
        np.testing.assert_array_equal(side_N, component_N)


@pytest.mark.parametrize("depth_scale", [1.0, 2.5])
def test_one_graph_of_the_image_serves_all_its_groups(depth_scale: float) -> None:
    depth = random_depth(4)
    config = LocalCutConfig(k=5, outside="sever", depth_scale=depth_scale)
    whole = image_graph(depth, config)
    np.testing.assert_array_equal(
        whole.edges_E2, knn_graph(reference.unproject(depth) * [1, 1, depth_scale], 5).edges_E2
    )
    for level in (0.2, 0.5, 0.8):
        group = depth < level
        graph, group_N = group_graph(depth, group, config), group.ravel()
        kept_E = group_N[whole.edges_E2].all(axis=1)
        np.testing.assert_array_equal(graph.edges_E2, whole.edges_E2[kept_E])
        np.testing.assert_array_equal(graph.lengths_E, whole.lengths_E[kept_E])
        assert graph.n == 120
    assert len(whole.edges_E2) == len(group_graph(depth, np.ones_like(group), config).edges_E2)


def test_edges_within_a_group() -> None:
    graph = KnnGraph(4, np.array([[0, 1], [1, 2], [2, 3]], np.int32), np.array([0.1, 0.2, 0.3]))
    inside = graph.within(np.array([True, True, False, True]))
    assert (inside.n, inside.edges_E2.tolist(), inside.lengths_E.tolist()) == (4, [[0, 1]], [0.1])
    assert component_labels(inside).tolist() == [0, 0, 1, 2]
    apart = graph.within(np.array([1, 1, 2, 2]))
    assert (apart.edges_E2.tolist(), apart.lengths_E.tolist()) == ([[0, 1], [2, 3]], [0.1, 0.3])
    assert graph.within(np.array([0, 0, 2, 2])).edges_E2.tolist() == [[2, 3]], "0 is no group"
    nothing = graph.within(np.zeros(4, bool))
    assert (nothing.edges_E2.shape, nothing.lengths_E.shape) == ((0, 2), (0,))


def test_the_threshold_goes_with_the_distance_of_the_patches() -> None:
    """τ_knn is given for 60×60: on any grid it is as many patches long."""
    config = LocalCutConfig(tau_knn=0.05)
    assert config.tau_on((60, 60)) == 0.05
    for grid in ((30, 30), (16, 40), (2, 2)):
        flat = knn_graph(orthographic_points(np.zeros(grid)), 4)
        assert config.tau_on(grid) / flat.lengths_E.min() == pytest.approx(0.05 * 59)
    assert np.isfinite(config.tau_on((1, 1)))


@pytest.mark.parametrize("outside", ["push", "sever"])
def test_a_scene_is_cut_alike_on_all_grids(outside: str) -> None:
    scene = render(SceneConfig(n_objects=2, depth_gap=0.4, n_classes=1, size=240, seed=2))
    for side in (20, 30, 40, 60):
        instances, depth = majority(scene.instances, (side, side)), majority_depth(scene, (side, side))
        inside = scipy.ndimage.distance_transform_edt(instances == 1)
        config = LocalCutConfig(outside=outside)  # type: ignore[arg-type]
        cut = local_cut(depth, instances > 0, np.where(instances > 0, inside, -1.0), config)
        truth = instances == 1
        assert (cut.mask & truth).sum() / (cut.mask | truth).sum() > 0.9, side


@pytest.mark.parametrize("outside", ["push", "keep", "remove", "sever"])
def test_the_mask_stays_in_the_group(outside: str) -> None:
    depth = random_depth(1, (16, 16))
    group = scipy.ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(16, 16)), 2) > 0
    result = local_cut(depth, group, depth, LocalCutConfig(tau_knn=0.08, outside=outside))  # type: ignore[arg-type]
    assert result.mask.any()
    assert not (result.mask & ~group).any()
    assert result.mask.flat[result.source]


def test_a_group_of_one_patch_is_its_own_instance() -> None:
    group = np.zeros((8, 8), bool)
    group[3, 4] = True
    for sink in ("image", "group"):
        result = local_cut(random_depth(0, (8, 8)), group, group.astype(float), LocalCutConfig(sink=sink))  # type: ignore[arg-type]
        np.testing.assert_array_equal(result.mask, group)


@pytest.mark.parametrize("seed", range(6))
def test_touching_shapes_of_one_appearance_are_separated(seed: int) -> None:
    """Two shapes that touch in the image and share their appearance: one semantic group, two instances in depth."""
    scene = render(SceneConfig(n_objects=2, depth_gap=0.3, n_classes=1, size=240, seed=seed))
    grid = (40, 40)
    instances, depth = majority(scene.instances, grid), majority_depth(scene, grid)
    group = instances > 0
    for target in (1, 2):
        # the eigenvector's peak lies inside an object: well within one of the two here
        inside = scipy.ndimage.distance_transform_edt(instances == target)
        cut = local_cut(depth, group, np.where(group, inside, -1.0), LocalCutConfig(tau_knn=0.075))
        truth = instances == target
        iou = (cut.mask & truth).sum() / (cut.mask | truth).sum()
        assert iou > 0.9, f"object {target}: IoU {iou:.2f}"


def test_empty_group_and_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="group is empty"):
        local_cut(random_depth(0), np.zeros((12, 10), bool), random_depth(0), LocalCutConfig())
    for option, value in {
        "k": 0,
        "tau_knn": 0.0,
        "depth_scale": -1.0,
        "outside_depth": 0.0,
        "outside": "drop",
        "sink": "none",
        "capacity": "inverse",
        "solver": "dinic",
        "pieces": "some",
    }.items():
        with pytest.raises(ValueError, match=rf"local_cut\.{option}"):
            LocalCutConfig(**{option: value})  # type: ignore[arg-type]


def test_open3d_cloud_has_the_points_and_colours() -> None:
    points = orthographic_points(random_depth(0))
    cloud = to_open3d(points, np.full((120, 3), 0.25))
    np.testing.assert_allclose(np.asarray(cloud.points), points * [1, -1, -1])
    np.testing.assert_allclose(np.asarray(cloud.colors), 0.25)


@pytest.mark.parametrize("seed", range(6))
def test_all_pieces_are_localcut_on_what_is_left(seed: int) -> None:
    """Sink in the background: each piece is what LocalCut gives at its source, and together they are the group's."""
    scene = render(SceneConfig(n_objects=3, depth_gap=0.2, n_classes=1, size=240, seed=seed))
    instances, depth = majority(scene.instances, (40, 40)), majority_depth(scene, (40, 40))
    group = instances > 0
    x = np.where(group, scipy.ndimage.distance_transform_edt(group), -1.0)
    config = LocalCutConfig(tau_knn=0.075, pieces="all")
    cuts = local_cut_pieces(depth, group, x, config, least=16)
    assert np.sum([cut.mask for cut in cuts], axis=0).max() == 1
    np.testing.assert_array_equal(cuts[0].mask, local_cut(depth, group, x, config).mask)
    for cut in cuts:
        alone = local_cut(depth, group, np.where(cut.mask, x, np.minimum(x, x[cut.mask].max() - 1)), config)
        np.testing.assert_array_equal(cut.mask, alone.mask)
    for i in (1, 2, 3):
        truth = instances == i
        assert max((cut.mask & truth).sum() / (cut.mask | truth).sum() for cut in cuts) > 0.85


def test_pieces_where_the_sink_is_in_the_group() -> None:
    depth = random_depth(3)
    group = np.ones_like(depth, bool)
    config = LocalCutConfig(k=5, tau_knn=at_60(0.6, depth.shape), sink="group", pieces="all")
    cuts = local_cut_pieces(depth, group, -depth, config, least=2)
    assert len(cuts) == 2
    np.testing.assert_array_equal(cuts[0].mask, local_cut(depth, group, -depth, config).mask)
    np.testing.assert_array_equal(cuts[0].mask, ~cuts[1].mask)


def test_specks_are_left_out_unless_there_is_nothing_else() -> None:
    depth = np.random.default_rng(0).random((12, 10)).astype(np.float32)
    group = np.ones((12, 10), bool)
    config = LocalCutConfig(tau_knn=0.005, pieces="all")
    cuts = local_cut_pieces(depth, group, depth, config, least=3)
    assert [cut.mask.sum() for cut in cuts] == [1]
