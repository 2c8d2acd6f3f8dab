"""A panoptic detector of half a million random weights, which answers in a tenth of a second on a CPU."""

import copy
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

import detector.components  # noqa: F401 - registers
from detector.model.checkpoints import DetectorCheckpoint, read_detector, write_detector
from pipeline.results.semantic import Classes
from support.tiny_detector import SCALE, tiny_config

# Of five clusters 1 and 4 are things, the others stuff.
THINGS, STUFFS = (1, 4), (0, 2, 3)
CLASSES = Classes.clusters(5)


def panoptic_config(things: int = len(THINGS), stuffs: int = len(STUFFS)) -> dict[str, Any]:
    """The model dict, to be changed at will."""
    config = tiny_config()
    config["type"] = "CascadePanoptic"
    config["data_preprocessor"] |= {"pad_seg": True, "seg_pad_value": 255}
    config["roi_head"]["type"] = "DetectronCascade"
    for head in config["roi_head"]["bbox_head"]:
        head["num_classes"] = things
    config["roi_head"]["mask_head"]["num_classes"] = things
    norm = {"type": "GN", "num_groups": 2, "requires_grad": True}
    config["semantic_head"] = {"type": "StuffHead", "num_stuffs": stuffs, "in_channels": 16, "inner_channels": 8}
    config["semantic_head"]["norm_cfg"] = norm
    return config


def panoptic_model(config: dict[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """The model with weights that spread its scores, masks and classes: as initialised they are all alike."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model: nn.Module = MODELS.build(ConfigDict(config or panoptic_config()))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(("fc_cls.weight", "conv_logits.weight")):
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data = 30 * (drawn - drawn.mean()) if "logits" in name else drawn
    model.eval()
    with torch.no_grad():  # no class is ahead of the others everywhere
        features = model.extract_feat(blocks(1))
        model.semantic_head.conv_logits.bias.sub_(model.semantic_head.logits(features).mean(dim=(0, 2, 3)))
    return model


def blocks(count: int, side: int = 128, seed: int = 4) -> torch.Tensor:
    """Normalised images of the network, (count, 3, side, side), in blocks of 8 pixels."""
    drawn = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(seed))
    return (4 * drawn - 2).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def write_panoptic(path: Path, config: dict[str, Any] | None = None, seed: int = 0) -> DetectorCheckpoint:
    """The model in a file, as `cuts3d train` leaves it, and read again."""
    config = copy.deepcopy(config or panoptic_config())
    preprocessor = config["data_preprocessor"]
    description = {
        "name": "tiny_panoptic",
        "classes": [CLASSES.names[c] for c in THINGS],
        "panoptic": {"classes": CLASSES.to_json(), "things": list(THINGS), "stuffs": list(STUFFS)},
        "model": config,
        "resize": {"long": SCALE[0], "short": SCALE[1]},
        "mean": preprocessor["mean"],
        "std": preprocessor["std"],
    }
    write_detector(path, panoptic_model(config, seed).state_dict(), description, {"runs": []})
    return read_detector(path)
