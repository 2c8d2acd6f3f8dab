"""A trained detector as a file: it comes back as it went, runs nothing, and what is no detector is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import HistoryBuffer
from support.tiny_detector import tiny_config, tiny_model

from detector.model.build import build_model
from detector.model.checkpoints import DetectorCheckpoint, read_detector, write_description, write_detector
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
    write_detector(tmp_path / "detector.pth", model.state_dict(), CONFIG, TRAINED_ON)
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
    assert [p.name for p in path.parent.iterdir()] == ["detector.pth"]  # nothing half-written is left


def test_the_digest_is_of_the_file(path: Path) -> None:
    import hashlib

    assert read_detector(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_loads_in_plain_torch(path: Path) -> None:
    content = torch.load(path)  # weights_only is torch's default
    assert set(content) == {"schema", "state_dict", "config", "trained_on"}
    assert json.loads(content["config"]) == CONFIG


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


@pytest.mark.parametrize("how", ["pickle", "inside"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, path: Path, how: str) -> None:
    if how == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({**torch.load(path), "extra": Evil()}, path)
    with pytest.raises(WeightsError):
        read_detector(path)


@pytest.mark.parametrize("kind", ["os.system", "mmengine.fileio.load", "x y", 3])
def test_a_model_that_would_import_something_is_refused(tmp_path: Path, path: Path, kind: Any) -> None:
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
        ({"state_dict": {}}, "no state_dict"),
        ({"state_dict": {"a": 1}}, "no state_dict"),
    ],
)
def test_damage_is_named(path: Path, change: dict[str, Any], message: str) -> None:
    torch.save({**torch.load(path), **change}, path)
    with pytest.raises(WeightsError, match=message):
        read_detector(path)


@pytest.mark.parametrize("keep", [0, 1, 1000, -10])
def test_torn_files(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"copy it again|is not run"):
        read_detector(path)


def test_absent_files_and_folders(path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        read_detector(path.with_name("other.pth"))
    with pytest.raises(WeightsError, match=r"give a file in it \(detector.pth\)"):
        read_detector(path.parent)


def test_a_description_that_cannot_be_read(tmp_path: Path, model: torch.nn.Module) -> None:
    torch.save({"state_dict": model.state_dict()}, tmp_path / "iter_1.pth")
    for text in ("{", "[]", '{"schema": "other"}'):
        (tmp_path / "detector.json").write_text(text)
        with pytest.raises(WeightsError, match="writes it anew"):
            read_detector(tmp_path / "iter_1.pth")


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
