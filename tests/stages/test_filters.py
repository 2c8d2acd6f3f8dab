"""Which masks are dropped, and for which reason."""

import numpy as np
import pytest

from stages.filters import DropReason, FilterConfig, judge, mask_iou


def square(side: int, at: int = 0) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    mask[at : at + side, at : at + side] = True
    return mask


def test_iou() -> None:
    assert mask_iou(square(4), square(4)) == 1.0
    assert mask_iou(square(4), square(4, 10)) == 0.0
    assert mask_iou(square(4), square(4, 2)) == pytest.approx(4 / 28)
    assert mask_iou(square(0), square(0)) == 0.0


def test_area_of_exactly_one_percent_is_too_small() -> None:
    config = FilterConfig(first_exempt=False)
    assert judge(square(2), None, config) is DropReason.TOO_SMALL
    assert judge(square(3), None, config) is None
    assert judge(square(0), None, config) is DropReason.TOO_SMALL


def test_the_first_round_may_be_exempt() -> None:
    assert judge(square(1), None, FilterConfig()) is None
    assert judge(square(1), square(0), FilterConfig()) is DropReason.TOO_SMALL


def test_overlap_with_the_previous_mask() -> None:
    assert judge(square(10), square(10), FilterConfig()) is DropReason.OVERLAPS_PREVIOUS
    assert judge(square(10), square(10, 8), FilterConfig()) is None
    # exactly at the limit is kept: 50 patches of 100
    half = square(10)
    half[:, 5:] = False
    assert judge(half, square(10), FilterConfig(max_iou=0.5)) is None
    assert judge(half, square(10), FilterConfig(max_iou=0.49)) is DropReason.OVERLAPS_PREVIOUS


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"filters\.min_area"):
        FilterConfig(min_area=1.0)
    with pytest.raises(ValueError, match=r"filters\.max_iou"):
        FilterConfig(max_iou=-0.1)
