"""Shards of panoptic labels: round trips, determinism, layout, damage found by opening and by `check`; what the kind
says.
"""

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.changed_shards import Change, last_code, rewritten, setting
from support.panoptic_runs import empty, random_panoptic, record_of, void
from support.semantic_runs import CLASSES

from pipeline.errors import RunMismatchError, StoreError
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord, counts_of
from pipeline.results.panoptic_file import PanopticShard, write_shard
from pipeline.results.panoptic_kind import PanopticKind
from pipeline.results.panoptic_overlay import boundaries
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import Classes

IDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=30)
LABELS = np.zeros((9, 8), np.uint8)
LABELS[:, 3:], LABELS[:, 6:] = 2, 3
INSTANCES = np.zeros((9, 8), int)
INSTANCES[:2, 3:5], INSTANCES[4:, 3:6], INSTANCES[1:3, 6:] = 1, 2, 3
RESULTS = [
    random_panoptic("a.png", (33, 47), 0),
    Failed("b.png", "truncated", "ends", (5, 7)),
    empty("e", (5, 6), "few_reliable", label=1),
    record_of("c", LABELS, INSTANCES, reliable=0.5),
]
KIND = PanopticKind(CLASSES)


@st.composite
def results(draw: st.DrawFn) -> PanopticRecord | Failed:
    id_, size = draw(IDS), (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    what = draw(st.integers(0, 3))
    if what == 0:
        return Failed(id_, draw(IDS), draw(st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)))
    if what == 1:
        return empty(id_, size, draw(st.sampled_from(["", "too_small", "few_reliable"])))
    return void(id_, size) if what == 2 else random_panoptic(id_, size, draw(st.integers(0, 99)))


@settings(max_examples=15)
@given(st.lists(results(), max_size=6), st.sampled_from([None, (True, False, False, True)]))
def test_results_come_back_as_they_were(results: list[PanopticRecord | Failed], things: tuple | None) -> None:
    data = write_shard(results, CLASSES, things, {"recipe": "cups"})
    shard = PanopticShard.open(data)
    assert list(shard.results()) == results
    assert (len(shard), shard.classes, shard.things) == (len(results), CLASSES, things)
    assert shard.attributes["recipe"] == "cups"
    np.testing.assert_array_equal(shard.done, [not isinstance(result, Failed) for result in results])
    assert write_shard(results, CLASSES, things, {"recipe": "cups"}) == data, "the same bytes for the same content"
    assert list(KIND.check(shard)) == []


def test_more_than_255_instances_come_back() -> None:
    ids = np.arange(1, 601).reshape(20, 30)
    record = record_of("many", np.zeros((20, 30), np.uint8), ids)
    shard = PanopticShard.open(KIND.write([record], {}))
    assert list(shard.results()) == [record]
    np.testing.assert_array_equal(shard.record(0).instance_ids, ids)
    assert list(KIND.check(shard)) == []


def test_the_layout_is_zarr_with_named_dimensions(tmp_path: Path) -> None:
    """What the table at the top of the module says is enough to read it."""
    file = tmp_path / "00000.zarr.zip"
    file.write_bytes(write_shard(RESULTS, CLASSES, [True, False, False, False], {}))
    group = zarr.open_group(zarr.storage.ZipStore(file, mode="r"), mode="r")
    assert (group.attrs["schema"], group.attrs["version"]) == ("cuts3d-panoptic", 1)
    assert group.attrs["things"] == [True, False, False, False]
    images = xarray.open_zarr(zarr.storage.ZipStore(file, mode="r"), group="images", consolidated=False)
    names = images["reason"].attrs["names"]
    assert [names[reason] for reason in images["reason"].values] == ["", "", "few_reliable", ""]
    np.testing.assert_allclose(images["reliable"].values[1:], [np.nan, np.nan, 0.5])
    instances = xarray.open_zarr(zarr.storage.ZipStore(file, mode="r"), group="instances", consolidated=False)
    start, end = images["instance_offsets"].values[3:5]
    assert instances["class"].values[start:end].tolist() == [2, 2, 3]
    assert instances["box"].dims == ("instance", "x_y_width_height")
    assert instances["box"].values[start:end].tolist() == [[3, 0, 2, 2], [3, 4, 3, 5], [6, 1, 2, 2]]


def test_records_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="are not those of the run"):
        write_shard([random_panoptic("a", (9, 9), 0)], Classes.clusters(4), None, {})
    with pytest.raises(ValueError, match="has to know the classes"):
        PanopticKind().write(RESULTS, {})
    with pytest.raises(ValueError, match="of each class whether it is a thing"):
        PanopticKind(CLASSES, (True, False))


# --- damage -----------------------------------------------------------------------------------------------------------


def changed(change: Change) -> bytes:
    """The file of RESULTS with its arrays or attributes changed, whole as a file."""
    return rewritten(write_shard(RESULTS, CLASSES, None, {}), change)


def _ids(new: np.ndarray | bytes) -> Change:
    return last_code("images/instance_map", "images/instance_map_offsets", new)


def _labels(new: np.ndarray) -> Change:
    return last_code("images/labels", "images/label_offsets", new)


BYTES = INSTANCES.astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_ids(b"nonsense"), "the code of the instances of c is damaged: it cannot be decoded"),
        (_ids(BYTES[:-1]), "does not cover the 9 x 8 pixels"),
        (_ids(BYTES.astype(np.uint16)), "does not cover"),
        (_ids(BYTES * 2), "its map has an instance 6, recorded are 3"),
        (_ids(np.where(BYTES == 1, 0, BYTES)), "instance 1 of 3 has no pixel"),
        (_ids(np.roll(BYTES, 1, axis=0)), "instance 1 has class, area and box (2, 4, (3, 1, 2, 2)), recorded is"),
        (_ids(np.roll(BYTES, -1, axis=1)), "instance 1 has pixels of labels 0 and 2, not of one class"),
        (_ids(np.where(BYTES == 3, 3, np.where(LABELS == 0, 2, BYTES))), "instance 2 has pixels of labels 0 and 2"),
        (_labels(np.roll(LABELS, 1, axis=1)), "instance 1 has pixels of labels 0 and 2"),
        (_labels(np.where(LABELS == 0, 1, LABELS).astype(np.uint8)), "do not have the pixels"),
        (setting("instances/class", -1, 2), "instance 3 has class, area and box (3, 4, (6, 1, 2, 2)), recorded is"),
        (setting("instances/class", -1, 9), "does not fit 4 classes"),
        (setting("instances/area", -1, 3), "instance 3 has class, area and box"),
        (setting("instances/area", -1, 5), "is more than its box"),
        (setting("instances/area", -1, -5), "an area from 1"),
        (setting("instances/box", (-1, 0), 7), "does not fit 4 classes in 8 x 9"),
        (setting("instances/confidence", -1, 1.5), "must be in 0..1"),
        (setting("instances/confidence", -1, np.nan), "must be in 0..1"),
        (setting("images/status", 3, 1), "does not go with its pixels"),
        (setting("images/status", 2, 0), "does not go with its pixels"),
        (setting("images/reason", 3, 1), "why there is no instance"),
        (setting("images/reliable", 3, -1), "must be in 0..1"),
    ],
)
def test_damage_is_found(change: Change, message: str) -> None:
    (problem,) = KIND.check(PanopticShard.open(changed(change)))
    assert problem.startswith("1 of 3 maps is wrong: ")
    assert message in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("images/instance_map_offsets", 1, -3), "images/instance_map_offsets must rise"),
        (setting("images/instance_offsets", -1, 2), "images/instance_offsets must rise"),
        (setting("images/label_offsets", 1, -3), "images/label_offsets must rise"),
        (setting("images/reason", 0, 7), "images/reason has no names"),
        (setting("images/status", 0, 9), "must be below 4"),
        (lambda arrays, attributes: attributes.update(things=[True]), "for each of 4 classes"),
        (lambda arrays, attributes: attributes.update(things=[1, 0, 0, 0]), "for each of 4 classes"),
        (lambda arrays, attributes: attributes.pop("classes"), "classes must be a list"),
        (lambda arrays, attributes: arrays.update({"images/reason": arrays["images/reason"][:2]}), "elsewhere|shape"),
    ],
)
def test_a_file_that_makes_no_sense_does_not_open(change: Change, message: str) -> None:
    with pytest.raises((StoreError, ValueError), match=message):
        PanopticShard.open(changed(change))


def test_another_schema_is_told() -> None:
    data = changed(lambda arrays, attributes: attributes.update(schema="cuts3d-semantic"))
    with pytest.raises(RunMismatchError, match="cuts3d-semantic version 1, cuts3d reads cuts3d-panoptic version 1"):
        PanopticShard.open(data, "a shard")


# --- what the kind says -----------------------------------------------------------------------------------------------


def test_figures_of_a_run() -> None:
    shard = PanopticShard.open(write_shard(RESULTS, CLASSES, None, {}))
    everything = np.ones(4, bool)
    survey, counts = KIND.survey([(shard, everything)]), counts_of(RESULTS)
    for name in ("pixels", "inside", "unlabelled", "instances", "empty"):
        assert survey[name] == counts[name], name
    assert survey["statuses"] == {"ok": 2, "no_instances": 1, "no_labels": 0, "quarantined": 1}
    assert sum(survey["class_instances"].values()) == counts["instances"]
    assert sum(n * images for n, images in survey["per_image"].items()) == counts["instances"]
    assert survey["per_image"][0] == 1
    assert sum(survey["instance_confidence"]["counts"]) == counts["instances"]
    assert sum(survey["reliable"]["counts"]) == 2, "one image does not say"
    split = ThingSplit.of_counts(CLASSES, counts)
    assert survey["things"] == [CLASSES.names[c] for c in split.thing_classes] == list(CLASSES.names[2:])
    lines = KIND.survey_lines(survey)
    assert lines[0].startswith("things       2 of 4 classes are: person, ")
    assert "share of pixels whose motion is reliable" in lines
    only_last = KIND.survey([(shard, np.array([False, False, False, True]))])
    assert only_last["inside"] == counts_of(RESULTS[3:])["inside"]
    assert KIND.survey([])["things"] == []


def test_what_was_all_set_aside_has_no_empty_headings() -> None:
    failed = [Failed("a", "missing", "is not there")]
    shard = KIND.open(KIND.write(failed, {}))
    survey = KIND.survey([(shard, np.ones(1, bool))])
    assert KIND.survey_lines(survey) == ["things       0 of 4 classes are: none"]
    assert KIND.survey_lines(KIND.survey([])) == []


def test_things_that_the_maker_knows_are_in_the_figures() -> None:
    kind = PanopticKind(CLASSES, (True, False, False, False))
    shard = kind.open(kind.write(RESULTS, {}))
    survey = kind.survey([(shard, np.ones(4, bool))])
    assert survey["things"] == ["sky"]
    assert kind.survey_lines(survey)[0] == "things       1 of 4 classes is: sky"


def test_words_for_counts() -> None:
    results = [*RESULTS, empty("f", (3, 3), "few_reliable"), empty("g", (3, 3), "")]
    counts = counts_of(results)
    summary = dict(KIND.summary(counts))
    assert summary["classes"].startswith("4 occur, most of all ")
    assert summary["instances"] == str(counts["instances"])
    assert summary["none in"] == "3 images: 2 few_reliable, 1 none_found"
    assert KIND.brief(counts) == f"{counts['instances'] / 6:.1f} instances/image, 2 few_reliable, 1 none_found"
    assert KIND.summary({"images": 1}) == [("classes", "none"), ("instances", "0")], "a run of which nothing is done"
    assert KIND.brief({"images": 1}) == ""


@pytest.mark.parametrize(
    ("reasons", "cause"),
    [
        (["few_reliable"] * 2, "left and right are swapped"),
        (["few_reliable", "too_small"], ""),
        (["none_found"], ""),  # of which nothing is known
    ],
)
def test_one_reason_for_all_has_a_likely_cause(reasons: list[str], cause: str) -> None:
    results = [empty(str(number), (3, 3), reason) for number, reason in enumerate(reasons)]
    counts = counts_of([*results, Failed("f", "missing", "is not there")])
    assert dict(KIND.summary(counts)).get("likely", "").startswith(cause)
    assert ("likely" in dict(KIND.summary(counts))) == bool(cause)
    masks = {"images": len(reasons) + 1, "quarantined": 1, "masks": 0, "drops": counts["empty"]}
    assert ("likely" in dict(InstanceKind().summary(masks))) == bool(cause)
    assert "likely" not in dict(InstanceKind().summary({**masks, "masks": 1}))


def test_facts_and_log_of_an_image() -> None:
    record, none = RESULTS[3], RESULTS[2]
    assert isinstance(record, PanopticRecord)
    assert isinstance(none, PanopticRecord)
    facts = KIND.facts(record)
    assert (facts["instances"], facts["classes"]) == (3, 3)
    assert KIND.log(record) == {"status": "ok", **facts}
    assert KIND.log(none) == {"status": "no_instances", **KIND.facts(none), "empty": "few_reliable"}


def test_a_picture_has_boundaries_and_a_legend() -> None:
    labels = np.full((60, 90), 2, np.uint8)
    labels[:, 70:] = 255
    ids = np.zeros((60, 90), int)
    ids[10:50, 10:30], ids[10:50, 30:60] = 1, 2
    drawn = np.asarray(KIND.draw(np.full((60, 90, 3), (200, 100, 0), np.uint8), record_of("x", labels, ids)))
    grey = drawn[5, 80]
    assert grey[0] == grey[1] == grey[2], "the photo, without its colours"
    for place, strength in (((5, 5), 0.4), ((40, 14), 0.75)):
        np.testing.assert_allclose(
            drawn[place], (1 - strength) * grey + strength * np.array(CLASSES.colours[2]), atol=1
        )
    for place in ((12, 10), (12, 29), (12, 30), (12, 59), (49, 20)):
        assert drawn[place].tolist() == [255, 255, 255], f"a line at {place}"
    assert list(CLASSES.colours[2]) in drawn[60:].reshape(-1, 3).tolist()


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 999))
def test_boundaries_are_where_another_begins(height: int, across: int, width: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 3, (height, across)).repeat(2, 0)
    found = boundaries(ids, width)
    for y, x in np.ndindex(ids.shape):
        near = [(y + s, x) for s in range(-width, width + 1)] + [(y, x + s) for s in range(-width, width + 1)]
        inside = [ids[p] if 0 <= p[0] < ids.shape[0] and 0 <= p[1] < ids.shape[1] else 0 for p in near]
        assert found[y, x] == (ids[y, x] > 0 and any(k != ids[y, x] for k in inside))


def test_a_large_photo_is_drawn_small() -> None:
    record = record_of("x", np.zeros((1500, 3000), np.uint8), np.ones((1500, 3000), int))
    picture = KIND.draw(np.zeros((1500, 3000, 3), np.uint8), record)
    assert picture.width == 1024
    assert 512 < picture.height < 600
