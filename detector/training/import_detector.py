"""A detector that was trained with plain MMDetection, in a project of one's own, as a detector.safetensors."""

from pathlib import Path

from detector.model.build import build_model
from detector.model.checkpoints import DetectorCheckpoint, read_tensors, write_detector
from detector.model.detectron2 import LAYOUTS, of_detectron2
from detector.training import config as train_config
from detector.training.panoptic_config import is_panoptic
from pipeline.errors import ConfigError, WeightsError


def import_detector(checkpoint: str | Path, config: str, out: str | Path) -> Path:
    """Write a detector.safetensors out of a checkpoint and the configuration it was trained by.

    config: as `train_config.read_config` takes it; MMEngine leaves it beside its checkpoints.

    Raises:
        ConfigError: the configuration does not load, or is of a detector of several classes; `out` is not named as the
        safetensors file that it becomes.
        WeightsError: the checkpoint cannot be read, or its tensors are not of this configuration's model.
    """
    if Path(out).suffix != ".safetensors":
        raise ConfigError(f"{out} would be a safetensors file: give it a name that ends in .safetensors")
    settings = train_config.read_config(config)
    if is_panoptic(settings):
        raise ConfigError(
            f"{config} is of a panoptic detector: which of its classes are things is said by a detector.safetensors of "
            "`cuts3d train` alone"
        )
    description = train_config.describe(settings, Path(config).stem)
    parts = train_config.all_mappings(description["model"])
    several = {part["num_classes"] for part in parts if part.get("num_classes", 1) != 1}
    if several:
        raise ConfigError(
            f"{config} has {max(several)} classes: detectors of cuts3d are class-agnostic (num_classes=1 in all heads)"
        )
    trained_on = {"imported": str(Path(checkpoint).absolute())}
    tensors = read_tensors(checkpoint)
    if of_detectron2(tensors):
        raise WeightsError(f"{checkpoint} has the names of Detectron2: give --layout, {', '.join(LAYOUTS)}")
    detector = DetectorCheckpoint(Path(checkpoint), description, trained_on, tensors)
    build_model(detector)
    write_detector(Path(out), detector.state_dict, description, trained_on)
    return Path(out)
