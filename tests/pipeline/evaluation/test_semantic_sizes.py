"""Labels and truths of different sizes."""

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.semantic_sizes import cropped, is_same_shape, resized


@pytest.mark.parametrize("size", [(7, 9), (14, 18), (3, 4), (40, 31)])
def test_nearest_is_that_of_pillow(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 255, (14, 18)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    assert (resized(labels, size) == expected).all()


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((1024, 2048), (320, 640), True),
        ((375, 1242), (320, 1060), True),  # 1059.84, rounded
        ((320, 1059), (375, 1242), True),  # cut off
        ((480, 640), (480, 640), True),
        ((480, 640), (640, 480), False),
        ((480, 640), (480, 600), False),
        ((1024, 2048), (1024, 1024), False),
        ((100, 100), (33, 33), True),
    ],
)
def test_what_is_one_image_made_larger_or_smaller(size: tuple[int, int], other: tuple[int, int], same: bool) -> None:
    assert is_same_shape(size, other) is same
    assert is_same_shape(other, size) is same


def test_the_middle_square_of_papers() -> None:
    """Short side 4, then the middle 4 × 4, of a map of 8 × 16: every second pixel of columns 4 to 11."""
    labels = np.arange(128, dtype=np.uint8).reshape(8, 16)
    assert (cropped(labels, 4, (8, 16)) == labels[1::2, 5:13:2]).all()
    finer = np.repeat(np.repeat(labels, 2, axis=0), 2, axis=1)
    assert (cropped(finer, 4, (8, 16)) == labels[1::2, 5:13:2]).all(), "as large as the truth says, whatever it was"
    assert cropped(labels.T, 4, (16, 8)).shape == (4, 4)
