"""Point prompts: where they are, what is background, and which connected parts become masks."""

import numpy as np
import pytest
import scipy.ndimage

from stages.prompt_points import prompt_points, prompted, sides_held, vote

GRID = (12, 10)


def maps(*rectangles: tuple[int, int, int, int]) -> np.ndarray:
    """(M, Gh, Gw) bool; each rectangle as top, left, bottom, right."""
    found = np.zeros((len(rectangles), *GRID), bool)
    for one, (top, left, bottom, right) in zip(found, rectangles, strict=True):
        one[top:bottom, left:right] = True
    return found


@pytest.mark.parametrize(("grid", "stride", "count"), [((60, 60), 4, 225), ((12, 10), 4, 9), ((5, 3), 1, 15)])
def test_prompts_lie_on_a_grid_that_begins_with_the_first_patch(grid: tuple[int, int], stride: int, count: int) -> None:
    points = prompt_points(grid, stride)
    assert points.tolist() == [r * grid[1] + c for r in range(0, grid[0], stride) for c in range(0, grid[1], stride)]
    assert len(points) == count


def test_a_side_is_held_by_more_than_half() -> None:
    held = sides_held(maps((0, 0, 1, 5), (0, 0, 1, 6), (0, 0, 12, 10), (0, 0, 7, 1), (1, 1, 11, 9), (0, 0, 7, 6)))
    assert held.tolist() == [0, 1, 4, 1, 0, 2]


def test_the_vote_takes_more_than_half() -> None:
    masks = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1]], bool)
    assert vote(masks).tolist() == [True, False, False, True]
    assert not vote(masks[:0]).any()


def test_background_is_told_from_masks_and_parts_from_specks() -> None:
    band = maps((0, 0, 12, 10))[0] & ~maps((3, 3, 9, 8))[0]
    thing = maps((3, 3, 6, 6))[0]  # 9 patches, beside it parts of 4 and 5
    scattered = thing | maps((7, 3, 9, 5))[0] | maps((7, 6, 8, 8))[0] | maps((8, 6, 9, 9))[0]
    points = np.array([0, 4 * 10 + 4, 8 * 10 + 4])
    found = prompted(np.stack([band, scattered, scattered]).reshape(3, -1), points, GRID, 0.5)
    assert found.candidates == 1
    assert np.array_equal(found.background.reshape(GRID), band)
    assert found.prompts.tolist() == [44, 44, 84, 84, 84], "all that is at least half as large as the prompt's own part"
    labels, _ = scipy.ndimage.label(scattered)
    expected = [labels == 1, labels == 3, labels == 1, labels == 2, labels == 3]
    assert [mask.sum() for mask in expected] == [9, 5, 9, 4, 5]
    assert np.array_equal(found.masks.reshape(-1, *GRID), expected)


def test_a_prompt_that_is_not_like_itself_gives_nothing() -> None:
    found = prompted(maps((3, 3, 6, 6)).reshape(1, -1), np.array([0]), GRID, 0.5)
    assert (found.masks.shape, found.candidates, found.background.any()) == ((0, 120), 0, False)


def test_an_image_that_is_all_background_has_no_masks() -> None:
    found = prompted(np.ones((4, 120), bool), np.arange(4), GRID, 0.5)
    assert (found.masks.shape, found.candidates, found.background.all()) == ((0, 120), 4, True)
