"""What a run of instance masks knows about one image: its instances, and why proposals were dropped.

Dimension letters: M masks, Gh, Gw patch grid.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np

from pipeline.results.kinds import Counts, Failed, same_fields
from stages.score import ScoreParts

OK, NO_MASKS = "ok", "no_masks"
LEVELS = ("whole", "part", "subpart")  # what Instance.level counts


@dataclass(frozen=True, eq=False)
class Instance:
    """One pseudo-mask of an image, as the store keeps it.

    rle: COCO compressed run-length counts at the image's original size.
    box: x, y, width, height in pixels of the original image.
    area: pixels of the mask.
    score: finite, larger is better.
    confidence: uint8 (Gh, Gw), spatial confidence on the patch grid, 255 = 1.0.
    round: 0-based NCut round that found it; its place by score where a tree of cuts was searched, and of votes; that of
        its threshold where regions were merged.
    parts: what the score is made of, all of them, whichever the recipe multiplies; see `stages.score`.
    crf_iou: IoU of the mask before and after the CRF, 0..1; 1 without CRF; 0 where the method kept the one before.
    proposal: its place among the proposals of its image, kept and dropped, 0-based; None where the method has none, and
        in shards of versions that did not write it.
    level: 0 whole, 1 part, 2 subpart (a part of a part, or deeper); None where the method does not tell them apart.
    """

    rle: bytes
    box: tuple[float, float, float, float]
    area: int
    score: float
    confidence: np.ndarray
    round: int
    parts: ScoreParts = ScoreParts()
    crf_iou: float = 1.0
    proposal: int | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rle, bytes) or not self.rle:
            raise ValueError(f"Instance.rle must be non-empty bytes (compressed COCO counts), not {self.rle!r:.60}")
        if len(self.box) != 4 or not all(map(math.isfinite, self.box)) or self.box[2] <= 0 or self.box[3] <= 0:
            raise ValueError(f"Instance.box must be x, y, width > 0, height > 0, not {self.box}")
        if self.area <= 0:
            raise ValueError(f"Instance.area must be at least 1 pixel, not {self.area}")
        for name, value in {"score": self.score, "crf_iou": self.crf_iou, **asdict(self.parts)}.items():
            if not math.isfinite(value):
                raise ValueError(f"Instance.{name} must be finite, not {value}")
        if self.confidence.dtype != np.uint8 or self.confidence.ndim != 2:
            raise ValueError(
                f"Instance.confidence must be uint8 (Gh, Gw), not {self.confidence.dtype} {self.confidence.shape}"
            )
        if not 0 <= self.round <= 255:
            raise ValueError(f"Instance.round must be in 0..255, not {self.round}")
        if self.proposal is not None and self.proposal < 0:
            raise ValueError(f"Instance.proposal must be at least 0, or None, not {self.proposal}")
        if self.level is not None and not 0 <= self.level < len(LEVELS):
            raise ValueError(f"Instance.level must be 0..{len(LEVELS) - 1}, or None, not {self.level}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and same_fields(self, other)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """Everything that a run keeps of one image; of one that could not be used it keeps a `Failed`.

    size: height, width of the original image after EXIF rotation.
    status: "ok" (has instances) or "no_masks" (processed, nothing kept).
    drops: rejected proposals counted by reason.
    depth: float16 (Gh, Gw), relative depth 0..1, larger = farther; None when there is none.
    depth_filled: share of the depth map, 0..1, that was not measured and is filled from its surroundings.
    """

    id: str
    size: tuple[int, int]
    status: str
    instances: tuple[Instance, ...]
    drops: dict[str, int]
    depth: np.ndarray | None
    depth_filled: float = 0.0

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("ImageRecord.id must not be empty")
        if self.status not in (OK, NO_MASKS):
            raise ValueError(f"{self.id}: ImageRecord.status must be {OK} or {NO_MASKS}, not {self.status!r}")
        if (self.status == OK) != bool(self.instances):
            raise ValueError(f"{self.id}: status {self.status!r} does not go with {len(self.instances)} instances")
        if len(self.size) != 2 or min(self.size) < 0 or (self.instances and min(self.size) == 0):
            raise ValueError(f"{self.id}: ImageRecord.size must be (height, width) in pixels, not {self.size}")
        if any(count < 0 for count in self.drops.values()):
            raise ValueError(f"{self.id}: ImageRecord.drops must count from 0 up, not {self.drops}")
        if self.depth is not None:
            if self.depth.dtype != np.float16 or self.depth.ndim != 2:
                raise ValueError(
                    f"{self.id}: ImageRecord.depth must be float16 (Gh, Gw), not {self.depth.dtype} {self.depth.shape}"
                )
            if not np.isfinite(self.depth).all():
                raise ValueError(f"{self.id}: ImageRecord.depth must be finite")
        if not 0 <= self.depth_filled <= 1:
            raise ValueError(f"{self.id}: ImageRecord.depth_filled must be in 0..1, not {self.depth_filled}")

    @property
    def has_flat_depth(self) -> bool:
        """Whether depth is there and the same everywhere, so that nothing can be told apart by it."""
        return self.depth is not None and bool((self.depth == self.depth.flat[0]).all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageRecord) and same_fields(self, other)


def without_low_scores(record: ImageRecord, min_score: float) -> ImageRecord:
    """The record with the instances that score at least so much."""
    kept = tuple(instance for instance in record.instances if instance.score >= min_score)
    if len(kept) == len(record.instances):
        return record
    return replace(record, instances=kept, status=OK if kept else NO_MASKS)


def counts_of(records: Iterable[ImageRecord | Failed]) -> Counts:
    """Counts for a commit record: images, masks, drops (by reason, without zeros) and quarantined; where there are
    any, depth_filled and depth_flat, images whose depth was filled in places or is the same everywhere.
    """
    images = masks = failed = filled = flat = 0
    drops: Counter[str] = Counter()
    for record in records:
        images += 1
        if isinstance(record, Failed):
            failed += 1
        else:
            masks += len(record.instances)
            drops.update(record.drops)
            filled += record.depth_filled > 0
            flat += record.has_flat_depth
    by_reason = {reason: count for reason, count in sorted(drops.items()) if count}
    about_depth = {name: count for name, count in (("depth_filled", filled), ("depth_flat", flat)) if count}
    return {"images": images, "masks": masks, "drops": by_reason, "quarantined": failed, **about_depth}


def mean_confidence(confidence_MGG: np.ndarray) -> np.ndarray:
    """Mean spatial confidence of each mask over the patches where it is not zero, i.e. over the instance.

    confidence_MGG: uint8 (M, Gh, Gw), 255 = 1.0. Returns float32 (M,) in 0..1; 0 for a map of zeros.
    """
    total_M = confidence_MGG.sum(axis=(1, 2), dtype=np.int64)
    patches_M = np.count_nonzero(confidence_MGG, axis=(1, 2))
    return (total_M / (255.0 * np.maximum(patches_M, 1))).astype(np.float32)


def mean_confidences(record: ImageRecord) -> np.ndarray:
    """`mean_confidence` of an image's instances, float32 (M,)."""
    if not record.instances:
        return np.zeros(0, np.float32)
    return mean_confidence(np.stack([instance.confidence for instance in record.instances]))
