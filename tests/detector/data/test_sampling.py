"""SeededSampler: every image once an epoch over all ranks, and any place reached without what is before it."""

import random
from itertools import islice
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import DATA_SAMPLERS

from detector.data.sampling import Draw, SeededSampler, begin
from pipeline.errors import ConfigError, StoreError


def sampler(size: int, rank: int = 0, ranks: int = 1, seed: int = 0, **options: bool) -> SeededSampler:
    with patch("detector.data.sampling.get_dist_info", return_value=(rank, ranks)):
        return SeededSampler(range(size), seed=seed, **options)


def take(made: SeededSampler, count: int, position: int = 0) -> list[Draw]:
    made.start(position)
    return list(islice(made, count))


sizes, ranks_, seeds = st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31 - 1)


@given(size=sizes, ranks=ranks_, seed=seeds)
@settings(max_examples=60)
def test_ranks_partition_every_epoch(size: int, ranks: int, seed: int) -> None:
    epochs = 3
    streams = [take(sampler(size, rank, ranks, seed), size * epochs) for rank in range(ranks)]
    pairs = [[draws[i : i + 2] for i in range(0, len(draws), 2)] for draws in streams]
    dealt = [draw for dealt_ in zip(*pairs, strict=True) for pair in dealt_ for draw in pair][: size * epochs]
    for epoch in range(epochs):
        assert sorted(draw.index for draw in dealt[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert dealt == take(sampler(size, seed=seed), size * epochs), "the stream does not depend on the number of ranks"


@given(size=sizes, ranks=ranks_, seed=seeds, position=st.integers(0, 200), data=st.data())
@settings(max_examples=60)
def test_a_restart_continues_the_very_same_stream(
    size: int, ranks: int, seed: int, position: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, ranks - 1))
    whole = take(sampler(size, rank, ranks, seed), position + 30)
    assert take(sampler(size, rank, ranks, seed), 30, position) == whole[position:]


@given(size=sizes, ranks=ranks_, seed=seeds)
@settings(max_examples=60)
def test_the_two_of_a_pair_are_partners(size: int, ranks: int, seed: int) -> None:
    whole = take(sampler(size, seed=seed), 4 * size)
    for place, (first, second) in enumerate(zip(whole[::2], whole[1::2], strict=True)):
        if 2 * place // size == (2 * place + 1) // size:
            assert (first.partner, second.partner) == (second.index, first.index)
            assert first.index != second.index
        else:
            assert first.partner is second.partner is None
    for rank in range(ranks):
        mine = take(sampler(size, rank, ranks, seed), 2 * size)
        for first, second in zip(mine[::2], mine[1::2], strict=True):
            assert first.partner in (second.index, None)


def test_epochs_and_seeds_differ_and_the_same_seed_gives_the_same() -> None:
    draws = take(sampler(50), 100)
    first, second = draws[:50], draws[50:]
    assert [d.index for d in first] != [d.index for d in second]
    assert len({d.seed for d in draws}) == 100
    assert all(0 <= d.seed < 2**32 for d in draws)
    assert take(sampler(50), 100) == draws
    assert take(sampler(50, seed=1), 100) != draws


def test_without_shuffling_the_images_come_in_order() -> None:
    assert [draw.index for draw in take(sampler(3, shuffle=False), 7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_far_position_costs_one_permutation() -> None:
    made = sampler(1000)
    with patch.object(made, "_epoch", wraps=made._epoch) as epoch:
        take(made, 5, 10**12 + 7)
    assert epoch.call_count == 1


def test_it_is_registered_and_an_endless_sampler_to_mmengine() -> None:
    made = DATA_SAMPLERS.build({"type": "SeededSampler", "dataset": range(4), "seed": 3})
    assert len(made) == 4
    made.set_epoch(2)
    assert [type(value) for value in next(iter(made))] == [int, int, int]
    assert DATA_SAMPLERS.build({"type": "SeededSampler", "dataset": range(4), "seed": None}).seed >= 0


@pytest.mark.parametrize(("size", "seed", "word"), [(0, 0, "no images"), (3, -1, "seed is -1")])
def test_bad_options(size: int, seed: int, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        sampler(size, seed=seed)


def test_a_negative_position_is_refused() -> None:
    with pytest.raises(ConfigError, match="position is -1"):
        sampler(3).start(-1)


def test_ranks_with_different_data_are_refused() -> None:
    with (
        patch("detector.data.sampling.all_gather_object", return_value=[3, 4]),
        pytest.raises(StoreError, match="3, 4 images"),
    ):
        sampler(3)


def test_begin_makes_all_randomness_a_function_of_the_draw() -> None:
    def three() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    assert begin(Draw(7, 123)) == 7
    first = three()
    assert three() != first
    begin(Draw(0, 123))
    assert three() == first
    begin(Draw(0, 124))
    assert three() != first


def test_begin_leaves_randomness_alone_for_plain_indices() -> None:
    random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index,union-attr] # noqa: NPY002
    assert begin(5) == 5
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # type: ignore[index,union-attr] # noqa: NPY002
