"""The file of a semantic model: what is written is read, and what is no such file is told in one line."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from pipeline.errors import WeightsError
from pipeline.methods.depthg.checkpoint import (
    FILE,
    ModelInfo,
    SemanticModel,
    read_model,
    write_model,
)
from stages.features import FeatureConfig

CONFIG = FeatureConfig("vit_tiny", 8, kind="tokens", centred=False, size=64)
INFO = ModelInfo("depthg", "dinov2_vits14", CONFIG, "f" * 64, 5, {"weights": [0.5, 1.0]}, 70, 3, "digest")
KEY = "cuts3d_semantic_model"


def model(**changes: object) -> SemanticModel:
    draw = np.random.default_rng(0)
    head = {"linear.weight": draw.normal(size=(4, 5, 1, 1)).astype(np.float32), "linear.bias": np.zeros(4, np.float32)}
    whole = {"info": INFO, "head": head, "clusters": draw.normal(size=(3, 4)).astype(np.float32), **changes}
    return SemanticModel(**whole)  # type: ignore[arg-type]


def said(place: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_model(place)
    message = str(caught.value)
    assert "\n" not in message
    assert str(place) in message
    return message


def test_what_is_written_is_read(tmp_path: Path) -> None:
    one = model(info=replace(INFO, training={"amp": False}))
    path = write_model(tmp_path / "model", one)
    assert path == tmp_path / "model" / FILE
    for place in (tmp_path / "model", path):
        read = read_model(place)
        assert read.info == one.info
        assert read.tensors().keys() == one.tensors().keys()
        for name, tensor in one.tensors().items():
            assert np.array_equal(read.tensors()[name], tensor)
        assert read.fingerprint == one.fingerprint


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_model(tmp_path / name, model()).read_bytes() for name in "ab")
    assert first == second


def test_the_fingerprint_is_that_of_what_decides_labels() -> None:
    one = model()
    assert model(info=replace(INFO, training={"said": "more"})).fingerprint == one.fingerprint
    assert model(clusters=one.clusters + 1).fingerprint != one.fingerprint
    assert model(info=replace(INFO, feature_fingerprint="0")).fingerprint != one.fingerprint


def test_a_model_without_a_head_has_centroids_of_features() -> None:
    assert model(head={}, clusters=np.ones((3, 5), np.float32)).head == {}
    with pytest.raises(ValueError, match="as wide as the features, 5, not 4"):
        model(head={})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clusters": np.ones((3, 4))}, "clusters is of float64"),
        ({"clusters": np.full((3, 4), np.nan, np.float32)}, "NaN"),
        ({"clusters": np.ones((1, 4), np.float32)}, r"2\.\.255 centroids"),
        ({"clusters": np.ones((256, 4), np.float32)}, r"2\.\.255 centroids"),
        ({"clusters": np.ones(4, np.float32)}, r"2\.\.255 centroids"),
    ],
)
def test_models_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(**changes)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    assert "does not exist" in said(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"s3://models/first is a URL, and models are read from this machine"):
        read_model("s3://models/first")
    (tmp_path / "folder").mkdir()
    assert "holds no trained model" in said(tmp_path / "folder")
    file = tmp_path / FILE
    file.write_bytes(b"")
    assert "is empty" in said(file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in said(file)
    file.write_bytes(b"<!DOCTYPE html><html>")
    assert "web page" in said(file)
    file.write_bytes(save({"weight": np.ones(3, np.float32)}))
    assert "no semantic model of cuts3d" in said(file)
    whole = write_model(tmp_path / "whole", model()).read_bytes()
    for length in (4, 9, 200, len(whole) - 1):
        file.write_bytes(whole[:length])
        said(file)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Telltale:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "was run",))

    file = tmp_path / "model.ckpt"
    file.write_bytes(pickle.dumps(Telltale()))
    assert "no safetensors file" in said(file)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about.pop("recipe"), "recipe"),
        (lambda about: about.update(version=2), "version 2"),
        (lambda about: about.pop("version"), "version"),
        (lambda about: about.update(more=1), "more"),
        (lambda about: about.update(iterations=-1), "iterations"),
        (lambda about: about.update(objective=[]), "objective"),
        (lambda about: about.update(feature_config=None), "cannot be read"),
        (lambda about: about["feature_config"].update(size=63), "size is 63"),
        (lambda about: about.update(feature_config=[1]), "cannot be read"),
        (lambda about: about.update(width="5"), "width"),
    ],
)
def test_descriptions_that_cannot_be_read(tmp_path: Path, change: object, words: str) -> None:
    file = write_model(tmp_path, model())
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        about = json.loads(opened.metadata()[KEY])
    change(about)  # type: ignore[operator]
    save_file(load_file(file), file, {KEY: json.dumps(about)})
    assert words in said(file)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_descriptions_that_are_no_mapping(tmp_path: Path, text: str) -> None:
    save_file(dict(model().tensors()), tmp_path / FILE, {KEY: text})
    assert "cannot be read" in said(tmp_path / FILE)


def test_tensors_that_do_not_belong(tmp_path: Path) -> None:
    file = write_model(tmp_path, model())
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    save_file({**tensors, "optimizer": np.ones(1, np.float32)}, file, about)
    assert "optimizer" in said(file)
    save_file({name: tensor for name, tensor in tensors.items() if name != "clusters"}, file, about)
    assert "lacks clusters" in said(file)


def test_it_is_read_without_torch(tmp_path: Path) -> None:
    file = write_model(tmp_path, model())
    words = (
        "import sys; from pipeline.methods.depthg.checkpoint import read_model; read_model(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", words, str(file)], check=False).returncode == 0
