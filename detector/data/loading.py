"""From the store to a training sample: the photo, and its masks with their spatial confidence at the photo's size.

Masks are decoded here and nowhere before. Both transforms work on what `detector.data.dataset.StoreDataset` gives.

M masks of one image · H, W pixels · h, w pixels of a mask's box · Gh, Gw patch grid
"""

from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import FilterAnnotations, PackDetInputs
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from pycocotools import mask as coco_mask

from detector.data.confidence_masks import CERTAIN, ConfidenceMasks
from detector.data.flat_store import FlatStore
from pipeline.errors import ConfigError, StoreError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo

# Photos that a process keeps with their masks: a sample and its partner follow one another (`detector.data.sampling`),
# so that copy-paste reads each photo once.
_RECENT = 2


def load_bgr(ref: ImageRef, size: tuple[int, int] | None = None) -> np.ndarray:
    """A photo as networks of MMDetection expect it: uint8 (H, W, 3), BGR, upright by its EXIF orientation as in a run.

    size: height and width that it must have, as the masks were made at.

    Raises:
        ImageError: it is gone or cannot be decoded.
        StoreError: it has another size.
    """
    rgb = load_photo(ref).rgb
    if size is not None and rgb.shape[:2] != size:
        raise StoreError(
            f"{ref.uri} has {rgb.shape[0]}×{rgb.shape[1]} pixels (height×width), its masks {size[0]}×{size[1]}: the "
            "photo was replaced after the run; bring the old one back, or run again"
        )
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


def instance_values(store: FlatStore, image: int, mask: int, floor: float = 0.0) -> tuple[int, int, np.ndarray]:
    """One instance inside its box: the box's top row and left column, and uint8 (h, w).

    0 outside the instance, inside its confidence 1..255 (255 = 1.0): bilinear between the centres of the patches, as
    patches that are not of the instance had the mean of their neighbours that are; where there are none, the least.

    image: number in the store.
    mask: row.
    floor: least confidence, 0..1.

    Raises:
        StoreError: the run-length code is damaged.
    """
    size = store.size(image)
    try:
        inside_HW = coco_mask.decode(store.coco_rle(image, mask))
    except ValueError as error:
        raise StoreError(
            f"a mask of {store.ref(image).id} of {store.run_url(image)} is damaged ({error}): `cuts3d verify` tells "
            "which shard to make again"
        ) from error
    x, y, width, height = store.box[mask].tolist()
    top, bottom = max(0, int(y)), min(size[0], int(np.ceil(y + height)))
    left, right = max(0, int(x)), min(size[1], int(np.ceil(x + width)))
    # pycocotools fills columns: its transpose is what lies in memory row by row.
    values_hw = cv2.transpose(inside_HW.T[left:right, top:bottom])
    least = max(1, round(CERTAIN * floor))
    patches_GhGw = store.confidence(image, mask)
    known = patches_GhGw[patches_GhGw > 0]
    if len(known) == 0 or known.min() == known.max():
        return top, left, values_hw * np.uint8(max(least, int(known[0]) if len(known) else 0))
    # The whole image, as cv2.resize cannot begin between two pixels; it is faster than what could.
    smooth_HW = cv2.resize(_filled(patches_GhGw), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    confidence_hw = np.maximum(smooth_HW[top:bottom, left:right], np.uint8(least))
    return top, left, cv2.multiply(values_hw, confidence_hw)


def _filled(patches_GhGw: np.ndarray) -> np.ndarray:
    """Zeros replaced by the mean of those of their eight neighbours that are not zero, if there are any."""
    known_GhGw = patches_GhGw > 0
    mean_GhGw = _sum_3x3(patches_GhGw) / np.maximum(_sum_3x3(known_GhGw), 1)
    return np.where(known_GhGw, patches_GhGw, np.rint(mean_GhGw)).astype(np.uint8)


def _sum_3x3(map_GhGw: np.ndarray) -> np.ndarray:
    """Of each value and its eight neighbours; beyond the border there are zeros."""
    map_GhGw = map_GhGw.astype(np.float32)
    return cv2.boxFilter(map_GhGw, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=_RECENT)
def recent_photo(ref: ImageRef, size: tuple[int, int] | None = None) -> np.ndarray:
    """`load_bgr`, with the last photos of this process kept; not to be written to."""
    photo_HW3 = load_bgr(ref, size)
    photo_HW3.flags.writeable = False
    return photo_HW3


def recent_instance(store: FlatStore, image: int, mask: int, floor: float = 0.0) -> tuple[int, int, np.ndarray]:
    """`instance_values`, with those of the last images of this process kept; not to be written to."""
    known = _instances(store, image, floor)
    if mask not in known:
        known[mask] = instance_values(store, image, mask, floor)
    return known[mask]


@lru_cache(maxsize=_RECENT)
def _instances(store: FlatStore, image: int, floor: float) -> dict[int, tuple[int, int, np.ndarray]]:
    return {}


def confidence_masks(store: FlatStore, image: int, masks_M: np.ndarray, floor: float = 0.0) -> ConfidenceMasks:
    """Masks of an image (rows of the store) at its size; see `instance_values`."""
    height, width = store.size(image)
    values_MHW = np.zeros((len(masks_M), height, width), np.uint8)
    for values_HW, mask in zip(values_MHW, masks_M.tolist(), strict=True):
        top, left, values_hw = recent_instance(store, image, mask, floor)
        values_HW[top : top + values_hw.shape[0], left : left + values_hw.shape[1]] = values_hw
    return ConfidenceMasks.from_values(values_MHW)


@TRANSFORMS.register_module()
class LoadPhoto(BaseTransform):
    """Reads the photo of a sample by its `ref`.

    Adds img (uint8 (H, W, 3), BGR, contiguous), img_shape and ori_shape, both (H, W). Where the sample has a height and
    width, those of its masks, the photo must have them, too.

    Raises:
        ImageError: the photo is gone or cannot be decoded. StoreError: it has another size than its masks.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        size = (results["height"], results["width"]) if "height" in results else None
        results["img"] = recent_photo(results["ref"], size).copy()
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadConfidenceMasks(BaseTransform):
    """Decodes the masks of a sample; their boxes are recomputed from the masks.

    Adds gt_masks (ConfidenceMasks of M masks), gt_bboxes (HorizontalBoxes), gt_bboxes_labels (zeros, int64 (M,)),
    gt_ignore_flags (False, (M,)), and as the store has them gt_scores, gt_relative_scores (by the best of the image,
    0..1) and gt_confidences (mean confidences), float32 (M,). Only our own transforms keep the last three in step when
    masks are dropped. Adds confidence_floor, for masks that are pasted in later.

    floor: least confidence inside a mask, 0..1; 0.5 is probably the paper's (docs/method.md).

    Raises:
        ConfigError: floor out of range. StoreError: a mask is damaged.
    """

    def __init__(self, floor: float = 0.0) -> None:
        if not 0.0 <= floor <= 1.0:
            raise ConfigError(f"LoadConfidenceMasks: floor must lie in 0..1, not {floor}")
        self.floor = floor

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        store, image = results["store"], results["store_index"]
        masks_M = store.masks_of(image)
        results["gt_masks"] = confidence_masks(store, image, masks_M, self.floor)
        boxes_M4 = store.box[masks_M].reshape(-1, 4)
        results["gt_bboxes"] = HorizontalBoxes(np.hstack([boxes_M4[:, :2], boxes_M4[:, :2] + boxes_M4[:, 2:]]))
        results["gt_bboxes_labels"] = np.zeros(len(masks_M), np.int64)
        results["gt_ignore_flags"] = np.zeros(len(masks_M), bool)
        results["gt_scores"] = store.score[masks_M]
        results["gt_relative_scores"] = store.relative_scores(image)
        results["gt_confidences"] = store.mean_confidence[masks_M]
        results["confidence_floor"] = self.floor
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(floor={self.floor})"


@TRANSFORMS.register_module()
class FilterScored(FilterAnnotations):
    """MMDetection's FilterAnnotations, which keeps gt_relative_scores in step with the masks, too."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        flags_M = results["gt_ignore_flags"]
        results["gt_ignore_flags"] = np.arange(len(flags_M))  # one of the few arrays that the stock transform filters
        filtered: dict[str, Any] | None = super().transform(results)
        if filtered is not None:
            left_K = filtered["gt_ignore_flags"]
            filtered["gt_ignore_flags"] = flags_M[left_K]
            filtered["gt_relative_scores"] = filtered["gt_relative_scores"][left_K]
        return filtered


@TRANSFORMS.register_module()
class PackScored(PackDetInputs):
    """MMDetection's PackDetInputs, whose instances have relative_scores, too, float32 (M,) in 0..1."""

    mapping_table: ClassVar[dict[str, str]] = {**PackDetInputs.mapping_table, "gt_relative_scores": "relative_scores"}
