"""Panoptic labels through everything, by a tiny method: run, kill at each crash point, resume, retry, verify, status,
info, things, pictures; and what takes masks alone refuses them.
"""

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.killed_runs import check_damage_is_found, check_killed
from support.label_method import CLASSES, labels_of
from support.panoptic_method import NAME, NOT_BRIGHT, TOO_SMALL, PanopticMethod, installed, instances_of
from support.panoptic_runs import write_run
from support.stored_run import photo

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.methods import registry as methods
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.panoptic_reader import PanopticReader, open_panoptic
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

PHOTOS = 8


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"{PanopticMethod.__module__}:PanopticMethod"
    entries = EntryPoints([EntryPoint(NAME, where, methods.GROUP)])
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries.select(group=group))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Bright blobs; one photo without any, one whose blobs are too small."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(PHOTOS):
        pixels = photo((40 + i, 56), i).copy() // 2
        if i == PHOTOS - 1:
            pixels[8:10, 9:12] = 250
        for blob in range(i if i < PHOTOS - 1 else 0):
            pixels[5 : 9 + blob, 2 + 8 * blob : 7 + 8 * blob] = 250
        pixels[-4:, : 4 * i] = 0  # without a class
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(command_line([]), [str(word) for word in words], catch_exceptions=False)


def words(photos: Path, out: Path) -> list[str]:
    return ["run", "--images", str(photos), "--recipe", NAME, "--out", str(out), "--shard-size", "3"]


def test_a_run_and_everything_that_looks_at_it(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = cuts3d(*words(photos, out))
    assert done.exit_code == 0, done.output
    assert json.loads((out / "run.json").read_text())["result"] == "panoptic"
    reader = open_panoptic(out)
    assert reader.ids == tuple(f"{i}.png" for i in range(PHOTOS))
    pixels, inside, instances = np.zeros(256, np.int64), np.zeros(4, np.int64), 0
    for record in reader:
        assert isinstance(record, PanopticRecord)
        labels, _ = labels_of(load_photo(ImageRef("-", str(photos / record.id))).rgb)
        ids, reason = instances_of(labels)
        np.testing.assert_array_equal(record.labels, labels)
        np.testing.assert_array_equal(record.instance_ids, ids)
        assert record.reason == reason
        pixels += np.bincount(labels.ravel(), minlength=256)
        inside += np.bincount(labels[ids > 0], minlength=4)
        instances += ids.max()
    assert instances == sum(range(PHOTOS - 1))
    empty = f"2 images: 1 {NOT_BRIGHT}, 1 {TOO_SMALL}"
    for output in (done.output, cuts3d("status", out).output, cuts3d("info", out).output):
        assert f"instances{'':<2}" in output
        assert f" {instances}\n" in output
        assert empty in output
        assert f"{pixels[255] / pixels.sum():.1%} of pixels" in output
        assert "masks" not in output
    as_json = json.loads(cuts3d("status", out, "--json").output)
    assert as_json["inside"] == {"cluster 3": int(inside[3])}
    assert as_json["empty"] == {NOT_BRIGHT: 1, TOO_SMALL: 1}
    told = json.loads(cuts3d("info", out, "--json").output)
    assert (told["things"], told["schema"]) == (["cluster 3"], "cuts3d-panoptic 1")
    verified = cuts3d("verify", out)
    assert (verified.exit_code, "no errors" in verified.output) == (0, True)
    assert cuts3d("export", out, "--overlays", tmp_path / "pictures", "--limit", "2").exit_code == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    assert cuts3d("export", out, "--panoptic", tmp_path / "coco").exit_code == 0
    log = [json.loads(line) for file in (out / "logs").iterdir() for line in file.read_text().splitlines()]
    assert {line["empty"] for line in log if "empty" in line} == {NOT_BRIGHT, TOO_SMALL}

    things = cuts3d("things", out)
    assert things.exit_code == 0
    lines = things.output.splitlines()
    assert lines[0].split() == ["class", "of", "all", "pixels", "in", "instances", "share", "of", "ratios"]
    ratio, total = inside[3] / pixels[3], pixels.sum()
    assert lines[1].split() == ["cluster", "3", f"{pixels[3] / total:.2%}", f"{ratio:.2%}", "1.000", "thing"]
    assert [line.split()[-1] for line in lines[1:5]] == ["thing", "stuff", "stuff", "stuff"]
    assert lines[5].split() == ["no", "class", f"{pixels[255] / total:.2%}"]
    assert lines[6] == "1 of 4 classes is a thing: a share of ratios above 0.08"
    assert lines[7] == f"{instances} instances; 2 images without any: 1 {NOT_BRIGHT}, 1 {TOO_SMALL}"
    found = json.loads(cuts3d("things", out, "--json", "--threshold", "0.5").output)
    assert (found["threshold"], found["classes"][0]["ratio"]) == (0.5, pytest.approx(ratio))
    first = {"number": 3, "name": "cluster 3", "pixels": pixels[3], "inside": inside[3], "share": 1.0, "thing": True}
    assert found["classes"][0].items() >= first.items()

    file = tmp_path / "assignment.json"
    file.write_text(Assignment(CLASSES.names, ("road", "car"), (0, 0, None, 1), "maps:truth").to_json())
    lines = cuts3d("things", out, "--assignment", file).output.splitlines()
    assert lines[1].split() == ["car", f"{pixels[3] / total:.2%}", f"{ratio:.2%}", "1.000", "thing"]
    assert lines[2].split() == ["road", f"{pixels[:2].sum() / total:.2%}", "0.00%", "0.000", "stuff"]
    assert lines[3].split() == ["no", "class", f"{(pixels[2] + pixels[255]) / total:.2%}"]
    assert lines[4:] == ["1 of 2 classes is a thing: a cluster of each is one, by a share of ratios above 0.08"]
    named = json.loads(cuts3d("things", out, "--assignment", file, "--json").output)
    assert (named["assignment"], named["instances"], named["empty"]) == ("maps:truth", None, None)
    file.write_text(Assignment(CLASSES.names[:3], ("road",), (0, 0, 0)).to_json())
    refused = cuts3d("things", out, "--assignment", file)
    assert (refused.exit_code, "the assignment is of 3 clusters" in refused.output) == (2, True)


def test_the_split_is_the_same_after_any_resume(photos: Path, tmp_path: Path) -> None:
    """Shards done again, in another order, and images that are tried again count once."""
    cuts3d(*words(photos, tmp_path / "whole"))
    whole = open_panoptic(tmp_path / "whole")
    good = (photos / "4.png").read_bytes()
    (photos / "4.png").write_bytes(b"no photo")
    out = tmp_path / "resumed"
    assert cuts3d(*words(photos, out)).exit_code == 1
    without = open_panoptic(out)
    assert without.split.ratios[3] != whole.split.ratios[3]
    assert without.ids == tuple(f"{i}.png" for i in range(PHOTOS) if i != 4)
    for key in ("00002", "00000"):
        (out / "commits" / f"{key}.json").unlink()
        assert cuts3d(*words(photos, out)).exit_code == 1
    assert cuts3d("retry-quarantined", out).exit_code == 1, "it is still no photo"
    (photos / "4.png").write_bytes(good)
    assert cuts3d("retry-quarantined", out).exit_code == 0
    again = open_panoptic(out)
    assert again.split == whole.split
    assert {**again.counts, "images": 0, "quarantined": 0} == {**whole.counts, "images": 0, "quarantined": 0}
    assert again.ids == whole.ids
    assert [again.record(i) for i in range(PHOTOS)] == list(again) == list(whole)
    assert (
        cuts3d("things", out, "--json").output.partition('"threshold"')[2]
        == (cuts3d("things", tmp_path / "whole", "--json").output.partition('"threshold"')[2])
    )


def test_an_image_that_fails_is_set_aside(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").rename(photos / "2_fails.png")
    out = tmp_path / "run"
    assert cuts3d(*words(photos, out)).exit_code == 1
    (failed,) = [result for result in open_panoptic(out) if isinstance(result, Failed)]
    assert (failed.id, failed.reason) == ("2_fails.png", "failed")
    assert verify_run(RunFolder.open(out)) == []
    told = cuts3d("things", out)
    assert (told.exit_code, "1 of 8 images is set aside" in told.stderr) == (1, True)


def test_damage_is_found(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cuts3d(*words(photos, out))
    check_damage_is_found(out)


@pytest.mark.slow
def test_killed_it_resumes_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path / "site")
    check_killed(
        tmp_path, lambda out: words(photos, out), cuts3d, environment, points=("mid_write:00001", "after_write:00001")
    )


# --- things that the maker knows, and what does not go ----------------------------------------------------------------


def test_a_maker_that_knows_needs_no_threshold(photos: Path, tmp_path: Path) -> None:
    record = PanopticMethod().record("1.png", load_photo(ImageRef("-", str(photos / "1.png"))).rgb)
    run = write_run(tmp_path, [record], CLASSES, things=(True, False, False, True))
    reader = PanopticReader(run)
    assert (reader.split.thing_classes, reader.split.threshold) == ((0, 3), None)
    told = cuts3d("things", run.url)
    assert (told.exit_code, told.output.splitlines()[-2]) == (0, "2 of 4 classes are things: so the labels' maker says")
    refused = cuts3d("things", run.url, "--threshold", "0.2")
    assert (refused.exit_code, "says itself which classes are things" in refused.output) == (2, True)


REMEDY = (
    "for panoptic labels there are `cuts3d things`, `cuts3d train --config cups_r50_fpn`, `cuts3d self-train --config "
    "cups_self_r50_fpn`, `cuts3d evaluate-panoptic`,"
)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export {run} --coco {new}", f"--coco is for instance masks; {REMEDY}"),
        ("export {run} --overlays {new} --min-score 0.1", "--min-score is for instance masks"),
        ("evaluate {run} --truth {truth}", f"instance masks are needed here; {REMEDY}"),
        ("things {labels}", "panoptic labels are needed here"),
        ("things {run} --threshold 1.0", "--threshold"),
        ("things {new}", "is not a run"),
    ],
)
def test_what_needs_other_results_refuses_in_a_line(tmp_path: Path, command: str, message: str) -> None:
    from support.semantic_runs import random_record
    from support.semantic_runs import write_run as write_semantic

    rgb = photo((40, 56), 1)
    run = write_run(tmp_path / "p", [PanopticMethod().record("1.png", rgb)], CLASSES)
    labels = write_semantic(tmp_path / "s", [random_record("1.png", (20, 20), 0)])
    (tmp_path / "truth.json").write_text(
        '{"images": [{"id": 1, "file_name": "1.png", "height": 40, "width": 56}], "annotations": [], '
        '"categories": [{"id": 1, "name": "thing"}]}'
    )
    places = {"run": run.url, "labels": labels.url, "new": tmp_path / "new", "truth": tmp_path / "truth.json"}
    told = cuts3d(*command.format(**places).split())
    assert (told.exit_code, message in told.output) == (2, True), told.output
    assert not (tmp_path / "new").exists()
