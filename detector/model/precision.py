"""Boxes are computed in single precision, whatever autocast makes of the network before them.

Half precision has steps of half a pixel beyond pixel 512, bfloat16 of four, and MMDetection takes the type of its
anchors, proposals and NMS from that of the predictions. detectron2 decodes boxes in single precision.
"""

import torch
from torch import Tensor


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor as float32; float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
