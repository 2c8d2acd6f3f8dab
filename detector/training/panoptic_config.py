"""What a configuration of a panoptic detector is told when its training starts: which classes there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from detector.model.checkpoints import read_detector
from detector.model.panoptic_classes import PanopticClasses
from detector.training import config as train_config
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.config import Config

    from pipeline.results.panoptic_split import ThingSplit

MODEL, TEACHER, DATASET = "CascadePanoptic", "MomentumTeacher", "PanopticStoreDataset"


def is_panoptic(config: Any) -> bool:
    """Whether a configuration, as MMEngine has it or as plain values, is of a panoptic detector."""
    return bool(config["model"].get("type") == MODEL)


def has_teacher(config: Any) -> bool:
    """Whether a configuration trains on the labels of a momentum teacher, in place of those of a run."""
    return any(train_config.custom_hooks(config, TEACHER))


def set_classes(config: Config, checkpoint: str | None) -> None:
    """Give the heads of a panoptic detector as many classes as there are, and note in `config.panoptic` which they are;
    nothing is done to other configurations.

    They are those of the split of the runs; of the detector that is started from, where its own labels are learnt.
    checkpoint: of that detector; another one is refused unless it has the same classes.

    Raises ConfigError, also where no class is a thing, and what `split_of` and `read_detector` raise.
    """
    if not is_panoptic(config):
        return
    started = read_detector(checkpoint).panoptic if checkpoint is not None else None
    if checkpoint is not None and started is None:
        raise ConfigError(f"{checkpoint} is no panoptic detector, {config.filename} starts from one")
    classes = started if started is not None and has_teacher(config) else _of_runs(config)
    if started is not None and (started.things, started.stuffs) != (classes.things, classes.stuffs):
        raise ConfigError(
            f"{checkpoint} finds things {_numbers(started.things)} of {len(started.classes)} classes, the runs have "
            f"{_numbers(classes.things)} of {len(classes.classes)}: train without --init-from, or on runs like its own"
        )
    set_heads(config.model, len(classes.things), len(classes.stuffs))
    config.panoptic = classes.to_json()


def set_teacher(config: Config, options: Mapping[str, float]) -> None:
    """Give the momentum teacher these options."""
    for hook in train_config.custom_hooks(config, TEACHER):
        hook.update(options)


def set_heads(model: Any, things: int, stuffs: int) -> None:
    """Give the heads of a model's configuration these numbers of classes."""
    heads = [model["roi_head"][name] for name in ("bbox_head", "mask_head")]
    for head in heads:
        for part in head if isinstance(head, list) else [head]:
            part["num_classes"] = things
    model["semantic_head"]["num_stuffs"] = stuffs


def _of_runs(config: Config) -> PanopticClasses:
    from detector.data.panoptic_store import split_of  # mmdet

    datasets = list(train_config.components(config.train_dataloader.dataset, DATASET))
    if not datasets:
        raise ConfigError(f"{config.filename} trains a panoptic detector, and has no {DATASET} to learn from")
    split = split_of(datasets[0]["runs"], datasets[0].get("threshold"))
    if not split.thing_classes:
        raise ConfigError(_without_things(split))
    return PanopticClasses.of_split(split)


def _without_things(split: ThingSplit) -> str:
    """What is said where there is no instance to learn."""
    classes_alone = "`cuts3d train-semantic` learns classes alone"
    if split.threshold is None:
        return f"no class of the runs is a thing, so the labels' maker says: no instance to learn; {classes_alone}"
    if not split.ratios.any():
        return f"no image of the runs has an instance to learn: `cuts3d info RUN` says why; {classes_alone}"
    lower = f"--set train_dataloader.dataset.threshold={split.shares.max() / 2:.2g}"
    return (
        "no class of the runs is a thing, so there is no instance to learn: `cuts3d things RUN` shows the shares; "
        f"lower the threshold ({lower}), or {classes_alone}"
    )


def _numbers(things: tuple[int, ...]) -> str:
    return ", ".join(map(str, things)) or "none"
