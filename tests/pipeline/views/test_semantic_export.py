"""Maps with a palette, their legend, COCO-Stuff JSON, and the classes of an assignment in place of clusters."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools.coco import COCO
from support.semantic_runs import CLASSES, random_record, write_run
from support.stored_run import make_run, sample_records

from pipeline.cli import main
from pipeline.errors import ConfigError, StoreError
from pipeline.results.kinds import Failed
from pipeline.results.semantic import NONE, Classes, SemanticRecord, class_colours
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader
from pipeline.views.export import export_overlays
from pipeline.views.picture_files import picture_names
from pipeline.views.semantic_export import LEGEND, SEGMENTS, export_semantic

# Two photos of one stem, two of one name in two folders, one set aside; the JSON's own name as that of a photo.
IDS = ("a/000.jpg", "a/000.png", "b/000.jpg", "labels.jpg", "x.png")
RECORDS = [random_record(id_, (30 + i, 41), i) for i, id_ in enumerate(IDS)]
RESULTS = [*RECORDS, Failed("y.png", "truncated", "it ends")]
ASSIGNED = Assignment(CLASSES.names, ("nature", "people"), (0, 0, 1, None), "a truth", 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("labels"), RESULTS)


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_maps_hold_the_classes_and_show_their_colours(run: RunFolder, tmp_path: Path) -> None:
    exported = export_semantic(run, tmp_path / "out")
    names = picture_names(run)
    assert len({names[id_] for id_ in IDS}) == len(IDS) == exported.maps
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert files == {LEGEND, SEGMENTS, *(names[id_] for id_ in IDS)}
    table = np.zeros((256, 3), np.uint8)
    table[: len(CLASSES)] = CLASSES.colours
    for record in RECORDS:
        with Image.open(tmp_path / "out" / names[record.id]) as map_:
            assert map_.mode == "P"
            np.testing.assert_array_equal(np.asarray(map_), record.labels)
            np.testing.assert_array_equal(np.asarray(map_.convert("RGB")), table[record.labels])


def test_maps_have_eight_bits_however_few_the_classes(tmp_path: Path) -> None:
    """Pillow cuts labels to the bits that a short palette takes, see findings/pillow_short_palette.sh."""
    two = Classes.named(["a", "b"])
    record = SemanticRecord.of("a.png", np.eye(20, dtype=np.uint8), np.ones((1, 1), np.float32), two)
    export_semantic(write_run(tmp_path, [record], two), tmp_path / "out")
    data = (tmp_path / "out" / "a.png").read_bytes()
    assert (data[24], data[25]) == (8, 3), "bits, palette"


def test_the_legend_says_what_pixels_mean(run: RunFolder, tmp_path: Path) -> None:
    export_semantic(run, tmp_path)
    legend = json.loads((tmp_path / LEGEND).read_text())
    assert (legend["schema"], legend["none"], legend["run"]) == ("cuts3d-labels/1", NONE, run.fingerprint)
    expected = [{"label": c, "name": n, "colour": list(class_colours(4)[c])} for c, n in enumerate(CLASSES.names)]
    assert legend["classes"] == expected
    assert "clusters" not in legend


def test_segments_are_one_per_class_and_image(run: RunFolder, tmp_path: Path) -> None:
    exported = export_semantic(run, tmp_path)
    coco = COCO(str(tmp_path / SEGMENTS))
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == list(enumerate(CLASSES.names, start=1))
    assert len(coco.anns) == exported.segments == sum(count > 0 for record in RECORDS for count in record.pixels)
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    records = {record.id: record for record in RECORDS}
    assert {image["file_name"] for image in coco.imgs.values()} == set(IDS)
    for image in coco.imgs.values():
        record = records[image["file_name"]]
        assert (image["height"], image["width"]) == record.size
        assert (tmp_path / image["map"]).is_file()
        labels = np.full(record.size, NONE, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(annotation) > 0
            assert (labels[mask] == NONE).all(), "segments do not overlap"
            labels[mask] = annotation["category_id"] - 1
            assert (annotation["area"], annotation["iscrowd"]) == (mask.sum(), 0)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            np.testing.assert_allclose(annotation["bbox"], box)
            assert annotation["mean_confidence"] == pytest.approx(record.confidence[mask].mean(), abs=1e-5)
        np.testing.assert_array_equal(labels, record.labels)


def test_an_assignment_names_the_clusters(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "assignment.json").write_text(ASSIGNED.to_json())
    done = cuts3d("export", run.url, "--semantic", tmp_path / "out", "--assignment", tmp_path / "assignment.json")
    assert done.exit_code == 1, "one image is set aside"
    expected = {record.id: np.array([0, 0, 1, *[NONE] * 253], np.uint8)[record.labels] for record in RECORDS}
    n_segments = sum(len(set(np.unique(labels)) - {NONE}) for labels in expected.values())
    assert done.stdout == f"5 maps in {tmp_path / 'out'}, {n_segments} segments in {SEGMENTS}\n"
    names = picture_names(run)
    for id_, labels in expected.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / names[id_])), labels)
    legend = json.loads((tmp_path / "out" / LEGEND).read_text())
    assert [one["name"] for one in legend["classes"]] == ["nature", "people"]
    assert [one["label"] for one in legend["clusters"]] == [0, 0, 1, None]
    assert [one["name"] for one in legend["clusters"]] == list(CLASSES.names)
    coco = json.loads((tmp_path / "out" / SEGMENTS).read_text())
    assert [one["name"] for one in coco["categories"]] == ["nature", "people"]
    pictures = export_overlays(run, tmp_path / "pictures", limit=1, assignment=ASSIGNED)
    legend_colours = np.asarray(Image.open(pictures[0])).reshape(-1, 3).tolist()
    assert list(class_colours(2)[1]) in legend_colours


def test_counts_of_an_assignment_are_those_of_its_records(run: RunFolder) -> None:
    reader = SemanticReader(run, ASSIGNED)
    counts = reader.named_counts(reader.kind.counts(RESULTS))
    assert counts == reader.kind.counts(list(reader))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (Assignment(("a", "b"), ("c",), (0, None)), "is of 2 clusters"),
        (Assignment(CLASSES.names, ("c",), (0,) * 4, model="another one"), "of clusters of another model"),
    ],
)
def test_an_assignment_of_other_clusters_is_refused(
    run: RunFolder, tmp_path: Path, assignment: Assignment, message: str
) -> None:
    (tmp_path / "a.json").write_text(assignment.to_json())
    told = cuts3d("export", run.url, "--semantic", tmp_path / "out", "--assignment", tmp_path / "a.json")
    assert (told.exit_code, message in told.output) == (2, True), told.output
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=message):
        export_overlays(run, tmp_path / "out", assignment=assignment)


def test_a_class_that_is_there_twice_is_told(run: RunFolder, tmp_path: Path) -> None:
    text = ASSIGNED.to_json().replace('"people"', '"nature"')
    (tmp_path / "a.json").write_text(text)
    told = cuts3d("gallery", run.url, "--out", tmp_path / "g.html", "--assignment", tmp_path / "a.json")
    assert (told.exit_code, "is no whole assignment" in told.output) == (2, True)


@pytest.mark.parametrize("words", [("--semantic", "{new}"), ("--overlays", "{new}", "--assignment", "{assignment}")])
def test_masks_are_no_labels(tmp_path: Path, words: tuple[str, ...]) -> None:
    masks = make_run(tmp_path / "masks", sample_records(4))
    (tmp_path / "a.json").write_text(ASSIGNED.to_json())
    given = [word.format(new=tmp_path / "new", assignment=tmp_path / "a.json") for word in words]
    told = cuts3d("export", masks.url, *given)
    assert told.exit_code == 2
    (line,) = told.output.splitlines()
    assert "is for semantic labels; for instance masks there are `cuts3d train`" in line
    assert not (tmp_path / "new").exists()
    page = cuts3d("gallery", masks.url, "--out", tmp_path / "g.html", "--assignment", tmp_path / "a.json")
    assert (page.exit_code, "semantic labels are needed here" in page.output) == (2, True)


def test_a_part_of_a_run_is_written_and_none_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path, RECORDS[:4], shard_size=2, leave_out=["00001"])
    assert export_semantic(run, tmp_path / "out").maps == 2
    empty = write_run(tmp_path / "empty", RECORDS[:2], leave_out=["00000"])
    with pytest.raises(StoreError, match=r"no image of .* is finished"):
        export_semantic(empty, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_nothing_half_written_stays_behind(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.views.semantic_export.annotations_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_semantic(run, tmp_path)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".json"] == []


def test_what_cannot_be_written_is_told(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "labels.png").mkdir()  # where the map of labels.jpg goes
    told = cuts3d("export", run.url, "--semantic", tmp_path)
    assert told.exit_code == 2
    assert "cannot write" in told.output
    assert "labels.png" in told.output
