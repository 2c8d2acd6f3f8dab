"""What depth teaches codes, in rendered scenes whose depth is exact: `paper` pulls and pushes, `released` does not.

Codes are free: one vector per patch and image, learnt by the depth term alone.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from support.rendered_scenes import SceneConfig, majority, majority_depth, render

from stages.semantics.correlation import correlation_loss, depth_pull, pair_cosines
from stages.semantics.hidden_positives import mixed_by_depth
from stages.semantics.sampling import MapRows, uniform_points

GRID = (20, 20)
SEEDS = (0, 1, 2)


@cache
def scene(seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Two objects that touch in the image, half the depth range apart, in front of a wall: depth (1, h, w) and what is
    at each patch: 0 the wall, 1 the near object, 2 the far one.
    """
    rendered = render(SceneConfig(n_objects=2, depth_gap=0.5, thickness=0.1, seed=seed))
    place = majority(rendered.instances, GRID)
    near = 1 + int(np.argmin([placed.centre[2] for placed in rendered.objects]))
    return torch.from_numpy(majority_depth(rendered, GRID))[None], np.where(
        place == 0, 0, np.where(place == near, 1, 2)
    )


def learnt(seed: int, reading: str, similarity: str = "centred") -> np.ndarray:
    """Mean cosine of the learnt codes between the wall, the near and the far object: (3, 3)."""
    depth, place = scene(seed)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn((1, 8, *GRID), generator=generator, requires_grad=True)
    assert np.abs(between(codes, place)).max() < 0.2
    optimizer = torch.optim.Adam([codes], lr=0.1)
    for _ in range(100):
        points = uniform_points(1, 9, generator=generator)
        sampled = MapRows.of(codes).at(points)
        pull = depth_pull(depth, points, 0.03, reading, similarity)  # type: ignore[arg-type]
        optimizer.zero_grad()
        correlation_loss(pull, pair_cosines(sampled, sampled)).backward()
        optimizer.step()
    return between(codes, place)


def between(codes: torch.Tensor, place: np.ndarray) -> np.ndarray:
    vectors = codes.detach()[0].flatten(1).T[None]
    cosines = pair_cosines(vectors, vectors)[0].numpy()
    groups = [place.reshape(-1) == part for part in range(3)]
    return np.array([[cosines[a][:, b].mean() for b in groups] for a in groups])


def pulls(seed: int, **options: Any) -> np.ndarray:
    """Mean pull between the parts of the scene at all patches: (3, 3)."""
    depth, place = scene(seed)
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in GRID), indexing="ij")
    pull = depth_pull(depth, torch.stack([columns, rows], dim=-1)[None], 0.03, **options)[0].numpy()
    groups = [place.reshape(-1) == part for part in range(3)]
    return np.array([[pull[a][:, b].mean() for b in groups] for a in groups])


WALL, NEAR, FAR = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_centred_depth_pulls_within_a_side_of_the_mean_and_pushes_across(seed: int) -> None:
    """The wall, three quarters of the image, is beyond the mean depth, both objects are before it."""
    pull = pulls(seed)
    assert pull[NEAR, NEAR] > 0.8
    assert pull[NEAR, FAR] > 0.1
    assert pull[WALL, NEAR] < -0.1
    assert pull[WALL, FAR] < -0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_distance_pulls_within_things_and_pushes_between_them_as_far_as_they_are_apart(seed: int) -> None:
    pull = pulls(seed, similarity="distance")
    assert pull.diagonal().min() > 0.4
    assert pull[WALL, NEAR] < pull[NEAR, FAR] < -0.1 < pull[WALL, FAR] < pull.diagonal().min()


@pytest.mark.parametrize("seed", SEEDS)
def test_released_pulls_all_pairs_alike(seed: int) -> None:
    """1 - b between things as within them: but for the depths that are exactly 0, it does not see the scene at all."""
    pull = pulls(seed, reading="released")
    assert np.ptp(pull) < 0.02
    assert pull.mean() == pytest.approx(0.97, abs=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_paper_teaches(seed: int) -> None:
    centred, distance = learnt(seed, "paper"), learnt(seed, "paper", "distance")
    assert centred[WALL, NEAR] < -0.5
    assert centred[WALL, FAR] < -0.5
    assert centred[NEAR, FAR] > 0.8
    assert min(centred.diagonal()) > 0.6
    assert distance[WALL, NEAR] < -0.5
    assert distance[NEAR, FAR] < -0.5
    assert min(distance.diagonal()) > 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_what_released_teaches(seed: int) -> None:
    """That everything is alike: the codes of all patches fall together."""
    assert learnt(seed, "released").min() > 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_hidden_positives_keep_to_things(seed: int) -> None:
    """Codes that name what is at a patch, mixed with those of its neighbours: little of what is in front or behind
    gets in, where a plain mean of 3×3 takes all.
    """
    depth, place = scene(seed)
    codes = torch.nn.functional.one_hot(torch.from_numpy(place), 3).permute(2, 0, 1)[None].float()
    mixed = mixed_by_depth(codes, depth)
    plain = torch.nn.functional.avg_pool2d(codes, 3, stride=1, padding=1, count_include_pad=False)
    own = codes.bool()
    at_edge = (plain * codes).sum(dim=1, keepdim=True) < 0.999

    def foreign(values: torch.Tensor) -> float:
        return float((values * ~own * at_edge).sum() / (values * at_edge).sum())

    assert foreign(mixed) < 0.4 * foreign(plain)
