"""The dense CRF by pydensecrf, the C++ package that CutLER uses, as the reference for `stages.crf`.

pydensecrf is no part of the project. What the tests compare with was recorded by tests/support/record_pydensecrf.py;
benchmarks run it where it is installed.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from stages.crf import CrfConfig

REMEDY = "pydensecrf is not installed: python -m pip install pydensecrf2 (a C++ compiler builds it)"


def dense_crf(images_BHW3: torch.Tensor, masks: Sequence[torch.Tensor], config: CrfConfig) -> list[torch.Tensor]:
    """What `stages.crf.dense_crf` does, one mask after the other. ImportError says what to install."""
    return [crf_of_an_image(image, own, config) for image, own in zip(images_BHW3, masks, strict=True)]


def crf_of_an_image(image_HW3: torch.Tensor, masks_MHW: torch.Tensor, config: CrfConfig) -> torch.Tensor:
    """Masks (M, H, W) bool, refined on an image (H, W, 3) uint8."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise ImportError(REMEDY) from error
    height, width = image_HW3.shape[:2]
    rgb = image_HW3.cpu().numpy().copy()
    refined = torch.zeros_like(masks_MHW)
    for index, mask_HW in enumerate(masks_MHW.cpu().numpy()):
        foreground_P = mask_HW.reshape(-1)
        probability_P = np.where(foreground_P, math.e, 1).astype(np.float32) / np.float32(1 + math.e)
        model = DenseCRF2D(width, height, 2)
        model.setUnaryEnergy(np.ascontiguousarray(-np.log([1 - probability_P, probability_P])))
        model.addPairwiseGaussian(sxy=config.gaussian_sxy, compat=config.gaussian_compat)
        model.addPairwiseBilateral(
            sxy=config.bilateral_sxy, srgb=config.bilateral_srgb, rgbim=rgb, compat=config.bilateral_compat
        )
        labels_P = np.argmax(model.inference(config.iterations), axis=0)
        refined[index] = torch.from_numpy(labels_P.reshape(height, width) == 1)
    return refined
