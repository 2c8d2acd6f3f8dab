"""Words that messages share."""

import pytest

from pipeline.wording import clock, duration, few_of, part_of


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0.04, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (300, "5 min"), (3599, "1 h 0 min"), (7800, "2 h 10 min")),
        *((172_000, "47 h 47 min"), (273_600, "3 d 4 h")),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("seconds", "said"), [(-3, "0:00:00"), (64.6, "0:01:05"), (108_000, "30:00:00")])
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said


@pytest.mark.parametrize(
    ("names", "said"), [("", ""), ("abcde", "a, b, c, d, e"), ("abcdefgh", "a, b, c, d, e and 3 more")]
)
def test_few_of_many(names: str, said: str) -> None:
    assert few_of(list(names)) == said


def test_a_part_of_all_has_its_verb() -> None:
    assert part_of(1, 3, "shard") == "1 of 3 shards is"
    assert part_of(2, 3, "shard") == "2 of 3 shards are"
    assert part_of(1, 1, "patch", "es") == "1 of 1 patch is"
