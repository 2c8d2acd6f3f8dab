"""`cuts3d compare`: runs as `cuts3d run` makes them, everything shared computed once, resumed where it was stopped."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.tiny_run import tiny_launch

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.engine.shard_job import ShardJob
from pipeline.images import stereo_clips
from pipeline.methods import registry
from pipeline.models.depth_maps import DepthMaps
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from stages.features import FeatureExtractor

CUTS = ("maskcut", "localcut", "cuts3d_rounds", "cuts3d")
ALL = (*CUTS, "centre")


@dataclass
class Work:
    """What was read and computed for the runs, by photo."""

    read: Counter[str] = field(default_factory=Counter)
    features: Counter[int] = field(default_factory=Counter)
    depth: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    done = Work()
    load, extract, predict = stereo_clips.LOADERS["photos"], FeatureExtractor.__call__, DepthMaps.predict

    def counted_load(ref):
        done.read[ref.id] += 1
        return load(ref)

    def counted_extract(self, images):
        done.features.update(hash(image.tobytes()) for image in images)
        return extract(self, images)

    def counted_predict(self, images, ids):
        done.depth.update(ids)
        return predict(self, images, ids)

    monkeypatch.setitem(stereo_clips.LOADERS, "photos", counted_load)
    monkeypatch.setattr(FeatureExtractor, "__call__", counted_extract)
    monkeypatch.setattr(DepthMaps, "predict", counted_predict)
    return done


@pytest.fixture(autouse=True)
def centre(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Methods of other packages: one that gives masks, one that gives something else of something else."""
    installed = [
        EntryPoint("centre", "support.centre_method:Centre", registry.GROUP),
        EntryPoint("toy", "support.toy_method:ToyMethod", registry.GROUP),
    ]
    others = plugins.entry_points  # the commands of the detector among them: who asks for them remembers the answer
    monkeypatch.setattr(
        plugins,
        "entry_points",
        lambda group: EntryPoints([*others(group=group), *EntryPoints(installed).select(group=group)]),
    )
    return


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(command_line([]), [str(word) for word in words])


def options(launch: Launch) -> list[str]:
    return ["--images", str(launch.images), "--features", launch.settings["features"], "--shard-size", "3"]


def compare_words(launch: Launch, out: Path, recipes: tuple[str, ...] = ALL) -> list[str]:
    given = [word for r in recipes if r in CUTS for o in launch.overrides for word in ("--set", f"{r}.{o}")]
    words = ["compare", "--recipes", ",".join(recipes), *options(launch), "--depth", launch.settings["depth"], *given]
    return [*words, "--out", str(out), "--bootstrap", "20"]


def run_alone(launch: Launch, recipe: str, out: Path) -> Result:
    if recipe == "centre":
        return cuts3d("run", "--recipe", recipe, "--images", launch.images, "--shard-size", "3", "--out", out)
    depth = [] if recipe == "maskcut" else ["--depth", launch.settings["depth"]]
    given = [word for override in launch.overrides for word in ("--set", override)]
    return cuts3d("run", "--recipe", recipe, *options(launch), *depth, *given, "--out", out)


def stored(run: Path) -> dict[str, bytes]:
    """Contents of the committed shards, by key."""
    reader = RunReader(RunFolder.open(run))
    return {key: reader.run.ledger.contents(commit.shard) for key, commit in reader.commits.items()}


@pytest.mark.slow
def test_the_runs_are_those_of_run_and_nothing_is_computed_twice(tmp_path: Path, work: Work) -> None:
    launch = tiny_launch(tmp_path, 7)
    done = cuts3d(*compare_words(launch, tmp_path / "out"))
    assert done.exit_code == 0, done.output
    for counts in (work.read, work.features, work.depth):
        assert (len(counts), sum(counts.values())) == (7, 7)
    for recipe in ALL:
        assert run_alone(launch, recipe, tmp_path / recipe).exit_code == 0
        theirs, ours = RunFolder.open(tmp_path / recipe), RunFolder.open(tmp_path / "out" / recipe)
        assert (ours.config, ours.digest, ours.method) == (theirs.config, theirs.digest, theirs.method)
        assert stored(tmp_path / "out" / recipe) == stored(tmp_path / recipe), recipe
        again = run_alone(launch, recipe, tmp_path / "out" / recipe)
        assert "nothing was left to do" in again.output, "it is an ordinary run"
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["name"] for run in facts["runs"]] == list(ALL)
    assert (facts["images"], facts["truth"], facts["scored"]) == (7, "", 0)
    assert all(set(run["metrics"]) == {"masks_per_image"} for run in facts["runs"]), "no made-up quality"
    for run in facts["runs"][:-1]:
        assert run["seconds"]["features"] == facts["runs"][0]["seconds"]["features"] > 0, "as if alone"
    assert (tmp_path / "out" / "comparison.txt").read_text() in done.output
    for command in ("status", "verify"):
        assert cuts3d(command, tmp_path / "out" / "cuts3d").exit_code == 0


@pytest.mark.slow
def test_what_was_stopped_resumes_and_nothing_is_done_twice(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, out = tiny_launch(tmp_path, 7), tmp_path / "out"
    commit = ShardJob.commit
    commits: list[str] = []

    def stopping(self, shard, result):
        if len(commits) == 3:  # in the middle of the second shard: one of two recipes has it
            raise KeyboardInterrupt
        commits.append(shard.key)
        return commit(self, shard, result)

    with monkeypatch.context() as patch:
        patch.setattr(ShardJob, "commit", stopping)
        assert cuts3d(*compare_words(launch, out, ("maskcut", "cuts3d"))).exit_code == 130
    before = {recipe: stored(out / recipe) for recipe in ("maskcut", "cuts3d")}
    assert {recipe: sorted(shards) for recipe, shards in before.items()} == {
        "maskcut": ["00000", "00001"],
        "cuts3d": ["00000"],
    }
    files = {file: file.stat().st_mtime_ns for file in out.glob("*/shards/*")}
    work.features.clear()
    done = cuts3d(*compare_words(launch, out, ("maskcut", "cuts3d", "localcut")))
    assert done.exit_code == 0, done.output
    assert sum(work.features.values()) == 7, "localcut, which is new, needs all"
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    for recipe in ("maskcut", "cuts3d", "localcut"):
        assert len(RunReader(RunFolder.open(out / recipe)).commits) == 3
        assert len(list((out / recipe / "shards").iterdir())) == 3, "one attempt a shard"
    work.features.clear()
    assert cuts3d(*compare_words(launch, out, ("maskcut", "cuts3d"))).exit_code == 0
    assert not work.features


def test_an_image_that_one_recipe_cannot_use_is_left_out_for_all(tmp_path: Path) -> None:
    launch, out = tiny_launch(tmp_path, 6), tmp_path / "out"
    photos = Path(str(launch.images))
    (photos / "001.png").rename(photos / "001_fails.png")
    depth = Path(launch.settings["depth"].removeprefix("maps:"))
    (depth / "001.npy").rename(depth / "001_fails.npy")
    (photos / "broken.png").write_bytes(b"no picture")
    done = cuts3d(*compare_words(launch, out, ("maskcut", "cuts3d", "centre")))
    assert done.exit_code == 1, "as run ends"
    said = "5 compared, 2 set aside and left out for all (1 by maskcut, 1 by cuts3d, 2 by centre)"
    assert said in done.output
    facts = json.loads((out / "comparison.json").read_text())
    assert facts["left_out"] == ["001_fails.png", "broken.png"]
    assert [len(run["set_aside"]) for run in facts["runs"]] == [1, 1, 2]
    assert not set(facts["left_out"]) & set(facts["differing"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "maskcut"], "--recipes maskcut is one recipe: name two or more"),
        (["--recipes", "maskcut,maskcut"], "names one twice"),
        (["--recipes", "maskcut,"], "--recipes maskcut, has a comma too many"),
        (["--recipes", "maskcut,,cuts3d"], "has a comma too many"),
        (["--recipes", "maskcut, maskcut"], "names one twice"),
        (["--recipes", "maskcut,cuts3dd"], "unknown recipe 'cuts3dd'"),
        (["--recipes", "maskcut,import"], "recipe import takes no photos from --images"),
        (["--recipes", "maskcut,motion"], "recipe motion takes no photos from --images"),
        (["--recipes", "maskcut,centre", "--depth", "fastdepth"], "reads --depth: leave it out"),
        (["--recipes", "maskcut,cuts3d", "--set", "affinity.tau=1"], "--set affinity.tau=1: begin with the recipe"),
        (["--recipes", "maskcut,cuts3d", "--set", "maskcut=1"], "say which option, as in maskcut.STAGE.OPTION=VALUE"),
        (
            ["--recipes", "maskcut,cuts3d", "--set", "hassod.affinity.tau=1"],
            "--set hassod.affinity.tau=1: hassod is not compared here, maskcut, cuts3d are: add it to --recipes",
        ),
        (["--recipes", "maskcut, cuts3d", "--set", "maskcut.affinity.taau=1"], "no 'taau' here"),
        (
            ["--recipes", "maskcut,cuts3d", "--truth-images", "photos"],
            "--truth-images says where the photos of --truth",
        ),
        (["--recipes", "maskcut,cuts3d", "--scores", "constant"], "--scores constant is of use with --truth only"),
        (["--recipes", "maskcut,cuts3d", "--truth", "nowhere.json"], "nowhere.json"),
        (
            ["--recipes", "votecut,maskcut", "--features", "dinov2_vits14,dinov2_vits14:644"],
            "recipe maskcut: no features 'dinov2_vits14,dinov2_vits14:644': ",
        ),
        (["--recipes", "votecut,maskcut", "--features", "dinov2_vits14:644"], "; lists of voters, with commas"),
        (["--recipes", "votecut,maskcut", "--features", "no_such"], "recipe votecut: voter no_such: no features"),
        (["--recipes", "maskcut,cuts3d", "--depth", "none.onnx"], "recipe cuts3d: none.onnx does not exist"),
        (["--recipes", "maskcut,cuts3d", "--set", "cuts3d.rounds=on"], "cuts3d: recipe cuts3d with rounds=on"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    launch = tiny_launch(tmp_path, 2)
    refused = cuts3d("compare", "--images", launch.images, "--out", tmp_path / "out", *words)
    assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    assert len(refused.output.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*/run.json"))


@pytest.mark.parametrize("name", ["compare.html", "comparison.csv"])
def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path, work: Work, name: str) -> None:
    launch, out = tiny_launch(tmp_path, 2), tmp_path / "out"
    (out / name).mkdir(parents=True)
    refused = cuts3d(*compare_words(launch, out))
    assert (refused.exit_code, f"{name}: it is a directory" in refused.output) == (2, True), refused.output
    assert not work.read


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    launch, out = tiny_launch(tmp_path, 2), tmp_path / "out"
    assert cuts3d(*compare_words(launch, out, ("maskcut", "cuts3d"))).exit_code == 0
    shard = next((out / "cuts3d" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:100])
    refused = cuts3d(*compare_words(launch, out, ("maskcut", "cuts3d")))
    assert refused.exit_code == 2
    assert f"{out / 'cuts3d'}: shards/{shard.name} has 100 bytes" in refused.output


def test_recipes_of_other_inputs_or_results_are_refused(tmp_path: Path) -> None:
    launch = tiny_launch(tmp_path, 2)
    words = ["compare", "--images", launch.images, "--out", tmp_path / "out", "--recipes"]
    refused = cuts3d(*words, "centre,toy")
    assert (refused.exit_code, "recipe toy looks at clips, centre at photos" in refused.output) == (2, True)


def test_a_truth_of_other_images_is_refused_before_the_work(tmp_path: Path, work: Work) -> None:
    launch = tiny_launch(tmp_path, 2)
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 4.0, "bbox": [0, 0, 2, 2]}
    image = {"id": 1, "file_name": "other.png", "height": 64, "width": 80}
    truth = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    refused = cuts3d(*compare_words(launch, tmp_path / "out"), "--truth", tmp_path / "truth.json")
    assert refused.exit_code == 2
    assert "none of 2 images is in" in refused.output
    assert "the images have 000.png, the truth other.png" in refused.output
    assert not work.read


def test_a_folder_without_the_photos_of_the_truth_is_refused(tmp_path: Path, work: Work) -> None:
    launch, empty, run = tiny_launch(tmp_path, 2), tmp_path / "empty", tmp_path / "out" / "maskcut"
    empty.mkdir()
    images = [{"id": n, "file_name": f"00{n}.png", "height": 64, "width": 80} for n in (0, 1)]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 4.0, "bbox": [0, 0, 2, 2]}
    truth = tmp_path / "truth.json"
    categories = [{"id": 1, "name": "thing"}]
    truth.write_text(json.dumps({"images": images, "annotations": [annotation], "categories": categories}))
    words = [*compare_words(launch, tmp_path / "out", ("maskcut", "localcut")), "--truth", f"coco:{truth}"]
    given = ["--truth-images", empty]
    refused = cuts3d(*words, *given)
    assert (refused.exit_code, len(refused.output.splitlines())) == (2, 1), refused.output
    assert f"none of 2 images looked for in {empty} exists" in refused.output
    assert not work.read
    assert cuts3d(*words, "--truth-images", launch.images).exit_code == 0
    for command in ("evaluate", "scores"):
        again = cuts3d(command, run, "--truth", truth, *given)
        assert (again.exit_code, "say with --truth-images where its photos are" in again.output) == (2, True)


def test_boxes_are_scored_as_boxes(tmp_path: Path) -> None:
    launch, out = tiny_launch(tmp_path, 2), tmp_path / "out"
    images = [{"id": i, "file_name": f"{i:03d}.png", "height": 64 + i, "width": 80} for i in range(2)]
    boxes = [
        {"id": i + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 1280.0, "bbox": [20, 16, 40, 32]}
        for i in range(2)
    ]
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    words = compare_words(launch, out, ("localcut", "centre"))
    done = cuts3d(*words, "--truth", tmp_path / "truth.json")
    assert done.exit_code == 0, done.output
    assert "\nbox_AP " in done.output
    assert "mask_AP" not in done.output
    facts = json.loads((out / "comparison.json").read_text())
    assert facts["runs"][1]["metrics"]["box_AP"]["value"] == pytest.approx(1)


def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    launch, out = tiny_launch(tmp_path, 3), tmp_path / "out"
    words = compare_words(launch, out, ("localcut", "centre"))
    assert cuts3d(*words).exit_code == 0
    refused = cuts3d(*words, "--set", "localcut.affinity.tau=0.2")
    assert (refused.exit_code, "holds a run that was started differently" in refused.output) == (2, True)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    launch, out = tiny_launch(tmp_path, 3), tmp_path / "out"
    text = 'base = "maskcut"\n[affinity]\ntau = 0.15\n[rounds]\nn = 1\n[refine]\nsize = 64\ncrf = "none"\n'
    (tmp_path / "mine.toml").write_text(text + "[features]\nsize = 128\n")
    recipes = f"centre,{tmp_path / 'mine.toml'}"
    done = cuts3d("compare", "--recipes", recipes, *options(launch), "--out", out, "--set", "mine.affinity.tau=0.2")
    assert done.exit_code == 0, done.output
    recipe = RunFolder.open(out / "mine").config["recipe"]
    assert (recipe["affinity"]["tau"], recipe["rounds"]["n"]) == (0.2, 1)
