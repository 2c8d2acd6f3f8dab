"""From refined masks to the record of an image.

H, W pixels of the photo · Gh, Gw patch grid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.results.instances import NO_MASKS, OK, ImageRecord, Instance
from stages.late import torch


def encoded_instance(mask_HW: np.ndarray, confidence: np.ndarray, **known: Any) -> Instance:
    """An instance from its mask at the photo's size, bool and not empty; code, box and area are those of the mask.

    confidence: uint8 (Gh, Gw), 255 = 1.
    known: the other fields of `Instance`.
    """
    encoded = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    x, y, width, height = (float(v) for v in coco_mask.toBbox(encoded))
    area = int(coco_mask.area(encoded))
    return Instance(encoded["counts"], (x, y, width, height), area, confidence=confidence, **known)


def touched_patches(mask_HW: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """bool (Gh, Gw): patches that hold a pixel of the mask, or a part of one. mask_HW: (H, W) bool or 0/1."""
    tensor = torch.from_numpy(mask_HW.astype(np.float32))[None, None]
    touched: np.ndarray = torch.nn.functional.adaptive_max_pool2d(tensor, tuple(grid))[0, 0].numpy() > 0
    return touched


def finished_record(
    photo: tuple[str, tuple[int, int]],
    instances: Sequence[Instance],
    drops: Mapping[str, int],
    depth: np.ndarray | None = None,
) -> ImageRecord:
    """The record of an image with these instances, or without any. photo: its id, height and width."""
    return ImageRecord(photo[0], photo[1], OK if instances else NO_MASKS, tuple(instances), dict(drops), depth)
