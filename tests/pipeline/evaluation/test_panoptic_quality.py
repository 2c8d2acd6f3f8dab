"""Panoptic quality against sets of pixels and against what the libraries give; the assignment against all others."""

from itertools import permutations, product

import numpy as np
import pytest
from support.panoptic_scenes import LABELS, THINGS, Scene, overlaps, scene
from support.recorded_panoptic import recorded
from support.reference_panoptic import RULES, Segment, Tally

from pipeline.errors import ConfigError
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.class_scores import scored
from pipeline.evaluation.panoptic_quality import (
    METRICS,
    VOID_RULES,
    Overlaps,
    PanopticCounts,
    PredictedSegments,
    TrueSegments,
    find_panoptic_assignment,
)

KINDS = [label < THINGS for label in range(LABELS)]
SAME = tuple(range(LABELS))
ASSIGNMENTS = [SAME, (1, 0, 1, 4, 4, 3), (0, None, 2, 5, None, 5), (3, 1, 5, 1, 4, 5)]


def tally(scenes: list[Scene], class_of: tuple[int | None, ...], rule: str) -> Tally:
    """By sets of pixels."""
    images, everything = [], []
    for predicted, true in scenes:
        merged: dict[object, tuple[int, frozenset]] = {}
        for number, (cluster, instance) in enumerate(zip(predicted.clusters, predicted.instances, strict=True), 1):
            label = -1 if class_of[cluster] is None else class_of[cluster]
            alone = label < 0 or (instance and label < THINGS)
            key = number if alone else ("all of", label)
            if own := pixels(predicted.ids == number):
                merged[key] = label, merged.get(key, (label, frozenset()))[1] | own
        true_segments = [
            Segment(int(label), pixels(true.ids == number), bool(crowd))
            for number, (label, crowd) in enumerate(zip(true.classes, true.crowd, strict=True), 1)
        ]
        images.append(([Segment(*one) for one in merged.values()], true_segments))
        everything.append(pixels(true.ids >= 0))
    return RULES[rule](images, everything)


def pixels(mask: np.ndarray) -> frozenset:
    return frozenset(tuple(place) for place in np.argwhere(mask).tolist())


def one_image(predicted: list, true: list, crowd: list[bool] | None = None, stuff: int = LABELS) -> PanopticCounts:
    """Counts of an image of one row and of classes 0 to 2, where clusters are classes.

    predicted, true: a pair of class and number of the segment a pixel, None for void.
    crowd: of the true segments in order.
    stuff: first class that is stuff.
    """

    def numbered(row: list) -> tuple[np.ndarray, np.ndarray]:
        names = list(dict.fromkeys(one for one in row if one is not None))
        ids = [0 if one is None else names.index(one) + 1 for one in row]
        return np.array([ids]), np.array([label for label, _ in names], np.uint8)

    own_ids, own_labels = numbered(predicted)
    ids, labels = numbered(true)
    found = Overlaps(3)
    found.add(
        PredictedSegments(own_ids, own_labels, own_labels < stuff),
        TrueSegments(ids, labels, np.array(crowd or [False] * len(labels), bool)),
    )
    return found


def outcome(found: Overlaps, rule: str, label: int = 0, stuff: int = LABELS) -> tuple[float, ...]:
    """IoU, TP, FP, FN of a class."""
    counts = found.counts(range(3), [one < stuff for one in range(3)], rule)
    return tuple(float(one[0, label]) for one in (counts.iou, counts.matched, counts.false, counts.missed))


# --- against the reference and the libraries --------------------------------------------------------------------------


@pytest.mark.parametrize("rule", VOID_RULES)
@pytest.mark.parametrize("class_of", ASSIGNMENTS)
def test_quality_is_that_of_sets_of_pixels(rule: str, class_of: tuple[int | None, ...]) -> None:
    """Also where several clusters are one class, have none, or are of another kind than their class."""
    scenes = [scene(seed) for seed in range(60)]
    counts = overlaps(scenes).counts(class_of, KINDS, rule)
    expected = tally(scenes, class_of, rule)
    assert expected.matched.total() > 10
    for found, theirs in (
        (counts.matched, expected.matched),
        (counts.false, expected.false),
        (counts.missed, expected.missed),
    ):
        assert found.sum(axis=0).tolist() == [theirs[label] for label in range(LABELS)]
    value = counts.measured(np.ones((60, 1)), KINDS)
    qualities = [expected.quality(label) for label in range(LABELS)]
    for place, name in enumerate(("pq", "sq", "rq")):
        own = [np.nan if one is None else one[place] for one in qualities]
        assert value.by_class[name][:, 0] == pytest.approx(own, nan_ok=True)
        for ending, part in (("", own), ("_things", own[:THINGS]), ("_stuff", own[THINGS:])):
            assert value.overall[f"{name}{ending}"][0] == pytest.approx(np.nanmean(part))


@pytest.mark.parametrize("rule", VOID_RULES)
def test_quality_is_that_of_the_libraries(rule: str) -> None:
    """hotcoco, which is held against panopticapi, and torchmetrics: crowds, void on both sides, stuff and things."""
    scenes, expected = recorded()
    counts = overlaps(scenes).counts(SAME, KINDS, rule)
    found = [one.sum(axis=0) for one in (counts.iou, counts.matched, counts.false, counts.missed)]
    assert (expected[rule][1] > 20).all()
    np.testing.assert_allclose(found, expected[rule], rtol=1e-7)  # torchmetrics adds IoUs as float32


# --- the rules, by hand -----------------------------------------------------------------------------------------------


def test_void_of_the_prediction_is_a_miss_or_is_forgiven() -> None:
    car, other = (0, 1), (0, 2)
    nothing = one_image([None] * 10, [car] * 10)
    assert outcome(nothing, "panopticapi") == (0, 0, 0, 1)
    assert outcome(nothing, "forgiven") == (0, 0, 0, 0), "a car that is wholly unlabelled is not even missed"
    half = one_image([car] * 9 + [None] * 11, [car] * 20)
    assert outcome(half, "panopticapi") == (0, 0, 1, 1), "IoU 0.45"
    assert outcome(half, "forgiven") == (1, 1, 0, 0)
    wrong = one_image([(1, 1)] * 5 + [None] * 5, [car] * 10)
    assert outcome(wrong, "forgiven") == (0, 0, 0, 1), "just half of it is void"
    two = one_image([car] * 4 + [other] * 4 + [None] * 2, [car] * 10)
    for rule in VOID_RULES:
        assert outcome(two, rule)[1] == 0, "one match at most, with void as without"


def test_void_of_the_truth_is_left_out_under_both_rules() -> None:
    car = (0, 1)
    for rule in VOID_RULES:
        assert outcome(one_image([car] * 10, [car] * 4 + [None] * 6), rule) == (1, 1, 0, 0)
        assert outcome(one_image([car] * 10, [None] * 6 + [(1, 1)] * 4), rule) == (0, 0, 0, 0), "mostly in void"
        assert outcome(one_image([car] * 10, [None] * 5 + [(1, 1)] * 5), rule) == (0, 0, 1, 0), "not mostly"


def test_an_iou_of_one_half_is_no_match() -> None:
    for rule in VOID_RULES:
        assert outcome(one_image([(0, 1)] * 2 + [(1, 1)] * 2, [(0, 1)] * 4), rule) == (0, 0, 1, 1)
        assert outcome(one_image([(0, 1)] * 3 + [(1, 1)] * 2, [(0, 1)] * 5), rule) == (0.6, 1, 0, 0)


def test_crowds() -> None:
    car = (0, 1)
    crowd = one_image([car] * 6, [(0, 9)] * 6, [True])
    assert outcome(crowd, "panopticapi") == (0, 0, 0, 0), "neither found nor false"
    assert outcome(crowd, "forgiven") == (1, 1, 0, 0), "a segment like others"
    assert outcome(one_image([None] * 6, [(0, 9)] * 6, [True]), "panopticapi") == (0, 0, 0, 0), "never missed"
    of_another = one_image([car] * 6, [(1, 9)] * 6, [True])
    assert outcome(of_another, "panopticapi") == (0, 0, 1, 0), "excused by crowds of its own class alone"
    both = one_image([car] * 6, [(0, 9)] * 2 + [None] * 2 + [(1, 1)] * 2, [True, False])
    assert outcome(both, "panopticapi") == (0, 0, 0, 0), "crowd and void together"
    two = one_image([car] * 10, [(0, 8)] * 3 + [(0, 9)] * 3 + [(1, 1)] * 4, [True, True, False])
    assert outcome(two, "panopticapi") == (0, 0, 0, 0), "all crowds of the class, not the last one alone"


def test_stuff_is_one_segment_and_things_are_several() -> None:
    """Two predicted parts, two true ones."""
    parts = [(0, 1)] * 5 + [(0, 2)] * 5
    assert outcome(one_image(parts, parts), "panopticapi") == (2, 2, 0, 0)
    as_one = one_image(parts, [(0, 1)] * 10)
    assert outcome(as_one, "panopticapi", stuff=0) == (1, 1, 0, 0)
    assert outcome(as_one, "panopticapi") == (0, 0, 2, 1)


def test_segments_of_a_cluster_without_a_class_are_wrong_and_not_void() -> None:
    found = one_image([(1, 1)] * 10, [(0, 1)] * 10)
    for rule in VOID_RULES:
        counts = found.counts((0, None, 2), [True] * 3, rule)
        assert (counts.missed[0, 0], counts.false.sum(), counts.unassigned[0]) == (1, 0, 1)
        assert counts.void.sum() == 0


def test_the_share_of_void() -> None:
    found = one_image([None] * 3 + [(1, 1)] * 3 + [None] * 4, [(0, 1)] * 4 + [(2, 1)] * 4 + [None] * 2, stuff=2)
    measured = found.counts(range(3), (True, True, False), "panopticapi").measured(np.ones((1, 1)), (True, True, False))
    assert [float(measured.overall[f"void{group}"][0]) for group in ("", "_things", "_stuff")] == [5 / 8, 3 / 4, 2 / 4]
    assert measured.by_class["void"][:, 0] == pytest.approx([3 / 4, np.nan, 2 / 4], nan_ok=True)
    assert set(measured.overall) == {metric.name for metric in METRICS}


# --- assignment -------------------------------------------------------------------------------------------------------


def right(total: np.ndarray, pairs: list[tuple[int, int]]) -> int:
    return sum(int(total[k, c]) for k, c in pairs)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("clusters", "classes"), [((2, 3), (3, 2)), ((3, 3), (3, 3)), ((4, 1), (2, 3)), ((0, 4), (2, 2))]
)
def test_no_other_assignment_of_things_and_of_stuff_has_more_right_pixels(
    seed: int, clusters: tuple[int, int], classes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    is_thing_K, is_thing_C = (rng.permutation(np.repeat([True, False], counts)) for counts in (clusters, classes))
    total = rng.integers(1, 50, (len(is_thing_K) + 1, len(is_thing_C)))
    class_of = find_panoptic_assignment(total, is_thing_K, is_thing_C)
    for kind in (True, False):
        rows, columns = np.flatnonzero(is_thing_K == kind).tolist(), np.flatnonzero(is_thing_C == kind).tolist()
        small, large = (rows, columns) if len(rows) <= len(columns) else (columns, rows)
        every = [list(zip(small, chosen, strict=True)) for chosen in permutations(large, len(small))]
        every = every if small is rows else [[(k, c) for c, k in pairs] for pairs in every]
        best = dict(max(every, key=lambda pairs: right(total, pairs)))
        expected = {k: columns[int(total[k, columns].argmax())] for k in rows} | best
        found = [(k, class_of[k]) for k in rows]
        assert right(total, found) == right(total, list(expected.items()))
        assert all(is_thing_C[c] == kind for _, c in found)


def test_a_cluster_that_shares_no_pixel_with_a_class_of_its_kind_has_none() -> None:
    total = np.array([[9, 0, 0, 1], [0, 0, 50, 0], [0, 0, 40, 3], [7, 7, 7, 7]])
    things = (True, True, False, False)
    assert find_panoptic_assignment(total, (True, True, False), things) == (0, None, 2)
    assert find_panoptic_assignment(total, (False, False, False), things) == (3, 2, 3), "no thing at all"
    assert find_panoptic_assignment(total[:, :2], (True, False, True), (True, True)) == (0, None, None)


def test_the_confusion_is_that_of_pixels() -> None:
    scenes = [scene(seed) for seed in range(12)]
    expected = np.zeros((LABELS + 1, LABELS), int)
    for predicted, true in scenes:
        clusters, classes = np.append(LABELS, predicted.clusters), np.append(LABELS, true.classes)
        for p, t in zip(predicted.ids.ravel(), true.ids.ravel(), strict=True):
            if t:
                expected[clusters[p], classes[t]] += 1
    assert (overlaps(scenes).total(LABELS) == expected).all()


# --- several images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", VOID_RULES)
def test_intervals_are_those_of_resampled_images_and_differences_are_paired(rule: str) -> None:
    both = [[scene(seed) for seed in range(6)], []]
    for predicted, true in both[0]:
        left_half = np.arange(true.size[1]) < true.size[1] / 2
        both[1].append((predicted._replace(ids=np.where(left_half, predicted.ids, 0)), true))
    counts = [overlaps(scenes).counts(SAME, KINDS, rule) for scenes in both]
    (first, second), (difference,) = scored(
        [lambda weights, own=own: own.measured(weights, KINDS) for own in counts], 6, bootstrap=40, seed=3
    )
    samples = []
    for weights_IB in resamples(6, 40, 3):
        for weights in weights_IB.T.astype(int):
            places = np.repeat(np.arange(6), weights).tolist()
            samples.append([mean_pq(tally([scenes[i] for i in places], SAME, rule)) for scenes in both])
    samples_B2 = np.array(samples)
    for found, theirs in (
        (first, samples_B2[:, 0]),
        (second, samples_B2[:, 1]),
        (difference, samples_B2[:, 0] - samples_B2[:, 1]),
    ):
        pq = found.overall["pq"]
        assert (pq.low, pq.high) == pytest.approx(interval(theirs))


def mean_pq(found: Tally) -> float:
    return float(np.mean([one[0] for label in range(LABELS) if (one := found.quality(label)) is not None]))


def test_images_can_be_chosen() -> None:
    scenes = [scene(seed) for seed in range(5)]
    whole = overlaps(scenes)
    part = whole.of([3, 1])
    assert (len(whole), len(part)) == (5, 2)
    expected = overlaps([scenes[3], scenes[1]])
    for rule in VOID_RULES:
        assert (part.counts(SAME, KINDS, rule).iou == expected.counts(SAME, KINDS, rule).iou).all()


def test_what_is_kept_of_an_image_does_not_grow_with_its_pixels() -> None:
    import pickle

    predicted, true = scene(7)
    kept = []
    for times in (1, 40):
        found = Overlaps(LABELS)
        large = [np.kron(ids, np.ones((times, times), np.int32)) for ids in (predicted.ids, true.ids)]
        found.add(predicted._replace(ids=large[0]), true._replace(ids=large[1]))
        kept.append(len(pickle.dumps(found)))
    assert kept[0] == kept[1] < 5000


def test_what_is_refused() -> None:
    predicted, true = scene(0)
    found = Overlaps(LABELS)
    for own, theirs, message in (
        (predicted._replace(ids=predicted.ids[1:]), true, "must have one shape"),
        (predicted._replace(ids=predicted.ids + 9), true, "segments must be 0.."),
        (predicted, true._replace(ids=true.ids - 1), "segments must be 0.."),
        (predicted._replace(clusters=predicted.clusters + 6), true, "is none of 6"),
    ):
        with pytest.raises(ValueError, match=message):
            found.add(own, theirs)
    for clusters in (0, 256):
        with pytest.raises(ValueError, match="must be 1 to 255"):
            Overlaps(clusters)
    found.add(predicted, true)
    with pytest.raises(ConfigError, match="void is 'wrong': it must be one of panopticapi, forgiven"):
        found.counts(SAME, KINDS, "wrong")


def test_an_image_without_any_segment() -> None:
    nothing = np.zeros((3, 4), np.uint8), np.zeros(0, np.uint8), np.zeros(0, bool)
    found = Overlaps(2)
    found.add(PredictedSegments(*nothing), TrueSegments(*nothing))
    for rule, things in product(VOID_RULES, ((True, False), (True, True))):
        measured = found.counts((0, 1), things, rule).measured(np.ones((1, 1)), things)
        assert all(np.isnan(value[0]) for value in measured.overall.values())
