"""Which detection finds which object, by pycocotools' rules (`COCOeval.evaluateImg`), for all images at once.

IoUs are pycocotools' own. Its matching is a loop in Python over images, ranges of areas, thresholds, detections and
objects, and takes nearly all the time of a large truth. But a detection can find such objects alone as have the lowest
threshold's IoU with it, mostly one or none. These pairs are looked at here: those of the best detection of each image
that has any, then those of the second one, and so on, for all images, ranges and thresholds together.

I images · A ranges of areas · T IoU thresholds · D detections · G objects · Q pairs · F detections that have any
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import Params

IOU_THRESHOLDS: np.ndarray = Params("segm").iouThrs
AREAS: dict[str, Sequence[float]] = dict(zip(Params("segm").areaRngLbl, Params("segm").areaRng, strict=True))

# What a detection is.
WRONG, RIGHT, IGNORED = 0, 1, 2

Entries = list[dict[str, Any]]

_LEAST_A, _MOST_A = np.array(list(AREAS.values()), float).T


class Found(NamedTuple):
    """Detections of all images, those of an image together, best first. number_I: of each image. area_D: pixels²."""

    number_I: np.ndarray
    score_D: np.ndarray
    area_D: np.ndarray


class Objects(NamedTuple):
    """Objects of all images, those of an image together.

    number_I: of each image. area_G: pixels².
    crowd_G: bool, of which many detections may find the same. ignored_G: bool, that none has to find.
    """

    number_I: np.ndarray
    area_G: np.ndarray
    crowd_G: np.ndarray
    ignored_G: np.ndarray


@dataclass(frozen=True)
class Matches:
    """What each detection is, for one range of areas.

    image_D: int32, place of its image. rank_D: int32, place in its image, from 0. score_D: float.
    verdict_TD: uint8, WRONG, RIGHT or IGNORED.
    objects_I: float, objects of each image that are not ignored.
    """

    image_D: np.ndarray
    rank_D: np.ndarray
    score_D: np.ndarray
    verdict_TD: np.ndarray
    objects_I: np.ndarray

    def limited(self, limit: int) -> "Matches":
        """The same of the best `limit` detections of each image: a better one never loses its object to a worse one."""
        kept_D = self.rank_D < limit
        if kept_D.all():
            return self
        columns = {name: getattr(self, name)[kept_D] for name in ("image_D", "rank_D", "score_D")}
        return replace(self, **columns, verdict_TD=self.verdict_TD[:, kept_D])


def match(objects: Sequence[Entries], detections: Sequence[Entries], iou_type: str) -> dict[str, Matches]:
    """Matches for each range of areas.

    objects, detections: of each image, with the fields that pycocotools gives them (`Truth.objects`); detections best
        first.
    iou_type: "segm" or "bbox".
    """
    true, found = ([one for image in images for one in image] for images in (objects, detections))
    of_found = Found(_lengths(detections), _column(found, "score"), _column(found, "area"))
    crowd_G, ignored_G = (_column(true, field).astype(bool) for field in ("iscrowd", "ignore"))
    of_true = Objects(_lengths(objects), _column(true, "area"), crowd_G, ignored_G)
    shapes: list[Any]
    if iou_type == "segm":
        shapes = [[one["segmentation"] for one in entries] for entries in (found, true)]
    else:
        shapes = [np.array([one["bbox"] for one in entries], float).reshape(-1, 4) for entries in (found, true)]
    return match_overlaps(of_found, of_true, _ious(of_found, of_true, *shapes))


def match_overlaps(found: Found, true: Objects, ious: Iterable[np.ndarray]) -> dict[str, Matches]:
    """Matches for each range of areas. ious: of each image, (detections, objects); with a crowd, the share of the
    detection that lies in it.
    """
    counts_GA = ~(true.ignored_G[:, None] | _outside(true.area_G))
    verdict_ATD = np.repeat(_outside(found.area_D).T[:, None] * np.uint8(IGNORED), len(IOU_THRESHOLDS), axis=1)
    _find(_pairs(found, true, ious), counts_GA, true.crowd_G, verdict_ATD)
    n_images = len(found.number_I)
    image_D = np.repeat(np.arange(n_images, dtype=np.int32), found.number_I)
    image_G = np.repeat(np.arange(n_images), true.number_I)
    rank_D = np.arange(len(image_D), dtype=np.int32) - _starts(found.number_I).astype(np.int32)[image_D]
    return {
        area: Matches(
            *(image_D, rank_D, found.score_D, verdict_ATD[a]),
            np.bincount(image_G, weights=counts_GA[:, a], minlength=n_images),
        )
        for a, area in enumerate(AREAS)
    }


class _Pairs(NamedTuple):
    """A detection and an object whose IoU reaches the lowest threshold. Sorted: by `turn_Q`, of a detection the better
    after the worse, of equal ones the later after the earlier.

    turn_Q: place of the detection among those of its image that have any.
    """

    turn_Q: np.ndarray
    detection_Q: np.ndarray
    object_Q: np.ndarray
    iou_Q: np.ndarray


def _pairs(found: Found, true: Objects, ious: Iterable[np.ndarray]) -> _Pairs:
    first_D, first_G = _starts(found.number_I), _starts(true.number_I)
    flat, values, per_image = [np.empty(0, int)], [np.empty(0)], np.zeros(len(found.number_I), int)
    for i, iou_DG in enumerate(ious):
        iou = iou_DG.ravel()
        near = np.flatnonzero(iou >= IOU_THRESHOLDS[0])
        if len(near):
            flat.append(near)
            values.append(iou[near])
            per_image[i] = len(near)
    image_Q = np.repeat(np.arange(len(per_image)), per_image)
    row_Q, column_Q = np.divmod(np.concatenate(flat), true.number_I[image_Q])
    iou_Q, object_Q = np.concatenate(values), first_G[image_Q] + column_Q
    detection_Q = first_D[image_Q] + row_Q
    # As they came, pairs are sorted by image, detection and object.
    nth_Q = np.cumsum(np.diff(detection_Q, prepend=-1) > 0)
    turn_Q: np.ndarray = nth_Q - nth_Q[np.searchsorted(image_Q, image_Q)]
    order = np.lexsort((iou_Q, detection_Q, turn_Q))
    return _Pairs(turn_Q[order], detection_Q[order], object_Q[order], iou_Q[order])


def _find(pairs: _Pairs, counts_GA: np.ndarray, crowd_G: np.ndarray, verdict_ATD: np.ndarray) -> None:
    """Give each detection in turn the best object that is free, one that counts before one that is ignored."""
    taken_GAT = np.zeros((*counts_GA.shape, len(IOU_THRESHOLDS)), bool)
    for turn in _runs(pairs.turn_Q):
        object_Q, detection_Q = pairs.object_Q[turn], pairs.detection_Q[turn]
        first_F = np.flatnonzero(np.diff(detection_Q, prepend=-1))
        near_QT = pairs.iou_Q[turn, None] >= IOU_THRESHOLDS
        free_QAT = ~taken_GAT[object_Q] | crowd_G[object_Q, None, None]
        # The last of a detection's pairs is its best. Those that count are lifted above all others.
        lift = len(object_Q) + 1
        value_QA = np.arange(1, lift, dtype=np.int32)[:, None] + np.int32(lift) * counts_GA[object_Q]
        value_QAT = value_QA[:, :, None] * (near_QT[:, None] & free_QAT)
        best_FAT = np.maximum.reduceat(value_QAT, first_F)
        f, a, t = np.nonzero(best_FAT)
        best = best_FAT[f, a, t]
        verdict_ATD[a, t, detection_Q[first_F][f]] = np.where(best > lift, RIGHT, IGNORED)
        taken_GAT[object_Q[best % lift - 1], a, t] = True


def _ious(found: Found, true: Objects, shapes_D: Any, shapes_G: Any) -> Iterator[np.ndarray]:
    """Of each image. shapes_D, shapes_G: of all images, run-length codes, or boxes as an array."""
    for detections, objects in zip(_stretches(found.number_I), _stretches(true.number_I), strict=True):
        own, others = shapes_D[detections], shapes_G[objects]
        if len(own) and len(others):
            yield coco_mask.iou(own, others, true.crowd_G[objects])
        else:
            yield np.empty((len(own), len(others)))


def _stretches(number_I: np.ndarray) -> Iterator[slice]:
    """Where those of each image are."""
    ends = np.cumsum(number_I).tolist()
    return map(slice, [0, *ends], ends)


def _outside(area: np.ndarray) -> np.ndarray:
    """Bool (…, A), whether an area is out of each range."""
    return (area[:, None] < _LEAST_A) | (area[:, None] > _MOST_A)


def _runs(sorted_: np.ndarray) -> Iterator[slice]:
    """Stretches of equal values."""
    ends = [*np.flatnonzero(np.diff(sorted_)) + 1, len(sorted_)]
    return (slice(start, end) for start, end in zip([0, *ends], ends, strict=False) if end > start)


def _starts(number_I: np.ndarray) -> np.ndarray:
    """Of each image, how many come before it."""
    return np.cumsum(number_I) - number_I


def _lengths(images: Sequence[Entries]) -> np.ndarray:
    return np.fromiter(map(len, images), int, len(images))


def _column(entries: Entries, field: str) -> np.ndarray:
    return np.fromiter((one[field] for one in entries), float, len(entries))
