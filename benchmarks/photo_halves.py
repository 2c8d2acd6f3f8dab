"""The halves of the photos with instance masks: one to choose constants on, one to report on, and never both on one.

Photos that the truth knows, in the order of their names: even ranks are for choosing, odd ones for reporting.
"""

from pathlib import Path
from typing import Any, Literal

from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import ImageRef
from pipeline.images.sources import list_images
from pipeline.results.instances import ImageRecord

HALVES = ("choosing", "reporting")


def half_of(photos: str, truth: Truth, half: Literal["choosing", "reporting"]) -> tuple[list[ImageRef], list[int]]:
    """The photos of a half, and their ids in the truth."""
    ids = {Path(image["file_name"]).name: image["id"] for image in truth.images.values()}
    refs = [ref for ref in list_images(photos).refs if Path(ref.id).name in ids][HALVES.index(half) :: 2]
    return refs, [ids[Path(ref.id).name] for ref in refs]


def coco_results(record: ImageRecord, coco_id: int) -> list[dict[str, Any]]:
    """The masks of an image as COCO results."""
    return [
        {
            "image_id": coco_id,
            "category_id": 1,
            "segmentation": {"size": list(record.size), "counts": instance.rle},
            "score": instance.score,
        }
        for instance in record.instances
    ]
