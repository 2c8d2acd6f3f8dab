"""Pseudo-masks of the next round of self-training: what the detector is sure of, and what it has not found again.

CutLER (Wang et al. 2023, section 3.4; the rule as in its code): predictions of at least a score are kept; of the round
before those masks stay whose largest mask IoU with any kept prediction is below a threshold. So an image without kept
predictions keeps all that it had.

P kept predictions · O masks of the round before · Gh, Gw patch grid
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from detector.prediction.detections import Detections, PasteRule, instance_of
from pipeline.errors import ImageError
from pipeline.methods.shared.instances import touched_patches
from pipeline.results.instances import ImageRecord, Instance
from pipeline.results.kinds import Failed

# Why there are fewer masks than detections and old masks, as records count it.
EMPTY = "empty_mask"  # a detection without a pixel that reaches the threshold
REPLACED = "replaced"  # an old mask that a prediction took the place of
KEEP_BELOW_IOU = 0.5


def merged_record(
    photo: tuple[str, tuple[int, int]],
    found: Detections,
    before: ImageRecord | Failed | None,
    rule: PasteRule,
    keep_iou: float = KEEP_BELOW_IOU,
) -> ImageRecord:
    """The finished image.

    photo: its id, and its height and width.
    before: what the previous round has of it.

    Raises ImageError when the photo has another size than it had then.
    """
    id_, size = photo
    instances = [
        instance_of(mask_hw, box, float(score), place, size, rule)
        for place, (mask_hw, box, score) in enumerate(zip(found.masks, found.boxes, found.scores, strict=True))
    ]
    kept = [instance for instance in instances if instance is not None]
    drops = Counter({EMPTY: len(instances) - len(kept)})
    if isinstance(before, ImageRecord) and before.instances:
        if before.size != size:
            raise ImageError(
                "changed",
                f"{id_} has {size[0]} × {size[1]} pixels, in the previous run it had {before.size[0]} × "
                f"{before.size[1]}: its masks do not fit",
            )
        merged, replaced = merge(kept, before.instances, size, rule.grid, keep_iou)
        kept, drops[REPLACED] = list(merged), replaced
    return ImageRecord(
        id=id_,
        size=size,
        status="ok" if kept else "no_masks",
        instances=tuple(kept),
        drops={reason: count for reason, count in drops.items() if count},
        depth=None,
    )


def merge(
    predictions: Sequence[Instance],
    before: Sequence[Instance],
    size: tuple[int, int],
    grid: tuple[int, int],
    keep_below: float = KEEP_BELOW_IOU,
) -> tuple[tuple[Instance, ...], int]:
    """The predictions, then those masks of the round before that stay, and how many did not.

    size: height and width of the image.
    grid: (Gh, Gw) that confidences are to have; those of the round before are resampled when they have another.

    Scores, parts and places of the old masks stay as they are: they rank among themselves, not against a detector's.
    """
    is_new_O = best_iou(before, predictions, size) < keep_below
    stay = [on_grid(old, size, grid) for old, is_new in zip(before, is_new_O, strict=True) if is_new]
    return (*predictions, *stay), len(before) - len(stay)


def best_iou(masks: Sequence[Instance], others: Sequence[Instance], size: tuple[int, int]) -> np.ndarray:
    """float64 (len(masks),): largest IoU of each mask with any of the others, 0 where there are none."""
    if not masks or not others:
        return np.zeros(len(masks))
    codes, against = ([{"size": list(size), "counts": m.rle} for m in part] for part in (masks, others))
    best: np.ndarray = coco_mask.iou(codes, against, [0] * len(against)).max(axis=1)
    return best


def on_grid(instance: Instance, size: tuple[int, int], grid: tuple[int, int]) -> Instance:
    """The instance with its confidence on another patch grid.

    Bilinear between the centres of the patches that it has; patches outside the instance have no say. What is in the
    new grid is again 0 exactly where the instance has no pixel.
    """
    if instance.confidence.shape == grid:
        return instance
    confidence = instance.confidence.astype(np.float32)
    # Weighted by where there is a confidence, or the zeros around the instance would seep in at its outline.
    known = (confidence > 0).astype(np.float32)
    total, weight = (
        cv2.resize(map_, (grid[1], grid[0]), interpolation=cv2.INTER_LINEAR) for map_ in (confidence * known, known)
    )
    mean = float(confidence[known > 0].mean()) if known.any() else 1.0
    resampled = np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), mean)
    values = np.rint(resampled).clip(1, 255).astype(np.uint8)
    inside = touched_patches(coco_mask.decode({"size": list(size), "counts": instance.rle}), grid)
    return replace(instance, confidence=np.where(inside, values, 0).astype(np.uint8))
