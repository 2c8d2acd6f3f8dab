"""cuts3d evaluate-panoptic: what is scored, said, saved, applied and refused."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.labelled_run import labelled_run, write_map
from support.panoptic_runs import write_run

from pipeline.cli import main
from pipeline.errors import SourceError
from pipeline.evaluation.panoptic_evaluation import evaluate_panoptic
from pipeline.evaluation.panoptic_published import PUBLISHED, not_alike, published
from pipeline.evaluation.panoptic_runs import open_predictions
from pipeline.evaluation.panoptic_truth import read_panoptic_truth
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.semantic import NONE, Classes
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.run_folder import RunFolder

SIZE = (24, 32)
ROAD, SKY, CAR, PERSON = 7, 23, 26, 24
# Which cluster stands for which class in the runs here: numbers that mean nothing.
CLUSTER_OF = {ROAD: 3, SKY: 1, CAR: 0, PERSON: 2}
THINGS = (True, False, True, False)


def cuts3d(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def scene(number: int) -> np.ndarray:
    """uint16, as Cityscapes' instanceIds: sky above, road below, two cars and a person; void at the left."""
    values = np.full(SIZE, SKY, np.uint16)
    values[8:] = ROAD
    values[10:16, 4 + number : 12 + number], values[12:20, 18:26] = CAR * 1000, CAR * 1000 + 1
    values[6:14, 27:30] = PERSON * 1000
    values[:, :2] = 0
    return values


def record(name: str, values: np.ndarray, clusters: int = 4, cluster_of: dict[int, int] = CLUSTER_OF) -> PanopticRecord:
    """What a run that sees all of this would hold: instances where the map has numbers."""
    ids = np.where(values >= 1000, values // 1000, values)
    labels = np.full(values.shape, NONE, np.uint8)
    for id_, cluster in cluster_of.items():
        labels[ids == id_] = cluster
    instances = np.zeros(values.shape, int)
    for k, value in enumerate(np.unique(values[values >= 1000]), start=1):
        instances[values == value] = k
    sure = np.full(instances.max(), 0.8)
    return PanopticRecord.of(name, labels, np.ones((1, 1), np.float32), instances, sure, Classes.clusters(clusters))


Change = Callable[[np.ndarray], np.ndarray]


def seen(
    folder: Path, change: Change = lambda values: values, images: Sequence[int] = range(4), **more: Any
) -> RunFolder:
    """A run that sees the truth, changed."""
    records = [record(f"{i}_leftImg8bit.png", change(scene(i).copy())) for i in images]
    return write_run(folder, records, Classes.clusters(4), **{"things": THINGS, "shard_size": 2, **more})


def without_a_car(values: np.ndarray) -> np.ndarray:
    """The first car is not seen: its pixels are void."""
    values[values == CAR * 1000] = 0
    return values


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    for number in range(4):
        write_map(tmp_path / "truth" / f"{number}_gtFine_instanceIds.png", scene(number))
    return tmp_path / "truth"


def facts_of(run: object, truth: Path, out: Path, *more: Any) -> dict[str, Any]:
    result = cuts3d("evaluate-panoptic", run, "--truth", f"cityscapes:{truth}", "--bootstrap", 0, "--json", out, *more)
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text())


def value(facts: dict[str, Any], name: str, what: str = "run") -> float:
    return facts[what]["overall"][name]["value"]


# --- what is scored ---------------------------------------------------------------------------------------------------


def test_a_run_that_sees_all_is_perfect(truth: Path, tmp_path: Path) -> None:
    run = seen(tmp_path / "run")
    result = cuts3d(
        *("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}", "--bootstrap", 20),
        *("--json", tmp_path / "s.json", "--csv", tmp_path / "s.csv", "--save-assignment", tmp_path / "a.json"),
    )
    assert result.exit_code == 0, result.output
    for line in ("images  4 scored", "27 classes, 10 of them things", "4 clusters, 2 of them things"):
        assert line in result.output
    facts = json.loads((tmp_path / "s.json").read_text())
    for name in ("pq", "sq", "rq", "pq_things", "pq_stuff", "accuracy", "miou"):
        assert facts["run"]["overall"][name] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert value(facts, "void") == 0
    assert facts["run"]["pq"]["car"]["value"] == 1
    assert facts["run"]["pq"]["bus"]["value"] is None
    of_run = facts["runs"]["run"]
    assert of_run["segments"]["car"] == {"matched": 8, "false": 0, "missed": 0}
    assert np.sum(of_run["confusion"]) == 4 * 24 * 30
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [row["metric"] for row in rows[:3]] == ["pq", "sq", "rq"]
    assert {row["void"] for row in rows} == {"panopticapi"}
    saved = Assignment.read(str(tmp_path / "a.json"))
    assert [saved.classes[i] for i in saved.class_of] == ["car", "sky", "person", "road"]
    assert saved.class_of == saved.jointly


def test_a_car_that_is_not_seen_by_both_rules(truth: Path, tmp_path: Path) -> None:
    run = seen(tmp_path / "run", without_a_car)
    facts = facts_of(run.url, truth, tmp_path / "s.json")
    assert facts["run"]["pq"]["car"]["value"] == pytest.approx(4 / (4 + 4 / 2))
    assert value(facts, "pq_things") == pytest.approx((2 / 3 + 1) / 2)
    assert value(facts, "pq") == pytest.approx((2 / 3 + 3) / 4)
    assert value(facts, "void") == pytest.approx(48 / (24 * 30))
    assert value(facts, "accuracy") == pytest.approx(1 - 48 / (24 * 30))
    assert facts["run"]["void"]["car"]["value"] == pytest.approx(48 / (48 + 64))
    forgiving = facts_of(run.url, truth, tmp_path / "f.json", "--void", "forgiven")
    assert [value(forgiving, name) for name in ("pq", "accuracy", "miou")] == [1, 1, 1]
    assert value(forgiving, "void") == value(facts, "void"), "the share of void is said under both"
    for one in (facts, forgiving):
        by_void = one["runs"]["run"]["by_void"]
        assert by_void["panopticapi"]["pq"] == value(facts, "pq")
        assert by_void["forgiven"]["pq"] == 1
    output = cuts3d("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}", "--bootstrap", 0).output
    assert "6.7% have no prediction: missed, as in COCO and Cityscapes" in output
    assert "run, made up (4 images), panopticapi   91.67" in output
    assert "run, made up (4 images), forgiven     100.00" in output


def test_the_split_of_a_run_decides_what_is_a_thing(truth: Path, tmp_path: Path) -> None:
    """All pixels of cars and persons lie in instances, so that by statistics each has half of all ratios."""
    run = seen(tmp_path / "run", things=None)
    facts = facts_of(run.url, truth, tmp_path / "s.json")
    assert (facts["runs"]["run"]["things"], value(facts, "pq")) == (list(THINGS), 1.0)
    strict = facts_of(run.url, truth, tmp_path / "t.json", "--threshold", 0.6)
    assert strict["runs"]["run"]["things"] == [False] * 4
    assert value(strict, "pq_things") == 0
    assert strict["runs"]["run"]["class_of_cluster"][0] not in (19, 17), "stuff is matched with stuff"
    assert value(strict, "accuracy") == 1, "and all together for accuracy"
    output = cuts3d("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}", "--threshold", 0.6).output
    assert "4 clusters, none of them things" in output


def test_more_clusters_than_classes_are_many_to_one_within_their_kind(truth: Path, tmp_path: Path) -> None:
    """Cars of odd images are of a third thing cluster; of 7 classes two are things."""
    records = []
    for number in range(4):
        cluster_of = {**CLUSTER_OF, CAR: 4} if number % 2 else CLUSTER_OF
        records.append(record(f"{number}_leftImg8bit.png", scene(number), 5, cluster_of))
    run = write_run(tmp_path / "run", records, Classes.clusters(5), (*THINGS, True))
    seven = facts_of(run.url, truth, tmp_path / "s.json", "--classes", 7)
    classes = [seven["classes"][i] for i in seven["runs"]["run"]["class_of_cluster"]]
    assert classes == ["vehicle", "sky", "human", "flat", "vehicle"]
    assert (value(seven, "pq"), seven["runs"]["run"]["segments"]["vehicle"]["matched"]) == (1, 8)
    many = facts_of(run.url, truth, tmp_path / "t.json")
    assert value(many, "pq_things") < 1, "of 27 classes ten are things, so that the third cluster has to be another"


def test_a_cluster_of_another_kind_matches_nothing_and_is_not_void(truth: Path, tmp_path: Path) -> None:
    """Instances on the road, of a cluster that is on no thing."""
    records = []
    for number in range(4):
        one = record(f"{number}_leftImg8bit.png", scene(number), 5)
        labels, ids = one.labels.copy(), one.instance_ids.astype(int)
        labels[21:, 10:20], ids[21:, 10:20] = 4, 4
        records.append(PanopticRecord.of(one.id, labels, np.ones((1, 1), np.float32), ids, [0.8] * 4, one.classes))
    run = write_run(tmp_path / "run", records, Classes.clusters(5), (*THINGS, True))
    for void in ("panopticapi", "forgiven"):
        facts = facts_of(run.url, truth, tmp_path / "s.json", "--void", void)
        of_run = facts["runs"]["run"]
        assert (of_run["class_of_cluster"][4], of_run["unassigned_segments"]) == (None, 4)
        assert value(facts, "void") == 0
        assert facts["run"]["sq"]["road"]["value"] < 1
    output = cuts3d("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}").output
    assert "4 segments of clusters without a class match nothing" in " ".join(output.split())


def test_what_cannot_be_scored_is_counted_and_said(
    truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (truth / "1_gtFine_instanceIds.png").write_bytes(b"no picture")
    write_map(truth / "2_gtFine_instanceIds.png", scene(2)[:, :8])
    write_map(truth / "9_gtFine_instanceIds.png", scene(2))
    records: list[PanopticRecord | Failed] = [record(f"{i}_leftImg8bit.png", scene(i)) for i in range(3)]
    records += [Failed("3_leftImg8bit.png", "truncated", "ends early"), record("7_leftImg8bit.png", scene(3))]
    run = write_run(tmp_path / "run", records, Classes.clusters(4), THINGS)
    result = cuts3d("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}", "--bootstrap", 0)
    assert result.exit_code == 1, "one image is set aside"
    assert (
        "images 1 scored; 1 of the truth left out: not in the run; 1 set aside; 1 with a truth that cannot be read; 1 "
        "of another shape in the truth; 1 of the run not in the truth"
    ) in " ".join(result.output.split())
    assert "1 of 3 maps left out: 1 not_an_image, such as" in caplog.text


def test_segments_are_brought_to_the_truths_size(truth: Path, tmp_path: Path) -> None:
    for number in range(4):
        twice = np.repeat(np.repeat(scene(number), 2, axis=0), 2, axis=1)
        write_map(truth / f"{number}_gtFine_instanceIds.png", twice)
    run = seen(tmp_path / "run")
    facts = facts_of(run.url, truth, tmp_path / "s.json")
    assert (value(facts, "pq"), facts["runs"]["run"]["resized"]) == (1, 4)


def test_accuracy_of_the_middle_square_and_quality_of_whole_images(truth: Path, tmp_path: Path) -> None:
    run = seen(tmp_path / "run", lambda values: np.where(np.arange(SIZE[1]) < 4, 0, values))
    whole, middle = (facts_of(run.url, truth, tmp_path / "s.json", *more) for more in ((), ("--crop", SIZE[0])))
    assert value(whole, "accuracy") < 1
    assert value(middle, "accuracy") == 1
    assert value(whole, "pq") == value(middle, "pq") < 1


# --- assignments and comparisons --------------------------------------------------------------------------------------


def test_an_assignment_found_elsewhere_is_applied(truth: Path, tmp_path: Path) -> None:
    run, file = seen(tmp_path / "run"), tmp_path / "a.json"
    facts_of(run.url, truth, tmp_path / "s.json", "--save-assignment", file)
    elsewhere = tmp_path / "elsewhere"
    swapped = {CAR: 27, PERSON: 25}
    for number in range(2):
        values = scene(number)
        for old, new in swapped.items():
            of = values // 1000 == old
            values[of] = new * 1000 + values[of] % 1000
        write_map(elsewhere / f"{number}_gtFine_instanceIds.png", values)
    given = facts_of(run.url, elsewhere, tmp_path / "g.json", "--assignment", file)
    assert given["assignment"] == str(file)
    assert value(given, "pq_things") == 0, "cars and persons are trucks and riders there"
    assert value(given, "pq_stuff") == 1
    assert value(given, "accuracy") < 1
    found = facts_of(run.url, elsewhere, tmp_path / "f.json")
    assert value(found, "pq") == value(found, "accuracy") == 1


def test_an_assignment_of_evaluate_semantic_is_one(truth: Path, tmp_path: Path) -> None:
    run, file = seen(tmp_path / "run"), tmp_path / "a.json"
    command = ("evaluate-semantic", run.url, "--truth", f"cityscapes:{truth}", "--bootstrap", 0)
    assert cuts3d(*command, "--save-assignment", file).exit_code == 0
    assert Assignment.read(str(file)).jointly is None
    facts = facts_of(run.url, truth, tmp_path / "s.json", "--assignment", file)
    assert value(facts, "pq") == value(facts, "accuracy") == 1
    assert facts["runs"]["run"]["class_of_cluster_jointly"] is None


def test_an_assignment_of_other_clusters_or_classes_is_refused(truth: Path, tmp_path: Path) -> None:
    run, file = seen(tmp_path / "run"), tmp_path / "a.json"
    facts_of(run.url, truth, tmp_path / "s.json", "--save-assignment", file)
    more = write_run(tmp_path / "more", [record("0_leftImg8bit.png", scene(0), 5)], Classes.clusters(5))
    for arguments, message in (
        ((more.url, "--truth", f"cityscapes:{truth}"), "the assignment is of 4 clusters (cluster 0 …)"),
        (
            (run.url, "--truth", f"cityscapes:{truth}", "--classes", 19),
            "has 19 (road …): give a truth of those classes",
        ),
        ((run.url, "--truth", f"cityscapes:{truth}", "--compare", more.url), "the assignment is of 4 clusters"),
    ):
        result = cuts3d("evaluate-panoptic", *arguments, "--assignment", file)
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.output.splitlines() if line.startswith("cuts3d: ")]
        assert message in line


def test_two_runs_are_compared_on_the_images_of_both(truth: Path, tmp_path: Path) -> None:
    run, other = seen(tmp_path / "run"), seen(tmp_path / "other", without_a_car, range(3))
    result = cuts3d(
        *("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}", "--compare", other.url),
        *("--json", tmp_path / "s.json", "--bootstrap", 50),
    )
    assert result.exit_code == 0, result.output
    assert "images  3 scored; 1 of the truth left out: not in both" in result.output
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["difference"]["pq"]["car"] == {name: pytest.approx(1 / 3) for name in ("value", "low", "high")}
    assert facts["difference"]["overall"]["pq"]["value"] == pytest.approx(
        value(facts, "pq") - value(facts, "pq", "other")
    )
    lines = [line.split() for line in result.output.splitlines()]
    assert ["class", "kind", "share", "run", "PQ", "other", "PQ", "difference", "PQ", "clusters"] in lines


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_exported_scores_as_the_run_does(truth: Path, tmp_path: Path) -> None:
    run, out = seen(tmp_path / "run", without_a_car), tmp_path / "out"
    assert cuts3d("export", run.url, "--panoptic", out).exit_code == 0
    of_run = facts_of(run.url, truth, tmp_path / "s.json")
    for place in (out, out / "panoptic.json", f"{out}/panoptic.json:{out}/panoptic"):
        of_file = facts_of(place, truth, tmp_path / "t.json")
        assert of_file["run"] == of_run["run"]
        assert of_file["runs"]["run"]["things"] == list(THINGS)


def test_the_folder_of_a_prediction_is_its_run(truth: Path, tmp_path: Path) -> None:
    seen(tmp_path / "predicted")  # whose run is predicted/run, as `cuts3d predict` has it
    assert value(facts_of(tmp_path / "predicted", truth, tmp_path / "s.json"), "pq") == 1


def test_predicted_maps_that_cannot_be_read(truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, out = seen(tmp_path / "run"), tmp_path / "out"
    cuts3d("export", run.url, "--panoptic", out)
    document = json.loads((out / "panoptic.json").read_text())
    (out / "panoptic" / document["annotations"][0]["file_name"]).write_bytes(b"no picture")
    document["annotations"][1]["segments_info"].pop()
    (out / "panoptic.json").write_text(json.dumps(document))
    facts = facts_of(out, truth, tmp_path / "s.json")
    assert (facts["n_images"], facts["runs"]["run"]["set_aside"]) == (2, ["0_leftImg8bit.png", "1_leftImg8bit.png"])
    assert "2 of 4 predicted maps left out: 1 not_an_image" in caplog.text
    assert "has no category in the file" in caplog.text
    for one in document["annotations"]:
        (out / "panoptic" / one["file_name"]).write_bytes(b"no picture")
    result = cuts3d("evaluate-panoptic", out, "--truth", f"cityscapes:{truth}")
    assert (result.exit_code, "none of its 4 predicted maps can be used" in result.output) == (2, True)


def test_coco_scored_against_itself(assets: Path, tmp_path: Path) -> None:
    """The truth as the prediction: crowds are no objects there, so nothing is asked of them."""
    if not (assets / "street").is_dir():
        pytest.skip(f"no driving scenes at {assets / 'street'}")
    file = assets / "street/coco_panoptic/panoptic_examples.json"
    command = ("evaluate-panoptic", file, "--truth", f"coco-panoptic:{file}", "--bootstrap", 0)
    assert cuts3d(*command, "--json", tmp_path / "s.json").exit_code == 0
    facts = json.loads((tmp_path / "s.json").read_text())
    assert [value(facts, name) for name in ("pq", "pq_things", "pq_stuff", "accuracy")] == [1, 1, 1, 1]
    assert len(facts["classes"]) == 133


def test_changed_photos_of_coco_score_as_in_hotcoco(assets: Path, tmp_path: Path) -> None:
    """All segments moved, each fifth one lost; hotcoco 1.3.0 gave these values for the same files."""
    if not (assets / "street").is_dir():
        pytest.skip(f"no driving scenes at {assets / 'street'}")
    folder = assets / "street/coco_panoptic"
    document = json.loads((folder / "panoptic_examples.json").read_text())
    for one in document["annotations"]:
        colours = np.roll(np.asarray(Image.open(folder / "panoptic_examples" / one["file_name"])), (4, 12), (0, 1))
        ids = colours.astype(int) @ (1, 256, 65536)
        lost = [segment["id"] for segment in one["segments_info"][4::5]]
        write_map(tmp_path / "seen" / one["file_name"], np.where(np.isin(ids, lost)[..., None], 0, colours))
    (tmp_path / "seen.json").write_text(json.dumps(document))
    names = [one["name"] for one in document["categories"]]
    file = tmp_path / "same.json"
    file.write_text(Assignment(tuple(names), tuple(names), tuple(range(133))).to_json())
    truth = f"coco-panoptic:{folder / 'panoptic_examples.json'}"
    command = ("evaluate-panoptic", tmp_path / "seen.json", "--truth", truth, "--assignment", file, "--bootstrap", 0)
    assert cuts3d(*command, "--json", tmp_path / "s.json").exit_code == 0
    facts = json.loads((tmp_path / "s.json").read_text())
    found = [[value(facts, f"{name}{group}") for name in ("pq", "sq", "rq")] for group in ("", "_things", "_stuff")]
    expected = [
        [0.295585925192455, 0.4061581412474631, 0.44047619047619047],
        [0.11544330850335496, 0.2644016166100389, 0.21428571428571427],
        [0.47572854188155506, 0.5479146658848872, 0.6666666666666666],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- what is refused, and the rest ------------------------------------------------------------------------------------


def test_runs_that_are_not_finished(truth: Path, tmp_path: Path) -> None:
    run = seen(tmp_path / "run", leave_out=("00001",))
    result = cuts3d("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}", "--bootstrap", 0)
    assert (result.exit_code, "1 of 2 shards is missing" in result.output) == (1, True)
    empty = seen(tmp_path / "empty", leave_out=("00000", "00001"))
    result = cuts3d("evaluate-panoptic", empty.url, "--truth", f"cityscapes:{truth}")
    assert (result.exit_code, f"no image of {empty.url} is finished" in result.output) == (2, True)


def test_what_is_refused(truth: Path, tmp_path: Path) -> None:
    run = seen(tmp_path / "run")
    labels = labelled_run(tmp_path / "labels", {"0_leftImg8bit.png": np.zeros(SIZE, np.uint8)}, 3)
    strangers = write_run(tmp_path / "strangers", [record("x.png", scene(0))], Classes.clusters(4))
    write_map(tmp_path / "void/0_gtFine_instanceIds.png", np.zeros(SIZE, np.uint16))
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": [{"id": 1}], "categories": [{"id": 1}]}')
    of_truth = ("--truth", f"cityscapes:{truth}")
    for arguments, message in (
        ((tmp_path / "nowhere", *of_truth), "is not a run"),
        ((labels.url, *of_truth), "holds semantic labels: panoptic labels are needed here"),
        ((run.url, "--truth", f"maps:{truth}"), "there is no format 'maps'"),
        ((run.url, "--truth", f"cityscapes:{tmp_path}/nowhere"), "is not there"),
        ((run.url, *of_truth, "--classes", 5), "--classes 5: "),
        ((run.url, *of_truth, "--threshold", 0.1), "says itself which classes are things"),
        ((strangers.url, *of_truth), "1 are not in it (the run has x.png, the truth 0)"),
        ((run.url, "--truth", f"cityscapes:{tmp_path / 'void'}"), "no pixel of 1 image has a class that counts"),
        ((tmp_path / "instances.json", *of_truth), "is no panoptic file"),
        ((run.url, *of_truth, "--assignment", tmp_path / "gone.json"), "gone.json cannot be read"),
    ):
        result = cuts3d("evaluate-panoptic", *arguments, "--json", tmp_path / "out.json")
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.output.splitlines() if line.startswith("cuts3d: ")]
        assert message in line
    assert not (tmp_path / "out.json").exists()


def test_published_figures_stand_beside_those_of_their_data(truth: Path, tmp_path: Path) -> None:
    run = seen(tmp_path / "run")
    output = " ".join(
        cuts3d("evaluate-panoptic", run.url, "--truth", f"cityscapes:{truth}", "--bootstrap", 0).output.split()
    )
    assert "Published on Cityscapes" in output
    assert "CUPS, 27 clusters 27.8 57.4 35.2 17.7 35.1 PAPER" in output
    assert (
        "Not alike: theirs are of the 500 images of val; the command of CUPS scores 19 classes: --classes 19;" in output
    )
    assert [one.pq for one in published("KITTI-27")] == [20.6, 25.5]
    assert not published("")
    assert {one.data for one in PUBLISHED} == {"Cityscapes", "KITTI"}
    assert len(not_alike("Cityscapes-19", "forgiven", given=False)) == 1
    assert len(not_alike("KITTI-27", "panopticapi", given=True)) == 4


def test_from_python(truth: Path, tmp_path: Path) -> None:
    seen(tmp_path / "run")
    report = evaluate_panoptic(
        read_panoptic_truth(f"cityscapes:{truth}", 19), open_predictions(str(tmp_path / "run")), bootstrap=0
    )
    assert report.runs[0].scores.overall["pq"].value == 1
    assert (report.benchmark, report.missing, report.difference) == ("Cityscapes-19", 0, None)
    only = write_run(tmp_path / "only", [record("0_leftImg8bit.png", scene(0))], Classes.clusters(4))
    others = write_run(tmp_path / "others", [record("1_leftImg8bit.png", scene(1))], Classes.clusters(4))
    with pytest.raises(SourceError, match=r"have no image of .* in common"):
        evaluate_panoptic(
            read_panoptic_truth(f"cityscapes:{truth}"), open_predictions(only.url), open_predictions(others.url)
        )
