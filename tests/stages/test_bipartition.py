"""The cut at the mean and the choice of foreground."""

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.bipartition import BipartitionConfig, bipartition, component_of


def bump(row: int, column: int, height: float = 1.0) -> np.ndarray:
    """A smooth bump on a 12×12 grid, background slightly negative."""
    y, x = np.mgrid[:12, :12]
    return (height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8.0) - 0.1).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["corners_and_peak", "peak", "smaller"]))
def test_does_not_depend_on_the_sign(seed: int, foreground: str) -> None:
    x = np.random.default_rng(seed).normal(size=(7, 9)).astype(np.float32)
    config = BipartitionConfig(foreground=foreground)  # type: ignore[arg-type]
    one, other = bipartition(x, config), bipartition(-x, config)
    np.testing.assert_array_equal(one.group, other.group)
    np.testing.assert_array_equal(one.eigenvector, other.eigenvector)
    assert one.seed == other.seed
    assert one.group.flat[one.seed], "the seed is a patch of the group"
    assert one.eigenvector[one.group].min() >= one.eigenvector[~one.group].max()


@pytest.mark.parametrize("foreground", ["corners_and_peak", "peak", "smaller"])
def test_an_object_in_the_middle_is_the_group(foreground: str) -> None:
    parts = bipartition(-bump(6, 6), BipartitionConfig(foreground=foreground))  # type: ignore[arg-type]
    assert parts.group[6, 6]
    assert not parts.group[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert parts.seed == 6 * 12 + 6


def test_three_corners_make_a_side_background() -> None:
    """The peak lies on a frame around the image: by the peak it is foreground, by the corners background."""
    frame = np.ones((10, 10), np.float32)
    frame[2:8, 2:8] = -0.2
    assert bipartition(frame, BipartitionConfig(foreground="peak")).group[0, 0]
    parts = bipartition(frame, BipartitionConfig())
    assert not parts.group[0, 0]
    assert parts.group[5, 5]
    assert parts.group.flat[parts.seed]


def test_component_equals_networkx() -> None:
    mask = np.random.default_rng(3).random((15, 11)) < 0.55
    patch = int(np.flatnonzero(mask)[7])
    graph = networkx.grid_2d_graph(15, 11).subgraph([tuple(p) for p in np.argwhere(mask)])
    expected = np.zeros_like(mask)
    for y, x in networkx.node_connected_component(graph, divmod(patch, 11)):
        expected[y, x] = True
    np.testing.assert_array_equal(component_of(mask, patch), expected)


def test_component_of_a_patch_outside_is_empty() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    assert not component_of(mask, 5).any()


def test_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match=r"bipartition\.foreground"):
        BipartitionConfig(foreground="depth")  # type: ignore[arg-type]
