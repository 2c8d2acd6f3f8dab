"""What a run of training inputs holds of one photo: the features, and the depth, of each of its crops.

K crops of the photo · D feature width · h, w patch grid of a crop
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.results.kinds import Counts, Failed, basic_counts, same_fields

OK = "ok"


@dataclass(frozen=True, eq=False)
class CropFeatures:
    """The crops of a photo.

    size: height, width of the photo after EXIF rotation.
    features: float16 (K, D, h, w), finite.
    depth: float32 (K, h, w), 0..1 over the whole photo, larger = farther; None where none was asked for.
    depth_filled: share of the photo's depth map, 0..1, that was not measured and is filled from its surroundings.
    """

    id: str
    size: tuple[int, int]
    features: np.ndarray
    depth: np.ndarray | None = None
    depth_filled: float = 0.0

    status = OK

    def __post_init__(self) -> None:
        if self.features.dtype != np.float16 or self.features.ndim != 4:
            raise ValueError(f"{self.id}: features must be float16 (K, D, h, w), not {_said(self.features)}")
        if not np.isfinite(self.features).all():
            raise ValueError(f"{self.id}: features must be finite")
        if self.depth is None:
            return
        crops, _, *grid = self.features.shape
        if self.depth.dtype != np.float32 or self.depth.shape != (crops, *grid):
            raise ValueError(f"{self.id}: depth must be float32 {(crops, *grid)}, not {_said(self.depth)}")
        if not np.isfinite(self.depth).all():
            raise ValueError(f"{self.id}: depth must be finite")

    @property
    def has_flat_depth(self) -> bool:
        """Whether depth is there and the same everywhere, so that nothing can be told apart by it."""
        return self.depth is not None and bool((self.depth == self.depth.flat[0]).all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CropFeatures) and same_fields(self, other)


def counts_of(results: Iterable[CropFeatures | Failed]) -> Counts:
    """Counts for a commit record: images, quarantined, crops; where there are any, depth_filled and depth_flat, photos
    whose depth was filled in places or is the same everywhere.
    """
    results = list(results)
    done = [result for result in results if isinstance(result, CropFeatures)]
    about_depth = {
        "depth_filled": sum(result.depth_filled > 0 for result in done),
        "depth_flat": sum(result.has_flat_depth for result in done),
    }
    return {
        **basic_counts(results),
        "crops": sum(len(result.features) for result in done),
        **{name: count for name, count in about_depth.items() if count},
    }


def _said(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
