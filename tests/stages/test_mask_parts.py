"""The parts of the score against plain loops over patches, at their extremes, and as a product."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import torch

from stages.mask_parts import ALIKE, DEPTH_STEP, clearance, mask_parts, nearness
from stages.score import CONSTANT, OBJECTNESS, PARTS, ScoreParts, check_score, score_of

GRID = (24, 20)
TAU = 0.25


def patches_of(grid: tuple[int, int]) -> list[tuple[int, int]]:
    return [(y, x) for y in range(grid[0]) for x in range(grid[1])]


def random_image(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, D) with some likeness between patches, depth (Gh, Gw), and smooth masks (M, Gh, Gw)."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(3, 12)) + 0.5
    label = np.digitize(scipy.ndimage.gaussian_filter(rng.normal(size=GRID), 2), [-0.05, 0.05])
    features = kinds[label].reshape(-1, 12) + 0.8 * rng.normal(size=(label.size, 12))
    depth = scipy.ndimage.gaussian_filter(rng.random(GRID), 2.0)
    depth = np.round((depth - depth.min()) / np.ptp(depth), 2)  # neighbours of one depth occur
    masks = np.array([scipy.ndimage.gaussian_filter(rng.normal(size=GRID), 2) > level for level in (-0.02, 0.0, 0.1)])
    return features.astype(np.float32), depth.astype(np.float32), masks


def square(top: int, left: int, side: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    mask = np.zeros(grid, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("seed", range(4))
def test_contrast_compares_with_a_ring(seed: int) -> None:
    features, _, masks = random_image(seed)
    unit = (features / np.linalg.norm(features, axis=1, keepdims=True)).reshape(*GRID, -1).astype(np.float64)
    for mask, parts in zip(masks, mask_parts(torch.from_numpy(features), None, masks, TAU), strict=True):
        inside, ring = np.zeros(12), np.zeros(12)
        for y, x in patches_of(GRID):
            if mask[y, x]:
                inside += unit[y, x]
            elif mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any():  # 5 % of 24 patches are 1 patch
                ring += unit[y, x]
        assert parts.contrast == pytest.approx(0.5 - 0.5 * cosine(inside, ring), abs=1e-5)


def test_the_ring_is_as_wide_as_five_percent_of_the_grid() -> None:
    """On 60×60, three patches: what is farther off does not count."""
    features = np.tile([1.0, 0.0, 0.0], (60, 60, 1))
    features[17:43, 17:43] = (0.0, 1.0, 0.0)
    features[20:40, 20:40] = (-1.0, 0.0, 0.0)
    mask = square(20, 20, 20, (60, 60))
    (parts,) = mask_parts(torch.from_numpy(features.reshape(3600, 3)), None, mask[None], TAU)
    assert parts.contrast == pytest.approx(0.5, abs=1e-6)
    features[17, 17] = features[16] = (1.0, 0.0, 0.0)
    (parts,) = mask_parts(torch.from_numpy(features.reshape(3600, 3)), None, mask[None], TAU)
    assert 0.5 < parts.contrast < 0.51, "the corner of the ring is in it, the fourth row is not"


@pytest.mark.parametrize("seed", range(4))
def test_uniqueness_is_the_share_of_like_patches_inside(seed: int) -> None:
    features, _, masks = random_image(seed)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    shares = []
    for mask, parts in zip(masks, mask_parts(torch.from_numpy(features), None, masks, TAU), strict=True):
        mean = unit[mask.ravel()].mean(axis=0)
        alike = [cosine(patch, mean) > ALIKE * TAU for patch in unit]
        inside = [like and bool(within) for like, within in zip(alike, mask.ravel(), strict=True)]
        assert parts.uniqueness == pytest.approx(sum(inside) / sum(alike), abs=1e-6)
        shares.append(parts.uniqueness)
    assert 0 < min(shares) < max(shares) < 1


def test_a_piece_of_a_thing_is_less_unique_than_the_whole() -> None:
    features = np.tile([1.0, 0.0], (*GRID, 1))
    features[4:12, 4:12] = (0.0, 1.0)
    masks = np.stack([square(4, 4, 8), square(4, 4, 4)])
    whole, piece = mask_parts(torch.from_numpy(features.reshape(-1, 2)), None, masks, TAU)
    assert whole.uniqueness == 1.0
    assert piece.uniqueness == pytest.approx(0.25)
    assert whole.contrast == pytest.approx(0.5)
    # a τ so high that twice of it is no cosine still has patches that are alike
    assert mask_parts(torch.from_numpy(features.reshape(-1, 2)), None, masks, 0.9)[0].uniqueness == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_nearness_goes_along_the_outline(seed: int) -> None:
    _, depth, masks = random_image(seed)
    got_M = nearness(depth, masks)
    for mask, got in zip(masks, got_M, strict=True):
        farther = outline = 0
        for y, x in patches_of(GRID):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if mask[y, x] and 0 <= v < GRID[0] and 0 <= u < GRID[1] and not mask[v, u]:
                    outline += 1
                    farther += depth[v, u] - depth[y, x] > DEPTH_STEP
        assert got == pytest.approx(farther / outline)
    assert ((got_M > 0) & (got_M < 1)).all()


def test_nearness_of_a_thing_before_a_wall_and_of_a_hole_in_it() -> None:
    mask = square(8, 7, 6)
    assert nearness(np.where(mask, 0.2, 0.9), mask[None]).tolist() == [1.0]
    assert nearness(np.where(mask, 0.9, 0.2), mask[None]).tolist() == [0.0]
    assert nearness(np.full(GRID, 0.5), mask[None]).tolist() == [0.0]
    # a step that is no more than noise is none
    assert nearness(np.where(mask, 0.5, 0.5 + DEPTH_STEP / 2), mask[None]).tolist() == [0.0]
    # half of the outline of a thing that stands on the ground is farther: above and beside it, not below
    standing = np.full(GRID, 0.9)
    standing[14:] = 0.2
    assert nearness(np.where(mask, 0.2, standing), mask[None])[0] == pytest.approx(18 / 24)
    edges = np.stack([np.zeros(GRID, bool), np.ones(GRID, bool)])
    assert nearness(np.where(mask, 0.2, 0.9), edges).tolist() == [0.0, 0.0]


def test_clearance_is_what_a_mask_leaves_of_the_border() -> None:
    border = [(y, x) for y, x in patches_of(GRID) if y in (0, GRID[0] - 1) or x in (0, GRID[1] - 1)]
    frame = np.zeros(GRID, bool)
    frame[tuple(np.array(border).T)] = True
    corner = square(0, 0, 5)
    masks = np.stack([square(5, 5, 8), frame, ~frame, corner, np.ones(GRID, bool)])
    expected = [1.0, 0.0, 1.0, 1 - sum(corner[y, x] for y, x in border) / len(border), 0.0]
    np.testing.assert_allclose(clearance(masks), expected)
    assert expected[3] == pytest.approx(1 - 9 / 84)


@pytest.mark.parametrize("seed", range(6))
def test_all_parts_lie_in_0_to_1(seed: int) -> None:
    features, depth, masks = random_image(seed)
    extremes = np.stack([np.zeros(GRID, bool), np.ones(GRID, bool), square(0, 0, 1), square(9, 9, 1)])
    described = mask_parts(torch.from_numpy(features).half(), depth, np.concatenate([masks, extremes]), TAU)
    assert len(described) == 7
    for parts in described:
        for name in PARTS:
            assert 0.0 <= getattr(parts, name) <= 1.0, name
        assert (parts.stability, parts.novelty) == (1.0, 1.0)
        assert 0.0 <= score_of(parts, OBJECTNESS) <= 1.0
    empty, full = described[3:5]
    assert dataclasses.astuple(empty) == (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    assert (full.contrast, full.uniqueness, full.nearness, full.clearance) == (0.0, 1.0, 0.0, 0.0)
    assert mask_parts(torch.from_numpy(features), None, masks, TAU)[0].nearness == 1.0, "without depth it says nothing"
    assert mask_parts(torch.from_numpy(features), depth, masks[:0], TAU) == []


@pytest.mark.parametrize("value", [0.1, 0.3, 1.0, 7.0])
def test_where_all_patches_are_alike_there_is_no_contrast(value: float) -> None:
    """Not even that of rounding, which would put masks out for a blank photo."""
    described = mask_parts(torch.full((480, 8), value), None, random_image(0)[2], TAU)
    assert [parts.contrast for parts in described] == [0.0] * 3


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_does_not_depend_on_the_features_length(scale: float) -> None:
    features, depth, masks = random_image(1)
    for one, other in zip(
        mask_parts(torch.from_numpy(features), depth, masks, TAU),
        mask_parts(torch.from_numpy(features * scale), depth, masks, TAU),
        strict=True,
    ):
        assert dataclasses.asdict(one) == pytest.approx(dataclasses.asdict(other), abs=1e-5)


def test_the_thing_scores_more_than_what_is_not_quite_it() -> None:
    """A planted thing before a wall against a half of it, half of it with as much wall, and the wall."""
    thing = square(6, 6, 8)
    rng = np.random.default_rng(0)
    features = np.eye(8)[thing.astype(int)] + 0.1 * rng.normal(size=(*GRID, 8))
    depth = np.where(thing, 0.3, 0.9)
    half = thing & (np.arange(GRID[1]) < 10)
    masks = np.stack([thing, half, square(6, 10, 8), ~thing])
    scores = [score_of(p, OBJECTNESS) for p in mask_parts(torch.from_numpy(features.reshape(-1, 8)), depth, masks, TAU)]
    assert scores[0] > 0.45
    assert max(scores[1:]) < scores[0] / 2, scores


def test_scores_are_products_of_the_parts() -> None:
    parts = ScoreParts(0.5, 0.25, 0.75, 0.9, 0.8, 0.6)
    assert PARTS == ("contrast", "uniqueness", "nearness", "clearance", "stability", "novelty")
    for name, value in zip(PARTS, dataclasses.astuple(parts), strict=True):
        assert score_of(parts, name) == value
    assert score_of(parts, "stability*contrast") == pytest.approx(0.4)
    assert score_of(parts, OBJECTNESS) == pytest.approx(0.5 * 0.25 * 0.75 * 0.9 * 0.8 * 0.6)
    assert score_of(parts, CONSTANT) == 1.0


@pytest.mark.parametrize("score", ["constant", "contrast", "novelty*contrast", OBJECTNESS])
def test_scores_that_there_are(score: str) -> None:
    check_score(score)


@pytest.mark.parametrize(
    "score",
    ["", "confidence", "contrast_confidence", "contrast*", "contrast*contrast", "constant*contrast", "contrast *"],
)
def test_scores_that_there_are_not(score: str) -> None:
    with pytest.raises(ValueError, match=r'score must be "constant" or a product of contrast, uniqueness, .* got'):
        check_score(score)
