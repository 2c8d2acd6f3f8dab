"""What a semantic truth is to the evaluation, whatever its files.

H, W pixels
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.errors import ImageError
from pipeline.evaluation.beside_truth import Truth
from pipeline.images.manifest import ImageRef


class MapError(ImageError):
    """The truth of one image cannot be used; the image is not scored."""


class TrueLabels(NamedTuple):
    """labels: uint8 (H, W), a class or `class_maps.IGNORED`.
    strange: pixels by value that the truth's numbering does not know, -1 for a colour; these are ignored.
    """

    labels: np.ndarray
    strange: Mapping[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        return self.labels.shape[0], self.labels.shape[1]


class SemanticTruth(Truth, Protocol):
    """Classes of the pixels of images.

    benchmark: as papers call data and classes, "Cityscapes-27"; "" for data of one's own.
    classes: their names.
    open_ended: whether there may be fewer: those up to the largest that occurs.
    numbering: how the files number them, where there are several ways; else "".
    """

    benchmark: str
    classes: tuple[str, ...]
    open_ended: bool
    numbering: str

    def labels(self, number: int, ref: ImageRef, size: tuple[int, int]) -> TrueLabels:
        """Of one of its images.

        ref, size: the photo, and its height and width, for truths that are larger than their photos, or lie on their
        side.

        Raises MapError, whose detail names the file. Called by several threads at a time.
        """
