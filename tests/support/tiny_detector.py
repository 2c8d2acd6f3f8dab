"""A Cascade Mask R-CNN of 0.6 million random weights, which answers in a tenth of a second on a CPU."""

import copy
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from detector.model.checkpoints import DetectorCheckpoint, read_detector, write_detector
from detector.prediction.options import NAME, DetectorOptions, overrides_of
from pipeline.runs.launch import Launch

STAGES = 2
SCALE = (160, 128)


def _coder(*stds: float) -> dict[str, Any]:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": list(stds)}


def _bbox_head(std: float) -> dict[str, Any]:
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": 16,
        "fc_out_channels": 32,
        "roi_feat_size": 7,
        "num_classes": 1,
        "bbox_coder": _coder(std, std, 2 * std, 2 * std),
        "reg_class_agnostic": True,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False},
        "loss_bbox": {"type": "SmoothL1Loss"},
    }


def _extractor(size: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": 16,
        "featmap_strides": [4, 8, 16, 32],
    }


TINY: dict[str, Any] = {
    "type": "CascadeRCNN",
    "data_preprocessor": {
        "type": "DetDataPreprocessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "pad_mask": True,
        "pad_size_divisor": 32,
    },
    "backbone": {"type": "ResNet", "depth": 18, "base_channels": 16, "norm_eval": True, "style": "pytorch"},
    "neck": {"type": "FPN", "in_channels": [16, 32, 64, 128], "out_channels": 16, "num_outs": 5},
    "rpn_head": {
        "type": "RPNHead",
        "in_channels": 16,
        "feat_channels": 16,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [8],
            "ratios": [0.5, 1.0, 2.0],
            "strides": [4, 8, 16, 32, 64],
        },
        "bbox_coder": _coder(1.0, 1.0, 1.0, 1.0),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "SmoothL1Loss"},
    },
    "roi_head": {
        "type": "CascadeRoIHead",
        "num_stages": STAGES,
        "stage_loss_weights": [1] * STAGES,
        "bbox_roi_extractor": _extractor(7),
        "bbox_head": [_bbox_head(0.1), _bbox_head(0.05)],
        "mask_roi_extractor": _extractor(14),
        "mask_head": {
            "type": "FCNMaskHead",
            "num_convs": 1,
            "in_channels": 16,
            "conv_out_channels": 16,
            "num_classes": 1,
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
        },
    },
    "test_cfg": {
        "rpn": {"nms_pre": 200, "max_per_img": 60, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0},
        "rcnn": {
            "score_thr": 0.0,
            "nms": {"type": "nms", "iou_threshold": 0.5},
            "max_per_img": 100,
            "mask_thr_binary": 0.5,
        },
    },
}


def tiny_config() -> dict[str, Any]:
    """The model dict, to be changed at will."""
    return copy.deepcopy(TINY)


def tiny_model(config: dict[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """The model with weights that spread its scores and masks: as initialised they are all next to one half."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model: nn.Module = MODELS.build(ConfigDict(config or tiny_config()))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(("fc_cls.weight", "conv_logits.weight")):
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data = 30 * (drawn - drawn.mean()) if "logits" in name else drawn
    return model.eval()


def write_tiny(path: Path, config: dict[str, Any] | None = None, seed: int = 0) -> DetectorCheckpoint:
    """The model in a file, as `cuts3d train` leaves it, and read again."""
    config = config or tiny_config()
    preprocessor = config["data_preprocessor"]
    description = {
        "name": "tiny_random",
        "classes": ["object"],
        "model": config,
        "resize": {"long": SCALE[0], "short": SCALE[1]},
        "mean": preprocessor["mean"],
        "std": preprocessor["std"],
    }
    write_detector(path, tiny_model(config, seed).state_dict(), description, {"runs": []})
    return read_detector(path)


def detector_launch(checkpoint: DetectorCheckpoint, photos: Path, **options: Any) -> Launch:
    """Of a run of the detector on photos, in shards of three."""
    overrides = overrides_of(DetectorOptions(str(checkpoint.path), **options))
    return Launch(str(photos), recipe=NAME, overrides=overrides, shard_size=3)
