"""The confidence that goes with each pixel of a mask target, by torchvision's RoIAlign, one box at a time."""

import numpy as np
import torch
import torchvision

from detector.data.confidence_masks import ConfidenceMasks


def confidence_targets(
    masks: ConfidenceMasks, boxes_P4: np.ndarray, out_shape: tuple[int, int], inds_P: np.ndarray
) -> torch.Tensor:
    """float32 (P, h, w), 0..1: the confidence inside the instances and 1 outside, cut out and resampled.

    boxes_P4: edges x1, y1, x2, y2 in pixels of the masks. inds_P: whose mask each box is of, 0..M-1.
    """
    maps_MHW = np.where(masks.values > 0, masks.values / 255, 1.0).astype(np.float32)
    aligned = [
        torchvision.ops.roi_align(
            torch.from_numpy(maps_MHW[index])[None, None], [torch.as_tensor(box)[None]], out_shape, aligned=True
        )[0, 0]
        for box, index in zip(boxes_P4, inds_P, strict=True)
    ]
    return torch.stack(aligned)
