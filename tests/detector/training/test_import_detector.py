"""Detectors of plain MMDetection become a detector.safetensors."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from support.small_training import SMALL

import detector.components  # noqa: F401
from detector.model.build import build_model
from detector.model.checkpoints import read_detector
from detector.training.config import read_config, set_options, without_sync_bn
from detector.training.import_detector import import_detector
from pipeline.cli import main
from pipeline.errors import ConfigError, WeightsError


def write_config(path: Path, *options: str) -> Path:
    config = read_config("tiny", pretty=True)
    set_options(config, (*SMALL, *options))
    without_sync_bn(config)
    path.write_text(config.pretty_text)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("project") / "mine.py")


@pytest.fixture(scope="module")
def state(config: Path) -> dict[str, torch.Tensor]:
    with DefaultScope.overwrite_default_scope("mmdet"):
        tensors: dict[str, torch.Tensor] = MODELS.build(read_config(str(config)).model).state_dict()
    return tensors


@pytest.fixture
def checkpoint(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    torch.save({"state_dict": state, "meta": {"iter": 7}}, tmp_path / "iter_7.pth")
    return tmp_path / "iter_7.pth"


def test_it_is_a_detector_then(checkpoint: Path, config: Path, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    words = ["import-detector", str(checkpoint), "--config", str(config), "--out", str(tmp_path / "mine.safetensors")]
    done = CliRunner().invoke(main, words)
    logging.getLogger("detector").setLevel(logging.NOTSET)
    assert done.exit_code == 0, done.output
    detector = read_detector(tmp_path / "mine.safetensors")
    assert detector.config["name"] == "mine"
    assert detector.config["resize"] == {"short": 64, "long": 96}
    assert detector.trained_on == {"imported": str(checkpoint)}
    built = build_model(detector).state_dict()
    assert [name for name in state if not torch.equal(state[name], built[name])] == []


def test_other_detectors_are_refused(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    several = write_config(tmp_path / "several.py", "model.roi_head.bbox_head.1.num_classes=80")
    with pytest.raises(ConfigError, match=r"cups_tiny is of a panoptic detector"):
        import_detector(checkpoint, "cups_tiny", out)
    with pytest.raises(ConfigError, match=r"several\.py has 80 classes"):
        import_detector(checkpoint, str(several), out)
    other = write_config(tmp_path / "other.py", "model.rpn_head.feat_channels=8")
    with pytest.raises(WeightsError, match="do not fit its model"):
        import_detector(checkpoint, str(other), out)
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        import_detector(tmp_path / "none.pth", str(config), out)
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="no state_dict"):
        import_detector(tmp_path / "empty.pth", str(config), out)
    torch.save({"state_dict": {"roi_heads.box_predictor.0.cls_score.weight": torch.ones(2, 4)}}, tmp_path / "d2.pth")
    with pytest.raises(WeightsError, match=r"d2\.pth has the names of Detectron2: give --layout, cutler, "):
        import_detector(tmp_path / "d2.pth", str(config), out)
    odd = write_config(tmp_path / "odd.py", "test_pipeline.1.backend=tifffile")
    with pytest.raises(ConfigError, match=r"resizes photos by 'tifffile': it must be one of cv2, pillow"):
        import_detector(checkpoint, str(odd), out)
    with pytest.raises(ConfigError, match=r"mine\.pth would be a safetensors file: .*ends in \.safetensors"):
        import_detector(checkpoint, str(config), tmp_path / "mine.pth")
    assert not out.exists()


class Opaque:
    """What a pickle may run."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def test_nothing_in_a_checkpoint_is_run(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "message_hub": Opaque()}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="is not run to find out what; give a checkpoint of `cuts3d train`"):
        import_detector(tmp_path / "odd.pth", str(config), tmp_path / "mine.safetensors")
    assert capsys.readouterr().out == ""
