"""Masks that carry their spatial confidence through every augmentation, under MMDetection's own `gt_masks`.

Dimension letters: M masks, H, W pixels, P boxes, h, w pixels of a mask target, 4 box edges x1, y1, x2, y2.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import cv2
import mmcv
import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.structures.mask import BitmapMasks

CERTAIN = 255


class ConfidenceMasks(BitmapMasks):
    """Instance masks of one image and how sure each of their pixels is.

    All is in `values`, one uint8 array (M, H, W): 0 outside the instance, its confidence inside, 1..255 for 1/255..1.0.
    Whatever moves the masks moves the confidence with them; values are never mixed (nearest neighbour, whatever
    interpolation is asked for).

    To everything else these are stock masks: `masks`, `to_ndarray`, `to_tensor`, `areas`, `get_bboxes` and
    `crop_and_resize` show zeros and ones. What is written into `masks` counts: zeros erase, ones where nothing was are
    certain.

    MMDetection's transforms, and those of others that keep to the methods of BitmapMasks, keep the confidence, with two
    exceptions that build their masks again from `masks`: CopyPaste returns stock masks, Albu certain ones.

    masks: uint8 (M, H, W) or M arrays (H, W), as `values`. Booleans, and numbers of which none is above 1, are
        stock masks and become certain ones; `from_values` and `from_confidence` never guess.
    height, width: H, W, also of no masks at all.
    """

    _values: np.ndarray
    # Zeros and ones, once somebody has asked for them. They may be written into, so `values` looks at them.
    _plain: np.ndarray | None

    def __init__(self, masks: np.ndarray | Sequence[np.ndarray], height: int, width: int) -> None:
        array = np.asarray(masks) if len(masks) else np.empty((0, height, width), np.uint8)
        if array.ndim != 3 or array.shape[1:] != (height, width):
            raise ValueError(f"masks must have the shape (M, {height}, {width}), not {array.shape}")
        if array.dtype != np.uint8 and (array.min(initial=0) < 0 or array.max(initial=0) > CERTAIN):
            raise ValueError(f"values of masks must be in 0..{CERTAIN}, not {array.min()}..{array.max()}")
        is_plain = array.dtype == bool or array.max(initial=0) <= 1
        self._set(_certain(array) if is_plain else array.astype(np.uint8, copy=False))

    @classmethod
    def from_confidence(cls, inside_MHW: np.ndarray, confidence_MHW: np.ndarray) -> Self:
        """Masks, and the confidence of their pixels, both (M, H, W); a confidence of 0 inside a mask becomes 1/255.

        inside_MHW: bool, or numbers that are not 0 inside the instance.
        confidence_MHW: uint8, 255 = 1.0.
        """
        return cls.from_values(np.where(inside_MHW, np.maximum(confidence_MHW, np.uint8(1)), np.uint8(0)))

    @classmethod
    def certain(cls, masks: BitmapMasks) -> Self:
        """The same masks, all of them at confidence 1."""
        return cls.from_values(_certain(masks.masks))

    @classmethod
    def from_values(cls, values_MHW: np.ndarray) -> Self:
        """Masks from their `values`, which are taken as they are: uint8 (M, H, W), 0 outside, 1..255 inside."""
        made = cls.__new__(cls)
        made._set(values_MHW)
        return made

    def _set(self, values_MHW: np.ndarray) -> None:
        self._values, self._plain = values_MHW, None
        self.height, self.width = values_MHW.shape[1:]

    @property
    def values(self) -> np.ndarray:
        """uint8 (M, H, W), 0 outside, 1..255 inside. It may be written into."""
        if self._plain is not None:
            added_MHW = (self._plain != 0) & (self._values == 0)
            self._values = np.where(self._plain, self._values, np.uint8(0))
            self._values[added_MHW] = CERTAIN
            self._plain = None
        return self._values

    @property
    def masks(self) -> np.ndarray:
        """uint8 (M, H, W) of zeros and ones. What is written into it before the next call of anything here counts."""
        if self._plain is None:
            self._plain = (self._values != 0).view(np.uint8)
        return self._plain

    @masks.setter
    def masks(self, masks_MHW: np.ndarray) -> None:
        if masks_MHW.shape != self._values.shape:
            raise ValueError(f"masks must keep their shape, {self._values.shape}, not {masks_MHW.shape}: index them")
        self._plain = masks_MHW

    @property
    def confidence_map(self) -> np.ndarray:
        """float32 (M, H, W), 0..1: the confidence inside the instances, 1 outside (docs/method.md: nobody doubts that
        what is outside a mask is not in it).
        """
        values_MHW = self.values
        return np.where(values_MHW, values_MHW, np.uint8(CERTAIN)) / np.float32(CERTAIN)

    @property
    def mean_confidence(self) -> np.ndarray:
        """float32 (M,), 0..1: mean confidence over the pixels of each instance; 0 for one without pixels."""
        total_M = self.values.sum(axis=(1, 2), dtype=np.int64)
        return (total_M / (float(CERTAIN) * np.maximum(self.areas, 1))).astype(np.float32)

    @property
    def areas(self) -> np.ndarray:
        """int64 (M,), pixels of each instance."""
        # Ten times as fast as numpy's count_nonzero along axes.
        return np.array([cv2.countNonZero(np.ascontiguousarray(value_HW)) for value_HW in self.values], np.int64)

    def crop_and_resize(
        self,
        bboxes: torch.Tensor | np.ndarray,
        out_shape: tuple[int, int],
        inds: torch.Tensor | np.ndarray,
        device: torch.device | str = "cpu",
        interpolation: str = "bilinear",
        binarize: bool = True,
    ) -> BitmapMasks:
        """Targets of a mask head, as the stock method makes them; stock masks, as these are no longer of an image.

        The stock method copies the whole mask of the image for every box; here the boxes share it.
        """
        boxes_P4, inds_P = torch.as_tensor(bboxes, device=device), torch.as_tensor(inds, device=device)
        if not len(boxes_P4) or not len(self):
            return BitmapMasks(np.zeros((0, *out_shape), np.uint8), *out_shape)
        inside_MHW = torch.from_numpy(np.ascontiguousarray(self.values)).to(device).ne(0).to(boxes_P4)
        rois_P5 = torch.cat([inds_P.to(boxes_P4)[:, None], boxes_P4], dim=1)
        targets_Phw = roi_align(inside_MHW[:, None], rois_P5, out_shape, 1.0, 0, "avg", True).squeeze(1)
        return BitmapMasks((targets_Phw >= 0.5 if binarize else targets_Phw).cpu().numpy(), *out_shape)

    def __getitem__(self, index: Any) -> Self:
        if isinstance(index, np.ndarray) and _is_all(index, len(self)):
            return self.from_values(self.values)  # no copy: packing and filters select like this
        return self.from_values(self.values[index].reshape(-1, self.height, self.width))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})"

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Between loader and trainer goes what is inside of the instances' boxes: usually a tenth of the pixels."""
        return _unpacked, (type(self), self.values.shape, *_packed(self.values))

    def rescale(self, scale: float | tuple[int, int], interpolation: str = "nearest") -> Self:
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> Self:
        resized_MHW = np.empty((len(self), *out_shape), np.uint8)
        for value_HW, resized_HW in zip(self.values, resized_MHW, strict=True):
            cv2.resize(value_HW, out_shape[::-1], dst=resized_HW, interpolation=cv2.INTER_NEAREST)
        return self.from_values(resized_MHW)

    def flip(self, flip_direction: str = "horizontal") -> Self:
        code = {"horizontal": 1, "vertical": 0, "diagonal": -1}[flip_direction]
        flipped_MHW = np.empty_like(self.values, order="C")
        for value_HW, flipped_HW in zip(self.values, flipped_MHW, strict=True):
            cv2.flip(value_HW, code, dst=flipped_HW)
        return self.from_values(flipped_MHW)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> Self:
        """Larger, to the right and below; a `pad_val` other than 0 pads with certain mask."""
        if out_shape[0] < self.height or out_shape[1] < self.width:
            raise ValueError(f"masks of {self.height}x{self.width} cannot be padded to {out_shape[0]}x{out_shape[1]}")
        return self._placed(out_shape, 0, 0, pad_val)

    def crop(self, bbox: np.ndarray) -> Self:
        x1, x2 = np.clip(bbox[0::2], 0, self.width).tolist()
        y1, y2 = np.clip(bbox[1::2], 0, self.height).tolist()
        return self.from_values(self.values[:, int(y1) : int(max(y2, y1 + 1)), int(x1) : int(max(x2, x1 + 1))])

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> Self:
        return self._placed((expanded_h, expanded_w), top, left)

    def translate(
        self,
        out_shape: tuple[int, int],
        offset: float,
        direction: str = "horizontal",
        border_value: int = 0,
        interpolation: str = "bilinear",
    ) -> Self:
        """Moved to the right or down; what leaves `out_shape` is gone."""
        # As the stock method does it, the new shape comes first: what it cuts off does not come back.
        height, width = out_shape
        fitted = self if (self.height, self.width) == (height, width) else self._placed((height, width), 0, 0)
        return fitted._each(
            (height, width),
            lambda value_HW: mmcv.imtranslate(value_HW, offset, direction, _border(border_value), "nearest"),
        )

    def shear(
        self,
        out_shape: tuple[int, int],
        magnitude: float,
        direction: str = "horizontal",
        border_value: int = 0,
        interpolation: str = "bilinear",
    ) -> Self:
        return self._each(
            out_shape, lambda value_HW: mmcv.imshear(value_HW, magnitude, direction, _border(border_value), "nearest")
        )

    def rotate(
        self,
        out_shape: tuple[int, int],
        angle: float,
        center: tuple[float, float] | None = None,
        scale: float = 1.0,
        border_value: int = 0,
        interpolation: str = "bilinear",
    ) -> Self:
        return self._each(
            out_shape,
            lambda value_HW: mmcv.imrotate(value_HW, angle, center, scale, _border(border_value), "nearest"),
        )

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.values)).to(device).ne(0).to(dtype)

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> Self:
        """All masks of a sequence, which must be of one size; stock masks among them are certain."""
        if not masks:
            raise ValueError("masks must hold at least one element")
        parts = [part if isinstance(part, cls) else cls.certain(part) for part in masks]
        return cls.from_values(np.concatenate([part.values for part in parts]))

    def _each(self, out_shape: tuple[int, int], change: Callable[[np.ndarray], np.ndarray]) -> Self:
        """Every mask by itself: OpenCV's functions take few channels at once."""
        values_MHW = np.empty((len(self), *out_shape), np.uint8)
        for m, value_HW in enumerate(self.values):
            values_MHW[m] = change(np.ascontiguousarray(value_HW))
        return self.from_values(values_MHW)

    def _placed(self, out_shape: tuple[int, int], top: int, left: int, border_value: int = 0) -> Self:
        """The masks in an empty field, cut off at its right and lower edge."""
        values_MHW = np.full((len(self), *out_shape), _border(border_value), np.uint8)
        height, width = min(self.height, out_shape[0] - top), min(self.width, out_shape[1] - left)
        values_MHW[:, top : top + height, left : left + width] = self.values[:, :height, :width]
        return self.from_values(values_MHW)


def _is_all(index: np.ndarray, count: int) -> bool:
    """Whether these bools or numbers pick all of `count` things in their order."""
    picked = np.flatnonzero(index) if index.dtype == bool else index
    return len(index) == count and np.array_equal(picked, np.arange(count))


def _certain(masks_MHW: np.ndarray) -> np.ndarray:
    return np.where(masks_MHW, np.uint8(CERTAIN), np.uint8(0))


def _border(value: int) -> int:
    return CERTAIN if value else 0


def _packed(values_MHW: np.ndarray) -> tuple[list[Sequence[int]], list[np.ndarray]]:
    """Of each mask the box around it, x, y, width, height, and what is in there."""
    boxes = [cv2.boundingRect(np.ascontiguousarray(value_HW)) for value_HW in values_MHW]
    return boxes, [v[y : y + h, x : x + w].copy() for v, (x, y, w, h) in zip(values_MHW, boxes, strict=True)]


def _unpacked(
    cls: type[ConfidenceMasks],
    shape: tuple[int, int, int],
    boxes: list[Sequence[int]],
    parts: list[np.ndarray],
) -> ConfidenceMasks:
    values_MHW = np.zeros(shape, np.uint8)
    for value_HW, (x, y, w, h), part in zip(values_MHW, boxes, parts, strict=True):
        value_HW[y : y + h, x : x + w] = part
    return cls.from_values(values_MHW)
