"""Groups of points that move rigidly: which may begin one, which may join, and that draws decide."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stages.motion.movers_config import MoversConfig
from stages.motion.proposals import Pairs, _groups, pairs, propose

CONFIG = MoversConfig(proposals=60)


def two_bodies() -> tuple[np.ndarray, np.ndarray]:
    """Twelve points of each of two bodies, six metres apart, that move each in its own way: at t and t + 1."""
    rng = np.random.default_rng(0)
    before = np.concatenate([rng.uniform(-1, 1, (12, 3)) + np.array((x, 0, 10)) for x in (-3, 3)])
    turn = Rotation.from_rotvec([0, 0.1, 0]).as_matrix()
    after = np.concatenate([before[:12] + np.array((0.4, 0, 0)), before[12:] @ turn.T])
    return before, after


def grown(together: Pairs, seed: int, growth: str, free: np.ndarray | None = None) -> set[frozenset[int]]:
    """Every group that can grow from one seed."""
    config = replace(CONFIG, growth=growth, proposals=400)
    count = len(together.near_NN)
    draws = np.random.default_rng(0).random((400, config.group))
    free = np.ones(count, bool) if free is None else free
    members, filled = _groups(np.array([seed]), draws, together, free, config)
    return {frozenset(row[on].tolist()) for row, on in zip(members, filled, strict=True)}


def test_pairs_are_near_at_t_and_rigid_in_time() -> None:
    before = np.array([[0, 0, 10], [3, 4, 10], [3, 4, 10.1], [0, 0, 10]])
    after = np.array([[0, 0, 10], [3, 4, 10], [3, 4, 10.14], [0.03, 0, 10]])
    found = pairs(before, after, CONFIG)
    assert found.near_NN.tolist() == [[1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]]
    assert found.rigid_NN[1].tolist() == [True, True, False, True]
    assert found.rigid_NN[0, 3]
    assert found.rigid_NN.diagonal().all()


def test_motions_of_both_bodies_are_proposed_and_no_other() -> None:
    before, after = two_bodies()
    motions = propose(before, after, pairs(before, after, CONFIG), np.ones(24, bool), CONFIG, np.random.default_rng(0))
    assert len(motions) == 60
    first = np.linalg.norm(motions.apply(before[:12]) - after[:12].T[None], axis=1).max(axis=1) < 0.05
    second = np.linalg.norm(motions.apply(before[12:]) - after[12:].T[None], axis=1).max(axis=1) < 0.05
    assert first.sum() > 10
    assert second.sum() > 10
    assert (first | second).all()


def test_equal_draws_give_equal_motions() -> None:
    before, after = two_bodies()
    together, free = pairs(before, after, CONFIG), np.ones(24, bool)
    found = [propose(before, after, together, free, CONFIG, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0].shift_M3, found[1].shift_M3)
    assert not np.array_equal(found[0].shift_M3, found[2].shift_M3)


def test_as_many_numbers_are_drawn_where_nothing_can_be_proposed() -> None:
    before, after = two_bodies()
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    assert len(propose(before, after, pairs(before, after, CONFIG), np.zeros(24, bool), CONFIG, rng)) == 0
    other.random((CONFIG.proposals, CONFIG.group))
    assert rng.random() == other.random()


def test_a_seed_has_two_companions() -> None:
    before = np.array([[0.0, 0, 10], [1, 0, 10], [20, 0, 10], [21, 0, 10], [22, 0, 10]])
    together = pairs(before, before, CONFIG)
    free = np.ones(5, bool)
    motions = propose(
        before, before + (0.1, 0, 0) * np.arange(5)[:, None], together, free, CONFIG, np.random.default_rng(0)
    )
    assert len(motions) == CONFIG.proposals  # of the three at the right
    free[4] = False
    assert len(propose(before, before, together, free, CONFIG, np.random.default_rng(0))) == 0


@pytest.mark.parametrize("seeds", ["corrected", "released"])
def test_only_the_released_seeds_are_points_that_are_not_free(seeds: str) -> None:
    """The first body is explained already. Points of it that are near free ones begin groups as released."""
    before = np.repeat([[0.0, 0, 10], [1, 1, 11]], 6, axis=0)
    before = before + np.random.default_rng(0).uniform(-0.2, 0.2, before.shape)
    together = pairs(before, before, CONFIG)
    free = np.arange(12) >= 6
    # all that a seed that is not free is marked by: where it goes
    after = before + np.where(free, 0.0, 5.0)[:, None]
    config = replace(CONFIG, seeds=seeds)
    motions = propose(before, after, together, free, config, np.random.default_rng(0))
    moved = np.linalg.norm(motions.apply(before[free]) - before[free].T[None], axis=1).max(axis=1) > 0.5
    assert moved.any() == (seeds == "released")


def chain() -> Pairs:
    """Points 0 to 3. near: each to the next alone; rigid: 0, 1 and 2 all with each other, 3 with 2 alone."""
    near, rigid = np.eye(4, dtype=bool), np.eye(4, dtype=bool)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        near[i, j] = near[j, i] = True
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 3)):
        rigid[i, j] = rigid[j, i] = True
    return Pairs(near, rigid)


def test_members_are_rigid_with_all_and_near_one() -> None:
    assert grown(chain(), 0, "corrected") == {frozenset({0, 1, 2})}
    swapped = Pairs(chain().rigid_NN, chain().near_NN)
    # near all of them, and rigid with one: the released code, and what its comments do not say
    assert grown(swapped, 0, "released") == {frozenset({0, 1, 2})}
    assert grown(chain(), 0, "released") == {frozenset({0, 1})}
    assert grown(swapped, 0, "corrected") == {frozenset({0, 1})}


@pytest.mark.parametrize("growth", ["corrected", "released"])
def test_groups_hold_what_their_rule_says(growth: str) -> None:
    rng = np.random.default_rng(1)
    near, rigid = (np.triu(rng.random((14, 14)) < 0.5, 1) for _ in range(2))
    together = Pairs(near | near.T | np.eye(14, dtype=bool), rigid | rigid.T | np.eye(14, dtype=bool))
    free = rng.random(14) < 0.8
    every, one = (
        (together.rigid_NN, together.near_NN) if growth == "corrected" else (together.near_NN, together.rigid_NN)
    )
    for seed in range(14):
        for group in grown(together, seed, growth, free):
            others = group - {seed}
            assert all(free[list(others)])
            # in some order each fits those before it
            assert _fits([seed], others, every, one)


def _fits(members: list[int], left: frozenset[int] | set[int], every: np.ndarray, one: np.ndarray) -> bool:
    if not left:
        return True
    return any(
        every[new, members].all() and one[new, members].any() and _fits([*members, new], left - {new}, every, one)
        for new in left
    )
