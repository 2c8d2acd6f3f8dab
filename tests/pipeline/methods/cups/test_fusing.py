"""Movers and labels become panoptic labels: against a plain transcription pixel by pixel, and by property."""

from collections import Counter

import numpy as np
import pytest
from support import given_motion
from support.given_motion import movers_of

from pipeline.methods.cups.fusing import at_size, fuse, within_borders
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.semantic import NONE, Classes
from stages.motion.movers import Movers

CLASSES, SIZE = 5, (12, 20)


def movers(*masks: np.ndarray, reason: str = "") -> Movers:
    return movers_of(*masks, size=SIZE, reason=reason)


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    return given_motion.rectangle(top, bottom, left, right, SIZE)


def plain_fuse(labels_HW: np.ndarray, found: Movers) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """As the method says it, a pixel at a time."""
    labels, ids, kept = labels_HW.tolist(), np.zeros(labels_HW.shape, int).tolist(), []
    for mask_HW, agreement in zip(found.masks_MHW, found.agreement_M.tolist(), strict=True):
        pixels = list(zip(*(axis.tolist() for axis in mask_HW.nonzero()), strict=True))
        votes = Counter(int(labels_HW[pixel]) for pixel in pixels if labels_HW[pixel] != NONE)
        if votes:
            kept.append(agreement)
            best = min(votes, key=lambda class_: (-votes[class_], class_))
            for y, x in pixels:
                labels[y][x], ids[y][x] = best, len(kept)
    return labels, ids, kept


@pytest.mark.parametrize("seed", range(20))
def test_each_mover_takes_the_class_of_most_of_its_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels_HW = rng.choice([*range(CLASSES), NONE], (12, 20)).astype(np.uint8)
    numbers_HW = rng.integers(0, 6, (12, 20))
    found = movers(*(numbers_HW == number for number in range(1, 6)))
    before = labels_HW.copy()
    fused = fuse(labels_HW, found)
    labels, ids, kept = plain_fuse(labels_HW, found)
    assert (fused.labels_HW.tolist(), fused.ids_HW.tolist(), fused.agreement_M.tolist()) == (labels, ids, kept)
    assert fused.reason == ""
    assert (labels_HW == before).all(), "what goes in stays as it is"
    record = PanopticRecord.of(
        "x", fused.labels_HW, np.ones((12, 20), np.float32), fused.ids_HW, fused.agreement_M, Classes.clusters(CLASSES)
    )
    assert len(record.instances) == 5


def test_class_0_is_a_class_like_any_other() -> None:
    """The released code parks it at 255 meanwhile; here the whole is the same under any renumbering."""
    labels_HW = np.zeros((12, 20), np.uint8)
    labels_HW[:, 10:] = 3
    found = movers(rectangle(2, 6, 4, 12), rectangle(7, 11, 9, 18))
    fused = fuse(labels_HW, found)
    assert {int(fused.labels_HW[mask][0]) for mask in found.masks_MHW} == {0, 3}
    swapped = fuse(np.where(labels_HW == 0, 3, 0).astype(np.uint8), found)
    assert (swapped.labels_HW == np.where(fused.labels_HW == 0, 3, 0)).all()
    assert (swapped.ids_HW == fused.ids_HW).all()


def test_of_equals_the_lower_number_wins() -> None:
    labels_HW = np.full((12, 20), 4, np.uint8)
    labels_HW[:, 10:] = 1
    assert (fuse(labels_HW, movers(rectangle(0, 4, 8, 12))).labels_HW[0:4, 8:12] == 1).all()


def test_a_mover_without_labels_is_left_out_and_the_others_move_up() -> None:
    labels_HW = np.full((12, 20), NONE, np.uint8)
    labels_HW[8:] = 2
    fused = fuse(labels_HW, movers(rectangle(0, 4, 0, 4), rectangle(6, 10, 0, 4)))
    assert fused.agreement_M.tolist() == pytest.approx([0.8])
    assert (fused.ids_HW > 0).sum() == 16
    assert (fused.labels_HW[6:10, 0:4] == 2).all(), "pixels without a class take that of their mover"
    assert fuse(labels_HW, movers(rectangle(0, 4, 0, 4))).reason == "no_class"


def test_a_reason_stays() -> None:
    labels_HW = np.zeros((12, 20), np.uint8)
    fused = fuse(labels_HW, movers(reason="no_agreement"))
    assert (fused.reason, fused.agreement_M.size, fused.ids_HW.any()) == ("no_agreement", 0, False)
    assert within_borders(movers(reason="too_small"), 0.1, 64).reason == "too_small"


def test_nothing_is_kept_at_the_borders() -> None:
    found = movers(rectangle(0, 12, 0, 20), rectangle(4, 8, 0, 1), rectangle(4, 8, 17, 20))
    kept = within_borders(found, 0.1, 2)
    assert kept.masks_MHW.any(axis=(0, 1)).nonzero()[0].tolist() == list(range(2, 18)), "a tenth at each side"
    assert kept.masks_MHW.any(axis=(0, 2)).all(), "rows are left alone"
    assert kept.agreement_M.tolist() == found.agreement_M[[0, 2]].tolist()
    assert found.masks_MHW[0].all(), "what goes in stays as it is"


def test_what_the_border_leaves_must_be_large_enough() -> None:
    cut, whole = rectangle(2, 10, 0, 3), rectangle(2, 4, 10, 12)
    kept = within_borders(movers(cut, whole), 0.1, 9)
    assert [mask.sum() for mask in kept.masks_MHW] == [4], "what no border cuts has its size already"
    alone = within_borders(movers(cut), 0.1, 9)
    assert (alone.reason, len(alone.masks_MHW), len(alone.agreement_M)) == ("at_border", 0, 0)
    assert len(within_borders(movers(cut), 0.1, 8).masks_MHW) == 1
    assert (within_borders(movers(cut), 0, 9).masks_MHW == cut).all()


@pytest.mark.parametrize("size", [(12, 20), (24, 40), (17, 33), (375, 1242)])
def test_movers_keep_their_place_at_another_size(size: tuple[int, int]) -> None:
    found = movers(rectangle(2, 6, 4, 12), rectangle(6, 9, 4, 12), rectangle(11, 12, 19, 20))
    large = at_size(found, size)
    y, x = ((np.arange(length) + 0.5) / length for length in size)
    rows, columns = (y * 12).astype(int), (x * 20).astype(int)
    assert large.masks_MHW.dtype == bool
    assert (large.masks_MHW == found.masks_MHW[:, rows[:, None], columns]).all()
    assert large.masks_MHW.sum(axis=0).max() == 1
    assert at_size(movers(), size).masks_MHW.shape == (0, *size)
