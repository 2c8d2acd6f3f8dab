"""Configurations of the detector by name or file, made ready for one training.

A configuration is a plain file of MMDetection: what is done here to it, with runs, options and the number of GPUs, is
done to a loaded copy, and the result is what the training's own folder keeps.

MMEngine, which loads torch, is imported where a configuration is read.
"""

from __future__ import annotations

import ast
import difflib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.model.checkpoints import BACKENDS
from detector.model.panoptic_classes import PanopticClasses
from pipeline.errors import ConfigError
from pipeline.wording import counted, printable

if TYPE_CHECKING:
    from mmengine.config import Config

    from detector.data.flat_images import FlatImages

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[1] / "configs"
RANDOM = "random"

_SECTIONS = ("model", "train_dataloader", "train_cfg", "optim_wrapper", "test_pipeline")
_COUNTS = (("train_cfg", "max_iters"), ("train_cfg", "val_interval"), ("train_dataloader", "batch_size"))
# Data sets that read runs.
_RUN_DATASETS = ("StoreDataset", "PanopticStoreDataset")
# Of optimiser wrappers the one in mixed precision.
_AMP = {"OptimWrapper": "AmpOptimWrapper", "ClippingOptimWrapper": "ClippingAmpOptimWrapper"}


def config_names() -> list[str]:
    """Names of the configurations that come with cuts3d."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def headline(name: str) -> str:
    """The first line of a configuration of ours: what it is."""
    return (CONFIGS / f"{name}.py").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def is_file(name: str) -> bool:
    """Whether this is the path of a configuration, as opposed to the name of one of ours."""
    return name.endswith(".py") or os.sep in name


def config_path(name: str) -> Path:
    """The file of a configuration, by its name if it is one of ours; ConfigError when there is none."""
    path = Path(name) if is_file(name) else CONFIGS / f"{name}.py"
    if not path.is_file():
        raise ConfigError(f"there is no configuration {name!r}: give a .py file, or one of {', '.join(config_names())}")
    return path


def read_config(name: str, pretty: bool = False) -> Config:
    """A configuration of ours by its name, or a file of MMDetection's kind, which is run as the Python that it is.

    pretty: its `pretty_text` is laid out for people; that takes a second, and MMEngine asks for it at each checkpoint.

    Raises ConfigError when there is none, it does not run, or lacks what a training needs.
    """
    from mmengine.config import Config

    path = config_path(name)
    try:
        config = Config.fromfile(str(path), lazy_import=False)
    except Exception as error:  # whatever a stranger's file raises
        raise ConfigError(f"the configuration {path} does not load: {type(error).__name__}: {error}") from error
    missing = [section for section in _SECTIONS if section not in config]
    if missing:
        raise ConfigError(f"the configuration {path} has no {', '.join(missing)}: build it on one of {CONFIGS}")
    # Config.fromfile has an option for this, which in MMEngine 0.10 gets lost.
    return Config(config._cfg_dict, cfg_text=config.text, filename=config.filename, format_python_code=pretty)


def settled_config(name: str, runs: Sequence[str], options: Sequence[str] = ()) -> Config:
    """A configuration with the runs that it reads and what is set in it."""
    config = read_config(name)
    set_runs(config, runs)
    set_options(config, options)
    return config


def training_dataset(config: Config) -> Any:
    """The data set that a training by this configuration draws from, built."""
    from mmdet.registry import DATASETS
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(config.train_dataloader.dataset)


def set_options(config: Config, options: Sequence[str]) -> None:
    """See `set_values`."""
    from mmengine.config import ConfigDict

    set_values(config._cfg_dict, options, ConfigDict)


def set_values(config: Any, options: Sequence[str], mapping: type[dict[str, Any]] = dict) -> None:
    """Apply "a.b.0.c=value" to a configuration's mapping; numbers in a name are places in a list, values are Python or
    text.

    Raises ConfigError for a name that the configuration does not have. A new last part is let through in components
    (which have a "type"): they take what they know, and refuse the rest when they are built. mapping: what dictionaries
    among the values become.
    """
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option!r} is no setting: write NAME.NAME=VALUE")
        *parents, last = name.split(".")
        place: Any = config
        for depth, part in enumerate(parents):
            place = _inside(place, part, ".".join(parents[: depth + 1]))
        new = isinstance(place, Mapping) and last not in place and "type" in place
        key = last if new else _key(place, last, name)
        value = _parsed(text)
        if not new and isinstance(value, str) and isinstance(place[key], (bool, int, float)):
            raise ConfigError(f"{printable(name)} is {place[key]!r}: it must be a value of that kind, not {value!r}")
        place[key] = _as(mapping, value)


def check_numbers(config: Any) -> None:
    """ConfigError for counts that are none: MMEngine trains for -1 iterations without a word."""
    for section, name in (
        ("train_cfg", "max_iters"),
        ("train_cfg", "val_interval"),
        ("train_dataloader", "batch_size"),
    ):
        value = config[section].get(name, 1)
        if type(value) is not int or value < 1:
            raise ConfigError(f"{section}.{name} is {value!r}: it must be a whole number of at least 1")


def set_runs(config: Config, runs: Sequence[str]) -> None:
    """Let every data set of runs read these ones; ConfigError when there is none to tell, or no run."""
    datasets = list(run_datasets(config.train_dataloader.dataset))
    if not datasets:
        raise ConfigError(f"train_dataloader.dataset holds no {' or '.join(_RUN_DATASETS)}: nothing can take the runs")
    for dataset in datasets:
        if runs:
            dataset["runs"] = list(runs)
        elif not dataset.get("runs"):
            raise ConfigError("no run to train on: give --run FOLDER or URL, or set runs in the configuration")


def run_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets that read runs: the one of a training's loader, or those within it."""
    return components(dataset, *_RUN_DATASETS)


def run_dataset(config: Config) -> Any:
    """The first data set of the training that reads runs."""
    return next(run_datasets(config.train_dataloader.dataset))


def open_store(config: Config) -> FlatImages:
    """What `run_dataset` draws from; raises what its `open_store` does."""
    from mmdet.registry import DATASETS
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build({**run_dataset(config), "pipeline": [], "lazy_init": True})
    opened: FlatImages = dataset.open_store()
    return opened


def set_backbone(config: Config, backbone: str | None) -> None:
    """The start of the backbone: a file of weights, RANDOM for none, None for what the configuration says."""
    if backbone == RANDOM:
        config.model.backbone.init_cfg = None
    elif backbone is not None:
        config.model.backbone.init_cfg = {"type": "DinoResNet", "checkpoint": backbone}


def set_start(config: Config, checkpoint: str | None) -> None:
    """Let the whole detector start from the weights of another; None: as the configuration says."""
    starts = list(custom_hooks(config, "StartFrom"))
    if checkpoint is None:
        if any(start.get("checkpoint") is None for start in starts):
            raise ConfigError("this configuration starts from a trained detector: give --init-from CHECKPOINT")
        return
    config.model.backbone.init_cfg = None
    for start in starts:
        start["checkpoint"] = checkpoint
    if not starts:
        config.custom_hooks = [*(config.get("custom_hooks") or []), {"type": "StartFrom", "checkpoint": checkpoint}]


def set_batch(config: Config, batch: int | None, world_size: int) -> None:
    """Share the images of a step out among the ranks; another number of them than the configuration's changes its
    schedule by the linear scaling rule.

    The configuration's own number is auto_scale_lr.base_batch_size, which is what its learning rate is meant for: it
    holds whatever the number of GPUs. batch: images per step over all ranks; None keeps it.

    Raises ConfigError when the ranks cannot have equal shares.
    """
    base = config.get("auto_scale_lr", {}).get("base_batch_size")
    loader = config.train_dataloader
    if base is None:
        base = loader.batch_size * world_size
    batch = batch or base
    if batch % world_size:
        raise ConfigError(
            f"{counted(batch, 'image')} per step cannot be shared out equally among {world_size} processes: take a "
            f"batch of {-(-batch // world_size) * world_size}, or another number of processes"
        )
    if loader.batch_size != batch // world_size:
        logger.info(
            "%s per step: %d for each of %s",
            *(counted(batch, "image"), batch // world_size, counted(world_size, "process", "es")),
        )
    loader.batch_size = batch // world_size
    if batch != base:
        scale_schedule(config, batch, base)
    # What MMEngine would scale by is done: its own rule knows the learning rate only.
    config.auto_scale_lr = {"enable": False, "base_batch_size": batch}


def scale_schedule(config: Config, batch: int, base: int) -> None:
    """The linear scaling rule, for steps of `batch` images in place of `base`.

    The learning rate is multiplied by batch / base, and every number of iterations (training, warm-up, milestones,
    first step of self-enhanced copy-paste) by base / batch: the same number of images is seen at each stage. [Goyal et
    al. 2017, arXiv 1706.02677]; Detectron2 has the same rule. Weight decay, momentum and clipping stay.
    """
    optimizer = config.optim_wrapper.optimizer
    optimizer.lr = optimizer.lr * batch / base
    config.train_cfg.max_iters = _scaled(config.train_cfg.max_iters, base / batch)
    for scheduler in config.get("param_scheduler") or []:
        _stretch(scheduler, base / batch)
    _move_pasting(config, base / batch)


def set_iterations(config: Config, iterations: int) -> None:
    """Train for so many iterations: milestones move in proportion, as does the first step of self-enhanced copy-paste;
    the warm-up stays, but at most a tenth of them.
    """
    factor = iterations / config.train_cfg.max_iters
    config.train_cfg.max_iters = iterations
    for scheduler in config.get("param_scheduler") or []:
        if scheduler.type == "LinearLR":
            scheduler.end = max(2, min(scheduler.end, iterations // 10))  # of one step, MMEngine stays at its start
        else:
            _stretch(scheduler, factor)
    _move_pasting(config, factor)


def set_workers(config: Config, processes_here: int) -> None:
    """No more loading processes than there are cores for each of the training's processes on this machine."""
    loader, cores = config.train_dataloader, len(os.sched_getaffinity(0))
    loader.num_workers = min(loader.get("num_workers", 0), max(1, cores // processes_here))
    if loader.num_workers == 0:  # which torch does not take together with these
        loader.persistent_workers = False
        loader.pop("prefetch_factor", None)


def set_mixed_precision(config: Config) -> None:
    """Mixed precision by MMEngine's wrapper; ConfigError for an optimiser wrapper that has no such counterpart."""
    wrapper = config.optim_wrapper
    kind = wrapper.get("type", "OptimWrapper")
    if kind not in (*_AMP, *_AMP.values()):
        raise ConfigError(f"mixed precision does not go with optim_wrapper.type={kind}: it knows {', '.join(_AMP)}")
    wrapper.type = _AMP.get(kind, kind)
    wrapper.setdefault("loss_scale", "dynamic")


def without_sync_bn(config: Config) -> None:
    """Ordinary batch norm where SyncBN does not work: on CPUs. (Of one process on a GPU MMEngine itself does it.)"""
    changed = [part for part in all_mappings(config.model) if part.get("type") == "SyncBN"]
    for part in changed:
        part["type"] = "BN"
    if changed:
        logger.info("SyncBN works on GPUs only: using plain batch norm in each process")


def describe(config: Config, name: str) -> dict[str, Any]:
    """What a detector's file says about it, see `detector.model.checkpoints.DetectorCheckpoint`."""
    resizes = [step for step in config.test_pipeline if step.get("type") == "Resize" and step.get("keep_ratio")]
    if len(resizes) != 1:
        raise ConfigError("test_pipeline must have one Resize with keep_ratio=True and a scale: photos are scaled so")
    long, short = max(resizes[0].scale), min(resizes[0].scale)
    preprocessor = config.model.data_preprocessor
    try:
        mean, std = list(map(float, preprocessor.mean)), list(map(float, preprocessor.std))
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError("model.data_preprocessor needs mean and std, three numbers each") from error
    if not preprocessor.get("bgr_to_rgb"):
        raise ConfigError("model.data_preprocessor needs bgr_to_rgb=True: that is how photos are given to detectors")
    model = plain(config.model)
    for part in all_mappings(model):
        part.pop("init_cfg", None)
    backend = resizes[0].get("backend", "cv2")
    if backend not in BACKENDS:
        raise ConfigError(f"test_pipeline resizes photos by {backend!r}: it must be one of {', '.join(BACKENDS)}")
    panoptic = config.get("panoptic")  # see `panoptic_config.set_classes`
    classes = ["object"] if panoptic is None else PanopticClasses.from_json(panoptic).thing_names
    return {
        "name": name,
        "classes": classes,
        **({} if panoptic is None else {"panoptic": plain(panoptic)}),
        "model": model,
        "resize": {"short": short, "long": long, **({} if backend == "cv2" else {"backend": backend})},
        "mean": mean,
        "std": std,
    }


def components(value: Any, *kinds: str) -> Iterator[Any]:
    """All parts of a configuration that have one of these types."""
    return (part for part in all_mappings(value) if part.get("type") in kinds)


def custom_hooks(config: Any, *kinds: str) -> Iterator[Any]:
    """The custom hooks of a configuration, as MMEngine has it or as plain values, that have one of these types."""
    return components(config.get("custom_hooks") or [], *kinds)


def plain(value: Any) -> Any:
    """A configuration, or a part of it, as JSON gives it back; ConfigError for what JSON cannot hold."""
    from mmengine.config import Config

    if isinstance(value, Config):
        value = value.to_dict()
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration holds more than plain values: {error}") from error


def all_mappings(value: Any) -> Iterator[Any]:
    """All mappings in a configuration or a part of it, the outermost first."""
    if isinstance(value, Mapping):
        yield value
        for part in list(value.values()):
            yield from all_mappings(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from all_mappings(part)


def _inside(place: Any, part: str, name: str) -> Any:
    value = place[_key(place, part, name)]
    if not isinstance(value, (Mapping, list)):
        raise ConfigError(f"{name} is {value!r} and has nothing in it to set")
    return value


def _key(place: Any, part: str, name: str) -> Any:
    """The key or place of `part`; ConfigError, with what is alike, when there is none."""
    if isinstance(place, list):
        if part.isdecimal() and int(part) < len(place):
            return int(part)
        raise ConfigError(f"there is no {printable(name)}: it is a list, give a number from 0 to {len(place) - 1}")
    if part in place:
        return part
    alike = difflib.get_close_matches(part, list(place), n=3) or sorted(place)[:8]
    raise ConfigError(f"the configuration has no {printable(name)}: did you mean {', '.join(alike)}?")


def _parsed(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _as(mapping: type[dict[str, Any]], value: Any) -> Any:
    if isinstance(value, dict):
        return mapping(value)
    return [_as(mapping, part) for part in value] if isinstance(value, list) else value


def _stretch(scheduler: Any, factor: float) -> None:
    for key in ("begin", "end", "T_max", "step_size", "total_iters"):
        if scheduler.get(key):
            scheduler[key] = _scaled(scheduler[key], factor)
    if "milestones" in scheduler:
        scheduler.milestones = [_scaled(milestone, factor) for milestone in scheduler.milestones]


def _move_pasting(config: Config, factor: float) -> None:
    """When a detector begins to paste what it finds itself."""
    for hook in custom_hooks(config, "SelfEnhancedCopyPaste"):
        if hook.get("start"):
            hook["start"] = _scaled(hook["start"], factor)


def _scaled(iterations: int, factor: float) -> int:
    return max(1, round(iterations * factor))
