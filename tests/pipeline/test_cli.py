"""The command line as a user meets it: every command, its exit status, its messages."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

from pipeline.cli import main
from pipeline.commands.options import METHOD_SETTINGS
from pipeline.engine import run as runner
from pipeline.methods.cuts.settings import ModelNames
from pipeline.models import weights
from pipeline.runs.launch import Launch


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe, launch.overrides))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos", 5)
    return tmp_path / "photos"


def cuts3d(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_whole_way(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (photos / "bad.jpg").write_bytes(b"nothing")
    result = cuts3d("run", "--images", photos, "--out", out, "--shard-size", 4)
    assert result.exit_code == 1, result.output
    assert "2 done, 0 missing" in result.output
    assert "6 of 6 done, 1 of them set aside" in result.output
    assert "nothing was left to do" in cuts3d("run", "--out", out).output

    status = cuts3d("status", out)
    assert status.exit_code == 1
    assert "6 of 6 done, 1 of them set aside" in status.output

    info = cuts3d("info", out)
    assert "bad.jpg: not_an_image" in info.output
    told = [[line for line in said.output.splitlines() if line.startswith("masks  ")] for said in (info, status)]
    assert told[0] == told[1], "masks per image, of those that have a result"
    facts = json.loads(cuts3d("info", out, "--json").output)
    assert facts["committed_images"] == 6
    assert sum(facts["score"]["counts"]) == facts["masks"] > 0

    verified = cuts3d("verify", out)
    assert (verified.exit_code, verified.output) == (
        1,
        "2 shards, 6 images: no errors; 1 of 6 images is set aside\n",
    )
    exported = cuts3d(
        "export", out, "--coco", tmp_path / "c.json", "--masks", tmp_path / "m", "--overlays", tmp_path / "o"
    )
    assert (exported.exit_code, "1 of 6 images is set aside" in exported.output) == (1, True), exported.output
    assert len(json.loads((tmp_path / "c.json").read_text())["images"]) == 5
    assert len(list((tmp_path / "m").iterdir())) == len(list((tmp_path / "o").iterdir())) == 5

    retry = cuts3d("retry-quarantined", out)
    assert retry.exit_code == 1
    assert "1 image tried again, 0 succeeded" in retry.output
    assert "0 files" in cuts3d("gc", out, "--min-age", 0).output


def test_what_is_missing_shows_in_the_exit_status(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cuts3d("run", "--images", photos, "--out", out, "--until", "depth").exit_code == 0
    status = cuts3d("status", out)
    assert status.exit_code == 1
    assert "0 of 3 done" in status.output
    assert "depth: 3 of 3 shards" in status.output
    verify = cuts3d("verify", out)
    assert verify.exit_code == 1
    assert "start the run again" in verify.output


def test_a_run_with_a_cut_shard_is_not_done(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cuts3d("run", "--images", photos, "--out", out, "--shard-size", 2)
    shard = sorted((out / "shards").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    for again in (("run", "--out", out), ("run", "--images", photos, "--out", out), ("retry-quarantined", out)):
        refused = cuts3d(*again)
        assert refused.exit_code == 2, refused.output
        (line,) = [line for line in refused.output.splitlines() if line.startswith("cuts3d: ")]
        assert f"shards/{shard.name} has " in line
        assert "delete commits/00001.json and start the run again" in line
    assert cuts3d("status", out).exit_code == 1
    (out / "commits" / "00001.json").unlink()
    assert cuts3d("run", "--out", out).exit_code == 0


def test_runs_that_are_not_finished(photos: Path, tmp_path: Path) -> None:
    """Nothing to show is a refusal; a part of it is shown, with a warning and exit status 1."""
    out, truth = tmp_path / "run", tmp_path / "truth.json"
    cuts3d("run", "--images", photos, "--out", out, "--shard-size", 2)
    cuts3d("export", out, "--coco", truth)
    commands = {
        "export --coco": ("export", out, "--coco", tmp_path / "new.json"),
        "export --masks": ("export", out, "--masks", tmp_path / "new"),
        "export --overlays": ("export", out, "--overlays", tmp_path / "new"),
        "gallery": ("gallery", out, "--out", tmp_path / "new.html"),
        "evaluate": ("evaluate", out, "--truth", truth, "--bootstrap", 0),
        "scores": ("scores", out, "--truth", truth, "--bootstrap", 0),
    }
    (out / "commits" / "00001.json").unlink()
    for name, command in commands.items():
        result = cuts3d(*command)
        assert (result.exit_code, "1 of 3 shards is missing" in result.output) == (1, True), f"{name} {result.output}"
    for file in tmp_path.glob("new*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    for record in (out / "commits").iterdir():
        record.unlink()
    for name, command in commands.items():
        result = cuts3d(*command)
        assert result.exit_code == 2, f"{name} {result.output}"
        assert f"cuts3d: no image of {out} is finished: `cuts3d run --out {out}` resumes it" in result.output
    assert not list(tmp_path.glob("new*"))


def test_overrides_add_to_those_of_the_last_launch(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cuts3d("run", "--images", photos, "--out", out, "--set", "local_cut.k=7", "--until", "depth").exit_code == 0
    assert cuts3d("run", "--out", out, "--set", "local_cut.k=7", "--until", "ncut").exit_code == 0
    refused = cuts3d("run", "--out", out, "--set", "tree.depth=3")
    assert refused.exit_code == 2
    assert "recipe.tree.depth: run has 4, now 3" in refused.output
    assert "local_cut.k" not in refused.output, "the override of the last launch still holds"


def test_damage_is_found(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cuts3d("run", "--images", photos, "--out", out)
    shard = next((out / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    verify = cuts3d("verify", out)
    assert verify.exit_code == 1
    assert shard.name in verify.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--out", "{tmp}/run"], "give --images to start one"),
        (["run", "--out", "{tmp}/run", "--images", "{tmp}/nowhere"], "nowhere"),
        (["run", "--out", "{tmp}/run", "--images", "{photos}", "--set", "k=3"], "there is no 'k' here"),
        (["run", "--out", "{tmp}/run", "--images", "{photos}", "--recipe", "cutler"], "unknown recipe 'cutler'"),
        (["status", "{tmp}/run"], "is not a run"),
        (["export", "{photos}"], "--coco FILE"),
        (["weights", "fetch", "resnet"], "resnet"),
    ],
)
def test_errors_are_messages_and_exit_with_2(arguments: list[str], says: str, photos: Path, tmp_path: Path) -> None:
    result = cuts3d(*(argument.format(tmp=tmp_path, photos=photos) for argument in arguments))
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_an_interruption_says_what_to_do(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    result = cuts3d("run", "--images", photos, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "committed shards are safe" in result.output


def test_recipes_list_every_option() -> None:
    names = [line.split()[0] for line in cuts3d("recipes").output.splitlines()]
    assert {"maskcut", "cuts3d", "import"} <= set(names)
    output = cuts3d("recipes", "cuts3d").output
    for line in (
        "  local_cut.tau_knn = 0.06\n",
        "  refine.crf.iterations = 5\n      mean-field steps",
        "  features.size = 840",
    ):
        assert line in output
    for other in ("rounds.", "filters.", "sharpen.", "local_cut.pieces"):
        assert f"  {other}" not in output, "which it never reads"


def test_recipes_name_the_networks_that_a_recipe_brings(tmp_path: Path) -> None:
    assert "  --features dino_vitb8\n" in cuts3d("recipes", "maskcut_published").output
    assert "--depth" not in cuts3d("recipes", "maskcut_published").output
    assert "  --depth zoedepth\n" in cuts3d("recipes", "cuts3d_published").output
    own = tmp_path / "own.toml"
    own.write_text('base = "cuts3d"\n[models]\nfeatures = "dino_vits16"\n')
    shown = cuts3d("recipes", own).output
    assert "  --features dino_vits16\n" in shown
    assert "  --depth fastdepth\n" in shown
    assert "  features.kind = keys\n" in shown, "as these features have it"


def test_weights_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path))
    output = cuts3d("weights", "list").output
    for name in weights.REGISTRY:
        assert f"{name:<14} missing" in output
    verify = cuts3d("weights", "verify")
    assert verify.exit_code == 2
    assert "cuts3d weights fetch" in verify.output


@pytest.mark.slow
def test_demo_says_where_everything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[object] = []
    monkeypatch.setattr(weights, "fetch", lambda *names, **_: fetched.append(names))
    result = cuts3d("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert fetched
    assert len(list((tmp_path / "photos").iterdir())) == len(list((tmp_path / "pictures-cuts3d").iterdir())) == 8
    for word in ("pictures", "COCO JSON", "store", "masks", "s/image"):
        assert f"\n{word}" in result.output


@pytest.mark.parametrize(
    "command",
    [
        *("", "run", "status", "info", "verify", "gc", "export", "gallery", "evaluate", "inspect", "weights", "demo"),
        *("semantic-demo", "cups-demo"),
    ],
)
def test_help_works_without_loading_torch(command: str) -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        f"try: main({[*command.split(), '--help']!r})\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert 'torch' not in sys.modules, 'a help page must not take seconds'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_settings_are_one_dataclass() -> None:
    """Every setting of a launch has an option, so that nothing can be set from Python alone."""
    names = {parameter.name for parameter in main.commands["run"].params}
    fields = {field.name for field in dataclasses.fields(Launch)} - {"settings"}
    assert fields | {*METHOD_SETTINGS} <= names
    assert {field.name for field in dataclasses.fields(ModelNames)} == {*METHOD_SETTINGS} - {"motion"}  # of clips
