"""Files of models that are none are told in one line that names file and remedy, whatever library would read them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.tiny_depth import dpt

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.load import load_depth
from pipeline.models.specs import check_depth
from pipeline.models.vit_checkpoints import read_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
REMEDIES = {
    POINTER: r"pointer of git-lfs, .*git lfs pull",
    PAGE: "web page.*fetch it again",
    b"": "is empty: fetch it again",
}
PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def saved(
    folder: Path, opset: int = 17, shape: Any = ("b", 3, "h", "w"), external: bool = False, **sidecar: Any
) -> Path:
    """An .onnx file whose depth is the sum of colours, weighted, and its sidecar."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.array(sidecar.pop("weights", [0.6, 0.3, 0.1]), np.float32).reshape(1, 3, 1, 1)
    kind = sidecar.pop("type", TensorProto.FLOAT)
    # As large as the picture, so that it is worth a file of its own; one number where the picture is turned.
    sides = (1, 3, 28, 28) if tuple(shape[:2]) == ("b", 3) else ()
    kernel = np.broadcast_to(weights if sides else 1, sides).astype(helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "kernel"], ["m"]), helper.make_node("ReduceSum", ["m", "axes"], ["y"])],
        "depth",
        [helper.make_tensor_value_info("x", kind, shape), *sidecar.pop("more", [])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = folder / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=external, location="m.onnx.data", size_threshold=1024)
    said = {"model": "colour", "input": "x", "output": "y", "output_kind": "depth", "size": [28, 28]}
    path.with_suffix(".json").write_text(json.dumps(said | sidecar))
    return path


@pytest.fixture(scope="module")
def transformers_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    for part in dpt():
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("content", REMEDIES, ids=["pointer", "page", "empty"])
def test_before_anything_is_loaded(tmp_path: Path, transformers_model: Path, content: bytes) -> None:
    path = saved(tmp_path)
    copy = Path(shutil.copytree(transformers_model, tmp_path / "hf"))
    for file, spec in (
        (path, path),
        (path.with_suffix(".json"), path),
        (copy / "model.safetensors", copy),
        (copy / "config.json", copy),
        (copy / "preprocessor_config.json", copy),
        (copy / "pytorch_model.bin", copy),
    ):
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(content)
        for check in (lambda spec=spec: check_depth(str(spec), None), lambda spec=spec: load_depth(str(spec))):
            with pytest.raises(WeightsError, match=f"{file.name} .*{REMEDIES[content]}") as caught:
                check()
            assert "\n" not in str(caught.value)
        file.unlink() if before is None else file.write_bytes(before)
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=REMEDIES[content]):
            read_checkpoint(tmp_path / name)


def test_cut_short(tmp_path: Path, transformers_model: Path) -> None:
    path = saved(tmp_path / "onnx")
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(WeightsError, match=r"m\.onnx cannot be loaded as an ONNX model; fetch or export it again: "):
        load_depth(str(path))
    copy = Path(shutil.copytree(transformers_model, tmp_path / "hf"))
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"model\.safetensors is cut short or damaged: fetch it again"):
            check_depth(str(copy), None)
    weights.unlink()
    torch.save({"a": torch.zeros(100)}, copy / "pytorch_model.bin")
    content = (copy / "pytorch_model.bin").read_bytes()
    (copy / "pytorch_model.bin").write_bytes(content[:-30])
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is cut short"):
        check_depth(str(copy), None)
    (copy / "pytorch_model.bin").write_bytes(b"neither this nor that")
    with pytest.raises(WeightsError, match="cannot be loaded; fetch it again: "):
        load_depth(str(copy))


def test_weights_of_another_shape_than_the_configuration_says(
    tmp_path: Path, transformers_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(transformers_model, tmp_path / "hf"))
    other = json.loads((copy / "config.json").read_text()) | {"fusion_hidden_size": 32}
    (copy / "config.json").write_text(json.dumps(other))
    with pytest.raises(
        WeightsError, match=r"other shapes than its config\.json says, head\.\S+ for one \(\d+ in all\)"
    ):
        load_depth(str(copy))
    assert "MISMATCH" not in "".join(capfd.readouterr())


def test_onnx_that_does_not_fit_its_sidecar(tmp_path: Path) -> None:
    said = TensorProto.FLOAT
    for number, (options, message) in enumerate(
        [
            ({"shape": (1, 3, 56, 56)}, r"shape \[1, 3, 56, 56\], which does not fit .*size, 28x28"),
            ({"shape": (4, 3, "h", "w")}, r"shape \[4, 3, 'h', 'w'\]"),
            ({"shape": ("b", 28, 28, 3)}, r"shape \['b', 28, 28, 3\]"),
            ({"shape": (3, "h", "w")}, r"shape \[3, 'h', 'w'\]"),
            ({"type": TensorProto.DOUBLE}, r"its input is of tensor\(double\): export it for tensor\(float\)"),
            ({"more": [helper.make_tensor_value_info("focal", said, [1])]}, "takes focal beside the picture"),
            ({"input": "image"}, "the sidecar names input 'image'"),
        ]
    ):
        path = saved(tmp_path / str(number), **options)
        with pytest.raises(ConfigError, match=rf"m\.json: colour: .*{message}"):
            load_depth(str(path))
    with pytest.raises(WeightsError, match=r"m\.onnx cannot be loaded as an ONNX model; .*opset"):
        load_depth(str(saved(tmp_path / "newer", opset=99)))


def test_half_precision(tmp_path: Path) -> None:
    whole, half = (
        load_depth(str(saved(tmp_path / str(kind), type=kind))).predict([PHOTO], ["a.jpg"])[0]
        for kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
    )
    np.testing.assert_allclose(half, whole, atol=0.01)


class TestWeightsBesideTheModel:
    def test_they_are_found_from_any_folder_and_are_in_the_fingerprint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = saved(tmp_path / "first", external=True)
        second = saved(tmp_path / "second", external=True, weights=[-0.2, 0.1, 0.9])
        assert first.read_bytes() == second.read_bytes()
        expected = {
            path: load_depth(str(saved(tmp_path / "whole" / path.parent.name, weights=weights))).predict([PHOTO], ["a"])
            for path, weights in ((first, [0.6, 0.3, 0.1]), (second, [-0.2, 0.1, 0.9]))
        }
        prints = set()
        for folder in (tmp_path, first.parent, second.parent):
            monkeypatch.chdir(folder)  # which may hold a file of that name
            for path, (depth,) in expected.items():
                model = load_depth(str(path))
                np.testing.assert_array_equal(model.predict([PHOTO], ["a"])[0], depth)
                prints.add((path, model.fingerprint))
        assert len(prints) == len({fingerprint for _, fingerprint in prints}) == 2

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        path = saved(tmp_path, external=True)
        (tmp_path / "m.onnx.data").unlink()
        with pytest.raises(
            WeightsError, match=r"m\.onnx: its weights are in m\.onnx\.data, .*: copy it to .*m\.onnx\.data"
        ):
            load_depth(str(path))

    def test_cut_short(self, tmp_path: Path) -> None:
        path = saved(tmp_path, external=True)
        (tmp_path / "m.onnx.data").write_bytes(b"short")
        with pytest.raises(WeightsError, match=r"m\.onnx cannot be loaded"):
            load_depth(str(path))
