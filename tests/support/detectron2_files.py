"""Files as Detectron2 leaves them, of a cascade small enough for tests, and the same network in MMDetection."""

import pickle
from pathlib import Path
from typing import Any

from torch import Tensor

from detector.training.config import CONFIGS
from support.reference_detectron2 import Network


def write_config(path: Path, network: Network, base: str = "detectron2_cascade_r50_fpn") -> Path:
    """A configuration of Cascade Mask R-CNNs with ResNet-50 at the network's size."""
    widths = [4 * network.bottleneck << stage for stage in range(4)]
    path.write_text(
        f"""# Detectron2's cascade, small.
_base_ = ["{CONFIGS / base}.py"]
model = dict(
    backbone=dict(base_channels={network.bottleneck}, stem_channels={network.stem}),
    neck=dict(in_channels={widths}, out_channels={network.fpn}),
    rpn_head=dict(in_channels={network.fpn}, feat_channels={network.fpn}),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels={network.fpn}),
        bbox_head=[
            dict(head, in_channels={network.fpn}, fc_out_channels={network.fc})
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels={network.fpn}),
        mask_head=dict(in_channels={network.fpn}, conv_out_channels={network.mask}),
    ),
)
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=({network.long}, {network.short})),
    _base_.test_pipeline[2],
]
"""
    )
    return path


def write_pickle(path: Path, state: dict[str, Tensor], protocol: int = 2, **more: Any) -> Path:
    """A .pkl of arrays, as Detectron2's model zoo has them."""
    arrays = {name: value.numpy() for name, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo", **more}, protocol))
    return path
