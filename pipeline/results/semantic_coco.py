"""Semantic labels as annotations of a COCO-Stuff file: one segment for each class of an image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.results.semantic import Classes, SemanticRecord


def categories_of(classes: Classes) -> list[dict[str, Any]]:
    """The categories: label c is category c + 1, as in COCO-Stuff, whose maps hold ids less one and 255 for none."""
    return [
        {"id": c, "name": one["name"], "supercategory": one["name"], "color": one["colour"]}
        for c, one in enumerate(classes.to_json(), start=1)
    ]


def annotations_of(record: SemanticRecord, image_id: int) -> Iterator[dict[str, Any]]:
    """The annotations of an image, JSON-able, without their ids, in the order of the classes. Beside COCO's fields each
    has mean_confidence, 0..1 over its pixels.
    """
    labels, confidence = record.labels, record.confidence
    for c, pixels in enumerate(record.pixels):
        if not pixels:
            continue
        mask = labels == c
        code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        yield {
            "image_id": image_id,
            "category_id": c + 1,
            "iscrowd": 0,
            "area": pixels,
            "bbox": coco_mask.toBbox(code).tolist(),
            "segmentation": {"size": list(record.size), "counts": code["counts"].decode("ascii")},
            "mean_confidence": round(float(confidence[mask].mean()), 6),
        }
