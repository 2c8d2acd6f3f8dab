"""What `cuts3d run --recipe depthg` takes, and what it refuses in one line before anything is loaded."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_labels import tiny_extractor, tiny_model

from pipeline.errors import ConfigError, CutsError, WeightsError
from pipeline.methods.depthg import load
from pipeline.methods.depthg.checkpoint import SemanticModel, write_model
from pipeline.methods.depthg.entry import ENTRY
from pipeline.methods.depthg.recipe import NAME, read_recipe, recipe_lines
from pipeline.methods.depthg.settings import absolute_launch, label_settings, settings_read
from pipeline.methods.registry import describe, known_config, load_method
from pipeline.runs.launch import Launch
from stages.crf import CrfConfig
from stages.feature_presets import PRESETS
from stages.features import FeatureConfig
from stages.semantics.labelling import published_crf
from stages.semantics.windows import WindowConfig

PRESET = "dinov2_vits14"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file in the place of features that are not on this machine."""
    (tmp_path / "vit.safetensors").write_bytes(b"there")
    return f"{PRESET}={tmp_path / 'vit.safetensors'}"


@pytest.fixture
def model(tmp_path: Path, weights: str) -> Path:
    """A tiny model that says that its features are of a network that everybody knows."""
    tiny = tiny_model()
    info = replace(tiny.info, features=weights, feature_config=replace(PRESETS[PRESET].config, size=392))
    write_model(tmp_path / "model", SemanticModel(info, tiny.head, tiny.clusters))
    return tmp_path / "model"


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "a.npy", np.ones((4, 4), np.float32))
    return tmp_path / "maps"


def launch(model: Path, *overrides: str, **settings: str) -> Launch:
    return Launch("photos", recipe=NAME, overrides=(f"{NAME}.checkpoint={model}", *overrides), settings=settings)


def refused(one: Launch) -> str:
    with pytest.raises(CutsError) as caught:
        label_settings(one)
    assert isinstance(caught.value, ConfigError | WeightsError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_model_brings_features_and_their_size(model: Path, weights: str) -> None:
    settings = label_settings(launch(model))
    assert settings.features == weights
    assert settings.config is not None
    assert settings.config.size == 392
    known = settings.known()
    assert known["recipe"]["refine"]["crf"]["bilateral_sxy"] == 67
    assert known["features"]["size"] == 392
    assert known["model"]["clusters"] == 5
    assert "checkpoint" not in str(known)
    assert known == known_config(launch(model), None)


def test_every_option_that_is_listed_is_taken(model: Path) -> None:
    for line in recipe_lines(Launch(recipe=NAME)):
        if line.path.startswith(("--", f"{NAME}.checkpoint")):
            continue
        assert line.words or ".crf" in line.path, line.path
        value = {"features.size": "420", "features.precision": "bfloat16"}.get(line.path, line.value)
        given = [f"{line.path}={value}"]
        if line.path.startswith("features."):
            label_settings(launch(model, *given))
        else:
            recipe = read_recipe([f"{NAME}.checkpoint=M", *given])
            assert (recipe.windows is not None) == line.path.startswith(f"{NAME}.windows.")


def test_options_change_what_they_name() -> None:
    given = [f"{NAME}.{option}" for option in ("checkpoint=M", "mirror=false", "view=squeezed", "refine.side=none")]
    recipe = read_recipe([*given, f"{NAME}.refine.crf.iterations=3", f"{NAME}.windows.side=0.25"])
    assert (recipe.mirror, recipe.view, recipe.refine.side) == (False, "squeezed", None)
    assert recipe.refine.crf == replace(published_crf(), iterations=3)
    assert recipe.windows == WindowConfig(side=0.25)
    assert read_recipe(given).windows is None
    assert read_recipe([*given[:3], f"{NAME}.refine.crf=none"]).refine.crf is None
    on = read_recipe([*given, f"{NAME}.refine.crf=on"]).refine.crf
    assert on == published_crf() != CrfConfig()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["depthg.size=3"], "options: checkpoint, view"),
        (["refine.side=3"], "its options are depthg"),
        (["depthg.mirror"], "not of the form"),
        (["depthg=on"], "its options are depthg"),
        (["depthg.mirror=maybe"], "depthg.mirror is true or false"),
        (["depthg.view=round"], "squares, squeezed"),
        (["depthg.refine.side=8"], "at least 16"),
        (["depthg.refine.crf.iterations=0"], "iterations must be in 1..1000, got 0"),
        (["depthg.refine.crf.iterations=1001"], "iterations must be in 1..1000, got 1001"),
        (["depthg.overlap=0.6"], "overlap must be in 0..0.5, got 0.6"),
        (["depthg.view=squeezed", "depthg.overlap=0.3"], "never reads depthg.overlap, since depthg.view is squeezed"),
        (["depthg.windows.sides=0.5"], "options: side"),
        (["depthg.windows.side=2"], "0.25..1"),
        (["depthg.windows.reading=mine"], "paper, released"),
        (["depthg.refine.crf=none", "depthg.refine.side=200"], "never reads depthg.refine.side"),
        (["depthg.refine.crf=none", "depthg.refine.crf.iterations=2"], "there is no CRF"),
        (
            ["depthg.windows.whole_share=0.5", "depthg.windows.metres=2"],
            "never reads depthg.windows.metres",
        ),
        (["depthg.windows=on"], "--depth maps:FOLDER"),
        (["features.kind=keys"], "the trained model's"),
        (["features.size=391"], "multiple of patch_size"),
    ],
)
def test_overrides_that_are_refused(model: Path, overrides: list[str], words: str) -> None:
    assert words in refused(launch(model, *overrides))


def test_a_model_has_to_be_named_and_there(model: Path, tmp_path: Path) -> None:
    assert "needs a trained model" in refused(Launch("photos", recipe=NAME))
    assert "needs a trained model" in refused(Launch("photos", recipe=NAME, overrides=(f"{NAME}.checkpoint=",)))
    assert "does not exist" in refused(launch(tmp_path / "none"))
    assert "holds no trained model" in refused(launch(tmp_path))


def test_features_have_to_be_the_models(model: Path, weights: str, tmp_path: Path) -> None:
    message = refused(launch(model, features="dino_vits8=" + weights.partition("=")[2]))
    assert "not those that" in message
    assert "vit_small_patch14_dinov2.lvd142m" in message
    (tmp_path / "vit.safetensors").unlink()
    assert "--features NAME=FILE" in refused(launch(model))


def test_depth_is_of_windows_alone(model: Path, maps: Path) -> None:
    assert "leave --depth out" in refused(launch(model, depth=f"maps:{maps}"))
    assert "leave --depth-kind out" in refused(launch(model, depth_kind="depth"))
    fixed = ("depthg.windows=on", "depthg.windows.whole_share=0.2")
    assert "leave --depth out" in refused(launch(model, *fixed, depth=f"maps:{maps}"))
    assert label_settings(launch(model, *fixed)).depth is None
    on = "depthg.windows=on"
    assert "is relative" in refused(launch(model, on, depth="fastdepth"))
    assert "no depth model" in refused(launch(model, on, depth="nothing"))
    assert "is not a folder" in refused(launch(model, on, depth="maps:nowhere"))
    assert "inverse_depth" in refused(launch(model, on, depth=f"maps:{maps}", depth_kind="up"))
    settings = label_settings(launch(model, on, depth=f"maps:{maps}", depth_kind="inverse_depth"))
    assert (settings.depth, settings.depth_kind) == (str(maps), "inverse_depth")
    assert settings_read(launch(model)) == settings_read(launch(model, *fixed)) == ("features",)
    assert settings_read(launch(model, on)) == ("features", "depth", "depth_kind")
    assert "it has features" in refused(launch(model, colour="red"))


def test_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, model: Path, maps: Path) -> None:
    monkeypatch.chdir(model.parent)
    one = launch(Path("model"), "depthg.windows=on", depth="maps:maps")
    made = absolute_launch(one)
    assert made.overrides[0] == f"{NAME}.checkpoint={model}"
    assert made.overrides[1:] == one.overrides[1:]
    assert made.settings["depth"] == f"maps:{maps}"


def test_without_the_files_what_can_be_said_is_said(tmp_path: Path) -> None:
    elsewhere = launch(tmp_path / "on another machine")
    assert label_settings(elsewhere, files_here=False).known() == {"recipe": read_recipe(elsewhere.overrides).as_dict()}
    with pytest.raises(ConfigError):
        label_settings(launch(tmp_path, "depthg.view=round"), files_here=False)


def test_a_wrong_launch_is_refused_without_torch(model: Path) -> None:
    words = (
        "import sys; from pipeline.methods.registry import known_config; from pipeline.runs.launch import Launch\n"
        f"known_config(Launch('photos', recipe='depthg', overrides=('depthg.checkpoint={model}',)), None)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: SemanticModel) -> object:
    """The method of a model of the tiny network, which is asked for in place of any that is named."""
    from pipeline.methods.depthg import settings

    def tiny(spec: str, device: object, options: dict[str, object]) -> object:
        return tiny_extractor(int(str(options["size"])))

    monkeypatch.setattr(load, "load_features", tiny)
    monkeypatch.setattr(settings, "_check_features", lambda *_: None)
    write_model(tmp_path / "tiny", model)
    return load_method(launch(tmp_path / "tiny", "features.size=128"), "cpu")


def test_it_is_loaded_with_the_models_features_at_any_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    method = loaded(monkeypatch, tmp_path, tiny_model())
    config = method.config()  # type: ignore[attr-defined]
    assert config["features"]["size"] == 128
    assert config["model"]["fingerprint"] == tiny_model().fingerprint
    said = dict(describe(NAME, config))
    assert said["model"] == "depthg, 5 clusters, 7 batches"
    assert said["features"] == "tiny tokens, 128 px"
    assert ENTRY.recipes == (NAME,)


def test_other_weights_and_other_heads_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny = tiny_model()
    other = SemanticModel(replace(tiny.info, feature_fingerprint="0" * 64), tiny.head, tiny.clusters)
    with pytest.raises(ConfigError, match="other weights"):
        loaded(monkeypatch, tmp_path, other)
    centred = FeatureConfig("tiny", 8, kind="tokens", centred=True, size=64)
    with pytest.raises(ConfigError, match="another centred"):
        loaded(
            monkeypatch, tmp_path, SemanticModel(replace(tiny.info, feature_config=centred), tiny.head, tiny.clusters)
        )
    head = {name: tensor for name, tensor in tiny.head.items() if "bias" not in name}
    with pytest.raises(WeightsError, match="another head") as caught:
        loaded(monkeypatch, tmp_path, SemanticModel(tiny.info, head, tiny.clusters))
    assert "\n" not in str(caught.value)
