"""Regions that share an image out, refined together: against the same steps written plainly, and by drawing."""

import numpy as np
import pytest
import torch

from stages.crf import CrfConfig, label_crf
from stages.filters import DropReason
from stages.hierarchy import HierarchyConfig
from stages.refine import RefineConfig, RefinedMasks, to_square
from stages.refine_regions import Partition, judged, refine_regions

CRF = CrfConfig(iterations=4, gaussian_sxy=2.0, bilateral_sxy=12.0, bilateral_srgb=20.0)


def scene(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A bright box before a dark ground, with some noise."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (40, 60, 90))
    image[18:44, 24:52] = (210, 180, 60)
    return np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)


def quarters() -> Partition:
    labels = np.zeros((6, 8), int)
    labels[2:4, 2:5] = 1
    labels[4:, 4:] = 2
    return Partition(labels, (1, 2))


@pytest.mark.parametrize("crf", [CRF, None])
def test_the_steps_written_plainly(crf: CrfConfig | None) -> None:
    image, partition = scene(), quarters()
    (got,) = refine_regions([image], [[partition]], RefineConfig(size=96, crf=crf))
    one_hot = torch.from_numpy(np.stack([partition.labels == k for k in range(3)])).float()
    before = torch.nn.functional.interpolate(one_hot[None], (96, 96), mode="bilinear")[0]
    after = before
    if crf is not None:
        (after,) = label_crf(torch.from_numpy(to_square(image, 96).copy())[None], [before], crf)
    for place, label in enumerate(partition.wanted):
        a, b = before[label] >= 0.5, after[label] >= 0.5
        assert got.crf_iou[place] == pytest.approx(float((a & b).sum() / (a | b).sum()))
        at_size = torch.nn.functional.interpolate(after[label][None, None], (60, 80), mode="bilinear")[0, 0] >= 0.5
        assert not (at_size.numpy() & ~got.masks[place]).any(), "filling holes adds only"
    assert got.masks.shape == (2, 60, 80)
    assert got.dropped == (None, None)
    assert got.keep.tolist() == [True, True]


def test_a_region_snaps_to_its_thing() -> None:
    true = np.zeros((60, 80), bool)
    true[18:44, 24:52] = True
    (got,) = refine_regions([scene()], [[quarters()]], RefineConfig(size=96, crf=CRF))
    raw = quarters().labels.repeat(10, 0).repeat(10, 1) == 1

    def iou(mask: np.ndarray) -> float:
        return float((mask & true).sum() / (mask | true).sum())

    assert iou(got.masks[0]) > max(0.9, iou(raw))


def test_images_and_partitions_come_back_in_their_order() -> None:
    images = [scene(), scene(44, 90, seed=1)]
    halves = Partition((np.arange(48) % 8 >= 4).astype(int).reshape(6, 8), (0, 1))
    unwanted = Partition(np.zeros((6, 8), int), ())
    config = RefineConfig(size=48, crf=CRF)
    both = refine_regions(images, [[quarters(), unwanted, halves], [halves]], config)
    assert [own.masks.shape for own in both] == [(4, 60, 80), (2, 44, 90)]
    (first,) = refine_regions(images[:1], [[quarters()]], config)
    (second,) = refine_regions(images[:1], [[halves]], config)
    assert np.array_equal(both[0].masks, np.concatenate([first.masks, second.masks]))
    (own_size,) = refine_regions(images[1:], [[halves]], RefineConfig(size=None, crf=CRF))
    assert own_size.masks.shape == (2, 44, 90)
    (nothing,) = refine_regions(images[:1], [[unwanted]], config)
    assert nothing.masks.shape == (0, 60, 80)
    assert refine_regions([], [], config) == []


def test_a_region_that_the_crf_takes_away_is_dropped() -> None:
    """A patch of the ground's colour, alone in it."""
    labels = np.zeros((6, 8), int)
    labels[0, 7] = 1
    strong = CrfConfig(gaussian_compat=40.0, bilateral_compat=40.0, bilateral_sxy=30.0, bilateral_srgb=20.0)
    (got,) = refine_regions([scene()], [[Partition(labels, (1,))]], RefineConfig(size=96, crf=strong))
    assert got.dropped == (DropReason.CRF_DISAGREES,)


def test_small_masks_and_backgrounds_are_dropped_with_their_reasons() -> None:
    masks = np.zeros((5, 20, 20), bool)
    masks[0, :9, :11] = True  # 99 pixels
    masks[1, :10, :10] = True
    masks[2, :, :] = True
    masks[3, :, :10] = True  # two corners
    masks[4, 5:8, 5:8] = True
    refined = RefinedMasks(masks, np.ones(5, np.float32), (*[None] * 4, DropReason.CRF_DISAGREES))
    found = judged(refined, HierarchyConfig())
    assert found.dropped == (DropReason.TOO_SMALL, None, DropReason.CORNERS, None, DropReason.CRF_DISAGREES)
    assert judged(refined, HierarchyConfig(min_pixels=0, max_corners=4)).dropped == refined.dropped
    assert judged(refined, HierarchyConfig(max_corners=1)).dropped[3] == DropReason.CORNERS
