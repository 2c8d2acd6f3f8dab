"""The models of `_base_/cascade_mask_rcnn_r50_fpn.py` and `_base_/cascade_panoptic_r50_fpn.py` with few channels, and
batches of boxes for them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

import detector.components  # noqa: F401 - for what it registers
from detector.data.confidence_masks import ConfidenceMasks
from support import ROOT

BASES = ROOT / "detector" / "configs" / "_base_"
BASE = BASES / "cascade_mask_rcnn_r50_fpn.py"
PANOPTIC = BASES / "cascade_panoptic_r50_fpn.py"
CHANNELS = 8
SIDE = 96


def shrunk(base: Path = BASE, **changes: Any) -> ConfigDict:
    """The base configuration's `model` with 8 channels after the FPN, ResNet-18 before it, and `changes` merged in."""
    config = Config.fromfile(base)
    small = {
        "backbone": {"depth": 18, "base_channels": CHANNELS},
        "neck": {"in_channels": [CHANNELS * 2**n for n in range(4)], "out_channels": CHANNELS},
        "rpn_head": {"in_channels": CHANNELS, "feat_channels": CHANNELS},
        "roi_head": {
            "bbox_roi_extractor": {"out_channels": CHANNELS},
            "bbox_head": [{**head, "in_channels": CHANNELS, "fc_out_channels": 16} for head in bbox_heads(config)],
            "mask_roi_extractor": {"out_channels": CHANNELS},
            "mask_head": {"num_convs": 1, "in_channels": CHANNELS, "conv_out_channels": CHANNELS},
        },
        "train_cfg": {"rpn_proposal": {"nms_pre": 100, "max_per_img": 100}},
        "test_cfg": {"rpn": {"nms_pre": 50, "max_per_img": 50}},
    }
    config.merge_from_dict({"model": small})
    config.merge_from_dict({"model": changes})
    return config.model


def bbox_heads(config: Any) -> list[Any]:
    return list(config.model.roi_head.bbox_head)


def drop(threshold: float | None, model: ConfigDict) -> ConfigDict:
    """The same model with this DropLoss threshold in every stage."""
    for head in model.roi_head.bbox_head:
        head.drop_threshold = threshold
    return model


def stock(model: ConfigDict) -> ConfigDict:
    """The same model of MMDetection's own classes alone."""
    roi_head = model.roi_head
    for head in roi_head.bbox_head:
        head.type = "Shared2FCBBoxHead"
        del head.drop_threshold
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.type = "SingleRoIExtractor"
        del extractor.gradient_scale
    model.rpn_head.type = "RPNHead"
    del model.rpn_head.drop_threshold
    roi_head.mask_head.type = "FCNMaskHead"
    roi_head.mask_head.loss_mask = {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0}
    del roi_head.mask_head.use_confidence
    for part in (model.train_cfg.rpn, *model.train_cfg.rcnn):
        part.sampler.type = "RandomSampler"
    return model


def build(model: ConfigDict, seed: int = 0) -> nn.Module:
    register_all_modules()
    torch.manual_seed(seed)
    built = MODELS.build(model)
    # Heads start with so small weights that all proposals stay where they are and all scores are alike.
    with torch.no_grad():
        for parameter in built.roi_head.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)
    return built.train()


def batch(seed: int = 0, images: int = 2, objects: int = 3, certain: bool = False) -> dict[str, Any]:
    """`inputs` and `data_samples` as a loader gives them: noise, and rectangles with ConfidenceMasks."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(images):
        values_MHW = np.zeros((objects, SIDE, SIDE), np.uint8)
        boxes_M4 = np.zeros((objects, 4), np.float32)
        for m in range(objects):
            width, height = rng.integers(16, 60, 2)
            left, top = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
            values_MHW[m, top : top + height, left : left + width] = rng.integers(1, 256, (height, width))
            boxes_M4[m] = left, top, left + width, top + height
        masks = BitmapMasks((values_MHW > 0).astype(np.uint8), SIDE, SIDE)
        truth = InstanceData(
            bboxes=torch.from_numpy(boxes_M4),
            labels=torch.zeros(objects, dtype=torch.long),
            masks=masks if certain else ConfidenceMasks.from_confidence(masks.masks, values_MHW),
        )
        shape = (SIDE, SIDE)
        sample = DetDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)})
        sample.gt_instances = truth
        samples.append(sample)
    noise = [torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)) for _ in range(images)]
    return {"inputs": noise, "data_samples": samples}


def losses_and_gradients(model: nn.Module, data: dict[str, Any], seed: int = 0) -> tuple[dict[str, Tensor], list]:
    """The loss dictionary of a training step, and the gradient of its sum to each parameter, in order."""
    torch.manual_seed(seed)
    prepared = model.data_preprocessor(data, training=True)
    losses = model.loss(prepared["inputs"], prepared["data_samples"])
    total, named = model.parse_losses(losses)
    model.zero_grad()
    total.backward()
    return named, [parameter.grad for parameter in model.parameters()]
