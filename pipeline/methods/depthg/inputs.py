"""What semantic training reads: the features and the depth of every crop of a finished run of inputs.

N crops · B of a batch · D feature width · h, w patch grid of a crop
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np


class TrainingInputs:
    """Crops 0..N-1 of a finished run of the recipe `semantic_inputs`, read memory-mapped: what is in memory does not
    grow with their number.

    The crops of one photo follow each other, photos are in the manifest's order, those that a retry has processed last;
    photos that are set aside are left out.

    photos: that have crops.
    left_out: photos that are set aside.
    crops_per_photo: 5 or 1.
    shape: (D, h, w) of the features of a crop.
    has_depth: whether there is a depth beside the features.
    config: of the run, with its "recipe", "features" and "depth" (None without), JSON-able.
    digest: of features, crops, size, depth, and of all that is kept: equal only where all values are.
    warnings: what training should record, a sentence each: photos left out, flat depth.
    """

    photos: int
    left_out: int
    crops_per_photo: int
    shape: tuple[int, int, int]
    has_depth: bool
    config: Mapping[str, Any]
    digest: str
    warnings: tuple[str, ...]

    @classmethod
    def open(cls, url: str | Path) -> Self:
        """The inputs of a run folder on this machine.

        Raises ConfigError when it holds something else, is no local folder, or all photos are set aside; StoreError
        when it is not finished, or damaged.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        """N."""
        raise NotImplementedError

    def features(self, crops: Sequence[int] | np.ndarray) -> np.ndarray:
        """Features of these crops, in their order: float16 (B, D, h, w), neither normalised nor centred."""
        raise NotImplementedError

    def depth(self, crops: Sequence[int] | np.ndarray) -> np.ndarray:
        """Depth of these crops: float32 (B, h, w), 0..1 over the whole *photo*, larger = farther. ConfigError where
        there is none.
        """
        raise NotImplementedError

    def names(self, crops: Sequence[int] | np.ndarray) -> list[tuple[str, int]]:
        """Of each of these crops the id of its photo, and which of its crops it is, 0..4."""
        raise NotImplementedError

    @property
    def neighbours(self) -> np.ndarray:
        """The crops most like each crop: int32 (N, K), memory-mapped, K = 30 or N if there are fewer; the crop itself
        comes first, then falling cosines. Computed when first asked for, and kept in the run's folder.
        """
        raise NotImplementedError
