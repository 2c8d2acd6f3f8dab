"""Which device the models run on."""

import torch

from pipeline.errors import ConfigError


def pick_device(device: str) -> torch.device:
    """The device of this name; "auto" is the GPU where there is one. ConfigError when it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device {device} is not there: {torch.cuda.device_count()} GPUs visible, use cpu or auto")
    return chosen
