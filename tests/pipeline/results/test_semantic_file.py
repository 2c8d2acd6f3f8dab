"""Shards of semantic labels: round trips, determinism, layout, and damage found by opening and by `check`."""

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.changed_shards import Change, last_code, rewritten, setting
from support.semantic_runs import CLASSES, random_record

from pipeline.errors import RunMismatchError, StoreError
from pipeline.results.kinds import Failed
from pipeline.results.semantic import Classes, SemanticRecord, counts_of
from pipeline.results.semantic_codes import encoded
from pipeline.results.semantic_file import SemanticShard, write_shard
from pipeline.results.semantic_kind import SemanticKind

IDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=30)
RESULTS = [
    random_record("a.png", (33, 47), 0),
    Failed("b.png", "truncated", "ends", (5, 7)),
    random_record("c", (9, 8), 1),
]
KIND = SemanticKind(CLASSES)


@st.composite
def results(draw: st.DrawFn) -> SemanticRecord | Failed:
    if draw(st.booleans()):
        return random_record(draw(IDS), (draw(st.integers(1, 40)), draw(st.integers(1, 40))), draw(st.integers(0, 99)))
    return Failed(draw(IDS), draw(IDS), draw(st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)))


@settings(max_examples=25)
@given(st.lists(results(), max_size=6))
def test_results_come_back_as_they_were(results: list[SemanticRecord | Failed]) -> None:
    data = write_shard(results, CLASSES, {"recipe": "depthg"})
    shard = SemanticShard.open(data)
    assert list(shard.results()) == results
    assert (len(shard), shard.classes, shard.attributes["recipe"]) == (len(results), CLASSES, "depthg")
    np.testing.assert_array_equal(shard.done, [not isinstance(result, Failed) for result in results])
    assert write_shard(results, CLASSES, {"recipe": "depthg"}) == data, "the same content must give the same bytes"
    assert list(KIND.check(shard)) == []


def test_the_layout_is_zarr_with_named_dimensions(tmp_path: Path) -> None:
    """What the table at the top of the module says is enough to read it."""
    file = tmp_path / "00000.zarr.zip"
    file.write_bytes(write_shard(RESULTS, CLASSES, {}))
    group = zarr.open_group(zarr.storage.ZipStore(file, mode="r"), mode="r")
    assert (group.attrs["schema"], group.attrs["version"]) == ("cuts3d-semantic", 1)
    assert group.attrs["classes"][2] == {"name": "person", "colour": list(CLASSES.colours[2])}
    assert group.attrs["quarantine"] == {"1": ["truncated", "ends"]}
    images = xarray.open_zarr(zarr.storage.ZipStore(file, mode="r"), group="images", consolidated=False)
    assert images["pixels"].dims == ("image", "class")
    assert images["size"].values.tolist() == [[33, 47], [5, 7], [9, 8]]
    start, end = images["confidence_offsets"].values[2:4]
    np.testing.assert_array_equal(images["confidence"].values[start:end].reshape(2, 1), RESULTS[2].cells)


def test_a_file_on_the_disk_opens_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(write_shard(RESULTS, CLASSES, {}))
    assert SemanticShard.open(tmp_path / "a").ids == ("a.png", "b.png", "c")
    with pytest.raises(StoreError, match="cannot read shard"):
        SemanticShard.open(tmp_path / "b")


def test_records_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="are not those of the run"):
        write_shard([random_record("a", (9, 9), 0)], Classes.clusters(4), {})
    with pytest.raises(ValueError, match="has to know the classes"):
        SemanticKind().write(RESULTS, {})


def changed(change: Change) -> bytes:
    """The file of RESULTS with its arrays or attributes changed, whole as a file."""
    return rewritten(write_shard(RESULTS, CLASSES, {}), change)


def _code(new: np.ndarray | bytes) -> Change:
    return last_code("images/labels", "images/label_offsets", new)


def _without_a_cell(arrays: dict[str, np.ndarray], attributes: dict) -> None:
    arrays["images/confidence"] = arrays["images/confidence"][:-1]
    arrays["images/confidence_offsets"][3] -= 1


def _fewer_classes(arrays: dict[str, np.ndarray], attributes: dict) -> None:
    attributes["classes"] = attributes["classes"][:-1]
    arrays["images/pixels"] = arrays["images/pixels"][:, :-1]


LABELS = RESULTS[2].labels  # type: ignore[union-attr]
BEYOND = np.where(LABELS == 255, 200, LABELS).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_code(b"nonsense"), "cannot be decoded"),
        (_code(encoded(LABELS)[:-4]), "does not cover the 9 x 8 pixels"),
        (_code(LABELS[:-1]), "does not cover"),
        (_code(LABELS[::-1].T.copy().reshape(12, 6)[:11]), "does not cover"),
        (_code(BEYOND), "label 200 is beyond its classes"),
        (_code(np.where(LABELS == 255, 0, LABELS)), "do not have the pixels"),
        (setting("images/size", 2, (12, 6)), "beyond its classes"),
        (setting("images/size", 2, (72, 1)), "cannot reshape"),
        (setting("images/status", 2, 1), "does not go with its pixels"),
        (setting("images/pixels", (2, 0), 5000), "count some of 72 pixels"),
        (setting("images/pixels", (2, 0), -1), "count some of 72 pixels"),
        (_without_a_cell, "cannot reshape"),
    ],
)
def test_damage_is_found(change: Change, message: str) -> None:
    shard = SemanticShard.open(changed(change))
    (problem,) = KIND.check(shard)
    assert problem.startswith("1 of 2 maps is wrong: ")
    assert message in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("images/label_offsets", 1, -3), "images/label_offsets must rise"),
        (setting("images/confidence_offsets", 3, 9), "images/confidence_offsets must rise"),
        (setting("images/id_offsets", 3, 99), "images/id_offsets must rise"),
        (setting("images/id", 0, 255), "no UTF-8"),
        (setting("images/status", 0, 9), "must be below 3"),
        (lambda arrays, attributes: attributes.update(classes=[]), "1 to 255 classes"),
        (lambda arrays, attributes: attributes.pop("classes"), "classes must be a list"),
        (lambda arrays, attributes: attributes["classes"].pop(), "images/pixels has shape"),
        (lambda arrays, attributes: arrays.update({"images/pixels": arrays["images/pixels"][:2]}), "elsewhere|shape"),
    ],
)
def test_a_file_that_makes_no_sense_does_not_open(change: Change, message: str) -> None:
    with pytest.raises((StoreError, ValueError), match=message):
        SemanticShard.open(changed(change))


def test_labels_beyond_fewer_classes_are_found() -> None:
    (problem,) = KIND.check(SemanticShard.open(changed(_fewer_classes)))
    assert "label 3 is beyond its classes" in problem


def test_another_schema_is_told() -> None:
    data = changed(lambda arrays, attributes: attributes.update(version=2))
    with pytest.raises(RunMismatchError, match="cuts3d-semantic version 2, cuts3d reads cuts3d-semantic version 1"):
        SemanticShard.open(data, "a shard")


def test_bytes_that_are_no_file_are_told() -> None:
    data = write_shard(RESULTS, CLASSES, {})
    for damaged in (b"", data[: len(data) // 2], b"PK" + data[2:-30]):
        with pytest.raises(StoreError, match="damaged"):
            SemanticShard.open(damaged)


# --- what the kind says -----------------------------------------------------------------------------------------------


def test_figures_of_a_run() -> None:
    shard = SemanticShard.open(write_shard(RESULTS, CLASSES, {}))
    found = [result for result in RESULTS if isinstance(result, SemanticRecord)]
    survey = KIND.survey([(shard, np.array([True, True, True]))])
    counts = counts_of(RESULTS)
    assert survey["pixels"] == counts["pixels"]
    assert list(survey["pixels"].values()) == sorted(counts["pixels"].values(), reverse=True), "the largest first"
    assert survey["unlabelled"] == counts["unlabelled"] == sum(record.unlabelled for record in found)
    assert survey["statuses"] == {"ok": 2, "no_labels": 0, "quarantined": 1}
    images = {n: sum(r.pixels[c] > 0 for r in found) for c, n in enumerate(CLASSES.names)}
    assert survey["class_images"] == {name: images[name] for name in survey["pixels"]}
    assert sum(survey["confidence"]["counts"]) == sum(record.cells.size for record in found)
    lines = KIND.survey_lines(survey)
    total = sum(record.n_pixels for record in found)
    assert any(line.startswith("  sky") and f"{counts['pixels']['sky'] / total:.1%}" in line for line in lines)

    only_last = KIND.survey([(shard, np.array([False, False, True]))])
    assert only_last["pixels"] == counts_of(RESULTS[2:])["pixels"]


def test_words_for_counts() -> None:
    counts = counts_of(RESULTS)
    (_, classes), (_, unlabelled) = KIND.summary(counts)
    total = sum(counts["pixels"].values()) + counts["unlabelled"]
    name, most = max(counts["pixels"].items(), key=lambda pair: pair[1])
    assert classes.startswith(f"4 occur, most of all {name} {most / total:.0%}, ")
    assert unlabelled == f"{counts['unlabelled'] / total:.1%} of pixels"
    assert KIND.brief(counts) == "4 classes"
    assert KIND.summary({"images": 1}) == [("classes", "none")], "a run of which nothing is done"
    assert KIND.brief({"images": 1}) == ""


def test_a_name_cannot_move_the_terminals_cursor() -> None:
    survey = {"pixels": {"a\x1b[2J": 5}, "class_images": {"a\x1b[2J": 1}, "unlabelled": 0, "confidence": {}}
    lines = KIND.survey_lines(survey | {"confidence": {"edges": [0.0, 1.0], "counts": [3]}})
    ((_, words),) = KIND.summary({"pixels": survey["pixels"], "unlabelled": 0, "images": 1})
    assert "\x1b" not in "".join([*lines, words])


def test_facts_and_log_of_an_image() -> None:
    record = RESULTS[0]
    assert isinstance(record, SemanticRecord)
    facts = KIND.facts(record)
    assert facts["classes"] == sum(count > 0 for count in record.pixels)
    assert facts["largest class"] == CLASSES.names[int(np.argmax(record.pixels))]
    assert KIND.log(record) == {"status": "ok", **facts}
    nothing = SemanticRecord.of("x", np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.float32), CLASSES)
    assert KIND.facts(nothing) == {"classes": 0, "largest class": "none", "unlabelled %": 100.0, "mean confidence": 0.0}


def test_a_picture_has_the_colours_of_its_legend() -> None:
    labels = np.full((60, 90), 255, np.uint8)
    labels[:, 30:60], labels[:, 60:] = 0, 2
    record = SemanticRecord.of("x", labels, np.ones((60, 90), np.float32), CLASSES)
    drawn = np.asarray(KIND.draw(np.full((60, 90, 3), (200, 100, 0), np.uint8), record))
    grey = drawn[30, 10]
    assert grey[0] == grey[1] == grey[2], "the photo, without its colours"
    for column, c in ((45, 0), (75, 2)):
        np.testing.assert_allclose(drawn[30, column], 0.45 * grey + 0.55 * np.array(CLASSES.colours[c]), atol=1)
    legend = drawn[60:].reshape(-1, 3).tolist()
    assert [list(CLASSES.colours[c]) in legend for c in range(4)] == [True, False, True, False]
    assert [0, 0, 0] in legend, "pixels without a class"


def test_a_large_photo_is_drawn_small() -> None:
    record = SemanticRecord.of("x", np.zeros((1500, 3000), np.uint8), np.ones((4, 4), np.float32), CLASSES)
    picture = KIND.draw(np.zeros((1500, 3000, 3), np.uint8), record)
    assert picture.width == 1024
    assert 512 < picture.height < 600
