"""From the store to a training sample of panoptic labels: the photo's semantic targets and its things, and the crop.

H, W pixels · M instances of an image · K of them that are things · C classes of the run, T things, S stuff
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes

from detector.data.confidence_masks import CERTAIN, ConfidenceMasks
from detector.data.panoptic_paste import SOME_THING
from detector.data.paste import boxes
from pipeline.errors import ConfigError
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import NONE

IGNORED = 255  # what no loss sees


@dataclass(frozen=True, eq=False)
class TargetRules:
    """What the classes of a run are to a panoptic detector.

    split: the run's things and stuff.
    ignore_unknown_things: pixels of a thing class that no instance holds count for nothing, as the paper has it; False
        leaves them to "some thing", as the released configurations do.

    Raises ConfigError for more stuff classes than the semantic head can number.
    """

    split: ThingSplit
    ignore_unknown_things: bool = True

    def __post_init__(self) -> None:
        if len(self.split.stuff_classes) >= IGNORED:
            raise ConfigError(f"at most {IGNORED - 1} classes can be stuff, not {len(self.split.stuff_classes)}")

    @cached_property
    def seg_of_label(self) -> np.ndarray:
        """uint8 (256,): semantic targets of labels outside of all instances."""
        table = np.full(NONE + 1, IGNORED, np.uint8)
        table[list(self.split.stuff_classes)] = np.arange(1, len(self.split.stuff_classes) + 1)
        if not self.ignore_unknown_things:
            table[list(self.split.thing_classes)] = SOME_THING
        return table

    @cached_property
    def thing_of_class(self) -> np.ndarray:
        """int64 (C,): 0..T-1, -1 for stuff."""
        return np.where(self.split.things, np.cumsum(self.split.things) - 1, -1)


def panoptic_targets(
    labels_HW: np.ndarray, ids_HW: np.ndarray, class_M: np.ndarray, box_M4: np.ndarray, rules: TargetRules
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Semantic targets, uint8 (H, W); masks of the things, uint8 (K, H, W), 255 inside; their labels, int64 (K,).

    labels_HW: uint8, 0..C-1, 255 for none.
    ids_HW: uint8 or uint16, 0 none, m for instance m - 1.
    class_M, box_M4: of the instances, 0..C-1 and x, y, width, height in pixels.

    Stuff class number s (from 0) is s + 1. In an instance of a thing class all is `SOME_THING`. An instance whose class
    is stuff contradicts itself: it is ignored, and no instance. (The released code forgets this where an image has no
    other instances. It also asks the pixels of an instance for its class and loses it where an augmentation left some
    without: here the class is the one that was recorded.)
    """
    thing_M = rules.thing_of_class[class_M]
    seg_HW = cv2.LUT(labels_HW, rules.seg_of_label)
    rows_K = np.flatnonzero(thing_M >= 0)
    values_KHW = np.zeros((len(rows_K), *labels_HW.shape), np.uint8)  # pages outside of the boxes are never touched
    place_M = np.cumsum(thing_M >= 0) - 1
    for m, (x, y, width, height) in enumerate(box_M4.tolist()):
        window = slice(y, y + height), slice(x, x + width)
        inside_hw = ids_HW[window] == m + 1
        seg_HW[window][inside_hw] = SOME_THING if thing_M[m] >= 0 else IGNORED
        if thing_M[m] >= 0:
            values_KHW[place_M[m], *window][inside_hw] = CERTAIN
    return seg_HW, values_KHW, thing_M[rows_K]


@TRANSFORMS.register_module()
class LoadPanoptic(BaseTransform):
    """Decodes the labels of a sample of `PanopticStoreDataset`; see `panoptic_targets`.

    Adds gt_seg_map, gt_masks (ConfidenceMasks, certain), gt_bboxes (HorizontalBoxes around the masks), gt_bboxes_labels
    (int64, 0..T-1) and gt_ignore_flags (False).

    ignore_unknown_things: see `TargetRules`.

    Raises StoreError: a code is damaged.
    """

    def __init__(self, ignore_unknown_things: bool = True) -> None:
        self.ignore_unknown_things = ignore_unknown_things
        self._rules: TargetRules | None = None

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        store, image = results["store"], results["store_index"]
        if self._rules is None or self._rules.split is not store.split:
            self._rules = TargetRules(store.split, self.ignore_unknown_things)
        class_M, box_M4 = store.classes_of(image), store.boxes_of(image)
        seg_HW, values_KHW, things_K = panoptic_targets(
            store.labels(image), store.instance_ids(image), class_M, box_M4, self._rules
        )
        xywh_K4 = box_M4[self._rules.thing_of_class[class_M] >= 0].astype(np.float32)
        results["gt_seg_map"] = seg_HW
        results["gt_masks"] = ConfidenceMasks.from_values(values_KHW)
        results["gt_bboxes"] = HorizontalBoxes(np.hstack([xywh_K4[:, :2], xywh_K4[:, :2] + xywh_K4[:, 2:]]))
        results["gt_bboxes_labels"] = things_K
        results["gt_ignore_flags"] = np.zeros(len(things_K), bool)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ignore_unknown_things={self.ignore_unknown_things})"


def random_window(size: Sequence[int], share: float, draw: Callable[[int], Any]) -> tuple[slice, slice]:
    """Rows and columns of a window anywhere in an image, which has this share of its height and of its width.

    size: H, W. draw: gives a whole number from 0 to below another.
    """
    lengths = [max(1, round(side * share)) for side in size]
    starts = [int(draw(side - length + 1)) for side, length in zip(size, lengths, strict=True)]
    rows, columns = (slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
    return rows, columns


@TRANSFORMS.register_module()
class AreaCrop(BaseTransform):
    """A random window of the image's own aspect, scaled back to the size of the image, by numpy's global generator.

    Height and width are both sqrt(share) of the image's, rounded: a wide image gives a wide window. (The released code
    names the aspect to a function whose `ratio` is height by width in some versions and width by height in others.)
    Changes img, gt_masks, gt_seg_map, gt_bboxes; instances that are not in the window are dropped with their labels and
    flags.

    area: least and largest share of the image's area, in ]0, 1].

    Raises ConfigError: area out of range.
    """

    def __init__(self, area: tuple[float, float] = (0.7, 1.0)) -> None:
        if not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
            raise ConfigError(f"AreaCrop: area must be two rising numbers in ]0, 1], not {area}")
        self.area = area[0], area[1]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        size = results["img"].shape[:2]
        rows, columns = self._window(size)
        for name, interpolation in (("img", cv2.INTER_LINEAR), ("gt_seg_map", cv2.INTER_NEAREST)):
            window = np.ascontiguousarray(results[name][rows, columns])
            results[name] = cv2.resize(window, size[::-1], interpolation=interpolation)
        masks = results["gt_masks"].crop(np.array([columns.start, rows.start, columns.stop, rows.stop])).resize(size)
        boxes_M4 = boxes(masks.values)
        keep_M = boxes_M4[:, 2] > 0
        results["gt_masks"], results["gt_bboxes"] = masks[keep_M], HorizontalBoxes(boxes_M4[keep_M])
        for name in ("gt_bboxes_labels", "gt_ignore_flags"):
            results[name] = results[name][keep_M]
        return results

    def _window(self, size: tuple[int, int]) -> tuple[slice, slice]:
        # numpy's global generator is the one that is seeded for each sample
        scale = np.sqrt(np.random.uniform(*self.area))  # noqa: NPY002
        return random_window(size, scale, np.random.randint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(area={self.area})"
