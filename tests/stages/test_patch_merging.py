"""Merging of masks and of patches: known cases, and the cascade and the clusters against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import reference_promerge

from stages.patch_merging import (
    MergeConfig,
    MergeThresholds,
    attended,
    connected_groups,
    in_front,
    merge_adjacent,
    merge_overlapping,
)

GRID = (14, 14)
CONFIG = MergeConfig(bipartition_tau=0.2, foreground_include_tau=0.1, dino_merge_tau=0.1)


def box(top: int, left: int, bottom: int, right: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    """(N,) bool."""
    mask = np.zeros(grid, bool)
    mask[top:bottom, left:right] = True
    return mask.ravel()


def painted(masks: list[np.ndarray], grid: tuple[int, int] = GRID) -> torch.Tensor:
    """(N, D) unit features, one direction for each mask, later ones on top, and one for what is in none."""
    labels = np.zeros(grid[0] * grid[1], int)
    for number, mask in enumerate(masks, 1):
        labels[mask] = number
    return torch.nn.functional.one_hot(torch.from_numpy(labels), len(masks) + 1).float()


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Boxes that overlap, all of different sizes; a background; unit features that go with some of the boxes."""
    rng = np.random.default_rng(seed)
    masks, areas = [], set()
    while len(masks) < 25:
        top, left = rng.integers(0, 11, 2)
        mask = box(top, left, top + rng.integers(1, 8), left + rng.integers(1, 8))
        mask[rng.choice(len(mask), 3)] = True
        if mask.sum() not in areas:
            masks.append(mask)
            areas.add(mask.sum())
    background = ~box(2, 2, 12, 11)
    features = painted([masks[k] for k in rng.choice(25, 6, replace=False)]) + torch.from_numpy(
        rng.normal(0, 0.3, (len(background), 7)).astype(np.float32)
    )
    return np.array(masks), background, torch.nn.functional.normalize(features, dim=1)


@pytest.mark.parametrize("seed", range(20))
def test_cascade_and_clusters_are_those_of_plain_loops(seed: int) -> None:
    masks, background, unit = random_case(seed)
    maps = unit.double().numpy().reshape(*GRID, -1)
    expected = reference_promerge.cascade([mask.reshape(GRID) for mask in masks], background.reshape(GRID), maps, 0.1)
    accepted = masks[in_front(masks, background, unit, CONFIG)]
    assert np.array_equal(accepted.reshape(-1, *GRID), np.array(expected).reshape(-1, *GRID))
    for group in (accepted, masks):
        clusters = merge_overlapping(group, unit, CONFIG)
        plain = reference_promerge.merged([mask.reshape(GRID) for mask in group], maps, 0.1)
        assert {cluster.mask.tobytes() for cluster in clusters} == {mask.tobytes() for mask in plain}
        assert all((group[cluster.largest] <= cluster.mask).all() for cluster in clusters)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_clusters_does_not_matter(seed: int) -> None:
    masks, _, unit = random_case(seed)
    maps = unit.double().numpy().reshape(*GRID, -1)
    found = {cluster.mask.tobytes() for cluster in merge_overlapping(masks, unit, CONFIG)}
    for draw in range(5):  # all areas differ: what is shuffled are the clusters alone
        shuffled = reference_promerge.merged(
            [mask.reshape(GRID) for mask in masks], maps, 0.1, shuffle_clusters=np.random.default_rng(draw)
        )
        assert {mask.tobytes() for mask in shuffled} == found


def test_a_mask_that_adds_nothing_is_dropped() -> None:
    """Published: 0 of 0 new patches is no share below a threshold."""
    small, large = box(2, 2, 5, 5), box(2, 2, 5, 8)
    masks = np.array([large, small, small, box(2, 5, 5, 8)])
    background = ~box(1, 1, 12, 12)
    chosen = in_front(masks, background, painted([large]), CONFIG)
    assert chosen.tolist() == [1, 3], "the second of the same, and the whole that its halves cover"


def test_masks_that_add_background_or_are_like_it_are_dropped() -> None:
    background = box(0, 0, 4, 14)
    inside, across, outside = box(1, 1, 3, 3), box(2, 6, 12, 7), box(3, 9, 4, 10) | box(4, 9, 5, 14)
    unit = painted([outside, across])
    masks = np.array([inside, across, outside])
    assert in_front(masks, background, unit, CONFIG).tolist() == [2, 1]
    assert in_front(masks, np.zeros_like(background), unit, CONFIG).tolist() == [0, 2, 1], "without background"


def test_means_stay_shorter_than_one() -> None:
    """A mask of many directions has a short mean: as published, it counts as unlike everything."""
    mask, background = box(4, 4, 8, 8), box(0, 0, 4, 14)
    unit = torch.zeros(len(mask), 40)
    unit[torch.from_numpy(background), 0] = 1.0
    inside = np.flatnonzero(mask)
    unit[inside, 0], unit[inside, 1 + np.arange(len(inside))] = 0.3, float(np.sqrt(1 - 0.09))
    config = MergeConfig(bipartition_tau=0.2, foreground_include_tau=0.5, dino_merge_tau=0.1)
    assert in_front(mask[None], background, unit, config).tolist() == [0]
    mean = unit[inside].mean(dim=0)
    assert float(mean[0] / mean.norm()) > 0.5, "normalised, it would be dropped"


def test_masks_merge_by_overlap_and_by_likeness() -> None:
    large, half, some, apart = box(0, 0, 8, 8), box(4, 4, 9, 10), box(6, 0, 12, 6), box(10, 10, 13, 13)
    masks = np.array([apart, half, large, some])  # of half 16 of 30 lie in large, of some 12 of 36
    alike = merge_overlapping(masks, torch.ones(len(large), 1), CONFIG)
    assert [cluster.largest for cluster in alike] == [2, 0]
    assert np.array_equal(alike[0].mask, large | half | some)
    unlike = merge_overlapping(masks, painted([large, some]), replace(CONFIG, dino_merge_tau=0.3))
    assert [cluster.largest for cluster in unlike] == [2, 3, 0]
    assert np.array_equal(unlike[0].mask, large | half)
    assert (unlike[0].mask & unlike[1].mask).any(), "masks may overlap"


def test_a_mask_joins_clusters_into_one() -> None:
    left, right, bridge = box(0, 0, 6, 6), box(0, 8, 6, 13), box(1, 5, 4, 9)  # 3 of 12 patches in either
    (cluster,) = merge_overlapping(np.array([left, right, bridge]), torch.ones(len(left), 1), CONFIG)
    assert np.array_equal(cluster.mask, left | right | bridge)
    assert cluster.largest == 0


def test_adjacent_groups_are_the_things_of_the_map() -> None:
    things = [box(1, 1, 5, 5), box(1, 6, 5, 12), box(8, 2, 12, 12)]
    found = merge_adjacent(painted(things), GRID, CONFIG)
    ground = ~np.any(things, axis=0)
    assert {mask.tobytes() for mask in found} == {mask.tobytes() for mask in [*things, ground]}
    assert [int(mask.sum()) for mask in found] == sorted((int(mask.sum()) for mask in found), reverse=True)


def test_adjacent_groups_that_are_alike_become_one_and_those_apart_do_not() -> None:
    left, right, apart = box(2, 1, 6, 4), box(2, 4, 6, 8), box(9, 9, 12, 12)
    unit = painted([left, right, apart])
    unit[torch.from_numpy(right)] = torch.tensor([0.0, 0.6, 0.8, 0.0])
    unit[torch.from_numpy(apart)] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # as left
    config = MergeConfig(bipartition_tau=0.7, foreground_include_tau=0.1, dino_merge_tau=0.5)
    labels = connected_groups(unit.numpy(), GRID, 0.7)
    assert len(np.unique(labels)) == 4
    found = {mask.tobytes() for mask in merge_adjacent(unit, GRID, config)}
    assert {(left | right).tobytes(), apart.tobytes()} < found
    assert len(found) == 3


def test_masks_that_the_class_token_looks_at() -> None:
    masks = np.array([box(0, 0, 7, 14), box(7, 0, 14, 14), box(0, 0, 14, 14)])
    attention = np.where(masks[0], 3.0, 1.0)
    assert attended(masks, attention, 1.0).tolist() == [True, False, True]
    assert attended(masks, attention, 0.5).tolist() == [True, True, True]


def test_thresholds_of_the_features_fill_what_is_none() -> None:
    of_features = MergeThresholds(0.3, 0.2, 0.1)
    given = MergeConfig(bipartition_tau=0.5)
    assert given.missing == ["foreground_include_tau", "dino_merge_tau"]
    assert replace(given, grouping="adjacent").missing == ["dino_merge_tau"], "which has no background"
    settled = given.settled(of_features)
    assert (settled.bipartition_tau, settled.foreground_include_tau, settled.dino_merge_tau) == (0.5, 0.2, 0.1)
    with pytest.raises(ValueError, match=r"merge\.dino_merge_tau is not set"):
        given.settled_tau("dino_merge_tau")
