"""Average precision and recall by pycocotools' rules, for any number of resamples of the images at once.

Which detection matches which object is pycocotools' own decision (`COCOeval.evaluateImg`), made once for each image.
What follows, ranking and averaging, is done here for all resamples together.

I images · B resamples · T IoU thresholds · D detections · P true positives
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
from pycocotools.cocoeval import COCOeval, Params

from pipeline.evaluation.bootstrap import Ratio

MAX_DETECTIONS = 100  # an image
LVIS_DETECTIONS = 300  # as the papers score LVIS
MOST_DETECTIONS = 1000  # as the papers score proposals, in AR1000 alone
IOU_THRESHOLDS = Params("segm").iouThrs
RECALLS = Params("segm").recThrs
AREAS: dict[str, Sequence[float]] = dict(zip(Params("segm").areaRngLbl, Params("segm").areaRng, strict=True))

_CATEGORY = 1  # pycocotools wants one

Objects = list[dict[str, Any]]
Matches = list[dict[str, Any] | None]


def match(
    objects: Sequence[Objects], detections: Sequence[Objects], iou_type: str, max_detections: int = MAX_DETECTIONS
) -> dict[str, Matches]:
    """For each range of areas, pycocotools' matches of each image; None for an image with neither.

    objects, detections: of each image, with the fields that pycocotools gives them (`Truth.objects`).
    iou_type: "segm" or "bbox".
    max_detections: the best of an image that count.
    """
    coco = COCOeval(iouType=iou_type)
    coco.params.maxDets = [max_detections]
    for i, (true, found) in enumerate(zip(objects, detections, strict=True)):
        coco._gts[i, _CATEGORY], coco._dts[i, _CATEGORY] = true, found
        coco.ious[i, _CATEGORY] = coco.computeIoU(i, _CATEGORY)
    return {
        area: [coco.evaluateImg(i, _CATEGORY, limits, max_detections) for i in range(len(objects))]
        for area, limits in AREAS.items()
    }


class AveragePrecision:
    """Precision averaged over recalls, for each IoU threshold.

    Copies of an image in a resample are ranked together. Detections of equal score stay in the images' order, as in
    pycocotools.
    """

    def __init__(self, matches: Matches) -> None:
        found = [entry for entry in matches if entry is not None]
        self._n_images = len(matches)
        self._objects_I = _objects(matches)
        scores = np.concatenate([entry["dtScores"] for entry in found] or [np.empty(0)])
        order = np.argsort(-scores, kind="stable")
        per_image = [len(entry["dtScores"]) if entry is not None else 0 for entry in matches]
        image_D = np.repeat(np.arange(self._n_images), per_image)[order]
        self._by_threshold = []
        for t in range(len(IOU_THRESHOLDS)):
            counts_D = np.concatenate([~entry["dtIgnore"][t] for entry in found] or [np.empty(0, bool)])[order]
            matched_D = np.concatenate([entry["dtMatches"][t] > 0 for entry in found] or [np.empty(0, bool)])[order]
            self._by_threshold.append(self._ranking(image_D, counts_D, matched_D & counts_D))

    def _ranking(
        self, image_D: np.ndarray, counts_D: np.ndarray, true_D: np.ndarray
    ) -> tuple[np.ndarray, scipy.sparse.csr_array]:
        """The image of each true positive, and, sparse (P, I), how many detections that count each image has from after
        the true positive before up to this one. Precision falls between true positives, so it is wanted at them alone.
        """
        places_P = np.flatnonzero(true_D)
        stretch_D = np.searchsorted(places_P, np.arange(len(true_D)))
        wanted = counts_D & (stretch_D < len(places_P))
        detections_PI = scipy.sparse.csr_array(
            (np.ones(wanted.sum()), (stretch_D[wanted], image_D[wanted])), shape=(len(places_P), self._n_images)
        )
        return image_D[places_P], detections_PI

    def __call__(self, weights_IB: np.ndarray) -> np.ndarray:
        """Float (T, B) in 0..1; nan where a resample has no object."""
        objects_B = self._objects_I @ weights_IB
        precision_TB = np.stack([self._at(weights_IB, objects_B, *ranking) for ranking in self._by_threshold])
        return np.where(objects_B > 0, precision_TB, np.nan)

    @staticmethod
    def _at(
        weights_IB: np.ndarray, objects_B: np.ndarray, image_P: np.ndarray, detections_PI: scipy.sparse.csr_array
    ) -> np.ndarray:
        true_PB = np.cumsum(weights_IB[image_P], axis=0)
        precision_PB = true_PB / (np.cumsum(detections_PI @ weights_IB, axis=0) + np.spacing(1))
        best_PB = np.maximum.accumulate(precision_PB[::-1], axis=0)[::-1]
        with np.errstate(invalid="ignore"):
            recall_PB = true_PB / objects_B
        # Each of the recalls asked for takes the precision of the first true positive that reaches it.
        reached_PB = np.searchsorted(RECALLS, recall_PB, side="right")
        return (best_PB * np.diff(reached_PB, axis=0, prepend=0)).sum(axis=0) / len(RECALLS)


def limited(matches: Matches, limit: int) -> Matches:
    """The same of the best `limit` detections of each image: a better one never loses its object to a worse one."""
    return [
        None
        if entry is None
        else {
            **entry,
            "dtScores": entry["dtScores"][:limit],
            "dtMatches": entry["dtMatches"][:, :limit],
            "dtIgnore": entry["dtIgnore"][:, :limit],
        }
        for entry in matches
    ]


def recall(matches: Matches, limit: int, thresholds: slice = slice(None)) -> Ratio:
    """Share of objects matched by the best `limit` detections of each image, averaged over IoU thresholds, all or
    these.
    """
    true_I = [
        0 if entry is None else np.count_nonzero(((entry["dtMatches"] > 0) & ~entry["dtIgnore"])[thresholds, :limit])
        for entry in matches
    ]
    return Ratio(np.array(true_I, float), len(IOU_THRESHOLDS[thresholds]) * _objects(matches))


def coco_values(
    by_area: dict[str, Matches], max_detections: int = MAX_DETECTIONS
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The twelve figures of `COCOeval.summarize` and more, as a function of the weights of the images (I, B).

    Its result, each (B,), nan where pycocotools gives -1: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10,
    AR100, AR300 where so many count, AR_small, AR_medium, AR_large; AR1000, of all that were matched; recall50,
    recall50_small, recall50_medium, recall50_large, which pycocotools accumulates and does not print.

    max_detections: the best of an image that count, but for AR1000; `match` was told as many or more.
    """
    counting = {area: limited(matches, max_detections) for area, matches in by_area.items()}
    precisions = {area: AveragePrecision(matches) for area, matches in counting.items()}
    recalls = {f"AR{limit}": recall(by_area["all"], limit) for limit in recall_limits(max_detections)}
    sizes = [area for area in AREAS if area != "all"]
    recalls |= {f"AR_{area}": recall(counting[area], max_detections) for area in sizes}
    half, three_quarters = (int(np.argmin(abs(IOU_THRESHOLDS - iou))) for iou in (0.5, 0.75))
    for area, matches in counting.items():
        name = "recall50" if area == "all" else f"recall50_{area}"
        recalls[name] = recall(matches, max_detections, slice(half, half + 1))

    def values(weights_IB: np.ndarray) -> dict[str, np.ndarray]:
        all_TB = precisions["all"](weights_IB)
        return {
            "AP": all_TB.mean(axis=0),
            "AP50": all_TB[half],
            "AP75": all_TB[three_quarters],
            **{f"AP_{area}": precisions[area](weights_IB).mean(axis=0) for area in sizes},
            **{name: measure(weights_IB) for name, measure in recalls.items()},
        }

    return values


def recall_limits(max_detections: int) -> list[int]:
    """How many detections of an image average recall is measured with, when so many count."""
    return sorted({1, 10, MAX_DETECTIONS, max_detections, MOST_DETECTIONS})


def _objects(matches: Matches) -> np.ndarray:
    """Objects of each image that are not ignored, float (I,)."""
    return np.array([0.0 if entry is None else np.count_nonzero(entry["gtIgnore"] == 0) for entry in matches])
