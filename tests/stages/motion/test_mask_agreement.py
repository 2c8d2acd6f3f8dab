"""The ensemble: agreement, matrix NMS, painting and surface, against counting, loops and plates of known size."""

import numpy as np
import pytest
from support import reference_movers as reference
from support.stereo_scenes import SMALL, SMALL_SIZE

from stages.motion.mask_agreement import agreement, matrix_nms, painted, surface
from stages.motion.object_masks import Piece

SIZE = (20, 30)


def rectangle(top: int, left: int, bottom: int, right: int, certainty: float = 1.0) -> Piece:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return Piece(np.flatnonzero(mask), certainty)


def mask_of(piece: Piece) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask.ravel()[piece.pixels] = True
    return mask


def some_pieces(count: int, seed: int) -> list[Piece]:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (10, 15), (count, 2))
    sizes = rng.integers(4, (10, 15), (count, 2))
    return [
        rectangle(top, left, top + height, left + width, float(rng.uniform(0.6, 1)))
        for (top, left), (height, width) in zip(corners.tolist(), sizes.tolist(), strict=True)
    ]


def test_agreement_is_the_share_of_runs_over_the_pixels() -> None:
    pooled = [rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 10), rectangle(0, 5, 10, 15), rectangle(15, 0, 18, 4)]
    # half of the first is covered thrice, half twice
    assert agreement(pooled, 4) == pytest.approx([2.5 / 4, 2.5 / 4, (3 + 1) / 2 / 4, 1 / 4])
    assert agreement([rectangle(0, 0, 5, 5)] * 8, 8) == pytest.approx([1] * 8)
    assert len(agreement([], 8)) == 0


@pytest.mark.parametrize("seed", range(8))
def test_matrix_nms_as_in_loops(seed: int) -> None:
    pooled = some_pieces(9, seed)
    masks = [reference.Mask(mask_of(piece), piece.certainty) for piece in pooled]
    for least in (0.3, 0.6, 0.9):
        kept = [pooled[index] for index in matrix_nms(pooled, least)]
        expected = reference.nms(masks, least)
        assert [piece.certainty for piece in kept] == [one.score for one in expected]


def test_the_exponent_multiplies() -> None:
    """Two masks of IoU 0.5: the decay is exp(-2·0.25) = 0.607, not exp(-0.25/2) = 0.88."""
    two = [rectangle(0, 0, 10, 10, 0.99), rectangle(0, 0, 10, 5, 0.98)]
    assert matrix_nms(two, 0.98 * np.exp(-0.5) - 1e-6) == [0, 1]
    assert matrix_nms(two, 0.98 * np.exp(-0.5) + 1e-6) == [0]
    assert matrix_nms([two[0]] * 5, 0.6) == [0], "of equal masks the first is left"
    assert matrix_nms([], 0.6) == []


def test_the_larger_mask_is_on_top() -> None:
    small, large = mask_of(rectangle(0, 0, 6, 6)), mask_of(rectangle(3, 3, 15, 15))
    for first, second in ((small, large), (large, small)):
        label = painted([first, second], SIZE)
        own = {True: 1 + (second is large), False: 1 + (second is small)}
        np.testing.assert_array_equal(label == own[True], large)
        np.testing.assert_array_equal(label == own[False], small & ~large)
    assert not painted([], SIZE).any()


def test_the_surface_of_a_plate() -> None:
    """Two by one metres at 10 m, 240 pixels of focal length: 48 × 24 pixels."""
    mask = np.zeros(SMALL_SIZE, bool)
    mask[40:64, 100:148] = True
    depth, everywhere = np.full(SMALL_SIZE, 10, np.float32), np.ones(SMALL_SIZE, bool)
    focal = (SMALL.fx, SMALL.fy)
    assert surface(mask, depth, everywhere, focal) == pytest.approx(2.0)
    # gaps count, as in the paper's code: the hull is what is measured
    comb = mask & (np.arange(SMALL_SIZE[1]) % 3 == 1)
    assert surface(comb, depth, everywhere, focal) == pytest.approx(2.0, rel=0.1)
    # depths that cannot be relied on do not count, nor do a few outliers
    wrong = depth.copy()
    wrong[40:50] = 60
    assert surface(mask, wrong, wrong == 10, focal) == pytest.approx(2.0)
    wrong[40:50] = 10
    wrong[50, 100:140] = 60
    assert surface(mask, wrong, everywhere, focal) == pytest.approx(2.0)
    assert surface(mask, depth, ~everywhere, focal) == 0


def test_noise_of_the_depth_does_not_enlarge_a_surface() -> None:
    """It does so sixfold when pixels are triangulated in space, as released, with a quarter of a pixel of disparity."""
    mask = np.zeros(SMALL_SIZE, bool)
    mask[40:64, 100:148] = True
    disparity = SMALL.fx * SMALL.baseline / 20 + np.random.default_rng(0).normal(0, 0.25, SMALL_SIZE)
    depth = (SMALL.fx * SMALL.baseline / disparity).astype(np.float32)
    everywhere = np.ones(SMALL_SIZE, bool)
    seen = reference.Look(
        reliable=everywhere, flow_ok=everywhere, depth=depth.astype(float), landing=np.zeros((*SMALL_SIZE, 2)),
        disparity_next=disparity, sigma=(2, 2, 2), camera=SMALL, rows=np.arange(1), columns=np.arange(1),
        before=np.zeros((1, 3)), after=np.zeros((1, 3)),
    )  # fmt: skip
    assert surface(mask, depth, everywhere, (SMALL.fx, SMALL.fy)) == pytest.approx(8.0, rel=0.05)
    assert reference.surface(mask, seen, released=False) == pytest.approx(8.0, rel=0.1)
    assert reference.surface(mask, seen, released=True) > 40


def test_holes_alone_are_filled_not_what_a_mask_cuts_off() -> None:
    """As released, all but the largest piece of what is not the mask becomes the mask; or, of a large mask, the mask
    itself is turned over. `stages.refine.without_holes` fills holes.
    """
    from stages.refine import without_holes

    bar = np.zeros(SIZE, bool)
    bar[:, 10:13] = True  # from top to bottom: it cuts off what lies to its left
    bar[8, 11] = False
    filled = bar.copy()
    filled[8, 11] = True
    np.testing.assert_array_equal(without_holes(bar), filled)
    np.testing.assert_array_equal(reference.whole(bar, released=False), filled)
    assert reference.whole(bar, released=True)[:, :13].all()
    large = np.ones(SIZE, bool)
    large[:, 14:16] = False
    assert without_holes(large).sum() == large.sum()
    np.testing.assert_array_equal(reference.whole(large, released=True), ~large)
