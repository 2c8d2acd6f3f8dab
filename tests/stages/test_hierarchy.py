"""Wholes, parts and subparts: against a loop over all pairs, and by drawing."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from stages.hierarchy import HierarchyConfig, levels, parents


def held(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    area = masks.sum(axis=1)
    return (masks.astype(int) @ masks.T) / area[:, None], area


def level_by_hand(masks: np.ndarray, index: int, coverage: float) -> int:
    """Up the chain of parents, as the rule has it."""
    mask = masks[index]
    wholes = [
        (int(other.sum()), k)
        for k, other in enumerate(masks)
        if k != index
        and (mask & other).sum() >= coverage * mask.sum()
        and (mask & other).sum() < coverage * other.sum()
    ]
    return min(2, 1 + level_by_hand(masks, min(wholes)[1], coverage)) if wholes else 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("coverage", [0.5, 0.9, 1.0])
def test_levels_are_those_of_the_rule(seed: int, coverage: float) -> None:
    """Intervals in intervals, some twice, some nearly the same."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, 61, (30, 2)), axis=1)
    place = np.arange(60)
    masks = np.array([(place >= low) & (place < high) for low, high in ends if high > low])
    masks = np.concatenate([masks, masks[:3]])
    got = levels(*held(masks), coverage)
    assert got.tolist() == [level_by_hand(masks, k, coverage) for k in range(len(masks))]
    assert {0, 1} <= set(got.tolist()) <= {0, 1, 2}


def test_a_chain_of_boxes() -> None:
    """A box in a box in a box in a box; beside them one that is alone, and the outermost once more."""
    masks = np.zeros((6, 20, 20), bool)
    for k, (low, high) in enumerate([(0, 14), (1, 11), (2, 8), (3, 6)]):
        masks[k, low:high, low:high] = True
    masks[4, 15:19, 15:19] = True
    masks[5] = masks[0]
    flat = masks.reshape(6, -1)
    assert parents(*held(flat), 0.9).tolist() == [-1, 0, 1, 2, -1, -1], "of two equal wholes the first"
    assert levels(*held(flat), 0.9).tolist() == [0, 1, 2, 2, 0, 0]
    codes = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    by_code = np.asarray(coco_mask.iou(codes, codes, [1] * 6))
    np.testing.assert_allclose(by_code, held(flat)[0]), "what pycocotools calls the IoU with a crowd"
    assert levels(np.zeros((0, 0)), np.zeros(0), 0.9).tolist() == []


def test_nearly_the_same_is_no_part() -> None:
    """95 of 100 is not a part: the whole is covered, too."""
    whole, part = np.arange(100) < 100, np.arange(100) < 95
    masks = np.array([whole, part])
    assert levels(*held(masks), 0.9).tolist() == [0, 0]
    assert levels(*held(masks), 0.96).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thresholds": (0.2, 0.4)}, "hierarchy.thresholds must fall, as in 0.4,0.2,0.1, got 0.2,0.4"),
        ({"thresholds": (0.4, 0.4)}, "must fall"),
        ({"thresholds": ()}, "1..255 numbers in .* got none at all"),
        ({"thresholds": (1.5,)}, r"numbers in \[-1, 1\] or none, got 1.5"),
        ({"min_area": 1.0}, r"min_area must lie in \[0, 1\)"),
        ({"min_pixels": -1}, "min_pixels must be at least 0"),
        ({"max_corners": 5}, "max_corners must be 0..4"),
        ({"coverage": 0.0}, r"coverage must lie in \(0, 1\]"),
    ],
)
def test_options_out_of_range_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchyConfig(**settings)  # type: ignore[arg-type]


def test_thresholds_of_the_features_are_taken_where_there_are_none() -> None:
    assert HierarchyConfig().settled((0.5, 0.3)).taus == (0.5, 0.3)
    assert HierarchyConfig(thresholds=(0.4,)).settled((0.5, 0.3)).taus == (0.4,)
    with pytest.raises(ValueError, match="not set"):
        _ = HierarchyConfig().taus
