"""Panoptic labels as COCO's JSON and PNGs and as Cityscapes' instanceIds, and the classes of an assignment in them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.panoptic_runs import empty, random_panoptic, record_of, void, write_run
from support.semantic_runs import CLASSES
from support.semantic_runs import write_run as write_semantic
from support.stored_run import make_run, sample_records

from pipeline.cli import main
from pipeline.errors import ConfigError, StoreError
from pipeline.evaluation.semantic_truth.class_maps import cityscapes_ids
from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
from pipeline.results import panoptic_overlay
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord, relabelled
from pipeline.results.panoptic_coco import coloured_segments
from pipeline.results.panoptic_segments import Segments, segments_of
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import NONE, Classes
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.export import export_overlays
from pipeline.views.panoptic_export import PANOPTIC, export_instance_ids, export_panoptic
from pipeline.views.picture_files import picture_names
from pipeline.views.semantic_export import LEGEND

# Two photos of one stem, one named as Cityscapes names them, one without an instance, one without anything.
IDS = ("a/000.jpg", "a/000.png", "b/001_leftImg8bit.png")
RECORDS = [random_panoptic(id_, (30 + i, 41), i) for i, id_ in enumerate(IDS)]
RECORDS += [empty("e.png", (20, 22), "few_reliable", label=1), void("v.png", (16, 18))]
RESULTS = [*RECORDS, Failed("y.png", "truncated", "it ends")]
ASSIGNED = Assignment(CLASSES.names, ("car", "road", "person"), (1, None, 2, 0), "cityscapes:gtFine", 5)
TABLE = np.array([1, NONE, 2, 0, *[NONE] * 252], np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("panoptic"), RESULTS)


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def png_ids(file: Path) -> np.ndarray:
    """Segment ids of a panoptic PNG, as its format says."""
    with Image.open(file) as picture:
        assert picture.mode == "RGB"
        rgb = np.asarray(picture).astype(np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def check_coco(folder: Path, records: list[PanopticRecord], split: ThingSplit) -> dict[str, Any]:
    """Everything that the format asks for, and that each image has the segments of its record; the document."""
    document = json.loads((folder / PANOPTIC).read_text())
    assert document.keys() >= {"images", "annotations", "categories"}
    categories = {one["id"]: one for one in document["categories"]}
    assert [one["name"] for one in categories.values()] == list(split.classes.names)
    assert [one["isthing"] for one in categories.values()] == split.things.astype(int).tolist()
    annotations = {one["image_id"]: one for one in document["annotations"]}
    assert len(annotations) == len(document["annotations"]) == len(document["images"]) == len(records)
    by_name = {record.id: record for record in records}
    for image in document["images"]:
        record, annotation = by_name[image["file_name"]], annotations[image["id"]]
        assert (image["height"], image["width"]) == record.size
        ids = png_ids(folder / "panoptic" / annotation["file_name"])
        assert ids.shape == record.size
        info = annotation["segments_info"]
        assert len({one["id"] for one in info}) == len(info), "ids of an image differ"
        assert set(np.unique(ids)) - {0} == {one["id"] for one in info}
        expected = segments_of(record, split)
        np.testing.assert_array_equal(ids == 0, expected.ids_HW == 0)
        for one, segment in zip(info, expected.segments, strict=True):
            mask = ids == one["id"]
            np.testing.assert_array_equal(mask, expected.ids_HW == segment.id)
            rows, columns = np.nonzero(mask)
            assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (one["area"], one["iscrowd"], one["category_id"]) == (mask.sum(), 0, segment.class_ + 1)
            assert one["score"] == pytest.approx(segment.confidence, abs=1e-6)
            assert categories[one["category_id"]]["isthing"] == segment.is_thing
    return document


def test_coco_holds_the_segments(run: RunFolder, tmp_path: Path) -> None:
    done = cuts3d("export", run.url, "--panoptic", tmp_path / "out")
    assert done.exit_code == 1, "one image is set aside"
    split = PanopticReader(run).split
    assert split.thing_classes == (2, 3)
    document = check_coco(tmp_path / "out", RECORDS, split)
    n = sum(len(one["segments_info"]) for one in document["annotations"])
    assert done.stdout == f"5 maps in {tmp_path / 'out'}, {n} segments in {PANOPTIC}\n"
    assert "id" not in document["annotations"][0]
    names = picture_names(run)
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert files == {PANOPTIC, *(f"panoptic/{names[record.id]}" for record in RECORDS)}


def test_another_threshold_gives_another_export_of_the_same_run(run: RunFolder, tmp_path: Path) -> None:
    assert cuts3d("export", run.url, "--panoptic", tmp_path, "--threshold", "0.99").exit_code == 1
    split = PanopticReader(run, 0.99).split
    assert split.thing_classes == ()
    check_coco(tmp_path, RECORDS, split)
    useless = cuts3d("export", run.url, "--semantic", tmp_path / "new", "--threshold", "0.1")
    assert (useless.exit_code, "--threshold is of --panoptic, --instance-ids and --overlays" in useless.output) == (
        2,
        True,
    )


def test_the_legend_of_a_picture_says_what_is_a_thing(run: RunFolder, tmp_path: Path) -> None:
    """By the run's split at this threshold, with an assignment by that of its classes."""
    seen: list[tuple[bool, ...]] = []

    def drawn(rgb: np.ndarray, record: PanopticRecord, things: np.ndarray) -> Image.Image:
        seen.append(tuple(things.tolist()))
        return Image.new("RGB", (1, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panoptic_overlay, "draw_overlay", drawn)
        for threshold, assignment in ((None, None), (0.99, None), (None, ASSIGNED)):
            export_overlays(run, tmp_path, 1, assignment=assignment, threshold=threshold)
    assert seen == [(False, False, True, True), (False,) * 4, (True, False, True)]
    record = RECORDS[0]
    notes = panoptic_overlay.legend_notes(record, seen[0])
    assert (notes[0], notes[1]) == (", stuff", ", stuff")
    count = sum(one.class_ == 2 for one in record.instances)
    assert notes[2] == f", thing, {count} instance{'s' * (count != 1)}"
    assert panoptic_overlay.legend_notes(record)[1] == "", "nobody knows"


def test_our_own_truth_reads_it(run: RunFolder, tmp_path: Path) -> None:
    """As others read it: categories, and pixels of each image."""
    reader = PanopticReader(run)
    export_panoptic(reader, tmp_path)
    truth = read_semantic_truth(f"coco-panoptic:{tmp_path / PANOPTIC}", None)
    assert truth.classes == CLASSES.names
    refs = {ref.id: ref for ref in run.manifest.refs}
    numbers = truth.matched(run.manifest.refs)
    assert [numbers[id_] for id_ in IDS[:2]] == [None, None], "two frames of one name are not told apart"
    for record in RECORDS[2:]:
        found = segments_of(record, reader.split)
        class_of = np.array([NONE, *(one.class_ for one in found.segments)])
        labels = truth.labels(numbers[record.id], refs[record.id], record.size).labels
        np.testing.assert_array_equal(labels, class_of[found.ids_HW])


def test_colours_are_those_of_the_classes_and_ids_differ() -> None:
    ids = np.arange(1, 601).reshape(20, 30)
    record = record_of("many", np.full((20, 30), 2, np.uint8), ids)
    found = segments_of(record, ThingSplit.given(CLASSES, [False, False, True, False], {}))
    picture, info = coloured_segments(found, CLASSES)
    assert (picture.dtype, picture.shape) == (np.uint8, (20, 30, 3))
    assert len({one["id"] for one in info}) == 600
    assert picture[0, 0].tolist() == list(CLASSES.colours[2]), "the first instance has the class's own colour"
    assert np.abs(picture.astype(int) - CLASSES.colours[2]).max() <= 2 * 27
    nothing, none = coloured_segments(Segments(np.zeros((3, 4), np.int32), ()), CLASSES)
    assert (nothing.any(), none) == (False, [])


# --- Cityscapes' instanceIds ------------------------------------------------------------------------------------------


MAPS = ("a/000.jpg", "a/000.png", "b/001", "e", "v")  # of RECORDS; two have one stem


def check_instance_ids(folder: Path, records: list[PanopticRecord], split: ThingSplit, ids: list[int]) -> None:
    for record, name in zip(records, MAPS, strict=True):
        with Image.open(folder / f"{name}_gtFine_instanceIds.png") as picture:
            assert picture.mode == "I;16"
            values = np.asarray(picture).astype(int)
        expected = np.zeros(record.size, int)
        numbers = dict.fromkeys(range(len(ids)), 0)
        labels, instances = record.labels, record.instance_ids
        for c in split.stuff_classes:
            expected[labels == c] = ids[c]
        for k, one in enumerate(record.instances, start=1):
            if one.class_ in split.thing_classes:
                expected[instances == k] = ids[one.class_] * 1000 + numbers[one.class_]
                numbers[one.class_] += 1
        np.testing.assert_array_equal(values, expected)


def test_instance_ids_number_clusters_from_1(run: RunFolder, tmp_path: Path) -> None:
    done = cuts3d("export", run.url, "--instance-ids", tmp_path / "out")
    assert done.exit_code == 1
    split = PanopticReader(run).split
    check_instance_ids(tmp_path / "out", RECORDS, split, [1, 2, 3, 4])
    legend = json.loads((tmp_path / "out" / LEGEND).read_text())
    assert (legend["schema"], legend["none"]) == ("cuts3d-instance-ids/1", 0)
    assert [(one["id"], one["name"], one["thing"]) for one in legend["classes"]] == [
        (c + 1, name, c in (2, 3)) for c, name in enumerate(CLASSES.names)
    ]


def test_an_assignment_to_cityscapes_gives_its_ids(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(ASSIGNED.to_json())
    words = ("--assignment", tmp_path / "a.json")
    assert cuts3d("export", run.url, "--instance-ids", tmp_path / "ids", "--panoptic", tmp_path / "coco", *words)
    assert cityscapes_ids(ASSIGNED.classes) == [26, 7, 24]
    assert cityscapes_ids(("car", "cluster 4")) is None
    named = [relabelled(record, TABLE, Classes.named(ASSIGNED.classes)) for record in RECORDS]
    split = PanopticReader(run, assignment=ASSIGNED).split
    assert (split.thing_classes, split.stuff_classes) == ((0, 2), (1,)), "of the clusters 2 and 3"
    check_instance_ids(tmp_path / "ids", named, split, [26, 7, 24])
    check_coco(tmp_path / "coco", named, split)
    legend = json.loads((tmp_path / "ids" / LEGEND).read_text())
    assert [one["label"] for one in legend["clusters"]] == [1, None, 2, 0]

    truth = read_semantic_truth(f"cityscapes:{tmp_path / 'ids'}", 27)
    numbers, refs = truth.matched(run.manifest.refs), {ref.id: ref for ref in run.manifest.refs}
    for record in named[2:4]:
        found = truth.labels(numbers[record.id], refs[record.id], record.size).labels
        assert {truth.classes[c] for c in np.unique(found) if c != NONE} <= {"car", "road", "person"}
        np.testing.assert_array_equal(found == truth.classes.index("road"), record.labels == 1)
    pictures = export_overlays(run, tmp_path / "pictures", limit=1, assignment=ASSIGNED)
    assert (
        list(Classes.named(ASSIGNED.classes).colours[0]) in np.asarray(Image.open(pictures[0])).reshape(-1, 3).tolist()
    )


def test_a_class_is_a_thing_if_one_of_its_clusters_is(run: RunFolder) -> None:
    both = Assignment(CLASSES.names, ("car", "road"), (0, 1, 0, None))
    reader = PanopticReader(run, assignment=both)
    assert reader.split.thing_classes == (0,)
    counts = reader.counts
    inside = counts["inside"].get("sky", 0) + counts["inside"]["person"]
    assert reader.split.ratios[0] == pytest.approx(inside / (counts["pixels"]["sky"] + counts["pixels"]["person"]))
    assert reader.named_counts(counts)["unlabelled"] == counts["unlabelled"] + counts["pixels"][CLASSES.names[3]]


def test_photos_whose_maps_would_have_one_name(tmp_path: Path) -> None:
    records = [random_panoptic(id_, (20, 20), i) for i, id_ in enumerate(("a.png", "a_leftImg8bit.png"))]
    run = write_run(tmp_path, records)
    assert export_instance_ids(PanopticReader(run), tmp_path / "out").maps == 2
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == [
        "a_gtFine_instanceIds.png",
        "a_leftImg8bit_gtFine_instanceIds.png",
    ]


def test_what_16_bits_cannot_hold_is_refused(tmp_path: Path) -> None:
    many = record_of("many.png", np.full((40, 60), 2, np.uint8), np.arange(1, 2401).reshape(40, 60) // 2)
    run = write_run(tmp_path / "many", [many])
    with pytest.raises(ConfigError, match=r"many\.png has 1200 instances of person, and Cityscapes numbers 1000"):
        export_instance_ids(PanopticReader(run), tmp_path / "out")
    classes = Classes.clusters(70)
    labels = np.full((20, 20), 64, np.uint8)
    run = write_run(tmp_path / "late", [record_of("a.png", labels, np.ones((20, 20), int), classes)], classes)
    with pytest.raises(
        ConfigError, match="cluster 64 is a thing with id 65, and the ids of things in 16 bits end at 64"
    ):
        export_instance_ids(PanopticReader(run), tmp_path / "out")
    ids = [c + 1 if c < 64 else 63 if c == 64 else 1000 + c for c in range(70)]
    ids[62] = 900  # stuff may have any
    assert export_instance_ids(PanopticReader(run), tmp_path / "fits", ids).segments == 1
    assert not (tmp_path / "out").exists()


# --- what does not go -------------------------------------------------------------------------------------------------


def test_labels_of_a_panoptic_run_are_exported_and_scored_as_labels(run: RunFolder, tmp_path: Path) -> None:
    assert cuts3d("export", run.url, "--semantic", tmp_path / "out").exit_code == 1
    names = picture_names(run)
    for record in RECORDS:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / names[record.id])), record.labels)
    words = ("--truth", f"maps:{tmp_path / 'out'}", "--json", tmp_path / "scores.json", "--bootstrap", "0")
    told = cuts3d("evaluate-semantic", run.url, *words)
    assert told.exit_code == 1, "one image is set aside"
    scored = json.loads((tmp_path / "scores.json").read_text())
    assert (scored["n_images"], scored["run"]["overall"]["accuracy"]["value"]) == (3, 1)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({"model": {"fingerprint": "m"}}, "m"),
        ({"semantic": {"recipe": "depthg", "fingerprint": "labels", "model": "m"}}, "m"),
        ({"semantic": {"recipe": "depthg", "fingerprint": "labels"}}, "run"),
        ({}, "run"),
    ],
)
def test_which_model_numbered_the_clusters(run: RunFolder, config: dict[str, Any], model: str) -> None:
    """An assignment that was saved for a run of labels fits the panoptic run that took them over."""
    reader = PanopticReader(run)
    reader.run = SimpleNamespace(config=config, fingerprint="run")  # type: ignore[assignment]
    assert reader.model == model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--panoptic", "{new}"), "--panoptic is for panoptic labels; for {words} there are"),
        (("--instance-ids", "{new}"), "--instance-ids is for panoptic labels"),
        (("--overlays", "{new}", "--threshold", "0"), "--threshold is for panoptic labels; for {words} there are"),
        (("--panoptic", "{new}", "--threshold", "1"), "--threshold"),
    ],
)
def test_other_results_are_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    labels = write_semantic(tmp_path / "labels", [record.semantic for record in RECORDS])
    masks = make_run(tmp_path / "masks", sample_records(4))
    for other, what in ((labels, "semantic labels"), (masks, "instance masks")):
        told = cuts3d("export", other.url, *(word.format(new=tmp_path / "new") for word in words))
        assert (told.exit_code, message.format(words=what) in told.output) == (2, True), told.output
        assert not (tmp_path / "new").exists()


def test_a_part_of_a_run_is_written_and_none_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path, RECORDS[:4], shard_size=2, leave_out=["00001"])
    assert export_panoptic(PanopticReader(run), tmp_path / "out").maps == 2
    none = write_run(tmp_path / "empty", RECORDS[:2], leave_out=["00000"])
    for export in (export_panoptic, export_instance_ids):
        with pytest.raises(StoreError, match=r"no image of .* is finished"):
            export(PanopticReader(none), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_nothing_half_written_stays_behind(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.views.panoptic_export.segments_of", lambda *_: 1 / 0)
    for export in (export_panoptic, export_instance_ids):
        with pytest.raises(ZeroDivisionError):
            export(PanopticReader(run), tmp_path)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".json"] == []
