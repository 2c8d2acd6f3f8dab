"""Which device the models run on."""

from __future__ import annotations

import re

from pipeline.errors import ConfigError
from stages.late import torch

_NAME = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_device(device: str) -> str:
    """The name of a device, if it is one; else ConfigError. Whether the device is there, `pick_device` knows."""
    if not _NAME.fullmatch(device):
        raise ConfigError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    return device


def pick_device(device: str) -> torch.device:
    """The device of this name; "auto" is the GPU where there is one. ConfigError when it is not there."""
    if check_device(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device {device} is not there: {torch.cuda.device_count()} GPUs visible, use cpu or auto")
    return chosen
