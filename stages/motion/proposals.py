"""Proposals of rigid motions: groups of points that keep their distances, drawn at random.

N points of the grid · S of them that may be seeds · P proposals · G points of a group

Source: SF2SE3 (arXiv 2209.08532), section 3.2, as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.motion.movers_config import MoversConfig
from stages.motion.rigid_motion import Motions, fit

_COMPATIBLE = 2  # other points that a seed needs


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which points may belong together. bool (N, N) each.

    near_NN: they are close to each other at t.
    rigid_NN: their distance at t + 1 is that at t.
    """

    near_NN: np.ndarray
    rigid_NN: np.ndarray


def pairs(before_N3: np.ndarray, after_N3: np.ndarray, config: MoversConfig) -> Pairs:
    """Of points at t and t + 1, in metres."""
    distance_NN, after_NN = (_distances(points_N3) for points_N3 in (before_N3, after_N3))
    return Pairs(distance_NN <= config.reach, np.abs(distance_NN - after_NN) <= config.rigid)


def _distances(points_N3: np.ndarray) -> np.ndarray:
    points_3N = points_N3.astype(np.float32).T
    squares_NN = np.zeros((points_3N.shape[1],) * 2, np.float32)
    for axis_N in points_3N:
        difference_NN = axis_N[:, None] - axis_N
        squares_NN += np.square(difference_NN, out=difference_NN)
    return np.sqrt(squares_NN, out=squares_NN)


def propose(
    before_N3: np.ndarray,
    after_N3: np.ndarray,
    together: Pairs,
    free_N: np.ndarray,
    seeds_N: np.ndarray,
    config: MoversConfig,
    rng: np.random.Generator,
) -> Motions:
    """Rigid motions of groups that grow from random seeds, `config.proposals` or none at all.

    free_N: bool, points that may be in a group. seeds_N: bool, points that one may grow from.

    A seed needs two other points near it that move rigidly with it. A group grows point by point, by any that is near
    one of it and rigid with all of it (`growth` "corrected"), or near all and rigid with one ("released").

    Five numbers are drawn for each proposal whatever happens, in 0..1: they choose the seed and then each member as the
    place in the list of those possible, in the order of the grid.
    """
    draws_PG = rng.random((config.proposals, config.group))
    compatible_NN = together.near_NN & together.rigid_NN & free_N
    seeds = np.flatnonzero(seeds_N & (compatible_NN.sum(axis=1) > _COMPATIBLE))
    if not len(seeds):
        return Motions(np.zeros((0, 3, 3)), np.zeros((0, 3)))
    members_PG, filled_PG = _groups(seeds, draws_PG, together, free_N, config)
    return fit(before_N3[members_PG], after_N3[members_PG], filled_PG.astype(np.float64))


def _groups(
    seeds: np.ndarray, draws_PG: np.ndarray, together: Pairs, free_N: np.ndarray, config: MoversConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Points of each group, int (P, G), and which of its places are filled."""
    members_PG = np.repeat(seeds[(draws_PG[:, :1] * len(seeds)).astype(int)], config.group, axis=1)
    filled_PG = np.zeros(members_PG.shape, bool)
    filled_PG[:, 0] = True
    near_PN, rigid_PN = together.near_NN[members_PG[:, 0]], together.rigid_NN[members_PG[:, 0]]
    open_PN = np.broadcast_to(free_N, near_PN.shape).copy()
    rows = np.arange(len(members_PG))
    for place in range(config.group):
        if place:
            members_PG[:, place], filled_PG[:, place] = _drawn(near_PN & rigid_PN & open_PN, draws_PG[:, place])
        new, found = members_PG[:, place], filled_PG[:, place, None]
        open_PN[rows, new] &= ~found[:, 0]
        if not place:
            continue
        if config.growth == "corrected":
            near_PN |= together.near_NN[new] & found
            rigid_PN &= together.rigid_NN[new] | ~found
        else:
            near_PN &= together.near_NN[new] | ~found
            rigid_PN |= together.rigid_NN[new] & found
    return members_PG, filled_PG


def _drawn(choices_PN: np.ndarray, draws_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One of the true places of each row, and whether there is one."""
    count_P = choices_PN.sum(axis=1)
    _, columns = np.nonzero(choices_PN)
    first_P = np.cumsum(count_P) - count_P
    place_P = first_P + (draws_P * count_P).astype(int)
    found_P = count_P > 0
    chosen_P = np.zeros(len(count_P), int)
    chosen_P[found_P] = columns[place_P[found_P]]
    return chosen_P, found_P
