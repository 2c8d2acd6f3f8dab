"""Average precision and recall by pycocotools' rules, for any number of resamples of the images at once.

Which detection finds which object is decided once for each image (`matching`). What follows, ranking and averaging, is
done here for all resamples together.

I images · B resamples · A ranges of areas · T IoU thresholds · D detections · C those that count · P true positives ·
X changes · R recalls asked for
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import Params

from pipeline.evaluation.bootstrap import Ratio
from pipeline.evaluation.matching import AREAS, IGNORED, IOU_THRESHOLDS, RIGHT, Matches

MAX_DETECTIONS = 100  # an image
LVIS_DETECTIONS = 300  # as the papers score LVIS
MOST_DETECTIONS = 1000  # as the papers score proposals, in AR1000 alone
RECALLS: np.ndarray = Params("segm").recThrs  # from 0

# Numbers in memory at a time: few enough for a cache, enough for a small set's resamples to be taken together.
_AT_ONCE = 2**18


class _Ranking(NamedTuple):
    """True positives at a threshold by falling score, and what it changes in the list of detections that count.

    image_P: of each true positive.
    counted_P: detections up to and with it that count at the highest threshold.
    image_X, change_X: detections that count here alone, 1, or there alone, -1, by falling score.
    changed_P: how many of these come up to it.
    """

    image_P: np.ndarray
    counted_P: np.ndarray
    image_X: np.ndarray
    change_X: np.ndarray
    changed_P: np.ndarray


class AveragePrecision:
    """Precision averaged over recalls, for each IoU threshold.

    Copies of an image in a resample are ranked together. Detections of equal score stay in the images' order, as in
    pycocotools.
    """

    def __init__(self, matches: Matches) -> None:
        self._objects_I = matches.objects_I
        order = np.argsort(-matches.score_D, kind="stable")
        image_D = matches.image_D[order].astype(np.intp)
        # Which detections count differs little between thresholds: those of one are summed up for all of them.
        counts_D = matches.verdict_TD[-1, order] != IGNORED
        self._image_C = image_D[counts_D]
        self._rankings = [_ranking(image_D, verdict_D[order], counts_D) for verdict_D in matches.verdict_TD]

    def __call__(self, weights_IB: np.ndarray) -> np.ndarray:
        """Float (T, B) in 0..1; nan where a resample has no object. weights_IB: whole numbers."""
        objects_B = self._objects_I @ weights_IB
        longest = max(len(self._image_C), *(len(ranking.image_P) for ranking in self._rankings), 1)
        weights_BI, step = np.ascontiguousarray(weights_IB.T, np.int32), max(1, _AT_ONCE // longest)
        parts = [
            self._at(weights_BI[start : start + step], objects_B[start : start + step])
            for start in range(0, len(weights_BI), step)
        ]
        return np.concatenate([np.empty((len(IOU_THRESHOLDS), 0)), *parts], axis=1)

    def _at(self, weights_BI: np.ndarray, objects_B: np.ndarray) -> np.ndarray:
        counted_BC = _sums(_taken(weights_BI, self._image_C))
        wanted_BR = _reaching(objects_B)
        precision_TB = [_averaged(weights_BI, wanted_BR, counted_BC, ranking) for ranking in self._rankings]
        return np.where(objects_B > 0, precision_TB, np.nan)


def _ranking(image_D: np.ndarray, verdict_D: np.ndarray, base_D: np.ndarray) -> _Ranking:
    """All by falling score. base_D: bool, detections that count at the highest threshold."""
    place_P = np.flatnonzero(verdict_D == RIGHT)
    counts_D = verdict_D != IGNORED
    place_X = np.flatnonzero(counts_D != base_D)
    return _Ranking(
        image_D[place_P],
        np.cumsum(base_D)[place_P],
        image_D[place_X],
        np.where(counts_D[place_X], 1, -1).astype(np.int32),
        np.searchsorted(place_X, place_P, side="right"),
    )


def _reaching(objects_B: np.ndarray) -> np.ndarray:
    """How many true positives of so many objects reach each recall, (B, R): as pycocotools' quotients compare."""
    objects_B1 = np.maximum(objects_B, 1)[:, None]
    least_BR = np.ceil(RECALLS * objects_B1)
    least_BR -= (least_BR - 1) / objects_B1 >= RECALLS
    return (least_BR + (least_BR / objects_B1 < RECALLS)).astype(np.int32)


def _averaged(weights_BI: np.ndarray, wanted_BR: np.ndarray, counted_BC: np.ndarray, ranking: _Ranking) -> np.ndarray:
    """Float (B,). counted_BC: sums of the weights of the detections that count at the highest threshold."""
    n = len(ranking.image_P)
    if not n:
        return np.zeros(len(weights_BI))
    true_BP = np.cumsum(_taken(weights_BI, ranking.image_P), axis=1, dtype=np.int32)
    counted_BP = _taken(counted_BC, ranking.counted_P)
    if len(ranking.image_X):
        changes_BX = _sums(_taken(weights_BI, ranking.image_X) * ranking.change_X)
        counted_BP += _taken(changes_BX, ranking.changed_P)
    precision_BP = true_BP / (counted_BP + np.spacing(1))
    # Each recall takes the best precision from the first true positive on that reaches it.
    first_BR = np.stack(
        [np.searchsorted(true_P, wanted_R) for true_P, wanted_R in zip(true_BP, wanted_BR, strict=True)]
    )
    # The first recall, 0, is reached at once, so that no stretch of a resample runs into the next one's.
    starts_BR = np.minimum(first_BR, n - 1) + n * np.arange(len(first_BR))[:, None]
    best_BR = np.maximum.reduceat(precision_BP.ravel(), starts_BR.ravel()).reshape(starts_BR.shape)
    best_BR = np.maximum.accumulate(best_BR[:, ::-1], axis=1)[:, ::-1]
    averaged_B: np.ndarray = np.where(first_BR < n, best_BR, 0).sum(axis=1) / len(RECALLS)
    return averaged_B


def _taken(values_BN: np.ndarray, places_M: np.ndarray) -> np.ndarray:
    """(B, M). "clip" spares numpy a buffer: all places are there."""
    return np.take(values_BN, places_M, axis=1, mode="clip")


def _sums(values_BN: np.ndarray) -> np.ndarray:
    """int32 (B, N + 1), of the first none, one, two, and so on."""
    sums_BN = np.zeros((len(values_BN), values_BN.shape[1] + 1), np.int32)
    np.cumsum(values_BN, axis=1, out=sums_BN[:, 1:])
    return sums_BN


def recall(matches: Matches, limit: int, thresholds: slice = slice(None)) -> Ratio:
    """Share of objects found by the best `limit` detections of each image, averaged over IoU thresholds, all or
    these.
    """
    right_D = (matches.verdict_TD[thresholds] == RIGHT).sum(axis=0) * (matches.rank_D < limit)
    true_I = np.bincount(matches.image_D, weights=right_D, minlength=len(matches.objects_I))
    return Ratio(true_I, len(IOU_THRESHOLDS[thresholds]) * matches.objects_I)


def coco_values(
    by_area: dict[str, Matches], max_detections: int = MAX_DETECTIONS
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The twelve figures of `COCOeval.summarize` and more, as a function of the weights of the images (I, B).

    Its result, each (B,), nan where pycocotools gives -1: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10,
    AR100, AR300 where so many count, AR_small, AR_medium, AR_large; AR1000, of all that were matched; recall50,
    recall50_small, recall50_medium, recall50_large, which pycocotools accumulates and does not print.

    max_detections: the best of an image that count, but for AR1000; `match` was given as many or more.
    """
    counting = {area: matches.limited(max_detections) for area, matches in by_area.items()}
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
