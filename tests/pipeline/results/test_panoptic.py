"""Classes and instances of an image, the split of a run into things and stuff, and the segments that follow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from support.panoptic_runs import empty, random_panoptic, record_of, void
from support.semantic_runs import CLASSES

from pipeline.errors import StoreError
from pipeline.results.kinds import Failed, added
from pipeline.results.panoptic import PanopticInstance, PanopticRecord, counts_of, relabelled
from pipeline.results.panoptic_segments import VOID, segments_of
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import NONE, Classes

THREE = Classes.clusters(3)


def small(ids: np.ndarray, labels: np.ndarray | None = None, n: int | None = None) -> PanopticRecord:
    """A record of 4 x 6 pixels, the right half of class 1."""
    if labels is None:
        labels = np.zeros((4, 6), np.uint8)
        labels[:, 3:] = 1
    sure = [0.5] * (int(ids.max()) if n is None else n)
    return PanopticRecord.of("a.png", labels, np.ones((4, 6), np.float32), ids, sure, THREE)


def ids_of(**places: tuple) -> np.ndarray:
    """i1=np.s_[...] puts instance 1 there."""
    ids = np.zeros((4, 6), int)
    for name, place in places.items():
        ids[place] = int(name[1:])
    return ids


# --- one image --------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**20))
def test_maps_and_instances_come_back(height: int, width: int, seed: int) -> None:
    record = random_panoptic("a.png", (height, width), seed)
    ids, labels = record.instance_ids, record.labels
    assert (ids.dtype, ids.shape, labels.shape) == (np.uint16, (height, width), (height, width))
    assert set(np.unique(ids)) - {0} == set(range(1, len(record.instances) + 1))
    for k, one in enumerate(record.instances, start=1):
        rows, columns = np.nonzero(ids == k)
        assert set(labels[ids == k]) == {one.class_}
        assert one.area == len(rows)
        assert one.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert sum(record.inside) == np.count_nonzero(ids)
    expected = np.bincount(labels[ids > 0], minlength=len(CLASSES))
    np.testing.assert_array_equal(record.inside, expected)


def test_more_instances_than_8_bits_number() -> None:
    labels, ids = np.zeros((20, 30), np.uint8), np.arange(1, 601).reshape(20, 30)
    record = PanopticRecord.of("a", labels, np.ones((1, 1), np.float32), ids, [0.5] * 600, THREE)
    np.testing.assert_array_equal(record.instance_ids, ids)
    assert record.instances[599] == PanopticInstance(0, 0.5, 1, (29, 19, 1, 1))


def test_status_and_why_there_is_no_instance() -> None:
    with_one = small(ids_of(i1=np.s_[:2, :2]))
    assert (with_one.status, with_one.why_empty) == ("ok", "")
    assert (empty("a", (4, 4), "too_small").status, empty("a", (4, 4), "too_small").why_empty) == (
        "no_instances",
        "too_small",
    )
    assert (empty("a", (4, 4), "").why_empty, void("a", (4, 4)).status) == ("none_found", "no_labels")


@pytest.mark.parametrize(
    ("ids", "n", "message"),
    [
        (ids_of(i1=np.s_[:, 2:4]), None, r"a\.png: instance 1 has pixels of labels 0 and 1"),
        (ids_of(i2=np.s_[:2, :2]), None, "instance 1 of 2 has no pixel"),
        (ids_of(i1=np.s_[:2, :2]), 2, "instance 2 of 2 has no pixel"),
        (ids_of(i1=np.s_[:2, :2]), 0, r"ids must be 0\.\.0, one for each confidence, not 0\.\.1"),
        (ids_of(i1=np.s_[:2, :2]) - 1, 0, r"not -1\.\.0"),
        (ids_of(i1=np.s_[:2, :2]).astype(float), 1, "must be whole"),
        (np.zeros((6, 4), int), 0, r"must be whole \(4, 6\)"),
        (np.zeros((4, 6), int), 65536, "65536 instances are more than the 65535"),
    ],
)
def test_what_are_no_instances_is_refused(ids: np.ndarray, n: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(ids, n=n)


def test_an_instance_without_a_class_is_refused() -> None:
    labels = np.full((4, 6), NONE, np.uint8)
    with pytest.raises(ValueError, match="instance 1 has no class: its pixels are 255"):
        small(ids_of(i1=np.s_[:2]), labels)


@pytest.mark.parametrize("sure", [1.01, -0.1, float("nan")])
def test_confidence_is_from_0_to_1(sure: float) -> None:
    labels = np.zeros((4, 6), np.uint8)
    with pytest.raises(ValueError, match=r"confidence must be in 0\.\.1"):
        PanopticRecord.of("a", labels, np.ones((1, 1)), ids_of(i1=np.s_[:2]), [sure], THREE)


@pytest.mark.parametrize(
    ("reason", "reliable", "message"), [("too small", None, "one word"), ("", 1.5, r"reliable must be in 0\.\.1")]
)
def test_reasons_are_words_and_shares_are_shares(reason: str, reliable: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record_of("a", np.zeros((4, 6), np.uint8), np.zeros((4, 6), int), reason=reason, reliable=reliable)
    with pytest.raises(ValueError, match="one word"):
        record_of("a", np.zeros((4, 6), np.uint8), ids_of(i1=np.s_[:2]), reason="too_small")


def test_a_damaged_code_is_told_with_its_image() -> None:
    record = small(ids_of(i1=np.s_[:2, :2]))
    torn = PanopticRecord(record.semantic, record.instances, record.code[:-4])
    with pytest.raises(StoreError, match=r"the code of the instances of a\.png is damaged"):
        _ = torn.instance_ids


def test_other_classes_in_place_of_clusters() -> None:
    """Instances go with the pixels of their class, those of a cluster without one become void."""
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 2:4], labels[:, 4:] = 1, 2
    ids = ids_of(i1=np.s_[:, :1], i2=np.s_[:, 2:3], i3=np.s_[:2, 4:])
    table = np.full(256, NONE, np.uint8)
    table[:3] = [1, NONE, 0]
    named = relabelled(small(ids, labels), table, Classes.named(["car", "road"]))
    assert [one.class_ for one in named.instances] == [1, 0]
    expected = np.zeros((4, 6), int)
    expected[:, :1], expected[:2, 4:] = 1, 2
    np.testing.assert_array_equal(named.instance_ids, expected)
    np.testing.assert_array_equal(named.labels, table[labels])
    assert (named.inside, named.semantic.unlabelled) == ((4, 4), 8)
    none = relabelled(small(ids, labels), np.full(256, NONE, np.uint8), Classes.named(["car"]))
    assert (none.status, none.why_empty, none.instances) == ("no_labels", "no_class", ())


# --- the split --------------------------------------------------------------------------------------------------------


def test_counts_add_up_whatever_the_order() -> None:
    results = [
        *(random_panoptic(f"{i}", (20, 30), i) for i in range(4)),
        empty("e", (5, 6), "few_reliable", label=1),
        empty("f", (5, 6), ""),
        void("v", (3, 3)),
        Failed("x", "truncated", ""),
    ]
    counts = counts_of(results)
    records = [result for result in results if isinstance(result, PanopticRecord)]
    pixels = sum(np.array(record.semantic.pixels) for record in records)
    inside = sum(np.array(record.inside) for record in records)
    assert (counts["images"], counts["quarantined"]) == (8, 1)
    assert counts["pixels"] == {n: p for n, p in zip(CLASSES.names, pixels, strict=True) if p}
    assert counts["inside"] == {n: p for n, p in zip(CLASSES.names, inside, strict=True) if p}
    assert counts["instances"] == sum(len(record.instances) for record in records)
    assert counts["empty"] == {"few_reliable": 1, "none_found": 2}
    assert counts["unlabelled"] == sum(record.semantic.unlabelled for record in records)
    parts = [counts_of(results[:3]), counts_of(results[3:5]), counts_of(results[5:])]
    assert added(added(parts[2], parts[0]), parts[1]) == counts


def plain_split(pixels: list[int], inside: list[int], threshold: float) -> list[bool]:
    """B4 as it is written: sort the ratios, divide by their sum, take classes until one is not above the threshold."""
    ratios = [i / (p + 1e-6) for p, i in zip(pixels, inside, strict=True)]
    total = sum(ratios)
    order = sorted(range(len(ratios)), key=lambda c: -ratios[c])
    things = [False] * len(ratios)
    for c in order:
        if not total or ratios[c] / total <= threshold:
            break
        things[c] = True
    return things


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), min_size=1, max_size=27), st.floats(0, 0.5))
def test_things_are_the_classes_with_a_large_share_of_the_ratios(
    drawn: list[tuple[int, float]], threshold: float
) -> None:
    pixels = [count for count, _ in drawn]
    inside = [int(count * share) for count, share in drawn]
    classes = Classes.clusters(len(drawn))
    counts = {
        "pixels": {n: p for n, p in zip(classes.names, pixels, strict=True) if p},
        "inside": {n: i for n, i in zip(classes.names, inside, strict=True) if i},
    }
    split = ThingSplit.of_counts(classes, counts, threshold)
    near = np.abs(split.shares - threshold) < 1e-5  # where the 1e-6 of the published rule decides
    np.testing.assert_array_equal(split.things[~near], np.array(plain_split(pixels, inside, threshold))[~near])
    assert split.shares.sum() == pytest.approx(1 if any(inside) else 0)
    assert split.thing_classes + split.stuff_classes == tuple(sorted(split.thing_classes) + sorted(split.stuff_classes))
    assert len(split.thing_classes) + len(split.stuff_classes) == len(drawn)


def test_the_published_threshold() -> None:
    counts = {"pixels": {"cluster 0": 1000, "cluster 1": 1000, "cluster 2": 500}, "inside": {"cluster 2": 200}}
    split = ThingSplit.of_counts(THREE, {**counts, "inside": {"cluster 2": 200, "cluster 1": 34}})
    assert (split.threshold, split.thing_classes) == (0.08, (2,))  # 0.034 / 0.434 = 0.078
    split = ThingSplit.of_counts(THREE, {**counts, "inside": {"cluster 2": 200, "cluster 1": 35}})
    assert (split.thing_classes, split.stuff_classes) == ((1, 2), (0,))  # 0.035 / 0.435 = 0.0805
    np.testing.assert_allclose(split.ratios, [0, 0.035, 0.4])


def test_no_thing_at_all() -> None:
    for counts in ({}, {"pixels": {"cluster 0": 9}, "inside": {}}):
        split = ThingSplit.of_counts(THREE, counts)
        assert (split.thing_classes, split.stuff_classes) == ((), (0, 1, 2))
        np.testing.assert_array_equal(split.shares, 0)


def test_a_maker_that_knows_is_believed() -> None:
    counts = {"pixels": {"cluster 0": 10}, "inside": {"cluster 0": 10}}
    split = ThingSplit.made(THREE, [False, True, True], counts)
    assert (split.thing_classes, split.threshold) == ((1, 2), None)
    np.testing.assert_array_equal(split.ratios, [1, 0, 0])
    assert ThingSplit.made(THREE, None, counts).thing_classes == (0,)
    with pytest.raises(ValueError, match="bool and float"):
        ThingSplit.given(THREE, [True], counts)
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            ThingSplit.of_counts(THREE, counts, threshold)


# --- segments ---------------------------------------------------------------------------------------------------------


def plain_segments(record: PanopticRecord, things: list[int]) -> np.ndarray:
    """Of each pixel (class, instance or -1), void (-1, -1), pixel by pixel."""
    labels, ids = record.labels, record.instance_ids
    expected = np.full((*record.size, 2), -1)
    for place in np.ndindex(record.size):
        c, k = int(labels[place]), int(ids[place])
        if c == NONE or (c in things and not k):
            continue
        expected[place] = c, k - 1 if c in things else -1
    return expected


@settings(max_examples=25)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**20), st.sets(st.integers(0, 3)))
def test_segments_are_stuff_classes_and_instances_of_things(
    height: int, width: int, seed: int, things: set[int]
) -> None:
    record = random_panoptic("a", (height, width), seed)
    split = ThingSplit.given(CLASSES, [c in things for c in range(4)], {})
    found = segments_of(record, split)
    expected = plain_segments(record, sorted(things))
    assert (found.ids_HW.dtype, found.ids_HW.shape) == (np.int32, record.size)
    assert [one.id for one in found.segments] == list(range(1, len(found.segments) + 1))
    np.testing.assert_array_equal(found.ids_HW == VOID, expected[..., 0] == -1)
    assert set(np.unique(found.ids_HW)) - {VOID} == {one.id for one in found.segments}
    for one in found.segments:
        mask = found.ids_HW == one.id
        (own,) = np.unique(expected[mask], axis=0)
        assert (one.class_, -1 if one.instance is None else one.instance) == tuple(own)
        assert (one.area, one.is_thing) == (mask.sum(), one.class_ in things)
        assert (one.instance is not None) == one.is_thing
        if one.instance is None:
            assert one.confidence == pytest.approx(record.confidence[mask].mean(), abs=1e-5)
        else:
            assert one.confidence == record.instances[one.instance].confidence
    kinds = [(one.is_thing, one.instance or 0, one.class_) for one in found.segments]
    assert kinds == sorted(kinds), "stuff by class, then instances in their order"


def test_an_instance_of_a_stuff_class_joins_the_stuff() -> None:
    record = small(ids_of(i1=np.s_[:2, :2], i2=np.s_[:2, 4:]))
    found = segments_of(record, ThingSplit.given(THREE, [False, True, False], {}))
    assert [(one.class_, one.instance, one.area) for one in found.segments] == [(0, None, 12), (1, 1, 4)]
    assert (found.ids_HW == VOID).sum() == 8
    no_things = segments_of(record, ThingSplit.given(THREE, [False] * 3, {}))
    np.testing.assert_array_equal(no_things.ids_HW, record.labels + 1)


def test_instances_that_touch_stay_apart() -> None:
    record = small(ids_of(i1=np.s_[:, 3:4], i2=np.s_[:, 4:5], i3=np.s_[:, 5:]))
    found = segments_of(record, ThingSplit.given(THREE, [False, True, False], {}))
    assert [ndimage.label(found.ids_HW == one.id)[1] for one in found.segments] == [1] * 4
    assert [one.area for one in found.segments] == [12, 4, 4, 4]


def test_a_split_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="the split is of other classes"):
        segments_of(small(ids_of()), ThingSplit.given(CLASSES, [False] * 4, {}))
