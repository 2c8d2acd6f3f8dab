"""Copy-paste augmentation: instances of another photo of the data set are pasted into a sample.

Transforms of an ordinary pipeline, between `LoadConfidenceMasks` and what changes the image's size. The other photo,
the partner, is found through the store that the sample comes from; only what is pasted of it is decoded, and nothing
when nothing can be pasted.

H, W pixels of the target · h, w pixels of the window pasted into · M masks of the target · K pasted masks
"""

import logging
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.flat_store import FlatStore
from detector.data.loading import recent_instance, recent_photo
from detector.data.paste import Patch, Place, areas, bits, boxes, common_pixels, paste_pixels, paste_values
from pipeline.errors import ConfigError, ImageError

log = logging.getLogger(__name__)

# Photos without a mask to paste, and photos that are gone, are passed over so often before the sample stays as it is.
_DRAWS = 10
# What a sample has one of for each mask, beside the masks and boxes.
_OF_MASKS = (
    *("gt_bboxes_labels", "gt_ignore_flags", "gt_scores", "gt_relative_scores", "gt_confidences", "gt_pasted"),
)


class _Partner(NamedTuple):
    """Instances of another photo: number of the image in the store, and rows of the masks."""

    image: int
    rows: np.ndarray


@TRANSFORMS.register_module()
class PlainCopyPaste(BaseTransform):
    """CutLER's copy-paste (docs/method.md): a random choice of a random partner's instances, as they are.

    The partner is stretched to the target's size times a random ratio, turned over half of the time, and put anywhere
    inside the target. Of its n instances a random number, 1..n-1, is pasted (the one there is, when n is 1). One that
    would cover too much of a single mask of the target is left out; masks of the target lose what is hidden, and get
    new boxes.

    Changes img, gt_masks and whatever is there of gt_bboxes, gt_bboxes_labels, gt_ignore_flags, gt_scores,
    gt_relative_scores and gt_confidences; adds gt_pasted, bool (M,). The pasted come last, with label 0.

    The partner is the sample's neighbour in the sampler's stream, as in CutLER's it is another of the batch; where the
    sample was drawn without, or the partner has nothing to paste or cannot be read (a warning), a random other image of
    the data set by numpy's global generator.

    prob: share of samples that are pasted into.
    ratio: range of the partner's size, in sizes of the target.
    flip: probability that the partner is turned over.
    max_cover: a pasted instance that covers this share of a mask, or more, is left out; above 1 none is.
    min_pixels: masks with fewer pixels left are dropped.

    Raises:
        ConfigError: an option out of range.
    """

    blend = False

    def __init__(
        self,
        prob: float = 1.0,
        ratio: tuple[float, float] = (0.3, 1.0),
        flip: float = 0.5,
        max_cover: float = 0.5,
        min_pixels: int = 1,
    ) -> None:
        self.prob, self.ratio, self.flip = prob, ratio, flip
        self.max_cover, self.min_pixels = max_cover, min_pixels
        self._check("prob", 0.0 <= prob <= 1.0, "in 0..1")
        self._check("ratio", len(ratio) == 2 and 0.0 < ratio[0] <= ratio[1] <= 1.0, "two rising numbers in ]0, 1]")
        self._check("flip", 0.0 <= flip <= 1.0, "in 0..1")
        self._check("max_cover", max_cover > 0.0, "above 0")
        self._check("min_pixels", min_pixels >= 1, "at least 1")

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The sample with instances pasted; as it was where there is nothing to paste."""
        if "store_images" not in results:
            raise ConfigError(f"{type(self).__name__} takes samples of StoreDataset, which know where others are")
        results.setdefault("gt_pasted", np.zeros(len(results["gt_masks"]), bool))
        if np.random.rand() >= self.prob:  # noqa: NPY002 - the generator that is seeded for each sample
            return results
        for attempt in range(_DRAWS):
            partner = self._partner(results, attempt)
            if partner is None:
                continue
            try:
                return self._pasted(results, partner)
            except ImageError as error:
                log.warning("nothing is pasted from a photo that can no longer be read: %s", error)
        return results

    def candidates(self, store: FlatStore, rows_M: np.ndarray) -> np.ndarray:
        """Which of a partner's masks (rows of the store) are to be pasted, in any order."""
        count = len(rows_M) if len(rows_M) < 2 else np.random.randint(1, len(rows_M))  # noqa: NPY002
        return rows_M[np.random.permutation(len(rows_M))[:count]]  # noqa: NPY002

    def _partner(self, results: dict[str, Any], attempt: int) -> _Partner | None:
        """Another image of the data set, and its masks to paste; None where it has none, or is no other.

        At the first attempt the partner that the sample was drawn with, if it was; else a random one.
        """
        store, images, image = results["store"], results["store_images"], results["store_partner"]
        if image is None or attempt > 0:
            image = images[np.random.randint(len(images))]  # noqa: NPY002
        if image == results["store_index"]:
            return None
        rows_K = self.candidates(store, store.masks_of(image))
        return _Partner(image, rows_K) if len(rows_K) else None

    def _pasted(self, results: dict[str, Any], partner: _Partner) -> dict[str, Any]:
        store, values_MHW = results["store"], results["gt_masks"].values
        box = _around(store.box[partner.rows])
        place = Place.draw(box, store.size(partner.image), values_MHW.shape[1:], self.ratio, self.flip)
        patch = _patch(store, partner, place, results.get("confidence_floor", 0.0))
        area_M, (rows, columns) = areas(values_MHW), patch.window
        bits_Kb, bits_Mb = bits(patch.values_Khw), bits(values_MHW[:, rows, columns])
        covers_KM = common_pixels(bits_Kb, bits_Mb) >= self.max_cover * np.maximum(area_M, 1)
        keep_K = (areas(patch.values_Khw) >= self.min_pixels) & ~covers_KM.any(axis=1)
        if not keep_K.any():
            return results
        hidden_M = common_pixels(np.bitwise_or.reduce(bits_Kb[keep_K], axis=0, keepdims=True), bits_Mb)[0]
        patch, rows_K = patch.select(keep_K), partner.rows[keep_K]
        photo_HW3 = recent_photo(store.ref(partner.image), store.size(partner.image))
        source_hw3 = place.put(photo_HW3[place.source], cv2.INTER_LINEAR)
        paste_pixels(results["img"], source_hw3, patch, self.blend)
        _keep(results, left_M := (hidden_M == 0) | (area_M - hidden_M >= self.min_pixels))
        _join(results, patch, partner.image, rows_K, hidden_M[left_M] > 0)
        return results

    def _check(self, name: str, holds: bool, legal: str) -> None:
        if not holds:
            raise ConfigError(f"{type(self).__name__}: {name} must be {legal}, not {getattr(self, name)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


@TRANSFORMS.register_module()
class ConfidentCopyPaste(PlainCopyPaste):
    """CutS3D's copy-paste (docs/method.md): only the instances of the partner with the best mean confidence, blended
    into the target by the confidence of each pixel.

    share: of the partner's masks that are pasted, best first, at least one; where that is no whole number, rounded up
        or down at random, so that it holds on average. The paper's share is not known; half of them are on average as
        many as CutLER pastes.
    min_confidence: least mean confidence of a pasted mask, 0..1.
    blend: False pastes them as they are.

    Everything else is as in PlainCopyPaste.
    """

    def __init__(self, share: float = 0.5, min_confidence: float = 0.0, blend: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share, self.min_confidence, self.blend = share, min_confidence, blend
        self._check("share", 0.0 < share <= 1.0, "in ]0, 1]")
        self._check("min_confidence", 0.0 <= min_confidence <= 1.0, "in 0..1")

    def candidates(self, store: FlatStore, rows_M: np.ndarray) -> np.ndarray:
        """The surest masks; of equally sure ones those that the store has first."""
        confidence_M = store.mean_confidence[rows_M]
        count = max(1, int(self.share * len(rows_M) + np.random.rand()))  # noqa: NPY002
        best = np.argsort(-confidence_M, kind="stable")[:count]
        return rows_M[best[confidence_M[best] >= np.float32(self.min_confidence)]]


def _around(xywh_K4: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around all: x1, y1, x2, y2."""
    low_2, high_2 = xywh_K4[:, :2].min(axis=0), (xywh_K4[:, :2] + xywh_K4[:, 2:]).max(axis=0)
    return int(low_2[0]), int(low_2[1]), math.ceil(high_2[0]), math.ceil(high_2[1])


def _patch(store: FlatStore, partner: _Partner, place: Place, floor: float) -> Patch:
    """The partner's instances, as LoadConfidenceMasks would load them with this floor, in their place."""
    rows, columns = place.source
    values_Khw = np.empty((len(partner.rows), place.height, place.width), np.uint8)
    for value_hw, mask in zip(values_Khw, partner.rows.tolist(), strict=True):
        top, left, box_hw = recent_instance(store, partner.image, mask, floor)
        part_hw = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        top, left = top - rows.start, left - columns.start
        part_hw[top : top + box_hw.shape[0], left : left + box_hw.shape[1]] = box_hw
        value_hw[:] = place.put(part_hw, cv2.INTER_NEAREST)
    return Patch(place.top, place.left, values_Khw)


def _keep(results: dict[str, Any], keep_M: np.ndarray) -> None:
    """Drop masks of the sample, with all that belongs to them."""
    if not keep_M.all():
        for name in ("gt_masks", "gt_bboxes", *_OF_MASKS):
            if name in results:
                results[name] = results[name][keep_M]


def _join(results: dict[str, Any], patch: Patch, image: int, rows_K: np.ndarray, carved_M: np.ndarray) -> None:
    """Put the patch's instances, masks of another image of the store (rows), after those of the sample.

    carved_M: bool, which of the sample's masks lose pixels by that.
    """
    store = results["store"]
    values_NHW = paste_values(results["gt_masks"].values, patch)
    boxes_M4 = results["gt_bboxes"].numpy().copy()
    boxes_M4[carved_M] = boxes(values_NHW[m] for m in np.flatnonzero(carved_M))
    corner_4 = np.array([patch.left, patch.top] * 2, np.float32)
    boxes_N4 = np.concatenate([boxes_M4, corner_4 + boxes(patch.values_Khw)])
    results["gt_masks"], results["gt_bboxes"] = ConfidenceMasks.from_values(values_NHW), HorizontalBoxes(boxes_N4)
    pasted = {
        "gt_bboxes_labels": np.zeros(len(rows_K), np.int64),
        "gt_ignore_flags": np.zeros(len(rows_K), bool),
        "gt_scores": store.score[rows_K],
        "gt_relative_scores": store.relative_scores(image)[np.searchsorted(store.masks_of(image), rows_K)],
        "gt_confidences": store.mean_confidence[rows_K],
        "gt_pasted": np.ones(len(rows_K), bool),
    }
    for name in _OF_MASKS:
        if name in results:
            results[name] = np.concatenate([results[name], pasted[name]])
