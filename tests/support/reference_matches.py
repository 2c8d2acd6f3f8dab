"""pycocotools' own matching and averages of objects and detections as `match` takes them, and random ones with all that
its rules tell apart: crowds, objects that are ignored, areas on the edge of a range, equal scores, equal IoUs, images
without objects or without detections, and more detections than count.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from pipeline.evaluation.matching import AREAS, IGNORED, RIGHT, WRONG

LIMITS = (1, 10, 100, 1000)
SIDE = 120  # of images, pixels

Entries = list[dict[str, Any]]


class Reference(NamedTuple):
    """By range of areas: verdict_TD as of `Matches`, objects_I that are not ignored, precision by IoU threshold and
    limit, (T, 4), and recall, (T, 4); -1 where there is no object."""

    verdict_TD: dict[str, np.ndarray]
    objects_I: dict[str, np.ndarray]
    precision: dict[str, np.ndarray]
    recall: dict[str, np.ndarray]


def reference(objects: Sequence[Entries], detections: Sequence[Entries], iou_type: str) -> Reference:
    coco = COCOeval(iouType=iou_type)
    coco.params.maxDets, coco.params.catIds, coco.params.imgIds = list(LIMITS), [1], list(range(len(objects)))
    for i, (true, found) in enumerate(zip(objects, detections, strict=True)):
        coco._gts[i, 1], coco._dts[i, 1] = true, found
        coco.ious[i, 1] = coco.computeIoU(i, 1)
    by_area = {
        area: [coco.evaluateImg(i, 1, limits, LIMITS[-1]) for i in range(len(objects))]
        for area, limits in AREAS.items()
    }
    coco.evalImgs = [entry for entries in by_area.values() for entry in entries]
    coco._paramsEval = copy.deepcopy(coco.params)
    coco.accumulate()
    precision, recall = coco.eval["precision"], coco.eval["recall"]
    return Reference(
        {area: _verdicts(entries) for area, entries in by_area.items()},
        {
            area: np.array([0 if entry is None else np.sum(entry["gtIgnore"] == 0) for entry in entries])
            for area, entries in by_area.items()
        },
        {area: precision[:, :, 0, a].mean(axis=1) for a, area in enumerate(AREAS)},
        {area: recall[:, 0, a] for a, area in enumerate(AREAS)},
    )


def _verdicts(entries: list[dict[str, Any] | None]) -> np.ndarray:
    found = [
        np.where(entry["dtIgnore"], IGNORED, np.where(entry["dtMatches"] > 0, RIGHT, WRONG))
        for entry in entries
        if entry is not None
    ]
    return np.concatenate(found, axis=1)


def random_images(seed: int, images: int = 16) -> tuple[list[Entries], list[Entries]]:
    """Objects and detections of each image, with boxes and with masks."""
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for i in range(images):
        on_grid = bool(rng.random() < 0.5)  # so that many IoUs are equal
        boxes_G4 = _boxes(rng, int(rng.integers(0, 9)), on_grid)
        number = 150 if i == 0 else int(rng.integers(0, 25))
        boxes_D4 = _boxes(rng, number, on_grid)
        if len(boxes_G4):
            near = rng.random(number) < 0.6
            boxes_D4[near] = boxes_G4[rng.integers(0, len(boxes_G4), near.sum())]
            if not on_grid:
                boxes_D4[near] += rng.normal(0, 3, (near.sum(), 4))
        boxes_D4[:, 2:] = np.maximum(boxes_D4[:, 2:], 1)
        scores = -np.sort(-rng.random(number))
        if rng.random() < 0.5:
            scores = np.round(scores, 1)
        objects.append([_entry(rng, box, n, **_flags(rng)) for n, box in enumerate(boxes_G4, start=1)])
        detections.append([_entry(rng, box, n, score=float(scores[n - 1])) for n, box in enumerate(boxes_D4, start=1)])
    return objects, detections


def _boxes(rng: np.random.Generator, number: int, on_grid: bool) -> np.ndarray:
    if on_grid:
        return np.hstack([rng.integers(0, 5, (number, 2)), rng.integers(1, 7, (number, 2))]) * 16.0
    sides = np.exp(rng.uniform(np.log(4), np.log(SIDE), (number, 2)))
    return np.hstack([rng.uniform(0, SIDE / 2, (number, 2)), sides])


def _flags(rng: np.random.Generator) -> dict[str, int]:
    """An object may be ignored and be no crowd."""
    crowd = int(rng.random() < 0.2)
    return {"iscrowd": crowd, "ignore": max(crowd, int(rng.random() < 0.1))}


def _entry(rng: np.random.Generator, box: np.ndarray, number: int, **more: Any) -> dict[str, Any]:
    """Areas of files are what they like: some are the very edge of a range."""
    area = float(rng.choice([0, 32**2, 96**2, 96**2 + 1])) if rng.random() < 0.2 else float(box[2] * box[3])
    mask = coco_mask.frPyObjects(box[None], SIDE, SIDE)[0]
    return {"id": number, "bbox": box.tolist(), "segmentation": mask, "area": area, **more}
