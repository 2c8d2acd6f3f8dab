"""Regions merged bottom-up: the same merges as a plain transcription, and what the definition of ties promises."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorded_maskcut import GRID, photos
from support.reference_regions import merged_regions

from stages.region_merging import merge_regions, neighbours


def same_regions(got_TN: np.ndarray, expected: list[np.ndarray]) -> bool:
    """Whether numbers are those of the names in their order."""
    numbered = [np.unique(names, return_inverse=True)[1] - int(names.min() < 0) for names in expected]
    return np.array_equal(got_TN, numbered)


def blocks(grid: tuple[int, int], seed: int, noise: float) -> np.ndarray:
    """Features of a grid of six by six blocks, each of one of four kinds, with noise."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(4, 8))
    block = rng.integers(4, size=(6, 6))
    rows, columns = (np.arange(side) * 6 // side for side in grid)
    features = kinds[block[rows[:, None], columns]]
    return (features + noise * rng.normal(size=features.shape)).reshape(-1, 8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.5])
def test_the_merges_of_the_transcription(seed: int, noise: float) -> None:
    features, thresholds = blocks((14, 17), seed, noise), (0.9, 0.5, 0.2, -1.0)
    got = merge_regions(features, (14, 17), thresholds)
    assert got.dtype == np.int32
    assert same_regions(got, merged_regions(features, (14, 17), thresholds))
    assert not got[-1].any(), "at -1 all is one region"


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_the_merges_of_the_transcription_where_most_are_ties(seed: int, rows: int, columns: int, start: bool) -> None:
    """Features of few values, some of zeros; regions to start from of several pieces; patches that take no part."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-1, 2, size=(rows * columns, 2)).astype(np.float16)
    start_N = rng.integers(-2, 6, size=rows * columns) if start else None
    thresholds = (1.0, 0.7, 0.0, -0.5)
    got = merge_regions(features, (rows, columns), thresholds, start_N)
    assert same_regions(got, merged_regions(features, (rows, columns), thresholds, start_N))


def test_the_merges_of_the_transcription_on_photos(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = 0
    for _, (_, features) in zip(range(4), photos(assets, tmp_path_factory), strict=False):
        got = merge_regions(features, GRID, (0.7, 0.5, 0.3))
        assert same_regions(got, merged_regions(features, GRID, (0.7, 0.5, 0.3)))
        found += int(got.max()) + 1
    assert found > 40


def test_known_groups_come_out_whole() -> None:
    """Two squares of one kind on a ground of another: three regions as long as the kinds differ, one in the end."""
    kinds = np.zeros((8, 8), int)
    kinds[1:4, 1:4] = kinds[5:7, 4:8] = 1
    features = np.eye(2)[kinds] @ np.array([[1.0, 0.2], [0.2, 1.0]])
    squares = np.zeros((8, 8), int)
    squares[1:4, 1:4], squares[5:7, 4:8] = 1, 2
    apart, one = merge_regions(features.reshape(-1, 2), (8, 8), (0.5, 0.3))
    assert np.array_equal(apart.reshape(8, 8), squares)
    assert not one.any(), "a region that has no neighbours left is still there"


def test_a_merged_region_is_compared_by_the_mean_of_its_raw_features() -> None:
    """The first two merge; their raw sum, led by the long one, has 0.33 with the third, that of unit vectors 0.57."""
    features = np.array([[10.0, 0.0], [0.8, 0.6], [0.28, 0.96]])
    assert merge_regions(features, (1, 3), (0.7, 0.5, 0.3)).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_of_ties_the_smaller_names_come_first() -> None:
    """In a row of three, both pairs have the same cosine; the merged mean then is too far from the third."""
    features = np.array([[1.0, 0.0], [0.6, 0.8], [-0.28, 0.96]])
    assert features[0] @ features[1] == pytest.approx(features[1] @ features[2])
    assert merge_regions(features, (1, 3), (0.6,)).tolist() == [[0, 0, 1]]
    assert merge_regions(features[::-1], (1, 3), (0.6,)).tolist() == [[0, 0, 1]]


def test_the_scale_of_features_changes_nothing() -> None:
    features = blocks((10, 10), 3, 0.5)
    assert np.array_equal(
        merge_regions(features, (10, 10), (0.8, 0.4)), merge_regions(1e-3 * features, (10, 10), (0.8, 0.4))
    )


def test_a_start_and_patches_that_take_no_part() -> None:
    features = np.ones((9, 3))
    start = np.array([4, 4, -1, 4, -1, -1, -1, 7, 7])
    assert merge_regions(features, (3, 3), (0.5,), start).tolist() == [[0, 0, -1, 0, -1, -1, -1, 1, 1]]
    assert merge_regions(features, (3, 3), (0.5,), np.full(9, -1)).tolist() == [[-1] * 9]
    assert merge_regions(features, (3, 3), ()).shape == (0, 9)
    assert neighbours(np.array([0, 0, 2, 0, 4, 2, -1, 4, 4]), (3, 3)).tolist() == [[0, 2], [0, 4], [2, 4]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": (0.2, 0.4)}, "thresholds must fall, got 0.2, 0.4"),
        ({"thresholds": (0.4, 0.4)}, "thresholds must fall"),
        ({"grid": (3, 2)}, r"must be \(6, D\) for the grid \(3, 2\)"),
        ({"features_ND": np.full((9, 2), np.nan)}, "must be finite"),
        ({"start_N": np.zeros(8, int)}, "one region for each of 9 patches"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"features_ND": np.ones((9, 2)), "grid": (3, 3), "thresholds": (0.4,)}
    with pytest.raises(ValueError, match=message):
        merge_regions(**arguments | change)  # type: ignore[arg-type]
