"""The score of an instance, which ranks masks: how far it stands out in the features, how stable it is in depth.

N = Gh·Gw patches · D feature width · M masks
"""

from collections.abc import Callable

import torch

# From feature contrast (0..2) and mean confidence over the mask (0..1) to a score in 0..1.
SCORES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda contrast, confidence: 1.0,  # MaskCut as published
    "contrast": lambda contrast, confidence: contrast / 2,
    "confidence": lambda contrast, confidence: confidence,
    "contrast_confidence": lambda contrast, confidence: contrast / 2 * confidence,
}


def feature_contrast(features_ND: torch.Tensor, masks_MN: torch.Tensor) -> torch.Tensor:
    """1 - cosine of the mean unit feature inside a mask and that outside of it: (M,) float32 in [0, 2].

    features_ND: (N, D), any float dtype. masks_MN: (M, N) bool on the same device. 0 for a mask that is empty or covers
    the image: there is nothing to compare.
    """
    unit_ND = torch.nn.functional.normalize(features_ND.float(), dim=1)
    inside_MN = masks_MN.float()
    inside_MD = inside_MN @ unit_ND
    outside_MD = unit_ND.sum(dim=0) - inside_MD
    contrast_M = 1.0 - torch.nn.functional.cosine_similarity(inside_MD, outside_MD, dim=1)
    count_M = masks_MN.sum(dim=1)
    return torch.where((count_M > 0) & (count_M < masks_MN.shape[1]), contrast_M, torch.zeros_like(contrast_M))
