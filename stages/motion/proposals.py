"""Proposals of rigid motions: random groups of points that keep their distances.

N points of the grid · P proposals · G points of a group

Source: SF2SE3 (arXiv 2209.08532), as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.spatial

from stages.motion.movers_config import MoversConfig
from stages.motion.rigid_motion import Motions, fit

_COMPANY = 2  # a seed is compatible with more points than this, itself among them


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which points may be of one object, bool (N, N) each.

    near_NN: they are close at t. rigid_NN: they are as far from each other at t + 1.
    """

    near_NN: np.ndarray
    rigid_NN: np.ndarray


def pairs(before_N3: np.ndarray, after_N3: np.ndarray, config: MoversConfig) -> Pairs:
    """All pairs of points; before_N3, after_N3: where they are at t and t + 1, metres."""
    distance_NN = scipy.spatial.distance.cdist(before_N3, before_N3)
    near_NN = distance_NN <= config.reach
    distance_NN -= scipy.spatial.distance.cdist(after_N3, after_N3)
    return Pairs(near_NN, np.abs(distance_NN, out=distance_NN) <= config.rigid)


def propose(
    before_N3: np.ndarray,
    after_N3: np.ndarray,
    together: Pairs,
    free_N: np.ndarray,
    config: MoversConfig,
    rng: np.random.Generator,
) -> Motions:
    """Motions of `config.proposals` groups, or none where no point can be a seed.

    free_N: bool, points that may be in groups: reliable ones that no motion explains yet.

    A seed has two free points that it is near and rigid with. Whatever happens, `config.group` numbers in 0..1 are
    drawn for each proposal: they pick the seed, then each further member, among those possible in the grid's order.
    """
    draws_PG = rng.random((config.proposals, config.group))
    compatible_NN = together.near_NN[:, free_N] & together.rigid_NN[:, free_N]
    seeds = np.flatnonzero((compatible_NN.sum(axis=1) > _COMPANY) & (free_N if config.seeds == "corrected" else True))
    if not len(seeds):
        return Motions.of([])
    member_PG, filled_PG = _groups(seeds, draws_PG, together, free_N, config)
    return fit(before_N3[member_PG], after_N3[member_PG], filled_PG)


def _groups(
    seeds: np.ndarray, draws_PG: np.ndarray, together: Pairs, free_N: np.ndarray, config: MoversConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The points of each group, int (P, G), and which of its places are filled, bool."""
    member_PG = np.repeat(seeds[(draws_PG[:, :1] * len(seeds)).astype(np.intp)], config.group, axis=1)
    filled_PG = np.zeros(member_PG.shape, bool)
    filled_PG[:, 0] = True
    near_PN, rigid_PN = together.near_NN[member_PG[:, 0]], together.rigid_NN[member_PG[:, 0]]
    open_PN = np.repeat(free_N[None], config.proposals, axis=0)
    for place in range(1, config.group):
        open_PN[np.arange(config.proposals), member_PG[:, place - 1]] = False
        member_PG[:, place], filled_PG[:, place] = _drawn(near_PN & rigid_PN & open_PN, draws_PG[:, place])
        grown_P = filled_PG[:, place]  # a group that has not grown stays as it is, as nothing is possible
        near_new_PN, rigid_new_PN = together.near_NN[member_PG[:, place]], together.rigid_NN[member_PG[:, place]]
        if config.growth == "corrected":
            near_PN |= near_new_PN & grown_P[:, None]
            rigid_PN &= rigid_new_PN | ~grown_P[:, None]
        else:
            near_PN &= near_new_PN | ~grown_P[:, None]
            rigid_PN |= rigid_new_PN & grown_P[:, None]
    return member_PG, filled_PG


def _drawn(possible_PN: np.ndarray, draws_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the possible points of each row the one at a place in 0..1 of their list, and whether there is one."""
    count_P = possible_PN.sum(axis=1)
    found_P = count_P > 0
    columns = np.nonzero(possible_PN)[1]
    place_P = np.cumsum(count_P) - count_P + (draws_P * count_P).astype(np.intp)
    member_P = np.zeros(len(count_P), np.intp)
    member_P[found_P] = columns[place_P[found_P]]
    return member_P, found_P
