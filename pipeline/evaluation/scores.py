"""Scores of pseudo-masks against true objects, with bootstrap confidence intervals over images.

I images · B resamples
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.average_precision import (
    LVIS_DETECTIONS,
    MAX_DETECTIONS,
    MOST_DETECTIONS,
    coco_values,
    recall_limits,
)
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.matching import match
from pipeline.evaluation.measures import mask_measures
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.coco_masks import UnusableMaskError, checked_rle
from pipeline.images.many_objects import without_gc

SCORES = ("own", "constant")
IOU_TYPES = ("segm", "bbox")
LIMITS = (MAX_DETECTIONS, LVIS_DETECTIONS)

# Of weights of the images, float (I, B), each metric by its name, (B,).
Values = Callable[[np.ndarray], dict[str, np.ndarray]]

_SIZES = {"small": "objects under 32² pixels", "medium": "32² to 96²", "large": "over 96²"}


@dataclass(frozen=True)
class Metric:
    """name: in files and from Python.
    about: one line.
    share: a fraction of 1, shown in %.
    better: "higher" or "lower"; "" where neither is.
    """

    name: str
    about: str
    share: bool = True
    better: str = "higher"


def _coco_metrics(kind: str, max_detections: int) -> list[Metric]:
    return [
        Metric(f"{kind}_AP", "average precision, IoU 0.50 to 0.95"),
        Metric(f"{kind}_AP50", "at IoU 0.50"),
        Metric(f"{kind}_AP75", "at IoU 0.75"),
        *(Metric(f"{kind}_AP_{size}", about) for size, about in _SIZES.items()),
        *(Metric(f"{kind}_AR{n}", f"average recall, best {n} per image") for n in recall_limits(max_detections)),
        *(Metric(f"{kind}_AR_{size}", about) for size, about in _SIZES.items()),
        Metric(f"{kind}_recall50", "recall at IoU 0.50"),
        *(Metric(f"{kind}_recall50_{size}", about) for size, about in _SIZES.items()),
    ]


def metrics_at(max_detections: int = MAX_DETECTIONS) -> tuple[Metric, ...]:
    """All that is measured when so many detections of an image count, in the order in which it is shown."""
    return (
        *_coco_metrics("mask", max_detections),
        *_coco_metrics("box", max_detections),
        Metric("object_best_iou", "best IoU of a mask with each object, mean"),
        Metric("objects_found", "objects with a mask at IoU ≥ 0.5"),
        Metric("mask_best_iou", "best IoU of an object with each mask, mean"),
        Metric("mask_precision", "masks with an object at IoU ≥ 0.5"),
        Metric("pairs_merged", "touching pairs of one class: one mask has over half of both", better="lower"),
        Metric("pairs_not_merged", "touching pairs: no mask has over half of both"),
        Metric("pairs_apart", "touching pairs: not merged, and masks have over half of each"),
        Metric("pairs_separated", "touching pairs: different masks at IoU ≥ 0.5"),
        Metric("over_segmentation", "masks mostly inside an object, mean over objects with any", False, "lower"),
        Metric("masks_per_image", "masks per image", False, ""),
    )


METRICS = metrics_at()


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval; nan where nothing defines it, low and high nan without resamples."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Evaluation:
    """Estimates by the name of their metric, in the order of `metrics_at`."""

    metrics: dict[str, Estimate]
    n_images: int
    scores: str
    bootstrap: int
    seed: int
    max_detections: int = MAX_DETECTIONS


@dataclass(frozen=True)
class Paired:
    """A set of detections scored on the images and resamples of a first one.

    difference, ratio: from the first set, this one minus it and this one over it, resample by resample.
    """

    evaluation: Evaluation
    difference: dict[str, Estimate]
    ratio: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """Two sets of detections on the same images: each one, and first minus second and first over second, both taken
    resample by resample."""

    first: Evaluation
    second: Evaluation
    difference: dict[str, Estimate]
    ratio: dict[str, Estimate]


def score_detections(
    truth: Truth,
    detections: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    *,
    scores: str = "own",
    iou_types: Sequence[str] = ("segm",),
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, float]:
    """The values alone, for scoring hundreds of variants; arguments and names as for `evaluate`."""
    measures = _measures(truth, detections, image_ids, scores, iou_types, max_detections)
    values = measures(np.ones((len(set(image_ids)), 1)))
    return {name: float(value[0]) for name, value in values.items()}


def evaluate(
    truth: Truth,
    detections: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    *,
    scores: str = "own",
    iou_types: Sequence[str] = ("segm", "bbox"),
    max_detections: int = MAX_DETECTIONS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Score detections against the true objects of these images, all categories counted as one.

    detections: as COCO results: image_id, score, segmentation (run-length codes of the image's size) and, unless it is
        that of the mask, bbox; those of other images are left out. For boxes alone a bbox will do.
    scores: "own", or "constant" to leave the detections of an image in the order given, all with one score.
    iou_types: "segm" for the metrics of masks, "bbox" for average precision and recall of boxes; a truth that has no
        masks takes "bbox" alone.
    max_detections: of an image, by score, that count: 100, or LVIS' 300; for AR1000, up to 1000.

    Raises:
        ConfigError: a setting is out of range.
        SourceError: image_ids is empty or names images that the truth has not, or a mask is none, or not of its image's
            size, or a box or score is not finite.
    """
    measures = _measures(truth, detections, image_ids, scores, iou_types, max_detections)
    values, samples = _resampled([measures], len(set(image_ids)), bootstrap, seed)
    return Evaluation(_estimates(values[0], samples[0]), len(set(image_ids)), scores, bootstrap, seed, max_detections)


def compare(
    truth: Truth,
    detections: Iterable[Mapping[str, Any]],
    others: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    *,
    scores: str = "own",
    iou_types: Sequence[str] = ("segm", "bbox"),
    max_detections: int = MAX_DETECTIONS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Score two sets of detections on the same images and resamples; arguments and errors as for `evaluate`."""
    settings: dict[str, Any] = {"scores": scores, "iou_types": iou_types, "max_detections": max_detections}
    sets = (others, detections)
    second, first = evaluate_paired(truth, sets, image_ids, bootstrap=bootstrap, seed=seed, **settings)
    return Comparison(first.evaluation, second.evaluation, first.difference, first.ratio)


def evaluate_paired(
    truth: Truth,
    sets: Iterable[Iterable[Mapping[str, Any]]],
    image_ids: Sequence[int],
    *,
    scores: str = "own",
    iou_types: Sequence[str] = ("segm", "bbox"),
    max_detections: int = MAX_DETECTIONS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Paired]:
    """Score several sets of detections on the same images and resamples, each also against the first; arguments and
    errors as for `evaluate`.
    """
    measures = [_measures(truth, found, image_ids, scores, iou_types, max_detections) for found in sets]
    n_images = len(set(image_ids))
    values, samples = _resampled(measures, n_images, bootstrap, seed)
    paired = []
    for value, sample in zip(values, samples, strict=True):
        evaluation = Evaluation(_estimates(value, sample), n_images, scores, bootstrap, seed, max_detections)
        with np.errstate(divide="ignore", invalid="ignore"):
            difference, ratio = (
                _estimates(
                    {name: operation(value[name], values[0][name]) for name in value},
                    {name: operation(sample[name], samples[0][name]) for name in sample},
                )
                for operation in (np.subtract, np.divide)
            )
        paired.append(Paired(evaluation, difference, ratio))
    return paired


@without_gc()
def _measures(
    truth: Truth,
    detections: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    scores: str,
    iou_types: Sequence[str],
    max_detections: int,
) -> Values:
    """All metrics as a function of the weights (I, B) of the images, which are sorted by id, as in pycocotools."""
    if scores not in SCORES:
        raise ConfigError(f"scores is {scores!r}: it must be one of {', '.join(SCORES)}")
    if not iou_types or not set(iou_types) <= set(IOU_TYPES):
        raise ConfigError(f"iou_types is {tuple(iou_types)}: it must name one or more of {', '.join(IOU_TYPES)}")
    if max_detections not in LIMITS:
        raise ConfigError(f"max_detections is {max_detections}: it must be {' or '.join(map(str, LIMITS))}")
    if "segm" in iou_types and not truth.has_masks:
        raise ConfigError(f'{truth.name} has boxes and no masks: score boxes alone, iou_types=("bbox",)')
    ids = sorted(set(image_ids))
    unknown = [image_id for image_id in ids if image_id not in truth.images]
    if unknown or not ids:
        raise SourceError(f"{truth.name} has no image {unknown[0]}" if unknown else "there are no images to score")
    by_image: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in ids}
    for detection in detections:
        if detection["image_id"] in by_image:
            by_image[detection["image_id"]].append(detection)
    objects = [truth.objects(image_id) for image_id in ids]
    ranked = [_ranked(by_image[image_id], scores)[:MOST_DETECTIONS] for image_id in ids]

    parts: dict[str, Values] = {}
    if "segm" in iou_types:
        found = [_masks(truth, image_id, image, scores) for image_id, image in zip(ids, ranked, strict=True)]
        parts["mask_"] = coco_values(match(objects, found, "segm"), max_detections)
        counting = [[d["segmentation"] for d in image[:max_detections]] for image in found]
        of_masks = mask_measures(truth, ids, counting)
        parts[""] = lambda weights_IB: {name: ratio(weights_IB) for name, ratio in of_masks.items()}
    if "bbox" in iou_types:
        boxes = [_boxes(truth, image_id, image, scores) for image_id, image in zip(ids, ranked, strict=True)]
        parts["box_"] = coco_values(match(objects, boxes, "bbox"), max_detections)

    def values(weights_IB: np.ndarray) -> dict[str, np.ndarray]:
        by_name = {prefix + name: value for prefix, part in parts.items() for name, value in part(weights_IB).items()}
        return {metric.name: by_name[metric.name] for metric in metrics_at(max_detections) if metric.name in by_name}

    return values


def _ranked(detections: list[Mapping[str, Any]], scores: str) -> list[Mapping[str, Any]]:
    return detections if scores == "constant" else sorted(detections, key=lambda d: -d["score"])


def _masks(truth: Truth, image_id: int, ranked: list[Mapping[str, Any]], scores: str) -> list[dict[str, Any]]:
    """The masks found in an image, best first, with the fields that pycocotools' matching needs."""
    rles = [_rle(d, truth, image_id) for d in ranked]
    areas = coco_mask.area(rles) if rles else ()
    if any(area == 0 for area in areas):
        raise SourceError(f"a mask of image {image_id} is empty: leave it out")
    return [
        {"id": number, "score": _score(detection, scores), "segmentation": rle, "area": float(area)}
        for number, (detection, rle, area) in enumerate(zip(ranked, rles, areas, strict=True), start=1)
    ]


def _boxes(truth: Truth, image_id: int, ranked: list[Mapping[str, Any]], scores: str) -> list[dict[str, Any]]:
    """The same of boxes: those given, else those of the masks."""
    boxes = [list(d.get("bbox") or coco_mask.toBbox(_rle(d, truth, image_id)).tolist()) for d in ranked]
    if odd := [box for box in boxes if len(box) != 4 or not all(map(math.isfinite, box))]:
        raise SourceError(f"a box of image {image_id} cannot be scored: {odd[0]} must be x, y, width, height")
    return [
        {"id": number, "score": _score(detection, scores), "bbox": box, "area": box[2] * box[3]}
        for number, (detection, box) in enumerate(zip(ranked, boxes, strict=True), start=1)
    ]


def _rle(detection: Mapping[str, Any], truth: Truth, image_id: int) -> dict[str, Any]:
    """The mask of a detection as pycocotools can be given it. Bytes are its own work, or our store's; text is from
    files, and checked.
    """
    size, rle = truth.size(image_id), detection.get("segmentation")
    if isinstance(rle, dict) and isinstance(rle.get("counts"), bytes) and tuple(rle["size"]) == size:
        return rle
    try:
        return checked_rle(rle, size)
    except UnusableMaskError as error:
        if error.reason == "other_size":
            what = f"is not of the size that {truth.name} gives, {size[0]} × {size[1]}"
        else:
            what = f"cannot be scored: {error}"
        raise SourceError(f"a mask of image {image_id} {what}") from error


def _score(detection: Mapping[str, Any], scores: str) -> float:
    score = 1.0 if scores == "constant" else float(detection["score"])
    if not math.isfinite(score):
        raise SourceError(f"a detection of image {detection['image_id']} has the score {score}: it must be a number")
    return score


def _resampled(
    measures: Sequence[Values], n_images: int, bootstrap: int, seed: int
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Of each of the measures: the values of the images as they are, each (1,), and of the resamples, each (B,)."""
    if bootstrap < 0 or seed < 0:
        raise ConfigError(f"bootstrap is {bootstrap} and seed is {seed}: both must be at least 0")
    values = [measure(np.ones((n_images, 1))) for measure in measures]
    chunks = [[measure(weights_IB) for measure in measures] for weights_IB in resamples(n_images, bootstrap, seed)]
    samples = [
        {name: np.concatenate([np.empty(0), *(chunk[i][name] for chunk in chunks)]) for name in value}
        for i, value in enumerate(values)
    ]
    return values, samples


def _estimates(values: dict[str, np.ndarray], samples: dict[str, np.ndarray]) -> dict[str, Estimate]:
    return {name: Estimate(float(value[0]), *interval(samples[name])) for name, value in values.items()}
