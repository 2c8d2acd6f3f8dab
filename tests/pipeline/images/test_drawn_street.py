"""The street that is drawn for a demonstration: two cameras see the same things where geometry says."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.images.drawn_street import CAMERA, SIZE, draw_street, drawn
from pipeline.images.sources import list_images
from pipeline.images.stereo_clips import load_clip


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    return drawn(0), drawn(0, CAMERA.baseline)


def unlike(left: np.ndarray, right: np.ndarray, rows: slice, columns: range, shift: float) -> float:
    """Grey levels by which a block differs from what lies so many pixels to its left in the other picture."""
    places = np.array(columns) - shift
    below = np.floor(places).astype(int)
    part = (places - below)[:, None]
    moved = right[rows][:, below] * (1 - part) + right[rows][:, below + 1] * part
    return float(np.abs(left[rows, columns[0] : columns[-1] + 1] - moved).mean())


@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [
        (slice(118, 146), range(332, 366), 14.0),  # the parked car
        (slice(112, 154), range(264, 318), 11.0),  # the one that overtakes
        (slice(94, 108), range(215, 250), 60.0),  # trees
    ],
)
def test_what_is_near_is_shifted_by_its_disparity(
    pair: tuple[np.ndarray, np.ndarray], rows: slice, columns: range, depth: float
) -> None:
    disparity = CAMERA.fx * CAMERA.baseline / depth
    found = {shift: unlike(*pair, rows, columns, disparity + shift) for shift in (-2, 0, 2)}
    assert min(found, key=found.__getitem__) == 0
    assert found[0] < 2


def test_clips_follow_each_other(tmp_path: Path) -> None:
    listing = list_images(draw_street(tmp_path, 2))
    first, second = map(load_clip, listing.refs)
    assert first.camera == CAMERA
    assert first.left.rgb.shape == (*SIZE, 3)
    assert np.array_equal(first.left_next.rgb, second.left.rgb)
    assert np.array_equal(first.right_next.rgb, second.right.rgb)
    assert not np.array_equal(first.left.rgb, second.left.rgb)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    draw_street(tmp_path, 2)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")} == before, "what is there stays"
