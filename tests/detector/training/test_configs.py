"""The configurations that come with cuts3d: each builds, differs from the others as it says, and can be changed."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from detector.training import config as train_config
from detector.training.config import (
    config_names,
    describe,
    headline,
    plain,
    read_config,
    scale_schedule,
    set_backbone,
    set_batch,
    set_iterations,
    set_mixed_precision,
    set_options,
    set_runs,
    set_start,
    set_workers,
    without_sync_bn,
)
from pipeline.errors import ConfigError

PANOPTIC = ("cups_r50_fpn", "cups_self_r50_fpn", "cups_tiny", "cups_self_tiny")
INSTANCES = [name for name in config_names() if name not in PANOPTIC]
ROUNDS = ("self_train_r50_fpn", "self_train_r50_fpn_1gpu", "cutler_self_train_r50_fpn", "in_domain_r50_fpn")


def test_the_names() -> None:
    assert set(config_names()) == {
        *("cutler_r50_fpn", "cutler_r50_fpn_1gpu", "cuts3d_r50_fpn", "cuts3d_r50_fpn_1gpu", "tiny", "cutler_tiny"),
        *("cuts3d_r50_fpn_selection", "cuts3d_r50_fpn_selection_blending", "cuvler_r50_fpn"),
        *("detectron2_cascade_r50_fpn", *ROUNDS, *PANOPTIC),
    }
    assert all(headline(name).endswith(".") and len(headline(name)) < 100 for name in config_names())


@pytest.fixture(scope="module")
def built() -> dict[str, nn.Module]:
    """Each distinct model, without memory for its weights."""
    found = {}
    for name in INSTANCES:
        with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
            found[name] = MODELS.build(read_config(name).model)
    return found


@pytest.mark.parametrize("name", INSTANCES)
def test_every_model_builds_and_can_be_described(name: str, built: dict[str, nn.Module]) -> None:
    heads = built[name].roi_head.bbox_head
    thresholds = [head.drop_threshold for head in heads]
    assert thresholds == ([None] * 3 if name in ROUNDS else [0.01] * 3)
    confidence = [head.use_confidence for head in built[name].roi_head.mask_head]
    assert confidence == [name.startswith(("cuts3d_r50_fpn", "self", "in_", "tiny")) and "selection" not in name] * 3
    described = describe(read_config(name), name)
    assert json.loads(json.dumps(described)) == described
    assert "init_cfg" not in json.dumps(described)
    backend = {"backend": "pillow"} if name.startswith("detectron2") else {}
    size = {"short": 192, "long": 320} if "tiny" in name else {"short": 800, "long": 1333}
    assert described["resize"] == size | backend


@pytest.mark.parametrize("name", INSTANCES)
def test_copy_paste_is_as_the_row_of_the_ablation_says(name: str) -> None:
    pipeline = read_config(name).train_dataloader.dataset.pipeline
    paste = pipeline[2]
    is_plain = name.startswith(("cutler", "cuvler", "detectron2"))
    assert paste.type == ("PlainCopyPaste" if is_plain else "ConfidentCopyPaste")
    if paste.type == "ConfidentCopyPaste":
        assert paste.blend == (name != "cuts3d_r50_fpn_selection")
    assert tuple(paste.ratio) == ((0.5, 1.0) if name in ROUNDS else (0.3, 1.0))
    assert pipeline[1].floor == (0.0 if is_plain else 0.5)


def test_cuvler_is_cutler_with_the_scores_in_the_losses() -> None:
    flat = [_flat(plain(read_config(name))) for name in ("cutler_r50_fpn", "cuvler_r50_fpn")]
    changed = {n for n in flat[0] | flat[1] if flat[0].get(n) != flat[1].get(n)}
    heads = [name for name in changed if name.startswith("model.")]
    assert len(heads) >= 2
    assert all(name.endswith(".use_scores") and flat[1][name] is True for name in heads)
    assert {name.partition(".")[0] for name in changed} == {
        *("model", "train_pipeline", "train_dataloader", "train_cfg", "param_scheduler", "filters"),
    }
    pipeline = read_config("cuvler_r50_fpn").train_dataloader.dataset.pipeline
    assert [step.type for step in pipeline[-2:]] == ["FilterScored", "PackScored"]


def test_the_ablation_changes_one_thing_a_row() -> None:
    rows = ["cutler_r50_fpn", "cuts3d_r50_fpn_selection", "cuts3d_r50_fpn_selection_blending", "cuts3d_r50_fpn"]
    flat = [_flat(plain(read_config(name))) for name in rows]
    changes = [{n for n in a | b if a.get(n) != b.get(n)} for a, b in itertools.pairwise(flat)]
    pipeline = ("train_pipeline", "train_dataloader.dataset.pipeline")
    assert changes[0] == {f"{p}.{what}" for p in pipeline for what in ("1.floor", "2.type", "2.share", "2.blend")}
    assert changes[1] == {f"{p}.2.blend" for p in pipeline}
    assert changes[2] == {"model.roi_head.mask_head.use_confidence"}


@pytest.mark.parametrize("name", ["cutler_r50_fpn", "cuts3d_r50_fpn", "self_train_r50_fpn"])
def test_one_gpu_is_the_scaling_rule_written_out(name: str) -> None:
    by_rule, by_file = read_config(name), read_config(f"{name}_1gpu")
    set_batch(by_rule, 4, world_size=1)
    set_batch(by_file, None, world_size=1)
    by_rule.train_cfg.val_interval *= 4
    assert plain(by_rule) == plain(by_file)


@given(batch=st.integers(1, 256), base=st.sampled_from([4, 16, 64]))
def test_the_scaling_rule_keeps_what_is_learnt_of_each_image(batch: int, base: int) -> None:
    config = Config(
        {
            "optim_wrapper": {"optimizer": {"lr": 0.01}},
            "train_cfg": {"max_iters": 160000},
            "param_scheduler": [
                {"type": "LinearLR", "begin": 0, "end": 1000},
                {"type": "MultiStepLR", "begin": 0, "end": 160000, "milestones": [80000, 120000]},
            ],
        }
    )
    scale_schedule(config, batch, base)
    optimizer, (warm_up, steps) = config.optim_wrapper.optimizer, config.param_scheduler
    assert optimizer.lr / batch == pytest.approx(0.01 / base)
    for iterations, images in (
        (config.train_cfg.max_iters, 160000 * base),
        (warm_up.end, 1000 * base),
        (steps.milestones[1], 120000 * base),
    ):
        assert iterations * batch == pytest.approx(images, abs=batch)
    assert (warm_up.begin, steps.begin) == (0, 0)


def test_fewer_iterations_move_milestones_and_shorten_the_warm_up() -> None:
    config = read_config("cuts3d_r50_fpn")
    set_iterations(config, 20000)
    assert config.train_cfg.max_iters == 20000
    assert (config.param_scheduler[0].end, config.param_scheduler[1].milestones) == (1000, [10000])
    set_iterations(config, 500)
    assert (config.param_scheduler[0].end, config.param_scheduler[1].milestones) == (50, [250])
    set_iterations(config, 6)
    assert config.param_scheduler[0].end == 2


def test_the_images_of_a_step_are_shared_out() -> None:
    config = read_config("cuts3d_r50_fpn")
    before = plain(config.param_scheduler), config.optim_wrapper.optimizer.lr
    for world_size, share in ((1, 16), (4, 4), (8, 2), (16, 1)):
        set_batch(config, None, world_size)
        assert config.train_dataloader.batch_size == share
        assert (plain(config.param_scheduler), config.optim_wrapper.optimizer.lr) == before
    with pytest.raises(ConfigError, match=r"16 images per step cannot be shared out equally among 6 .* a batch of 18"):
        set_batch(config, None, 6)
    set_batch(config, 32, 8)
    assert (config.train_dataloader.batch_size, config.optim_wrapper.optimizer.lr) == (4, 0.02)


def test_settings_find_their_place() -> None:
    config = read_config("tiny")
    set_options(
        config,
        [
            "model.backbone.depth=34",
            "model.roi_head.bbox_head.1.drop_threshold=None",
            "train_dataloader.dataset.filters={'min_score': 0.1}",
            "optim_wrapper.optimizer.nesterov=True",  # new, in a component
            "train_dataloader.dataset.pipeline.2.type=PlainCopyPaste",
        ],
    )
    assert config.model.backbone.depth == 34
    assert [head.drop_threshold for head in config.model.roi_head.bbox_head] == [0.01, None, 0.01]
    assert config.train_dataloader.dataset.filters == {"min_score": 0.1}
    assert config.optim_wrapper.optimizer.nesterov is True
    assert config.train_dataloader.dataset.pipeline[2].type == "PlainCopyPaste"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.bakbone.depth=34", r"no model.bakbone: did you mean backbone\?"),
        ("train_cfg_=1", r"did you mean train_cfg"),
        ("train_dataloader.bach_size=1", r"no train_dataloader.bach_size: did you mean batch_size"),
        ("model.roi_head.bbox_head.3.a=1", r"give a number from 0 to 2"),
        ("model.roi_head.bbox_head.x.a=1", r"it is a list"),
        ("randomness.seed.x=1", r"randomness.seed is 0 and has nothing in it"),
        ("model.backbone.depth", r"write NAME.NAME=VALUE"),
        ("=3", r"is no setting"),
        ("optim_wrapper.optimizer.lr=fast", r"lr is 0\.\d+: it must be a value of that kind, not 'fast'"),
        ("default_hooks.checkpoint.by_epoch=maybe", r"by_epoch is False: it must be a value of that kind"),
    ],
)
def test_settings_that_mean_nothing_are_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_options(read_config("tiny"), [option])


def test_runs_have_to_be_given() -> None:
    config = read_config("tiny")
    with pytest.raises(ConfigError, match="give --run"):
        set_runs(config, [])
    set_runs(config, ["a", "s3://b"])
    assert config.train_dataloader.dataset.runs == ["a", "s3://b"]
    set_runs(config, [])  # the configuration's own
    assert config.train_dataloader.dataset.runs == ["a", "s3://b"]
    config.train_dataloader.dataset.type = "CocoDataset"
    with pytest.raises(ConfigError, match="no StoreDataset"):
        set_runs(config, ["a"])


def test_runs_reach_a_wrapped_data_set() -> None:
    config = read_config("tiny")
    config.train_dataloader.dataset = {
        "type": "ConcatDataset",
        "datasets": [config.train_dataloader.dataset, {"type": "RepeatDataset", "dataset": {"type": "StoreDataset"}}],
    }
    set_runs(config, ["a"])
    assert [part["runs"] for part in train_config.components(config.train_dataloader, "StoreDataset")] == [["a"]] * 2


def test_where_a_training_starts() -> None:
    config = read_config("cuts3d_r50_fpn")
    set_backbone(config, None)
    assert config.model.backbone.init_cfg == {"type": "DinoResNet", "checkpoint": None}
    set_backbone(config, "dino.pth")
    assert config.model.backbone.init_cfg["checkpoint"] == "dino.pth"
    set_backbone(config, "random")
    assert config.model.backbone.init_cfg is None
    set_start(config, "detector.pth")
    assert {"type": "StartFrom", "checkpoint": "detector.pth"} in config.custom_hooks


def test_a_round_needs_the_one_before() -> None:
    config = read_config("self_train_r50_fpn")
    with pytest.raises(ConfigError, match="--init-from"):
        set_start(config, None)
    set_start(config, "detector.pth")
    assert [hook.checkpoint for hook in config.custom_hooks if hook.type == "StartFrom"] == ["detector.pth"]


def test_mixed_precision_and_norms() -> None:
    config = read_config("cuts3d_r50_fpn")
    set_mixed_precision(config)
    assert config.optim_wrapper.type == "ClippingAmpOptimWrapper"
    set_mixed_precision(config)  # which it is already
    without_sync_bn(config)
    assert "SyncBN" not in json.dumps(plain(config.model))
    config.optim_wrapper.type = "DeepSpeedOptimWrapper"
    with pytest.raises(ConfigError, match="DeepSpeedOptimWrapper"):
        set_mixed_precision(config)


def test_no_more_loaders_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(6))
    config = read_config("cuts3d_r50_fpn")
    set_workers(config, 2)
    assert (config.train_dataloader.num_workers, config.train_dataloader.persistent_workers) == (3, True)
    config.train_dataloader.num_workers = 0
    set_workers(config, 2)
    assert config.train_dataloader.persistent_workers is False


def test_files_that_are_no_configurations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one of cups_r50_fpn, .*cutler_r50_fpn, .*tiny"):
        read_config("tyni")
    with pytest.raises(ConfigError, match="no configuration"):
        read_config(str(tmp_path / "none.py"))
    (tmp_path / "broken.py").write_text("model = dict(")
    with pytest.raises(ConfigError, match="does not load"):
        read_config(str(tmp_path / "broken.py"))
    (tmp_path / "odd.py").write_text("model = dict()")
    with pytest.raises(ConfigError, match="has no train_dataloader"):
        read_config(str(tmp_path / "odd.py"))


def test_a_project_of_ones_own_builds_on_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f'_base_ = ["{train_config.CONFIGS / "cuts3d_r50_fpn.py"}"]\noptim_wrapper = dict(optimizer=dict(lr=0.5))\n'
    )
    config = read_config(str(tmp_path / "mine.py"))
    assert config.optim_wrapper.optimizer == {"type": "SGD", "lr": 0.5, "momentum": 0.9, "weight_decay": 5e-5}
    assert config.model.roi_head.mask_head.use_confidence


def test_a_printed_configuration_is_whole(tmp_path: Path) -> None:
    printed = tmp_path / "printed.py"
    printed.write_text(read_config("cuts3d_r50_fpn").pretty_text)
    assert plain(Config.fromfile(printed)) == plain(read_config("cuts3d_r50_fpn"))


@pytest.mark.slow
def test_custom_imports_are_all_that_another_program_needs(tmp_path: Path) -> None:
    """MMEngine alone, in a process that has imported nothing of ours, builds model and transforms of the file."""
    script = f"""
import sys
from mmengine.config import Config
from mmengine.registry import init_default_scope
config = Config.fromfile({str(train_config.CONFIGS / "cuts3d_r50_fpn.py")!r})
init_default_scope(config.default_scope)
from mmdet.utils import register_all_modules
from mmdet.registry import MODELS, TRANSFORMS, DATASETS, DATA_SAMPLERS, HOOKS, LOOPS
register_all_modules()
config.model.backbone.depth, config.model.neck.in_channels = 18, [64, 128, 256, 512]
assert MODELS.build(config.model).roi_head.mask_head[2].use_confidence
assert all(TRANSFORMS.build(step) for step in config.train_dataloader.dataset.pipeline)
for registry, part in ((DATASETS, config.train_dataloader.dataset), (DATA_SAMPLERS, config.train_dataloader.sampler),
                       (LOOPS, config.train_cfg), *((HOOKS, hook) for hook in config.custom_hooks)):
    assert registry.get(part.type) is not None, part
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    return dict(_leaves(value, name))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list)) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
