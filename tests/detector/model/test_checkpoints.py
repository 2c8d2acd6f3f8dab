"""A trained detector as a file: it comes back as it went, runs nothing, and what is no detector is refused."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer
from support import ROOT
from support.tiny_detector import tiny_config, tiny_model

from detector.model.build import build_model
from detector.model.checkpoint_files import read_content, write_tensors
from detector.model.checkpoints import (
    DetectorCheckpoint,
    detector_in,
    read_detector,
    read_tensors,
    write_description,
    write_detector,
)
from detector.training.hooks import PlainCheckpoints
from pipeline.errors import WeightsError

MODEL = tiny_config()
CONFIG = {
    "name": "one",
    "classes": ["object"],
    "model": MODEL,
    "resize": {"short": 64, "long": 96},
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5, 6],
}
TRAINED_ON = {"runs": [], "iterations": 3}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_model()


@pytest.fixture
def path(tmp_path: Path, model: torch.nn.Module) -> Path:
    write_detector(tmp_path / "detector.safetensors", model.state_dict(), CONFIG, TRAINED_ON)
    return tmp_path / "detector.safetensors"


@pytest.fixture
def earlier(tmp_path: Path, model: torch.nn.Module) -> Path:
    """A detector.pth, as version 0.1 wrote it at first."""
    content = {
        "schema": "cuts3d-detector/1",
        "state_dict": model.state_dict(),
        "config": json.dumps(CONFIG, sort_keys=True),
        "trained_on": json.dumps(TRAINED_ON, sort_keys=True),
    }
    torch.save(content, tmp_path / "detector.pth")
    return tmp_path / "detector.pth"


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_detector_comes_back_as_it_went(path: Path, model: torch.nn.Module) -> None:
    checkpoint = read_detector(path)
    assert (checkpoint.config, checkpoint.trained_on) == (CONFIG, TRAINED_ON)
    built = build_model(checkpoint)
    assert same(built, model)
    assert not built.training
    assert [p.name for p in path.parent.iterdir()] == ["detector.safetensors"]  # nothing half-written is left


def test_the_digest_is_of_the_file(path: Path) -> None:
    import hashlib

    assert read_detector(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_a_plain_safetensors_file(path: Path, model: torch.nn.Module) -> None:
    tensors, state = safetensors.torch.load_file(path), model.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"schema", "config", "trained_on", "format"}
    assert (metadata["schema"], json.loads(metadata["config"])) == ("cuts3d-detector/1", CONFIG)


@pytest.mark.slow
def test_the_same_detector_is_the_same_to_the_byte_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from detector.model.checkpoint_files import write_tensors\n"
        "tensors = {'b': torch.arange(5.).half(), 'a': torch.ones(2, 3), 'c': torch.tensor(7)}\n"
        "texts = {name: name for name in ('schema', 'trained_on', 'config', 'one', 'two', 'drei', 'quattro')}\n"
        "write_tensors(Path(sys.argv[1]), tensors, texts)\n"
    )
    # the order of safetensors' own metadata is another in each process
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], cwd=ROOT, check=True)
    with mock.patch.object(sys, "argv", ["-c", tmp_path / "b"]):
        exec(code, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert int.from_bytes((tmp_path / "a").read_bytes()[:8], "little") % 8 == 0
    assert read_tensors(tmp_path / "a")["b"].tolist() == [0, 1, 2, 3, 4]


def test_tensors_may_share_memory_and_have_any_strides(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {"whole": whole, "again": whole, "turned": whole.T, "part": whole[1:, ::2], "none": whole[:0]}
    tensors |= {"number": torch.tensor(3), "half": whole.to(torch.bfloat16), "ä": torch.tensor([True])}
    write_tensors(tmp_path / "x.safetensors", tensors, {"text": 'a "quoted" line\nand ü'})
    content = read_content(tmp_path / "x.safetensors")
    assert content["text"] == 'a "quoted" line\nand ü'
    assert content["state_dict"].keys() == tensors.keys()
    for name, tensor in content["state_dict"].items():
        assert (tensor.dtype, tensor.requires_grad) == (tensors[name].dtype, False)
        assert torch.equal(tensor, tensors[name]), name


def test_a_detector_of_an_earlier_version_is_read_the_same(earlier: Path, path: Path, model: torch.nn.Module) -> None:
    before, now = read_detector(earlier), read_detector(path)
    assert (before.config, before.trained_on) == (now.config, now.trained_on)
    assert same(build_model(before), model)
    assert before.sha256 != now.sha256


def test_which_kind_a_file_is_its_content_says(earlier: Path, path: Path) -> None:
    for file, name in ((earlier, "was_pth.safetensors"), (path, "was_safetensors.pth"), (path, "no_suffix")):
        copy = file.with_name(name)
        copy.write_bytes(file.read_bytes())
        assert read_detector(copy).config == CONFIG


def test_where_the_detector_of_a_training_is(tmp_path: Path) -> None:
    assert detector_in(tmp_path) == tmp_path / "detector.safetensors"
    (tmp_path / "detector.pth").touch()
    assert detector_in(tmp_path) == tmp_path / "detector.pth"
    (tmp_path / "detector.safetensors").touch()
    assert detector_in(tmp_path) == tmp_path / "detector.safetensors"


def mmengine_checkpoint(model: torch.nn.Module) -> dict[str, Any]:
    import numpy as np

    hub = {
        "log_scalars": {"train/loss": HistoryBuffer([1.0, 0.5, 0.25], [1, 1, 2])},
        "runtime_info": {"iter": 3, "best": np.float64(0.5), "dataset_meta": {"palette": np.array([[1, 2, 3]])}},
        "resumed_keys": {"train/loss": True},
    }
    return {"meta": {"iter": 3, "lr": np.float32(0.1)}, "state_dict": model.state_dict(), "message_hub": hub}


def test_a_checkpoint_of_the_training_is_read_beside_its_description(tmp_path: Path, model: torch.nn.Module) -> None:
    checkpoint = mmengine_checkpoint(model)
    PlainCheckpoints().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / "iter_3.pth")
    with pytest.raises(WeightsError, match=r"lies beside its detector.json"):
        read_detector(tmp_path / "iter_3.pth")
    write_description(tmp_path, CONFIG, TRAINED_ON)
    assert same(build_model(read_detector(tmp_path / "iter_3.pth")), model)


def test_histories_of_logged_values_survive_as_tensors(tmp_path: Path, model: torch.nn.Module) -> None:
    checkpoint, hook = mmengine_checkpoint(model), PlainCheckpoints()
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / "iter_3.pth")
    loaded = torch.load(tmp_path / "iter_3.pth")
    hook.after_load_checkpoint(None, loaded)
    buffer = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(buffer, HistoryBuffer)
    assert [part.tolist() for part in buffer.data] == [[1.0, 0.5, 0.25], [1, 1, 2]]
    assert loaded["message_hub"]["runtime_info"] == {
        "iter": 3,
        "best": 0.5,
        "dataset_meta": {"palette": [[1, 2, 3]]},
    }


def test_what_mmengine_itself_writes_is_not_run(tmp_path: Path, model: torch.nn.Module) -> None:
    torch.save(mmengine_checkpoint(model), tmp_path / "iter_3.pth")
    with pytest.raises(WeightsError, match="PlainCheckpoints"):
        read_detector(tmp_path / "iter_3.pth")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "inside"])
def test_code_in_a_checkpoint_is_not_run(earlier: Path, how: str) -> None:
    if how == "pickle":
        earlier.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({**torch.load(earlier), "extra": Evil()}, earlier)
    with pytest.raises(WeightsError):
        read_detector(earlier)


@pytest.mark.parametrize("kind", ["os.system", "mmengine.fileio.load", "x y", 3])
def test_a_model_that_would_import_something_is_refused(path: Path, kind: Any) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["model"]["neck"] = [{"inner": {"type": kind, "command": "true"}}]
    write_detector(path, {"a": torch.zeros(1)}, config, {})
    with pytest.raises(WeightsError, match="only components of MMDetection"):
        read_detector(path)


def test_scopes_and_other_orders_to_the_registry_are_refused(path: Path) -> None:
    write_detector(path, {"a": torch.zeros(1)}, {**CONFIG, "model": {**MODEL, "_scope_": "torch"}}, {})
    with pytest.raises(WeightsError, match="_scope_"):
        read_detector(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "cuts3d-detector/2"}, "schema 'cuts3d-detector/2'"),
        ({"config": "{"}, "damaged description"),
        ({"config": "[]"}, "an object was expected"),
        ({"config": None}, "damaged description"),
        ({"config": "{}"}, "does not say how to use it: name"),
        ({"config": json.dumps({**CONFIG, "resize": {"short": 0, "long": 5}})}, "no size for photos"),
        (
            {"config": json.dumps({**CONFIG, "resize": {"short": 5, "long": 5, "backend": "tifffile"}})},
            "resized by none of cv2, pillow",
        ),
        ({"state_dict": {}}, "no state_dict"),
        ({"state_dict": {"a": 1}}, "no state_dict"),
    ],
)
def test_damage_is_named(earlier: Path, path: Path, change: dict[str, Any], message: str) -> None:
    content = {**torch.load(earlier), **change}
    torch.save(content, earlier)
    with pytest.raises(WeightsError, match=message):
        read_detector(earlier)
    tensors = content.pop("state_dict")
    if tensors != {"a": 1}:  # safetensors hold nothing but tensors
        write_tensors(path, tensors, {name: text for name, text in content.items() if text is not None})
        with pytest.raises(WeightsError, match=message):
            read_detector(path)


@pytest.mark.parametrize("keep", [0, 1, 1000, -10])
def test_torn_files(earlier: Path, path: Path, keep: int) -> None:
    for file in (earlier, path):
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(WeightsError, match=rf"{file.name} .*(copy it again|is not run)"):
            read_detector(file)


def test_files_of_neither_kind(path: Path) -> None:
    for content in (b"<html>Not today</html>", b"\xff" * 100, b"{}"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged or no safetensors file, copy it again"):
            read_detector(path)


def test_pointers_of_git_lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n")
    with pytest.raises(WeightsError, match=r"detector\.safetensors is a pointer of git-lfs, .*git lfs pull"):
        read_detector(path)


def test_safetensors_that_are_no_detector(tmp_path: Path, model: torch.nn.Module) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    with pytest.raises(WeightsError, match=r"is no detector of cuts3d: .*import-detector"):
        read_detector(path)
    assert read_tensors(path).keys() == model.state_dict().keys()
    write_description(tmp_path, CONFIG, TRAINED_ON)  # as for a checkpoint of the training
    assert same(build_model(read_detector(path)), model)


def test_absent_files_and_folders(path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        read_detector(path.with_name("other.safetensors"))
    (path.parent / "iter_3.pth").touch()
    with pytest.raises(WeightsError, match=r"give a file in it \(detector.safetensors, iter_3.pth\)"):
        read_detector(path.parent)


def test_a_description_that_cannot_be_read(tmp_path: Path, model: torch.nn.Module) -> None:
    torch.save({"state_dict": model.state_dict()}, tmp_path / "iter_1.pth")
    for text in ("{", "[]", '{"schema": "other"}'):
        (tmp_path / "detector.json").write_text(text)
        with pytest.raises(WeightsError, match="writes it again"):
            read_detector(tmp_path / "iter_1.pth")


def test_weights_that_would_be_converted_in_silence(tmp_path: Path, model: torch.nn.Module) -> None:
    state = model.state_dict()
    name = next(name for name in state if name.endswith("conv1.weight"))
    torch.save({"state_dict": {**state, name: state[name].to(torch.complex64)}}, tmp_path / "iter_1.pth")
    with pytest.raises(WeightsError, match=rf"cannot be used as weights \({name}: complex\)"):
        read_tensors(tmp_path / "iter_1.pth")


def test_models_of_other_versions(path: Path, model: torch.nn.Module) -> None:
    unknown = DetectorCheckpoint(path, {**CONFIG, "model": {"type": "NoSuchModel"}}, {}, {})
    with pytest.raises(WeightsError, match=r"cannot be built.*another version"):
        build_model(unknown)
    odd_option = DetectorCheckpoint(path, {**CONFIG, "model": {**MODEL, "option_of_tomorrow": 1}}, {}, {})
    with pytest.raises(WeightsError, match="option_of_tomorrow"):
        build_model(odd_option)
    state = {name: value for name, value in model.state_dict().items() if "rpn_head" not in name}
    with pytest.raises(WeightsError, match="do not fit its model"):
        build_model(DetectorCheckpoint(path, CONFIG, {}, state))
