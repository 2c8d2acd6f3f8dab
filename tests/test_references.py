"""The references themselves, each against something simpler still: enumeration, a formula, a planted answer."""

import itertools
import sys

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
from support import reference_local_cut as local_cut
from support import rendered_scenes as scenes
from support.recorded_crf import drawn
from support.reference_crf import dense_crf
from support.reference_maskcut import affinity, iou, maskcut, must_reverse, second_smallest, seed_component
from support.rendered_scenes import SceneConfig, SceneObject

from stages.crf import CrfConfig

GRID = (16, 14)


def planted_features(labels: np.ndarray, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """(N, 16) features of a label map: one direction per label, and noise."""
    ideal_ND = np.eye(16)[labels.reshape(-1)]
    return ideal_ND + noise * np.random.default_rng(seed).standard_normal(ideal_ND.shape)


def three_blobs() -> np.ndarray:
    labels = np.zeros(GRID, dtype=int)
    labels[2:7, 2:9] = 1
    labels[10:14, 7:11] = 2
    labels[12:15, 2:5] = 3
    return labels


# MaskCut


def test_maskcut_finds_planted_blobs_one_a_round() -> None:
    labels = three_blobs()
    rounds = maskcut(planted_features(labels), GRID, tau=0.15, n_masks=3)
    found = sorted((r.output for r in rounds), key=np.count_nonzero, reverse=True)
    for label, mask in enumerate(found, start=1):
        np.testing.assert_array_equal(mask, labels == label)
    for r in rounds:
        assert r.output.flat[r.seed]
        assert not r.sign_decides
        assert r.eigengap > 0


def test_eigenvector_solves_the_generalised_problem() -> None:
    matrix_NN = affinity(planted_features(three_blobs(), noise=0.15), tau=0.15)
    vector_N, value, gap = second_smallest(matrix_NN)
    degree_N = matrix_NN.sum(axis=1)
    np.testing.assert_allclose(degree_N * vector_N - matrix_NN @ vector_N, value * degree_N * vector_N, atol=1e-9)
    symmetric_NN = np.eye(len(degree_N)) - matrix_NN / np.sqrt(np.outer(degree_N, degree_N))
    values = np.linalg.eigvalsh(symmetric_NN)
    assert value == pytest.approx(values[1], abs=1e-9)
    assert gap == pytest.approx(values[2] - values[1], abs=1e-9)


def test_zero_feature_has_only_weak_edges_also_to_itself() -> None:
    matrix_NN = affinity(np.array([[2.0, 0.0], [0.0, 0.0], [5.0, 0.1], [0.0, 1.0]]), tau=0.15)
    weak = 1e-5
    np.testing.assert_array_equal(
        matrix_NN, [[1, weak, 1, weak], [weak, weak, weak, weak], [1, weak, 1, weak], [weak, weak, weak, 1]]
    )


def test_repeated_mask_is_dropped_and_then_compared_with_the_dropped_one() -> None:
    """One blob: once painted, the next cut finds it again. Round 1 drops it, so round 2 has nothing to compare with."""
    blob = three_blobs() == 1
    first, second, third = maskcut(planted_features(blob.astype(int)), GRID, tau=0.15, n_masks=3)
    np.testing.assert_array_equal(first.pseudo_mask, blob)
    np.testing.assert_array_equal(second.component, blob)
    assert not second.pseudo_mask.any()
    np.testing.assert_array_equal(third.pseudo_mask, blob)
    assert not third.output.any()


def test_diagonal_neighbours_are_not_connected() -> None:
    bipartition = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(seed_component(bipartition, 0), bipartition & (np.arange(4) < 2))
    with pytest.raises(ValueError, match="seed 2 "):
        seed_component(bipartition, 2)


@pytest.mark.parametrize(("area", "kept"), [(1, False), (2, True)])
def test_a_later_mask_of_one_percent_is_dropped(area: int, kept: bool) -> None:
    grid = (10, 10)
    first_N, second_N = np.zeros(100), np.zeros(100)
    first_N[44:47] = 1.0
    second_N[72 : 72 + area] = 1.0
    rounds = maskcut(np.ones((100, 3)), grid, 0.15, 2, eigenvectors=[first_N, second_N])
    assert np.count_nonzero(rounds[0].output) == 3
    assert np.count_nonzero(rounds[1].component) == area
    assert rounds[1].pseudo_mask.any() == kept


def test_the_first_mask_is_not_filtered_by_area() -> None:
    vector_N = np.zeros(100)
    vector_N[55] = 1.0
    (first,) = maskcut(np.ones((100, 3)), (10, 10), 0.15, 1, eigenvectors=[vector_N])
    assert np.count_nonzero(first.output) == 1


def test_output_loses_what_earlier_rounds_have() -> None:
    first, second = np.zeros((10, 10)), np.zeros((10, 10))
    first[2:5, 2:8] = 1.0
    second[4:8, 2:8] = 1.0
    rounds = maskcut(np.ones((100, 3)), (10, 10), 0.15, 2, eigenvectors=[first.ravel(), second.ravel()])
    np.testing.assert_array_equal(rounds[1].pseudo_mask, second > 0)
    np.testing.assert_array_equal(rounds[1].output, (second > 0) & ~(first > 0))


def test_orientation_rule() -> None:
    centre = np.full((5, 5), -1.0)
    centre[2, 2] = 6.0
    assert not must_reverse(centre.ravel(), (5, 5))
    assert must_reverse(-centre.ravel(), (5, 5))

    two_corners = np.full((5, 5), -1.0)
    two_corners[0, :] = 3.0
    assert not must_reverse(two_corners.ravel(), (5, 5))
    assert must_reverse(-two_corners.ravel(), (5, 5))


def test_sign_decides_where_the_seed_is_on_the_side_of_the_corners() -> None:
    border = np.full((6, 6), 3.0)
    border[1:5, 1:5] = -1.0
    (as_given,) = maskcut(np.ones((36, 2)), (6, 6), 0.15, 1, eigenvectors=[border.ravel()])
    (negated,) = maskcut(np.ones((36, 2)), (6, 6), 0.15, 1, eigenvectors=[-border.ravel()])
    assert as_given.sign_decides
    assert negated.sign_decides
    assert as_given.reversed
    np.testing.assert_array_equal(as_given.bipartition, border < 0)
    np.testing.assert_array_equal(negated.bipartition, border > 0)


def test_replaying_its_own_vectors_changes_nothing() -> None:
    features_ND = planted_features(three_blobs(), noise=0.12, seed=3)
    solved = maskcut(features_ND, GRID, tau=0.15, n_masks=3)
    signs = [-1.0 if r.reversed else 1.0 for r in solved]
    vectors = [sign * r.eigenvector.ravel() for sign, r in zip(signs, solved, strict=True)]
    for one, other in zip(solved, maskcut(features_ND, GRID, 0.15, 3, eigenvectors=vectors), strict=True):
        np.testing.assert_array_equal(one.pseudo_mask, other.pseudo_mask)
        np.testing.assert_array_equal(one.output, other.output)
        assert one.seed == other.seed


# LocalCut


@pytest.mark.parametrize("seed", range(12))
def test_min_cut_against_enumeration(seed: int) -> None:
    """Capacities 1..3 make several minimum cuts; the wanted one is the intersection of all their source sides."""
    rng = np.random.default_rng(seed)
    n, source, sink = 9, 0, 8
    pairs = [pair for pair in itertools.combinations(range(n), 2) if rng.random() < 0.4]
    capacities = {pair: int(rng.integers(1, 4)) for pair in pairs}

    sides: dict[int, list[set[int]]] = {}
    for members in itertools.product([False, True], repeat=n - 2):
        side = {source} | {node for node, member in zip(range(1, n - 1), members, strict=True) if member}
        value = sum(capacity for (i, j), capacity in capacities.items() if (i in side) != (j in side))
        sides.setdefault(value, []).append(side)
    least = min(sides)

    value, side_N = local_cut.min_cut(n, capacities, source, sink)
    assert value == least
    assert set(np.flatnonzero(side_N)) == set.intersection(*sides[least])


def test_min_cut_of_disconnected_terminals_is_the_component() -> None:
    rng = np.random.default_rng(5)
    depth = rng.random((7, 8)) * 0.02
    depth[:, 4:] += 0.5
    edges = local_cut.truncated_graph(local_cut.unproject(depth), k=6, tau_knn=0.3)
    component_N = local_cut.connected_component(depth.size, edges, source=9)
    value, side_N = local_cut.min_cut(depth.size, dict.fromkeys(edges, 7), source=9, sink=23)
    assert value == 0
    np.testing.assert_array_equal(side_N, component_N)
    np.testing.assert_array_equal(component_N.reshape(7, 8), np.broadcast_to(np.arange(8) < 4, (7, 8)))


def test_neighbours_against_a_kd_tree_and_the_graph_against_its_definition() -> None:
    rng = np.random.default_rng(1)
    points_N3 = local_cut.unproject(rng.random((6, 9)))
    k, tau_knn = 5, 0.35
    assert not local_cut.has_neighbour_ties(points_N3, k)
    tree_distance_NK, tree_index_NK = scipy.spatial.cKDTree(points_N3).query(points_N3, k=k + 1)
    np.testing.assert_array_equal(local_cut.nearest_neighbours(points_N3, k), tree_index_NK[:, 1:])

    expected = {
        (min(i, j), max(i, j)): distance
        for i, (indices, distances) in enumerate(zip(tree_index_NK.tolist(), tree_distance_NK, strict=True))
        for j, distance in zip(indices[1:], distances[1:], strict=True)
        if distance <= tau_knn
    }
    edges = local_cut.truncated_graph(points_N3, k, tau_knn)
    assert 0 < len(edges) < len(local_cut.truncated_graph(points_N3, k, tau_knn=10.0))
    assert edges == pytest.approx(expected)


def test_unprojection_spans_the_unit_square_and_moves_the_background() -> None:
    depth = np.random.default_rng(2).random((3, 5))
    inside = np.zeros((3, 5), dtype=bool)
    inside[1, 1:4] = True
    points = local_cut.unproject(depth, inside, background_depth=2.5).reshape(3, 5, 3)
    np.testing.assert_allclose(points[0, :, 0], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(points[:, 0, 1], [0, 0.5, 1])
    np.testing.assert_array_equal(points[..., 2], np.where(inside, depth, 2.5))
    np.testing.assert_array_equal(local_cut.unproject(depth)[:, 2], depth.ravel())


def test_a_flat_grid_has_ties() -> None:
    points_N3 = local_cut.unproject(np.zeros((5, 5)))
    assert local_cut.has_neighbour_ties(points_N3, k=3)
    with pytest.raises(ValueError, match="k must be in"):
        local_cut.nearest_neighbours(points_N3, 25)


# Rendered scenes


def surface(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far the front bulges towards the camera, of 1, at u, v in -1..1 of the bounding box; NaN outside."""
    with np.errstate(invalid="ignore"):
        if shape == "sphere":
            return np.sqrt(1 - u**2 - v**2)
        inside = np.where((np.abs(u) <= 1) & (np.abs(v) <= 1), 1.0, np.nan)
        if shape == "box":
            return inside
        radius = np.ones_like(v) if shape == "cylinder" else (1 + v) / 2
        return inside * np.sqrt(radius**2 - u**2)


AREAS = {"box": 4.0, "cylinder": 4.0, "sphere": np.pi, "cone": 2.0}


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_depth_and_area_of_a_shape_are_the_analytic_ones(shape: str) -> None:
    size, centre, half = 240, (0.45, 0.55, 0.4), (0.2, 0.3, 0.15)
    scene = scenes.render_objects((SceneObject(shape, 0, centre, half, turn=0.0),), size=size)
    pixel = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(pixel, pixel)
    bulge = surface(shape, (x - centre[0]) / half[0], (y - centre[1]) / half[1])
    expected = np.where(np.isnan(bulge), 1.0, centre[2] - half[2] * bulge)

    wall = scipy.ndimage.binary_erosion(np.isnan(bulge), iterations=2)
    np.testing.assert_allclose(scene.exact_depth[wall], 1.0, atol=1e-6)
    assert not scene.instances[wall].any()
    # A polyhedron with 200 sides is steep at the silhouette: compare where the surface faces the camera.
    front = np.nan_to_num(bulge) > 0.3
    assert front.sum() > 0.5 * AREAS[shape] * half[0] * half[1] * size**2
    np.testing.assert_allclose(scene.exact_depth[front], expected[front], atol=2e-4)
    assert scene.instances[front].all()
    assert scene.instances.sum() == pytest.approx(AREAS[shape] * half[0] * half[1] * size**2, rel=0.01)


def jumps(scene: scenes.Scene) -> dict[tuple[int, int], np.ndarray]:
    """Depth jumps between 4-adjacent pixels of two different objects, by pair of ids."""
    result: dict[tuple[int, int], list[np.ndarray]] = {}
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        one, other = scene.instances[a], scene.instances[b]
        step = np.abs(scene.exact_depth[a] - scene.exact_depth[b])
        for i, j in itertools.combinations(range(1, len(scene.objects) + 1), 2):
            between = ((one == i) & (other == j)) | ((one == j) & (other == i))
            result.setdefault((i, j), []).append(step[between])
    return {pair: np.concatenate(steps) for pair, steps in result.items()}


@pytest.mark.parametrize("n_objects", [2, 3, 4])
@pytest.mark.parametrize("overlap", [0.03, 0.35])
@pytest.mark.parametrize("seed", range(4))
def test_neighbours_touch_in_the_image_and_are_apart_in_depth(n_objects: int, overlap: float, seed: int) -> None:
    config = SceneConfig(n_objects=n_objects, overlap=overlap, depth_gap=0.15, size=240, seed=seed)
    scene = scenes.render(config)
    assert scene.rgb.shape == (240, 240, 3)
    assert scene.rgb.dtype == np.uint8
    assert scene.depth.dtype == np.float32
    assert scene.instances.dtype == np.int32
    steps = jumps(scene)
    for left in range(1, n_objects):
        assert len(steps[left, left + 1]) >= 3
    assert min(step.min() for step in steps.values() if len(step)) >= config.depth_gap - 1e-5
    # One appearance, one region: what makes semantic cuts merge them.
    assert scipy.ndimage.label(scene.instances > 0)[1] == 1
    assert scene.instances[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0, 0, 0, 0]
    for i, placed in enumerate(scene.objects, start=1):
        visible = (scene.instances == i).sum() / (AREAS[placed.shape] * placed.half[0] * placed.half[1] * 240**2)
        assert 0.2 < visible < 1.02
    # Scene units are min-max units, up to the point nearest the camera falling between pixels.
    np.testing.assert_allclose(scene.depth, scene.exact_depth, atol=2e-3)


def test_blur_softens_the_depth_and_nothing_else() -> None:
    sharp, soft = (scenes.render(SceneConfig(depth_blur=blur, size=240)) for blur in (0.0, 5.0))
    np.testing.assert_array_equal(sharp.instances, soft.instances)
    np.testing.assert_array_equal(sharp.exact_depth, soft.exact_depth)
    np.testing.assert_array_equal(sharp.rgb, soft.rgb)
    assert (soft.depth.min(), soft.depth.max()) == (0.0, 1.0)
    assert np.abs(np.diff(soft.depth)).max() < 0.3 * np.abs(np.diff(sharp.depth)).max()


def test_scenes_follow_their_seed_and_refuse_what_does_not_fit() -> None:
    config = SceneConfig(n_objects=3, size=120, seed=4)
    np.testing.assert_array_equal(scenes.render(config).exact_depth, scenes.render(config).exact_depth)
    assert scenes.place_objects(config) != scenes.place_objects(SceneConfig(n_objects=3, size=120, seed=5))
    with pytest.raises(ValueError, match="need depth"):
        SceneConfig(n_objects=4, depth_gap=0.3)
    with pytest.raises(ValueError, match="shapes must be 2 of"):
        SceneConfig(shapes=("box", "torus"))


def test_features_know_the_class_and_not_the_instance() -> None:
    scene = scenes.render(SceneConfig(n_objects=4, n_classes=2, depth_gap=0.1, size=240))
    features_ND = scenes.features_ND(scene, (30, 30), noise=0.02)
    unit_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
    classes_N = scenes.majority(scene.class_map, (30, 30)).ravel()
    cosine_NN = unit_ND @ unit_ND.T
    same_NN = classes_N[:, None] == classes_N
    assert set(classes_N) == {0, 1, 2}
    assert cosine_NN[same_NN].min() > 0.9
    assert np.abs(cosine_NN[~same_NN]).max() < 0.2
    np.testing.assert_array_equal(features_ND, scenes.features_ND(scene, (30, 30), noise=0.02))


def test_majority_and_patch_mean() -> None:
    labels = np.array([[0, 2, 1, 1], [2, 2, 1, 0], [3, 3, 0, 0], [0, 0, 0, 3]])
    np.testing.assert_array_equal(scenes.majority(labels, (2, 2)), [[2, 1], [0, 0]])
    np.testing.assert_array_equal(scenes.patch_mean(labels, (2, 2)), [[1.5, 0.75], [1.5, 0.75]])
    with pytest.raises(ValueError, match="does not divide"):
        scenes.majority(labels, (3, 2))


@pytest.mark.parametrize("seed", range(3))
def test_maskcut_merges_like_objects_and_local_cut_parts_them(seed: int) -> None:
    """The references together, on the case they are for: one semantic mask over two objects, cut in depth."""
    grid = (20, 20)
    scene = scenes.render(SceneConfig(depth_gap=0.3, size=240, seed=seed))
    instances = scenes.majority(scene.instances, grid)
    (semantic,) = maskcut(scenes.features_ND(scene, grid), grid, tau=0.15, n_masks=1)
    np.testing.assert_array_equal(semantic.output, scenes.majority(scene.class_map, grid) > 0)

    points_N3 = local_cut.unproject(scenes.majority_depth(scene, grid))
    edges = local_cut.truncated_graph(points_N3, k=8, tau_knn=0.115)
    component = local_cut.connected_component(instances.size, edges, semantic.seed).reshape(grid)
    truth = instances == instances.flat[semantic.seed]
    assert iou(component & semantic.output, truth) > 0.95
    sink = int(np.argmin(semantic.eigenvector))
    value, side_N = local_cut.min_cut(instances.size, dict.fromkeys(edges, 1), semantic.seed, sink)
    assert value == 0
    np.testing.assert_array_equal(side_N.reshape(grid), component)


def test_without_pydensecrf_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    _, image, masks = drawn(1, 1, 0)
    with pytest.raises(ImportError, match="pip install pydensecrf2"):
        dense_crf(image[None], [masks], CrfConfig())
