"""Labels and truth of one image brought to one size, nearest pixel by nearest pixel.

H, W pixels
"""

import numpy as np

Size = tuple[int, int]


def is_same_shape(size: Size, other: Size) -> bool:
    """Whether one image can be the other made smaller or larger: sides have one ratio, but for a pixel that rounding
    may have taken or given.
    """
    scale = (other[0] * other[1] / (size[0] * size[1])) ** 0.5
    off = max(1.0, scale)
    low = max((b - off) / a for a, b in zip(size, other, strict=True))
    high = min((b + off) / a for a, b in zip(size, other, strict=True))
    return low <= high


def resized(labels_HW: np.ndarray, size: Size) -> np.ndarray:
    """Each pixel of the new size has the label of the pixel in which its middle lies."""
    if labels_HW.shape == size:
        return labels_HW
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(labels_HW.shape, size, strict=True)
    )
    return labels_HW[rows[:, None], columns]


def cropped(labels_HW: np.ndarray, side: int, of: Size) -> np.ndarray:
    """As papers score: the short side made `side` pixels, and the middle square of it. of: size of the truth, whose
    sides decide what the long one becomes.
    """
    short = min(of)
    size = side * of[0] // short, side * of[1] // short
    top, left = ((length - side) // 2 for length in size)
    return resized(labels_HW, size)[top : top + side, left : left + side]


def of_one_size(labels_HW: np.ndarray, truth_HW: np.ndarray, crop: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and truth, pixel beside pixel: at the truth's size, or `cropped` to squares of this side."""
    size = truth_HW.shape[0], truth_HW.shape[1]
    if crop is None:
        return resized(labels_HW, size), truth_HW
    return cropped(labels_HW, crop, size), cropped(truth_HW, crop, size)
