"""What a run knows about one image: its instances, why proposals were dropped, or why it could not be used.

Dimension letters: M masks, Gh, Gw patch grid.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np

from stages.score import ScoreParts

OK, NO_MASKS, QUARANTINED = "ok", "no_masks", "quarantined"
STATUSES = (OK, NO_MASKS, QUARANTINED)


def _same_fields(first: object, second: object) -> bool:
    """Field by field, arrays as a whole (dataclass equality fails there: an array has no single truth value)."""
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b
        for a, b in ((getattr(first, f.name), getattr(second, f.name)) for f in fields(first))  # type: ignore[arg-type]
    )


@dataclass(frozen=True, eq=False)
class Instance:
    """One pseudo-mask of an image, as the store keeps it.

    rle: COCO compressed run-length counts at the image's original size.
    box: x, y, width, height in pixels of the original image.
    area: pixels of the mask. score: finite, larger is better.
    confidence: uint8 (Gh, Gw), spatial confidence on the patch grid, 255 = 1.0.
    round: 0-based NCut round that found it; its place by score where a tree of cuts was searched.
    parts: what the score is made of, all of them, whichever the recipe multiplies; see `stages.score`.
    crf_iou: IoU of the mask before and after the CRF, 0..1; 1 without CRF.
    """

    rle: bytes
    box: tuple[float, float, float, float]
    area: int
    score: float
    confidence: np.ndarray
    round: int
    parts: ScoreParts = ScoreParts()
    crf_iou: float = 1.0

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and _same_fields(self, other)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """Everything that a run keeps of one image.

    size: height, width of the original image after EXIF rotation; (0, 0) when it could not be read.
    status: "ok" (has instances), "no_masks" (processed, nothing kept) or "quarantined" (not processed; see reason).
    drops: rejected proposals counted by reason.
    depth: float16 (Gh, Gw), relative depth 0..1, larger = farther; None when there is none.
    reason, detail: of the quarantine: a short machine-readable word, and the sentence for people.
    """

    id: str
    size: tuple[int, int]
    status: str
    instances: tuple[Instance, ...]
    drops: dict[str, int]
    depth: np.ndarray | None
    reason: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("ImageRecord.id must not be empty")
        if self.status not in STATUSES:
            raise ValueError(f"{self.id}: ImageRecord.status must be one of {', '.join(STATUSES)}, not {self.status!r}")
        if (self.status == OK) != bool(self.instances):
            raise ValueError(f"{self.id}: status {self.status!r} does not go with {len(self.instances)} instances")
        if (self.status == QUARANTINED) != bool(self.reason):
            raise ValueError(f"{self.id}: status {self.status!r} does not go with quarantine reason {self.reason!r}")
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageRecord) and _same_fields(self, other)


@dataclass(frozen=True)
class QuarantineRecord:
    """An image that could not be processed; `shard` is the key of the shard that says so."""

    id: str
    reason: str
    detail: str
    shard: str


def quarantine_of(records: Iterable[ImageRecord]) -> list[dict[str, str]]:
    """The quarantined among `records`, as the commit keeps them: dicts of id, reason and detail."""
    return [{"id": r.id, "reason": r.reason, "detail": r.detail} for r in records if r.status == QUARANTINED]


def counts_of(records: Iterable[ImageRecord]) -> dict[str, object]:
    """Counts for a commit record: images, masks, drops (by reason, without zeros) and quarantined."""
    images = masks = quarantined = 0
    drops: Counter[str] = Counter()
    for record in records:
        images += 1
        masks += len(record.instances)
        quarantined += record.status == QUARANTINED
        drops.update(record.drops)
    by_reason = {reason: count for reason, count in sorted(drops.items()) if count}
    return {"images": images, "masks": masks, "drops": by_reason, "quarantined": quarantined}


def mean_confidence(confidence_MGG: np.ndarray) -> np.ndarray:
    """Mean spatial confidence of each mask over the patches where it is not zero, i.e. over the instance.

    confidence_MGG: uint8 (M, Gh, Gw), 255 = 1.0. Returns float32 (M,) in 0..1; 0 for a map of zeros.
    """
    total_M = confidence_MGG.sum(axis=(1, 2), dtype=np.int64)
    patches_M = np.count_nonzero(confidence_MGG, axis=(1, 2))
    return (total_M / (255.0 * np.maximum(patches_M, 1))).astype(np.float32)
