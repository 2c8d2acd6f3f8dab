"""`cuts3d train-semantic`: from photos to a model in one command, and what it refuses."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.semantic_training import SMALL
from support.tiny_inputs import tiny_inputs
from support.tiny_method import draw_photos, in_place_of_models

from pipeline.cli import command_line, main
from pipeline.engine.run import run
from pipeline.methods.depthg import training_log
from pipeline.methods.depthg.checkpoint import read_model
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.inputs_method import InputsMethod
from pipeline.methods.depthg.inputs_settings import inputs_settings
from pipeline.methods.depthg.learner import HeadLearner
from pipeline.runs.launch import Launch, last_launch

OPTIONS = (*(word for option in SMALL for word in ("--set", option)), "--iterations", "4", "--clusters", "3")


@pytest.fixture(autouse=True)
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(launch: Launch) -> Any:
        settings = inputs_settings(launch, files_here=False)
        return tiny_inputs(settings.crops) if settings.depth else tiny_inputs(settings.crops, None)

    in_place_of_models(monkeypatch, load)
    monkeypatch.setattr(training_log, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("photos"), 4)[0].parent


def called(*words: object) -> Result:
    return CliRunner().invoke(main, ["train-semantic", *map(str, words), "--device", "cpu"])


def trained(*words: object) -> Result:
    return called(*words, *OPTIONS)


def test_photos_in_a_model_out(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = trained("--images", photos, "--out", out)
    assert done.exit_code == 0, done.output
    assert "images     4 of 4 done\n" in done.output
    assert done.output.endswith(f"model      {out / 'model.safetensors'}\n")
    model = read_model(out)
    assert (model.info.recipe, model.info.features, model.info.iterations) == ("depthg", "dinov2_vits14", 4)
    again = trained("--images", photos, "--out", out)
    assert again.exit_code == 2
    assert "holds a training already: add --resume to continue it, or give another --out" in again.output
    before = (out / "model.safetensors").read_bytes()
    resumed = trained("--out", out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "all of 4 iterations done" not in resumed.stdout
    assert (out / "model.safetensors").read_bytes() == before


def test_a_recipe_without_depth_computes_none(photos: Path, tmp_path: Path) -> None:
    assert trained("--images", photos, "--out", tmp_path / "model", "--recipe", "stego").exit_code == 0
    assert not TrainingInputs.open(tmp_path / "model" / "inputs").has_depth
    kmeans = called("--images", photos, "--out", tmp_path / "k", "--recipe", "kmeans", "--set", "crops.layout=whole")
    assert kmeans.exit_code == 0, kmeans.output
    assert read_model(tmp_path / "k").clusters.shape == (27, 32)


def test_several_trainings_share_inputs(photos: Path, tmp_path: Path) -> None:
    assert trained("--images", photos, "--out", tmp_path / "first").exit_code == 0
    inputs = tmp_path / "first" / "inputs"
    second = trained("--inputs", inputs, "--out", tmp_path / "second", "--recipe", "stego", "--seed", "1")
    assert second.exit_code == 0, second.output
    assert not (tmp_path / "second" / "inputs").exists()
    first, other = read_model(tmp_path / "first").info, read_model(tmp_path / "second").info
    assert (first.inputs, first.features) == (other.inputs, other.features)
    for words, option in (
        (("--images", photos), "--images"),
        (("--features", "dino_vits8"), "--features"),
        (("--shard-size", "2"), "--shard-size"),
        (("--set", "crops.layout=whole"), "--set crops.layout=whole"),
    ):
        refused = called("--inputs", inputs, "--out", tmp_path / "third", *words)
        assert refused.exit_code == 2
        assert f"--inputs are made already: leave {option} out" in refused.output


def test_presets_name_the_backbone_and_the_crops(photos: Path, tmp_path: Path) -> None:
    done = trained("--images", photos, "--out", tmp_path, "--recipe", "depthg_potsdam_vits8")
    assert done.exit_code == 0, done.output
    launch = last_launch(tmp_path / "inputs")
    assert (launch.settings["features"], launch.overrides) == ("dino_vits8", ("crops.layout=whole",))
    assert len(TrainingInputs.open(tmp_path / "inputs")) == 4
    assert read_model(tmp_path).info.features == "dino_vits8"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "depthgg"), "unknown recipe 'depthgg'; known: depthg, depthg_probe"),
        (("--set", "objective.depth_wight=1"), "there is no 'depth_wight' here"),
        (("--set", "crops.layout=six"), "crops.layout is 'six': use one of five, whole"),
        (("--depth", "none"), "recipe depthg learns from depth: leave --depth none out, or take --recipe stego"),
        (("--recipe", "stego", "--depth", "fastdepth"), "recipe stego does not look at depth: leave --depth out"),
        (
            ("--recipe", "kmeans", "--depth-kind", "depth"),
            "recipe kmeans does not look at depth: leave --depth-kind out",
        ),
        (("--recipe", "kmeans", "--iterations", "5"), "recipe kmeans trains no head: leave --iterations out"),
        (("--recipe", "kmeans", "--search", "5"), "recipe kmeans trains no head: leave --search out"),
        (("--resume",), "holds no training to resume: leave out --resume to start one"),
        (("--amp",), "mixed precision is for GPUs, and this is a CPU: train without it"),
        (("--workers", "2"), "--workers is of use with --ray only"),
        (("--set", "objective.samples=11", "--set", "features.size=140"), "121 farthest points of 100 patches"),
        (("--shard-size", "9999999999999999999"), "shard_size is 9999999999999999999: it must be 1 to 2147483647"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_computed(
    photos: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    refused = called("--images", photos, "--out", tmp_path / "model", *words)
    assert refused.exit_code == 2
    assert message in refused.output
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_there_is_not_trained_over(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"the only copy")
    refused = called("--images", photos, "--out", tmp_path)
    assert refused.exit_code == 2
    assert "holds a model already, model.safetensors: give another --out, or delete it" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_there_must_be_images(tmp_path: Path) -> None:
    refused = called("--out", tmp_path / "model")
    assert refused.exit_code == 2
    assert "give --images to start one" in refused.output


def test_sigterm_says_how_to_go_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = HeadLearner.step

    def terminated(self: HeadLearner, number: int) -> dict[str, float]:
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number)

    monkeypatch.setattr(HeadLearner, "step", terminated)
    ended = trained("--images", photos, "--out", tmp_path / "model")
    assert ended.exit_code == 130
    assert "cuts3d: interrupted; the same command with --resume resumes from the last checkpoint" in ended.output
    assert not (tmp_path / "model" / "lease.json").exists()
    monkeypatch.undo()


def test_what_was_killed_while_its_inputs_were_made_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, done = InputsMethod.outputs, []

    def killed(self: InputsMethod, batch: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(batch)
        return outputs(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(InputsMethod, "outputs", killed)
        ended = trained("--images", photos, "--out", tmp_path / "model", "--shard-size", "2")
    assert ended.exit_code == 130
    assert "the same command resumes from here" in ended.output
    resumed = trained("--images", photos, "--out", tmp_path / "model", "--shard-size", "2", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "this time  2 images" in resumed.output
    assert read_model(tmp_path / "model").info.iterations == 4


def test_with_ray_the_inputs_are_made_there_and_the_training_here(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def elsewhere(address: str, options: dict[str, Any]) -> Any:
        def execute(out: str, launch: Launch, **how: Any) -> Any:
            asked.append((address, options, out, launch.recipe))
            return run(out, launch, **how)

        return execute

    monkeypatch.setattr("cluster.commands._ray_executor", elsewhere)
    words = ("--images", str(photos), "--out", str(tmp_path), "--ray", "head:6379", "--workers", "2", "--device", "cpu")
    done = CliRunner().invoke(command_line(), ["train-semantic", *words, *OPTIONS])
    assert done.exit_code == 0, done.output
    assert asked == [("head:6379", {"workers": 2}, str(tmp_path / "inputs"), "semantic_inputs")]
    assert (tmp_path / "model.safetensors").is_file()


def test_photos_set_aside_are_said_and_recorded(photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "photos"
    draw_photos(own, 4)
    (own / "broken.png").write_bytes(b"no photo")
    done = trained("--images", own, "--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "1 of them set aside" in done.output
    assert "1 of 5 photos is left out" in " ".join(read_model(tmp_path / "model").info.training["warnings"])
    assert read_model(tmp_path / "model").info.training["left_out"] == 1


def test_recipes_and_their_options_are_listed() -> None:
    listed = CliRunner().invoke(main, ["semantic-recipes"])
    assert listed.exit_code == 0
    assert "stego" in listed.output
    options = CliRunner().invoke(main, ["semantic-recipes", "depthg"]).output
    assert "objective.depth_weight = 0.19" in options
    assert CliRunner().invoke(main, ["semantic-recipes", "depthgg"]).exit_code == 2
