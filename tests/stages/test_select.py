"""Which candidates become masks: against loops over pairs and the definition of Soft-NMS."""

import numpy as np
import pytest

from stages.filters import mask_iou
from stages.select import SelectConfig, distinct, pairwise_iou, soft_nms


def candidates(seed: int, m: int = 25, n: int = 40) -> np.ndarray:
    """(M, N) masks, among them some that are nearly the same, one twice and one that is empty."""
    rng = np.random.default_rng(seed)
    masks = rng.random((m, n)) < rng.uniform(0.1, 0.7, (m, 1))
    for k in range(1, m, 3):
        masks[k] = masks[k - 1] ^ (rng.random(n) < 0.04)
    masks[5], masks[9] = masks[4], False
    return masks


@pytest.mark.parametrize("seed", range(3))
def test_iou_of_every_two(seed: int) -> None:
    masks = candidates(seed)
    got = pairwise_iou(masks)
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            assert got[i, j] == pytest.approx(mask_iou(one, other), abs=1e-6)
    assert got[9].tolist() == [0.0] * len(masks), "an empty mask is like none, itself included"
    assert pairwise_iou(masks[:0]).shape == (0, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("same_iou", [0.5, 0.92, 1.0])
def test_distinct_keeps_the_larger_of_two_that_are_the_same(seed: int, same_iou: float) -> None:
    masks = candidates(seed)
    expected: list[int] = []
    for index in sorted(range(len(masks)), key=lambda k: (-int(masks[k].sum()), k)):
        if all(mask_iou(masks[index], masks[k]) <= same_iou for k in expected):
            expected.append(index)
    kept = distinct(masks, same_iou)
    assert kept.tolist() == expected
    assert kept.dtype == np.int64
    left_out = set(range(len(masks))) - set(expected)
    assert left_out or same_iou == 1.0
    for index in left_out:
        assert any(
            mask_iou(masks[index], masks[k]) > same_iou for k in expected if masks[k].sum() >= masks[index].sum()
        )
    assert distinct(masks[:0], same_iou).tolist() == []


def test_of_equal_masks_the_first_stays_unless_equals_are_wanted() -> None:
    """The IoU of equal masks is 1, which is not above 1: with same_iou 1 nothing is left out."""
    mask = np.array([[True, True, False]] * 3)
    assert distinct(mask, 0.92).tolist() == [0]
    assert distinct(mask, 1.0).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_soft_nms_is_its_definition(seed: int) -> None:
    masks = candidates(seed)
    scores = np.random.default_rng(100 + seed).random(len(masks))
    scores[[2, 11]] = 0.0
    config = SelectConfig(masks=8, overlap_sigma=0.4)
    chosen: list[int] = []
    values: list[float] = []
    for _ in range(8):
        open_ = {}
        for k in set(range(len(masks))) - set(chosen):
            novelty = np.prod([np.exp(-(mask_iou(masks[k], masks[c]) ** 2) / 0.4) for c in chosen])
            if scores[k] > 0:
                open_[k] = float(novelty)
        best = max(open_, key=lambda k: scores[k] * open_[k])
        chosen.append(best)
        values.append(open_[best])
    got, novelty = soft_nms(scores, masks, config)
    assert got.tolist() == chosen
    assert got.dtype == np.int64
    np.testing.assert_allclose(novelty, values, rtol=1e-5)
    ranked = scores[got] * novelty
    assert ranked.tolist() == sorted(ranked.tolist(), reverse=True)
    assert novelty[0] == 1.0
    assert ((novelty > 0) & (novelty <= 1)).all()


def test_overlap_costs_and_distance_does_not() -> None:
    masks = np.zeros((3, 12), bool)
    masks[0, :6], masks[1, :5], masks[2, 8:] = True, True, True
    chosen, novelty = soft_nms(np.array([0.9, 0.8, 0.3]), masks, SelectConfig(overlap_sigma=0.3))
    assert chosen.tolist() == [0, 2, 1], "five of six patches once more are worth less than something new"
    np.testing.assert_allclose(novelty, [1.0, 1.0, np.exp(-((5 / 6) ** 2) / 0.3)], rtol=1e-6)
    # the other way round where overlap is cheap
    assert soft_nms(np.array([0.9, 0.8, 0.3]), masks, SelectConfig(overlap_sigma=5.0))[0].tolist() == [0, 1, 2]


def test_no_more_than_asked_for_and_none_of_score_0() -> None:
    masks = candidates(0)
    scores = np.linspace(1, 0, len(masks))
    for limit in (1, 3, 100):
        chosen, novelty = soft_nms(scores, masks, SelectConfig(masks=limit))
        assert len(chosen) == len(novelty) == len(set(chosen.tolist())) == min(limit, len(masks) - 1)
    assert len(masks) - 1 not in soft_nms(scores, masks, SelectConfig(masks=100))[0]
    for nothing in (
        soft_nms(np.zeros(len(masks)), masks, SelectConfig()),
        soft_nms(scores[:0], masks[:0], SelectConfig()),
    ):
        assert [part.tolist() for part in nothing] == [[], []]


def test_poor_masks_can_be_left_out() -> None:
    """What is left are the first of those chosen without: novelty counts, and better masks do not change."""
    masks, scores = candidates(3), np.random.default_rng(3).random(25)
    everything, novelty = soft_nms(scores, masks, SelectConfig(masks=20))
    final = scores[everything] * novelty
    for least in (0.0, float(np.median(final)), 1.0):
        chosen, _ = soft_nms(scores, masks, SelectConfig(masks=20, min_score=least))
        assert chosen.tolist() == everything[final >= least].tolist()
    assert 0 < np.count_nonzero(final >= np.median(final)) < len(final)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("masks", 0, r"1\.\.255, got 0"),
        ("masks", 256, r"1\.\.255, got 256"),
        ("min_score", -0.1, r"0\.\.1, got -0.1"),
        ("same_iou", 0.0, r"\(0, 1\], got 0"),
        ("same_iou", 1.5, r"\(0, 1\], got 1.5"),
        ("overlap_sigma", 0.0, "> 0, got 0"),
        ("overlap_sigma", float("nan"), "> 0, got nan"),
    ],
)
def test_bad_values_are_named(option: str, value: float, says: str) -> None:
    with pytest.raises(ValueError, match=rf"select\.{option} must .*{says}"):
        SelectConfig(**{option: value})  # type: ignore[arg-type]
