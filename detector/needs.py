"""What the commands of the detector need to be installed, checked when they are used."""

import importlib.util
import logging

from pipeline.errors import ConfigError

_NEEDED = ("mmdet", "mmengine", "mmcv")


def need_mmdet() -> None:
    """ConfigError, with the remedy, where MMDetection is not installed; else its log lines are let through."""
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f"{', '.join(absent)} not installed, which the detector needs: `make install-detector`")
    logging.getLogger("detector").setLevel(logging.getLogger("pipeline").level)  # as --verbose has it
