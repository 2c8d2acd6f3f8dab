"""What is to be trained, and what can be wrong with it before MMDetection is loaded, which takes seven seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from detector.model.weight_files import need_backbone, need_checkpoint
from detector.training import config as train_config
from detector.training.folder import training_at
from detector.training.panoptic_config import is_panoptic
from detector.training.plain_config import plain_config
from pipeline.errors import ConfigError
from pipeline.models.device import check_device
from pipeline.results.instance_kind import NAME as INSTANCES
from pipeline.results.panoptic_kind import NAME as PANOPTIC
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.locations import absolute
from pipeline.storage.outputs import need_folder


@dataclass(frozen=True)
class Training:
    """What is to be trained. Everything but the first three has a default, which the configuration knows better.

    runs: folders or URLs.
    config: name of a configuration or path of a file.
    work_dir: folder, see `detector.training.folder`.
    settings: "a.b=c", the last word on the configuration.
    resume: True resumes the training in work_dir, None does if there is one.
    amp: mixed precision, on a GPU.
    device: auto, cpu, cuda or cuda:N.
    backbone: a file of weights, or "random".
    init_from: checkpoint of a detector to start from, in place of the backbone.
    iterations, batch_size, seed: see `detector.training.config`; the batch is over all processes.
    val_truth, val_images: a COCO file to validate with, and the folder of its photos.
    rounds: the training is as many times as long as its configuration and the options say.
    continues: checkpoint of a shorter one of the same kind to go on from, where work_dir has none of its own.
    teacher: options of the momentum teacher, in place of the configuration's.
    """

    runs: tuple[str, ...]
    config: str
    work_dir: str
    settings: tuple[str, ...] = ()
    resume: bool | None = False
    amp: bool = False
    device: str = "auto"
    backbone: str | None = None
    init_from: str | None = None
    iterations: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    val_truth: str | None = None
    val_images: str | None = None
    rounds: int = 1
    continues: str | None = None
    teacher: Mapping[str, float] | None = None

    def anywhere(self) -> Self:
        """The same for a process whose current folder is another."""
        places = {name: getattr(self, name) for name in ("init_from", "val_truth", "val_images", "continues")}
        if self.backbone != train_config.RANDOM:
            places["backbone"] = self.backbone
        if train_config.is_file(self.config):
            places["config"] = self.config
        changed: dict[str, Any] = {name: absolute(place) for name, place in places.items() if place is not None}
        return replace(self, runs=tuple(map(absolute, self.runs)), work_dir=absolute(self.work_dir), **changed)

    def check_validation(self) -> None:
        """ConfigError where only one of val_truth and val_images is given; SourceError as of `read_validation`."""
        if (self.val_truth is None) != (self.val_images is None):
            raise ConfigError(
                "--val-truth and --val-images go together: the true objects, and the folder of their photos"
            )
        if self.val_truth is not None and self.val_images is not None:
            from detector.training.validation_truth import read_validation  # pycocotools

            read_validation(self.val_truth, self.val_images)


def check_training(wanted: Training) -> None:
    """Raises what `detector.training.train.train` does, for all that paths, names and options tell by themselves."""
    check_device(wanted.device)
    config = check_settings(wanted)
    if config is not None:
        train_config.set_runs(config, wanted.runs)
        train_config.set_start(config, wanted.init_from)
    for url in wanted.runs:
        run = RunFolder.open(url)
        if config is not None:
            need_kind(run, PANOPTIC if is_panoptic(config) else INSTANCES, f"--config {wanted.config}")
    if wanted.backbone not in (None, train_config.RANDOM):
        need_backbone(Path(wanted.backbone))
    if wanted.init_from is not None:
        need_checkpoint(Path(wanted.init_from))
    need_folder(wanted.work_dir)
    training_at(wanted.work_dir).check_resume(wanted.resume)
    wanted.check_validation()


def check_settings(wanted: Training) -> Any:
    """ConfigError where there is no such configuration, or it has not what is set in it. Returns it as plain values if
    it is one of ours; None for a file of somebody's own, which is run once only, when MMEngine reads it.
    """
    path = train_config.config_path(wanted.config)
    if train_config.is_file(wanted.config):
        return None
    config = plain_config(path)
    train_config.set_values(config, wanted.settings)
    train_config.check_numbers(config)
    return config
