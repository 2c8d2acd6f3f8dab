"""cuts3d evaluate-semantic: what is scored, said, saved, applied and refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.labelled_run import labelled_run, write_map

from pipeline.cli import main
from pipeline.errors import SourceError
from pipeline.evaluation.semantic_published import PUBLISHED, not_alike, published
from pipeline.evaluation.semantic_report import evaluate_semantic_runs
from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.run_folder import RunFolder

SIZE = (12, 16)


def cuts3d(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def scene(seed: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, SIZE).astype(np.uint8)


def shuffled(labels: np.ndarray, clusters: int = 3) -> np.ndarray:
    """The clusters of a run whose numbers mean nothing."""
    return ((labels.astype(int) + 1) % clusters).astype(np.uint8)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    for number in range(4):
        write_map(tmp_path / "truth" / f"{number}.png", scene(number))
    return tmp_path / "truth"


def perfect(folder: Path, **more: Any) -> RunFolder:
    return labelled_run(folder, {f"{i}.jpg": shuffled(scene(i)) for i in range(4)}, 3, **more)


def test_a_run_whose_clusters_are_the_classes_is_perfect(truth: Path, tmp_path: Path) -> None:
    run = perfect(tmp_path / "run")
    result = cuts3d(
        *("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--bootstrap", 20),
        *("--json", tmp_path / "s.json", "--csv", tmp_path / "s.csv", "--save-assignment", tmp_path / "a.json"),
    )
    assert result.exit_code == 0, result.output
    for line in ("images  4 scored", f"truth   maps:{truth} (3 classes)", "100.00 [100.00, 100.00]"):
        assert line in result.output
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["run"]["overall"]["miou"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert facts["runs"]["run"]["class_of_cluster"] == [2, 0, 1]
    assert np.sum(facts["runs"]["run"]["confusion"]) == 4 * SIZE[0] * SIZE[1]
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [row["metric"] for row in rows[:4]] == ["accuracy", "miou", "mean_accuracy", "iou"]
    saved = Assignment.read(str(tmp_path / "a.json"))
    assert saved.class_of == (2, 0, 1)
    assert (saved.table[shuffled(scene(0))] == scene(0)).all()


def test_what_cannot_be_scored_is_counted_and_said(
    truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (truth / "1.png").write_bytes(b"no picture")
    write_map(truth / "2.png", scene(2)[:, :4])
    write_map(truth / "5.png", scene(5))
    write_map(truth / "6.png", np.where(scene(6) == 1, 999, scene(6).astype(np.uint16)))
    labels = {f"{i}.jpg": shuffled(scene(i)) for i in range(7) if i != 5}
    run = labelled_run(tmp_path / "run", {**labels, "3.jpg": None, "4.jpg": shuffled(scene(4))}, 3)
    result = cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--json", tmp_path / "s.json")
    assert result.exit_code == 1, "one image is set aside"
    assert (
        "images  2 scored; 1 of the truth left out: not in the run; 1 set aside; 1 with a truth that cannot be read; 1 "
        "of another shape in the truth; 1 of the run not in the truth"
    ) in " ".join(result.output.split()).replace("images ", "images  ")
    assert "1 of 4 maps left out: 1 not_an_image, such as" in caplog.text
    assert "1 numbers in maps left out: 1 unknown, such as 999 in 6, whose" in caplog.text
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["runs"]["run"]["odd_truth"] == ["1.jpg"]
    assert facts["runs"]["run"]["other_size"] == ["2.jpg"]


def test_labels_are_brought_to_the_truths_size(truth: Path, tmp_path: Path) -> None:
    halves = {f"{i}.jpg": np.zeros((6, 8), np.uint8) for i in range(4)}
    coarse = np.repeat(np.repeat(scene(9)[:6, :8], 2, axis=0), 2, axis=1)
    halves["0.jpg"] = scene(9)[:6, :8]
    write_map(truth / "0.png", coarse)
    for i in range(1, 4):
        (truth / f"{i}.png").unlink()
    run = labelled_run(tmp_path / "run", halves, 3)
    result = cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--bootstrap", 0)
    assert "1 scored; 1 brought to the truth's size; 3 of the run not in the truth" in result.output
    assert "accuracy       100.00" in result.output
    result = cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--bootstrap", 0, "--crop", 16)
    assert "256 with a true class, of the middle square at 16 pixels" in result.output


def test_pixels_without_a_prediction(truth: Path, tmp_path: Path) -> None:
    labels = {f"{i}.jpg": shuffled(scene(i)) for i in range(4)}
    for own in labels.values():
        own[:3] = 255
    run = labelled_run(tmp_path / "run", labels, 3)
    command = ("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--bootstrap", 0)
    assert "25.0% have no prediction, counted as wrong" in cuts3d(*command).output
    assert "accuracy        75.00" in cuts3d(*command).output.replace("accuracy       75.00", "accuracy        75.00")
    skipped = cuts3d(*command, "--void", "skipped").output
    assert "25.0% have no prediction, left out" in skipped
    assert "accuracy       100.00" in skipped


def test_an_assignment_found_elsewhere_is_applied(truth: Path, tmp_path: Path) -> None:
    run, file = perfect(tmp_path / "run"), tmp_path / "a.json"
    command = ("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--bootstrap", 0)
    assert cuts3d(*command, "--save-assignment", file).exit_code == 0
    other = tmp_path / "elsewhere"
    for number in range(2):
        write_map(other / f"{number}.png", (2 - scene(number)).astype(np.uint8))
    result = cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{other}", "--assignment", file, "--bootstrap", 0)
    assert f"classes as {file} has it" in result.output
    expected = np.mean([(scene(i) == 2 - scene(i)).mean() for i in range(2)])
    assert f"accuracy       {100 * expected:.2f}" in result.output
    found = cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{other}", "--bootstrap", 0)
    assert "accuracy       100.00" in found.output, "found on these images it fits, too"


def test_an_assignment_of_other_clusters_or_classes_is_refused(truth: Path, tmp_path: Path) -> None:
    run, file = perfect(tmp_path / "run"), tmp_path / "a.json"
    cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--save-assignment", file, "--bootstrap", 0)
    more = labelled_run(tmp_path / "more", {"0.jpg": scene(0)}, 5)
    other = perfect(tmp_path / "other", recipe="of another training")
    city = tmp_path / "city"
    write_map(city / "0_gtFine_labelIds.png", scene(0) + 7)
    for arguments, message in (
        ((more.url, "--truth", f"maps:{truth}"), "the assignment is of 3 clusters (cluster 0 …)"),
        ((other.url, "--truth", f"maps:{truth}"), "the assignment is of clusters of another model"),
        ((run.url, "--truth", f"cityscapes:{city}"), "has 27 (road …): give a truth of those classes"),
        ((run.url, "--truth", f"maps:{truth}", "--compare", other.url), "of clusters of another model"),
    ):
        result = cuts3d("evaluate-semantic", *arguments, "--assignment", file)
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.output.splitlines() if line.startswith("cuts3d: ")]
        assert message in line


def test_what_is_exported_by_an_assignment_is_a_truth_with_names(tmp_path: Path) -> None:
    """From evaluation to export and back: the maps of the export are those of the truth."""
    city = tmp_path / "city"
    labels = {}
    for number in range(2):
        ids = scene(number, 27) + 7
        ids[0] = 0
        write_map(city / f"{number}_gtFine_labelIds.png", ids.astype(np.uint8))
        labels[f"{number}_leftImg8bit.png"] = shuffled(scene(number, 27), 27)
        labels[f"{number}_leftImg8bit.png"][0] = 255
    run, file, maps = labelled_run(tmp_path / "run", labels, 27), tmp_path / "a.json", tmp_path / "maps"
    command = ("evaluate-semantic", run.url, "--bootstrap", 0, "--json", tmp_path / "s.json", "--truth")
    assert cuts3d(*command, f"cityscapes:{city}", "--save-assignment", file).exit_code == 0
    exported = cuts3d("export", run.url, "--semantic", maps, "--assignment", file)
    assert exported.exit_code == 0, exported.output
    truth, again = (read_semantic_truth(f"{kind}:{path}") for kind, path in (("cityscapes", city), ("maps", maps)))
    assert again.classes == truth.classes
    for ref in run.manifest.refs:
        one, other = (t.labels(t.matched([ref])[ref.id], ref, SIZE).labels for t in (truth, again))
        assert (one == other).all()
    result = cuts3d(*command, f"maps:{maps}", "--assignment", file)
    assert "accuracy       100.00" in result.output
    (maps / "labels.json").write_text('{"schema": "cuts3d-labels/1", "classes": [{"label": 1}]}')
    assert "labels.json is damaged" in cuts3d(*command, f"maps:{maps}").output


def test_two_runs_are_compared_on_the_images_of_both(truth: Path, tmp_path: Path) -> None:
    run = perfect(tmp_path / "run")
    rng = np.random.default_rng(0)
    noisy = {f"{i}.jpg": rng.integers(0, 5, SIZE).astype(np.uint8) for i in range(3)}
    other = labelled_run(tmp_path / "noise", noisy, 5, recipe="noise")
    result = cuts3d(
        *("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--compare", other.url),
        *("--json", tmp_path / "s.json", "--bootstrap", 50),
    )
    assert result.exit_code == 0, result.output
    assert "images  3 scored; 1 of the truth left out: not in both" in result.output
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["difference"]["overall"]["miou"]["low"] > 0.2
    assert facts["difference"]["overall"]["miou"]["value"] == pytest.approx(
        facts["run"]["overall"]["miou"]["value"] - facts["other"]["overall"]["miou"]["value"]
    )
    swapped = cuts3d("evaluate-semantic", other.url, "--truth", f"maps:{truth}", "--compare", run.url)
    assert "-" in swapped.output


def test_what_is_odd_in_the_truth_is_said_once_for_both_runs(
    truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (truth / "1.png").write_bytes(b"no picture")
    write_map(truth / "2.png", np.where(scene(2) == 1, 999, scene(2).astype(np.uint16)))
    run, other = perfect(tmp_path / "run"), perfect(tmp_path / "other")
    result = cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--compare", other.url)
    assert result.exit_code == 0, result.output
    said = [record.getMessage() for record in caplog.records if str(truth) in record.getMessage()]
    assert len(said) == len(set(said)) == 2, said


def test_runs_that_are_not_finished(truth: Path, tmp_path: Path) -> None:
    run = perfect(tmp_path / "run", leave_out=("00001",))
    result = cuts3d("evaluate-semantic", run.url, "--truth", f"maps:{truth}", "--bootstrap", 0)
    assert (result.exit_code, "1 of 2 shards is missing" in result.output) == (1, True)
    empty = perfect(tmp_path / "empty", leave_out=("00000", "00001"))
    result = cuts3d("evaluate-semantic", empty.url, "--truth", f"maps:{truth}")
    assert result.exit_code == 2
    assert f"no image of {empty.url} is finished" in result.output


def test_what_is_refused(truth: Path, tmp_path: Path) -> None:
    run = perfect(tmp_path / "run")
    masks = RunFolder.create_or_open(tmp_path / "masks", {"recipe": {"name": "x"}}, run.manifest)
    strangers = labelled_run(tmp_path / "strangers", {"x.jpg": scene(0)}, 3)
    void = tmp_path / "void"
    write_map(void / "0.png", np.full(SIZE, 255, np.uint8))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0.png").write_bytes(b"no picture")
    (tmp_path / "odd.json").write_text(
        '{"schema": "cuts3d-assignment/1", "classes": ["a"], "clusters": [{"name": "x"}]}'
    )
    (tmp_path / "none.json").write_text("[]")
    for arguments, message in (
        ((tmp_path / "nowhere", "--truth", f"maps:{truth}"), "is not a run"),
        ((masks.url, "--truth", f"maps:{truth}"), "holds instance masks: semantic labels are needed here"),
        ((run.url, "--truth", f"map:{truth}"), "there is no format 'map'"),
        ((run.url, "--truth", f"maps:{tmp_path}/nowhere"), "is not there"),
        ((run.url, "--truth", f"maps:{truth}", "--classes", 5), "--classes 5: "),
        ((strangers.url, "--truth", f"maps:{truth}"), "1 are not in it (the run has x.jpg, the truth 0)"),
        ((run.url, "--truth", f"maps:{void}"), "no pixel of 1 image has a class that counts"),
        ((run.url, "--truth", f"maps:{broken}"), "none of its 1 maps can be used: 1 not_an_image"),
        ((run.url, "--truth", f"maps:{truth}", "--assignment", tmp_path / "odd.json"), "'class' is missing"),
        ((run.url, "--truth", f"maps:{truth}", "--assignment", tmp_path / "none.json"), "is no assignment: its"),
        ((run.url, "--truth", f"maps:{truth}", "--assignment", tmp_path / "gone.json"), "gone.json cannot be read"),
    ):
        result = cuts3d("evaluate-semantic", *arguments, "--json", tmp_path / "out.json")
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.output.splitlines() if line.startswith("cuts3d: ")]
        assert message in line
    assert not (tmp_path / "out.json").exists()


def test_published_figures_stand_beside_those_of_their_benchmark(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a_gtFine_labelIds.png", scene(0) + 7)
    run = labelled_run(tmp_path / "run", {"a.png": scene(0)}, 27)
    command = ("evaluate-semantic", run.url, "--truth", f"cityscapes:{tmp_path / 'truth'}", "--bootstrap", 0)
    output = cuts3d(*command).output
    assert "Published on Cityscapes-27" in output
    assert "run, labelled (1 image)" in output
    assert "Not alike: theirs are of 500 images of val; of the middle square at 320 pixels: --crop 320;" in output
    assert "Published" not in cuts3d(*command, "--classes", 19).output, "of 19 classes nothing is known"
    assert len(published("Potsdam-3")) == 4
    assert not published("")
    assert all(figure.accuracy or figure.miou for figure in PUBLISHED)
    assert len(not_alike("Cityscapes-27", 320, "skipped", given=False)) == 1


def test_from_python(truth: Path, tmp_path: Path) -> None:
    run = perfect(tmp_path / "run")
    report = evaluate_semantic_runs(read_semantic_truth(f"maps:{truth}"), run, bootstrap=0)
    assert report.runs[0].scores.overall["accuracy"].value == 1
    assert report.runs[0].of_classes().trace() == 4 * SIZE[0] * SIZE[1]
    assert report.missing == 0
    other = labelled_run(tmp_path / "other", {"x/0.jpg": scene(0), "1.jpg": None}, 3)
    only = labelled_run(tmp_path / "only", {"1.jpg": scene(1)}, 3)
    with pytest.raises(SourceError, match=r"have no image of .* in common"):
        evaluate_semantic_runs(read_semantic_truth(f"maps:{truth}"), other, only, bootstrap=0)
