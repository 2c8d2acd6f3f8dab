"""A detector that was trained with plain MMDetection, in a project of one's own, as a detector.pth."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detector import train_config
from detector.checkpoints import DetectorCheckpoint, read_tensors, write_detector
from pipeline.errors import ConfigError


def import_detector(checkpoint: str | Path, config: str, out: str | Path) -> Path:
    """Write a detector.pth out of a checkpoint and the configuration it was trained by.

    config: as `train_config.read_config` takes it; MMEngine leaves it beside its checkpoints.

    Raises:
        ConfigError: the configuration does not load, or is of a detector of several classes.
        WeightsError: the checkpoint cannot be read, or its tensors are not of this configuration's model.
    """
    settings = train_config.read_config(config)
    description = train_config.describe(settings, Path(config).stem)
    several = {count for count in _class_counts(description["model"]) if count != 1}
    if several:
        raise ConfigError(
            f"{config} has {max(several)} classes: detectors of cuts3d are class-agnostic (num_classes=1 in all heads)"
        )
    trained_on = {"imported": str(Path(checkpoint).absolute())}
    detector = DetectorCheckpoint(Path(checkpoint), description, trained_on, read_tensors(checkpoint))
    detector.build()
    write_detector(Path(out), detector.state_dict, description, trained_on)
    return Path(out)


def _class_counts(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        if isinstance(value.get("num_classes"), int):
            yield value["num_classes"]
        for part in value.values():
            yield from _class_counts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _class_counts(part)
