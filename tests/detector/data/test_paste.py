"""Pasting against brute force, and against what can be worked out by hand.

H, W pixels of the target · h, w of the window · M masks of the target · K pasted masks
"""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures.bbox import HorizontalBoxes

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.paste import Patch, Place, areas, bits, boxes, common_pixels, paste_pixels, paste_values

SHAPE = (19, 23)
quick = settings(max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def random_values(rng: np.random.Generator, masks: int, shape: tuple[int, int]) -> np.ndarray:
    values = rng.integers(1, 256, (masks, *shape)) * (
        rng.random((masks, *shape)) < rng.uniform(0.1, 0.9, (masks, 1, 1))
    )
    return values.astype(np.uint8)


def random_case(seed: int) -> tuple[np.ndarray, Patch]:
    """Masks of a target, and a patch that lies anywhere in it."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, SHAPE[0] + 1), rng.integers(1, SHAPE[1] + 1)
    top, left = rng.integers(0, SHAPE[0] - height + 1), rng.integers(0, SHAPE[1] - width + 1)
    pasted = random_values(rng, int(rng.integers(1, 5)), (height, width))
    return random_values(rng, int(rng.integers(0, 5)), SHAPE), Patch(int(top), int(left), pasted)


def whole(patch: Patch) -> np.ndarray:
    """The patch's values on the target: (K, H, W)."""
    values = np.zeros((len(patch.values_Khw), *SHAPE), np.uint8)
    values[(slice(None), *patch.window)] = patch.values_Khw
    return values


@quick
@given(seeds)
def test_common_pixels_are_those_of_brute_force(seed: int) -> None:
    values_MHW, patch = random_case(seed)
    rows, columns = patch.window
    common_KM = common_pixels(bits(patch.values_Khw), bits(values_MHW[:, rows, columns]))
    assert common_KM.shape == (len(patch.values_Khw), len(values_MHW))
    for common_M, mine in zip(common_KM, whole(patch), strict=True):
        assert common_M.tolist() == [((mine > 0) & (theirs > 0)).sum() for theirs in values_MHW]


@quick
@given(seeds)
def test_masks_lose_what_is_hidden_and_nothing_else(seed: int) -> None:
    values_MHW, patch = random_case(seed)
    before = values_MHW.copy()
    joined = paste_values(values_MHW, patch)
    hidden_HW = (whole(patch) > 0).any(axis=0)
    np.testing.assert_array_equal(joined[: len(values_MHW)], np.where(hidden_HW, 0, values_MHW))
    np.testing.assert_array_equal(joined[len(values_MHW) :], whole(patch))
    np.testing.assert_array_equal(values_MHW, before)


@quick
@given(seeds, st.booleans())
def test_pixels_are_the_blend_of_both_photos(seed: int, blend: bool) -> None:
    _, patch = random_case(seed)
    rng = np.random.default_rng(seed + 1)
    target = rng.integers(0, 256, (*SHAPE, 3), np.uint8)
    source = rng.integers(0, 256, (*patch.values_Khw.shape[1:], 3), np.uint8)
    pasted = target.copy()
    paste_pixels(pasted, source, patch, blend)
    surest = whole(patch).max(axis=0)[..., None].astype(float) / 255
    alpha = surest if blend else (surest > 0).astype(float)
    on_target = np.zeros(target.shape)
    on_target[patch.window] = source
    exact = alpha * on_target + (1 - alpha) * target
    # Half a step of rounding, and the 1e-5 that OpenCV adds to the sum of weights.
    assert np.abs(pasted - exact).max() <= 0.5 + 255e-5 + 1e-4
    outside, sure = (surest == 0)[..., 0], (alpha == 1)[..., 0]
    np.testing.assert_array_equal(pasted[outside], target[outside])
    np.testing.assert_array_equal(pasted[sure], on_target[sure])


def test_a_blend_by_hand() -> None:
    """Confidence 0.2, 0.6 and 1 of 100 into 200: 180, 140 and 100."""
    patch = Patch(0, 1, np.array([[[51, 153, 255]]], np.uint8))
    pasted = np.full((1, 5, 3), 200, np.uint8)
    paste_pixels(pasted, np.full((1, 3, 3), 100, np.uint8), patch, blend=True)
    assert pasted[0, :, 0].tolist() == [200, 180, 140, 100, 200]


@quick
@given(seeds)
def test_areas_and_boxes(seed: int) -> None:
    values_MHW, _ = random_case(seed)
    np.testing.assert_array_equal(areas(values_MHW), (values_MHW > 0).sum(axis=(1, 2)))
    expected = ConfidenceMasks.from_values(values_MHW).get_bboxes(HorizontalBoxes).tensor
    np.testing.assert_array_equal(boxes(values_MHW), expected)
    assert boxes(np.zeros((1, 4, 4), np.uint8)).tolist() == [[0, 0, 0, 0]]


numbers = st.integers(1, 40)


@quick
@given(numbers, numbers, numbers, numbers, st.floats(0.01, 1), seeds, st.data())
def test_places_lie_inside_the_target(
    height: int, width: int, rows: int, columns: int, ratio: float, seed: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    np.random.seed(seed)  # noqa: NPY002
    place = Place.draw((left, top, right, bottom), (height, width), (rows, columns), (ratio, 1.0), 0.5)
    assert 0 <= place.top <= place.top + place.height <= rows
    assert 0 <= place.left <= place.left + place.width <= columns
    assert place.height >= 1
    assert place.width >= 1
    # As large, to a pixel at each end, as the ratios allow.
    assert (bottom - top) * ratio * rows / height - 1 <= place.height <= (bottom - top) * rows / height + 2
    part = np.zeros((height, width, 3), np.uint8)[place.source]
    assert part.shape == (bottom - top, right - left, 3)
    assert place.put(part, cv2.INTER_LINEAR).shape == (place.height, place.width, 3)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_part_comes_to_lie_where_it_would_with_the_whole(flip: float) -> None:
    """A source of half the target's size at ratio 1: each pixel becomes four, and all of it fills the target."""
    source = np.random.default_rng(0).integers(0, 256, (9, 11), np.uint8)
    target = np.repeat(np.repeat(source[:, ::-1] if flip else source, 2, axis=0), 2, axis=1)
    for left, top, right, bottom in ((0, 0, 11, 9), (3, 2, 7, 8), (10, 0, 11, 1), (0, 5, 4, 9)):
        place = Place.draw((left, top, right, bottom), (9, 11), (18, 22), (1.0, 1.0), flip)
        assert place.flipped == bool(flip)
        window = target[place.top : place.top + place.height, place.left : place.left + place.width]
        np.testing.assert_array_equal(place.put(source[place.source], cv2.INTER_NEAREST), window)


def test_places_are_spread_over_the_target() -> None:
    """All shifts that the ratio leaves, and no other; height and width are stretched alike."""
    np.random.seed(0)  # noqa: NPY002
    places = [Place.draw((0, 0, 8, 6), (6, 8), (20, 30), (0.5, 0.5), 0.5) for _ in range(600)]
    assert {(place.height, place.width) for place in places} == {(10, 15)}
    assert {place.top for place in places} == set(range(11))
    assert {place.left for place in places} == set(range(16))
    assert 0.4 < np.mean([place.flipped for place in places]) < 0.6
    sizes = [Place.draw((0, 0, 8, 6), (6, 8), (100, 100), (0.3, 1.0), 0.5).height for _ in range(2000)]
    assert min(sizes) <= 31
    assert max(sizes) >= 99
    assert 63 < np.mean(sizes) < 67
