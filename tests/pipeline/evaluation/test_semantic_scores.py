"""Confusion, assignment and scores against loops over pixels and over all assignments."""

from itertools import permutations

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.semantic_scores import NONE, Confusions, find_assignment, scored


def pictures(seed: int, clusters: int, classes: int, images: int = 6, void: float = 0.1) -> list[tuple]:
    """Labels that follow the truth half of the time, with pixels that have none, and images without some classes."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        size = (int(rng.integers(5, 12)), int(rng.integers(5, 12)))
        truth = rng.integers(0, rng.integers(1, classes + 1), size).astype(np.uint8)
        labels = np.where(rng.random(size) < 0.5, truth % clusters, rng.integers(0, clusters, size)).astype(np.uint8)
        labels[rng.random(size) < void] = NONE
        truth[rng.random(size) < void] = NONE
        made.append((labels, truth))
    return made


def confusions(made: list[tuple], clusters: int) -> Confusions:
    found = Confusions(clusters)
    for labels, truth in made:
        found.add(labels, truth)
    return found


def counted_by_loops(made: list[tuple], clusters: int, classes: int) -> np.ndarray:
    total = np.zeros((clusters + 1, classes), int)
    for labels, truth in made:
        for cluster, true in zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if true != NONE:
                total[clusters if cluster == NONE else cluster, true] += 1
    return total


def scored_by_loops(made: list[tuple], class_of: tuple, classes: int, void: str = "wrong") -> dict[str, float]:
    """Accuracy, mIoU, and IoU of each class, pixel by pixel."""
    pairs = []
    for labels, truth in made:
        for cluster, true in zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True):
            said = None if cluster == NONE else class_of[cluster]
            if true != NONE and not (void == "skipped" and said is None):
                pairs.append((said, true))
    found = {"accuracy": np.mean([said == true for said, true in pairs])}
    ious, accuracies = [], []
    for c in range(classes):
        both = sum(said == c and true == c for said, true in pairs)
        either = sum(said == c or true == c for said, true in pairs)
        true = sum(true == c for _, true in pairs)
        ious.append(both / either if either else np.nan)
        accuracies.append(both / true if true else np.nan)
    return {**found, "miou": np.nanmean(ious), "mean_accuracy": np.nanmean(accuracies), "ious": ious}


@pytest.mark.parametrize(("clusters", "classes"), [(1, 1), (3, 5), (5, 5), (8, 4)])
def test_pixels_are_counted_as_a_loop_counts_them(clusters: int, classes: int) -> None:
    made = pictures(clusters, clusters, classes)
    found = confusions(made, clusters)
    assert (found.total(classes) == counted_by_loops(made, clusters, classes)).all()
    assert found.most_class == max(int(t[t != NONE].max(initial=0)) for _, t in made)
    part = found.of([4, 1])
    assert (part.total(classes) == counted_by_loops([made[4], made[1]], clusters, classes)).all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("clusters", "classes"), [(4, 4), (3, 5), (5, 3)])
def test_no_other_assignment_has_more_right_pixels(seed: int, clusters: int, classes: int) -> None:
    total = np.random.default_rng(seed).integers(1, 50, (clusters + 1, classes))
    class_of = find_assignment(total)

    def right(pairs: list[tuple[int, int]]) -> int:
        return sum(int(total[k, c]) for k, c in pairs)

    if clusters <= classes:
        every = [list(enumerate(chosen)) for chosen in permutations(range(classes), clusters)]
        assert len(set(class_of)) == clusters, "one to one"
        assert right(list(enumerate(class_of))) == max(map(right, every))
        return
    every = [list(zip(chosen, range(classes), strict=True)) for chosen in permutations(range(clusters), classes)]
    best = max(every, key=right)
    expected = {k: int(total[k].argmax()) for k in range(clusters)} | dict(best)
    assert right(list(enumerate(class_of))) == right(list(expected.items()))
    assert set(class_of) == set(range(classes)), "each class has a cluster before any has a second one"


def test_left_over_clusters_take_the_class_that_they_share_most_with() -> None:
    total = np.array([[9, 0], [8, 1], [0, 7], [2, 3], [0, 0], [50, 50]])
    assert find_assignment(total) == (0, 0, 1, 1, None)


def test_hungarian_comes_first_even_where_a_cluster_would_rather_have_another_class() -> None:
    """Both clusters are mostly road; the one that loses least gives way."""
    assert find_assignment(np.array([[90, 20], [80, 0], [0, 0]])) == (1, 0)
    assert find_assignment(np.array([[90, 0], [80, 0], [0, 0]])) == (0, 1), "a class that the truth lacks is one, too"


@pytest.mark.parametrize("void", ["wrong", "skipped"])
@pytest.mark.parametrize(("clusters", "classes"), [(2, 4), (4, 4), (7, 3)])
def test_scores_are_those_of_a_loop(clusters: int, classes: int, void: str) -> None:
    made = pictures(clusters * classes, clusters, classes)
    found = confusions(made, clusters)
    class_of = find_assignment(found.total(classes))
    ((scores,), _) = scored([found.by_class(class_of, classes)], void=void, bootstrap=0)
    expected = scored_by_loops(made, class_of, classes, void)
    for name in ("accuracy", "miou", "mean_accuracy"):
        assert scores.overall[name].value == pytest.approx(expected[name]), name
        assert np.isnan(scores.overall[name].low)
    assert [one.value for one in scores.by_class["iou"]] == pytest.approx(expected["ious"], nan_ok=True)


def test_a_pixel_without_a_prediction_is_wrong_unless_it_is_skipped() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    labels = np.array([[0, NONE, 1, 1]], np.uint8)
    by_class = confusions([(labels, truth)], 2).by_class((0, 1), 2)
    ((wrong,), _), ((skipped,), _) = (scored([by_class], void=void, bootstrap=0) for void in ("wrong", "skipped"))
    assert wrong.overall["accuracy"].value == 0.75
    assert [one.value for one in wrong.by_class["iou"]] == [0.5, 1]
    assert skipped.overall["accuracy"].value == 1
    assert skipped.overall["miou"].value == 1


def test_a_class_that_neither_has_is_left_out_of_the_mean_and_one_that_only_the_labels_have_is_not() -> None:
    truth = np.array([[0, 0, 0, 0]], np.uint8)
    labels = np.array([[0, 0, 0, 1]], np.uint8)
    ((scores,), _) = scored([confusions([(labels, truth)], 2).by_class((0, 1), 3)], bootstrap=0)
    assert [one.value for one in scores.by_class["iou"][:2]] == [0.75, 0]
    assert np.isnan(scores.by_class["iou"][2].value)
    assert scores.overall["miou"].value == 0.375
    assert scores.overall["mean_accuracy"].value == 0.75


def test_intervals_are_those_of_resampled_images_and_differences_are_paired() -> None:
    made, rng = pictures(1, 4, 4), np.random.default_rng(5)
    others = [(rng.integers(0, 4, t.shape).astype(np.uint8), t) for _, t in made]
    runs = [confusions(own, 4).by_class((0, 1, 2, 3), 4) for own in (made, others)]
    (first, second), (difference,) = scored(runs, bootstrap=40, seed=3)
    samples = []
    for weights_IB in resamples(len(made), 40, 3):
        for weights in weights_IB.T.astype(int):
            both = [
                scored_by_loops(list(np.repeat(np.array(own, object), weights, axis=0)), (0, 1, 2, 3), 4)
                for own in (made, others)
            ]
            samples.append([[one["accuracy"], one["miou"]] for one in both])
    samples_B22 = np.array(samples)
    for place, name in enumerate(("accuracy", "miou")):
        expected = [interval(samples_B22[:, 0, place]), interval(samples_B22[:, 1, place])]
        expected.append(interval(samples_B22[:, 0, place] - samples_B22[:, 1, place]))
        for scores, (low, high) in zip((first, second, difference), expected, strict=True):
            assert (scores.overall[name].low, scores.overall[name].high) == pytest.approx((low, high))


def test_what_is_refused() -> None:
    found = Confusions(3)
    labels, truth = np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)
    for wrong, what in (
        ((labels[:2], truth), "of one shape"),
        ((labels.astype(int), truth), "must be uint8"),
        ((labels + 3, truth), "label 3 is none of 3 clusters"),
    ):
        with pytest.raises(ValueError, match=what):
            found.add(*wrong)
    for clusters in (0, 256):
        with pytest.raises(ValueError, match="must be 1 to 255"):
            Confusions(clusters)
    found.add(labels, truth)
    by_class = found.by_class((0, 1, 2), 3)
    for settings in ({"void": "maybe"}, {"bootstrap": -1}, {"seed": -1}):
        with pytest.raises(ConfigError):
            scored([by_class], **settings)


def test_255_clusters_and_255_classes_are_counted() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = confusions([(labels, labels)], 255)
    class_of = find_assignment(found.total(255))
    assert class_of == tuple(range(255))
    ((scores,), _) = scored([found.by_class(class_of, 255)], bootstrap=0)
    assert scores.overall["miou"].value == 1
