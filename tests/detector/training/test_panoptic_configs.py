"""The configurations of panoptic detectors: each builds once it knows its classes, and says what it should."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from support.panoptic_runs import random_panoptic, void, write_run
from support.semantic_runs import CLASSES
from support.tiny_detector import write_tiny
from support.tiny_panoptic import write_panoptic

from detector.model.panoptic_classes import PanopticClasses
from detector.training.config import config_path, describe, plain, read_config, set_iterations, set_runs
from detector.training.panoptic_config import has_teacher, is_panoptic, set_classes, set_heads
from detector.training.plain_config import plain_config
from pipeline.errors import ConfigError
from pipeline.runs.run_folder import RunFolder

NAMES = ("cups_r50_fpn", "cups_self_r50_fpn", "cups_tiny", "cups_self_tiny")
ROUNDS = ("cups_self_r50_fpn", "cups_self_tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Of whose classes 2 and 3 are things."""
    folder = tmp_path_factory.mktemp("panoptic") / "run"
    return write_run(folder, [random_panoptic(f"{n}.png", (40, 60), n) for n in range(4)])


def built(name: str) -> Any:
    config = read_config(name)
    set_heads(config.model, 4, 7)
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        return MODELS.build(config.model)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_has_the_classes(name: str) -> None:
    model = built(name)
    assert [head.num_classes for head in model.roi_head.bbox_head] == [4] * 3
    assert {head.fc_reg.out_features for head in model.roi_head.bbox_head} == {4}, "boxes of one kind for all classes"
    assert {head.conv_logits.out_channels for head in model.roi_head.mask_head} == {4}
    assert len({id(head) for head in model.roi_head.mask_head}) == 1
    assert model.semantic_head.conv_logits.out_channels == 8
    assert model.semantic_head.loss_weight == 0.5
    assert model.heads_only == (name in ROUNDS)
    thresholds = [head.drop_threshold for head in model.roi_head.bbox_head]
    assert thresholds == ([0.4] * 3 if name == "cups_r50_fpn" else [None] * 3)
    crop = {"cups_self_r50_fpn": (512, 1024), "cups_self_tiny": (80, 160)}
    assert model.data_preprocessor.crop == crop.get(name)
    assert model.data_preprocessor.min_pixels == (5 if name in ROUNDS else 1)


def test_the_published_schedule() -> None:
    config, rounds = read_config("cups_r50_fpn"), read_config("cups_self_r50_fpn")
    assert config.optim_wrapper.optimizer.type == rounds.optim_wrapper.optimizer.type == "AdamW"
    assert (config.optim_wrapper.optimizer.lr, rounds.optim_wrapper.optimizer.lr) == (1e-4, 1e-5)
    assert config.optim_wrapper.optimizer.weight_decay == 1e-5
    assert config.optim_wrapper.paramwise_cfg.norm_decay_mult == 0
    assert config.optim_wrapper.clip_grad.max_norm == 1.0
    assert (config.train_cfg.max_iters, rounds.train_cfg.max_iters) == (4000, 500)
    assert not config.param_scheduler
    assert config.model.train_cfg.rpn_proposal.max_per_img == 4000
    assert config.model.train_cfg.rpn_proposal.nms.iou_threshold == 0.65
    assert [hook.type for hook in rounds.custom_hooks] == [
        *("StartFrom", "PlainCheckpoints", "CheckLoss", "MomentumTeacher", "SelfEnhancedCopyPaste"),
    ]
    assert rounds.custom_hooks[-1].start is None
    set_iterations(config, 400)
    assert config.custom_hooks[-1].start == 50


def test_what_kind_a_configuration_is_of() -> None:
    for name in (*NAMES, "tiny"):
        for config in (read_config(name), plain_config(config_path(name))):
            assert is_panoptic(config) == (name != "tiny")
            assert has_teacher(config) == (name in ROUNDS)


def test_the_classes_are_those_of_the_runs(run: RunFolder) -> None:
    config = read_config("cups_tiny")
    set_runs(config, [run.url])
    set_classes(config, None)
    classes = PanopticClasses.from_json(plain(config.panoptic))
    assert classes.classes == CLASSES
    assert classes.things == (2, 3)
    assert config.model.roi_head.mask_head.num_classes == 2
    assert config.model.semantic_head.num_stuffs == len(CLASSES) - 2
    described = describe(config, "cups_tiny")
    assert described["classes"] == [CLASSES.names[2], CLASSES.names[3]]
    assert json.loads(json.dumps(described)) == described
    assert described["resize"] == {"short": 160, "long": 320}
    assert PanopticClasses.from_json(described["panoptic"]) == classes


def test_the_classes_of_a_round_are_those_of_the_detector(run: RunFolder, tmp_path: Path) -> None:
    first = write_panoptic(tmp_path / "first.safetensors")
    config = read_config("cups_self_tiny")
    set_runs(config, [run.url])
    set_classes(config, str(first.path))
    assert PanopticClasses.from_json(plain(config.panoptic)) == first.panoptic


def test_starts_and_runs_that_do_not_fit(run: RunFolder, tmp_path: Path) -> None:
    config = read_config("cups_tiny")
    set_runs(config, [run.url])
    with pytest.raises(ConfigError, match="finds things 1, 4 of 5 classes, the runs have 2, 3 of"):
        set_classes(config, str(write_panoptic(tmp_path / "other.safetensors").path))
    with pytest.raises(ConfigError, match="is no panoptic detector"):
        set_classes(config, str(write_tiny(tmp_path / "instances.safetensors").path))
    nothing = write_run(tmp_path / "nothing", [void(f"{n}.png", (20, 30)) for n in range(2)])
    set_runs(config, [nothing.url])
    with pytest.raises(ConfigError, match=r"no image of the runs has an instance to learn: `cuts3d info RUN` says why"):
        set_classes(config, None)
    config.train_dataloader.dataset.threshold = 0.9
    set_runs(config, [run.url])
    with pytest.raises(
        ConfigError, match=r"no class of the runs is a thing, .* lower the threshold \(--set .*=0\.\d+\)"
    ):
        set_classes(config, None)
    known = write_run(tmp_path / "known", [void("0.png", (20, 30))], things=(False,) * len(CLASSES))
    config.train_dataloader.dataset.threshold = None
    set_runs(config, [known.url])
    with pytest.raises(ConfigError, match=r"no class of the runs is a thing, so the labels' maker says"):
        set_classes(config, None)


def test_other_configurations_stay_as_they_are(run: RunFolder) -> None:
    config = read_config("tiny")
    before = plain(config)
    set_classes(config, None)
    assert plain(config) == before
