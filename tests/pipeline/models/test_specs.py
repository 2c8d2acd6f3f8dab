"""Names of models are told from mistakes without the libraries that have the models."""

from pathlib import Path

import pytest
import timm

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.specs import check_depth, depth_source, feature_spec


def test_no_model_of_timm_is_taken_for_a_mistake() -> None:
    names = timm.list_models()
    assert len(names) > 1000
    assert [name for name in names[::50] if feature_spec(name).name != name] == []
    assert feature_spec("vit_tiny_patch16_224.augreg_in21k=x", files_here=False).path == Path("x")


def test_files_are_looked_for_where_the_models_are_loaded(tmp_path: Path) -> None:
    gone = tmp_path / "gone.pth"
    for spec in (str(gone), f"dino_vits8={gone}"):
        with pytest.raises(WeightsError, match=r"gone\.pth does not exist"):
            feature_spec(spec)
        assert feature_spec(spec, files_here=False).path == gone
    with pytest.raises(ConfigError, match="no features 'dinov9'"):
        feature_spec(f"dinov9={gone}", files_here=False)


def test_an_existing_file_is_a_file_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("epoch=3-step=1000.ckpt", "lr=0.01/dino.pth", "dino_vits8=x.pth", "run:3,a.weights"):
        file = Path(name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"whatever")
        assert (feature_spec(name).name, feature_spec(name).path) == (None, file)
        named = feature_spec(f"dino_vits8={name}")
        assert (named.name, named.path) == ("dino_vits8", file)
    assert feature_spec("out/lr=0.01/gone.pth", files_here=False).path == Path("out/lr=0.01/gone.pth")
    with pytest.raises(WeightsError, match=r"out/lr=0\.01/gone\.pth does not exist"):
        feature_spec("out/lr=0.01/gone.pth")
    with pytest.raises(ConfigError, match=r"no features .sweep9., and there is no file sweep9=3.pth: use"):
        feature_spec("sweep9=3.pth")


def test_what_a_checkpoint_alone_can_tell_is_left_open(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"whatever")
    found = feature_spec(str(file))
    assert (found.name, found.path, found.preset) == (None, file, None)


def test_kinds_of_depth(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "maps").mkdir()
    assert depth_source("fastdepth") == ("embedded", "fastdepth")
    assert depth_source("zoedepth") == ("hub", "Intel/zoedepth-nyu-kitti")
    assert depth_source(str(tmp_path)) == ("transformers", str(tmp_path))
    assert depth_source(str(tmp_path / "maps")) == ("maps", str(tmp_path / "maps"))
    assert depth_source("a.onnx") == ("onnx", "a.onnx")
    with pytest.raises(ConfigError, match="no depth model 'midas'"):
        check_depth("midas", None)
