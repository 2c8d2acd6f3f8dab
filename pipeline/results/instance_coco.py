"""Instances as annotations of a COCO file, with one category."""

from collections.abc import Iterator
from typing import Any

from pipeline.results.instances import ImageRecord, mean_confidences

CATEGORY = {"id": 1, "name": "foreground", "supercategory": "object"}


def annotations_of(record: ImageRecord, image_id: int) -> Iterator[dict[str, Any]]:
    """The annotations of an image, JSON-able, without their ids. Beside COCO's fields each has score,
    mean_confidence (0..1, over the mask's patches) and, where the method tells them apart, level: 0 whole, 1 part, 2
    subpart.
    """
    for instance, confidence in zip(record.instances, mean_confidences(record), strict=True):
        yield {
            "image_id": image_id,
            "category_id": CATEGORY["id"],
            "iscrowd": 0,
            "area": instance.area,
            "bbox": list(instance.box),
            "segmentation": {"size": list(record.size), "counts": instance.rle.decode("ascii")},
            "score": round(instance.score, 6),
            "mean_confidence": round(float(confidence), 6),
            **({} if instance.level is None else {"level": instance.level}),
        }
