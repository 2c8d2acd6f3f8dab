"""Masks with confidence against stock masks, an independent RoIAlign, and images whose pixels say what lies on them.

Dimension letters: M masks, H, W pixels, P boxes, h, w pixels of a mask target, 4 box edges.
"""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from support.reference_confidence import confidence_targets

from detector.data.confidence_masks import ConfidenceMasks
from detector.model.mask_head import aligned_targets

SHAPE = (13, 17)


def random_values(seed: int, masks: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """uint8 (M, H, W): random boxes of random confidence in an empty field."""
    rng = np.random.default_rng(seed)
    values_MHW = np.zeros((masks, *shape), np.uint8)
    for value_HW in values_MHW:
        top, left = rng.integers(0, shape[0] - 2), rng.integers(0, shape[1] - 2)
        bottom, right = rng.integers(top + 2, shape[0] + 1), rng.integers(left + 2, shape[1] + 1)
        value_HW[top:bottom, left:right] = rng.integers(2, 256, (bottom - top, right - left))
    return values_MHW


def made(values_MHW: np.ndarray) -> ConfidenceMasks:
    return ConfidenceMasks(values_MHW, *values_MHW.shape[1:])


OPERATIONS: dict[str, Callable[[BitmapMasks], BitmapMasks]] = {
    "index": lambda m: m[len(m) - 1] if len(m) else m,
    "select": lambda m: m[np.arange(len(m)) % 2 == 0],
    "reorder": lambda m: m[np.arange(len(m))[::-1]],
    "rescale": lambda m: m.rescale((31, 20)),
    "rescale down": lambda m: m.rescale(0.6),
    "resize": lambda m: m.resize((7, 29)),
    "flip": lambda m: m.flip(),
    "flip vertical": lambda m: m.flip("vertical"),
    "flip diagonal": lambda m: m.flip("diagonal"),
    "pad": lambda m: m.pad((20, 17)),
    "crop": lambda m: m.crop(np.array([3, 2, 11, 9])),
    "crop beyond": lambda m: m.crop(np.array([-4, 5, 40, 60])),
    "expand": lambda m: m.expand(30, 31, 5, 7),
    "translate": lambda m: m.translate((13, 17), 4, interpolation="nearest"),
    "translate up": lambda m: m.translate((13, 17), -3, "vertical", interpolation="nearest"),
    "translate out": lambda m: m.translate((9, 25), 12, interpolation="nearest"),
    "shear": lambda m: m.shear((13, 17), 0.4, interpolation="nearest"),
    "shear vertical": lambda m: m.shear((13, 17), -0.3, "vertical", interpolation="nearest"),
    "rotate": lambda m: m.rotate((13, 17), 30.0, interpolation="nearest"),
    "rotate about": lambda m: m.rotate((13, 17), -77.0, (3.0, 4.0), 1.4, interpolation="nearest"),
    "cat": lambda m: m.cat([m, m]),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("masks", [0, 1, 3])
def test_values_move_as_stock_masks_do(name: str, masks: int) -> None:
    values_MHW = random_values(masks, masks)
    mine = OPERATIONS[name](made(values_MHW))
    stock = OPERATIONS[name](BitmapMasks(values_MHW, *SHAPE))
    assert type(mine) is ConfidenceMasks
    assert mine.values.dtype == np.uint8
    assert (mine.height, mine.width) == mine.values.shape[1:]
    if not (masks == 0 and name.startswith("rescale")):  # stock swaps the sides of no masks
        assert (mine.height, mine.width) == (stock.height, stock.width)
        np.testing.assert_array_equal(mine.values, stock.masks)
    np.testing.assert_array_equal(mine.masks, mine.values > 0)


def test_no_masks_are_rescaled_as_some_are() -> None:
    """The stock class takes (width, height) for (height, width) there, too, where it names them; shapes must agree."""
    some, none = made(random_values(0, 2)).rescale((40, 25)), made(random_values(0, 0)).rescale((40, 25))
    assert (none.height, none.width) == (some.height, some.width)


def test_more_masks_than_opencv_has_channels() -> None:
    """Stock shear and rotate hand all masks to OpenCV at once, which has 512 channels at most."""
    values_MHW = np.repeat(random_values(4, 2), 300, axis=0)
    for operation in ("shear", "rotate", "translate"):
        many = OPERATIONS[operation](made(values_MHW)).values
        few = OPERATIONS[operation](made(values_MHW[::300])).values
        np.testing.assert_array_equal(many, np.repeat(few, 300, axis=0))


def test_every_method_of_stock_masks_was_looked_at() -> None:
    """A newer MMDetection with a method unknown to this class must not slip through."""
    plain_is_right = {"__iter__", "get_bboxes", "to_ndarray", "random", "__init__"}
    stock = {name for name, member in vars(BitmapMasks).items() if callable(member) or isinstance(member, property)}
    stock |= {"cat", "random", "get_bboxes"}
    assert stock - set(vars(ConfidenceMasks)) - plain_is_right == set()


@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_plain_view_is_that_of_stock_masks(seed: int, masks: int) -> None:
    values_MHW = random_values(seed, masks)
    mine, stock = made(values_MHW), BitmapMasks((values_MHW > 0).astype(np.uint8), *SHAPE)
    np.testing.assert_array_equal(mine.masks, stock.masks)
    np.testing.assert_array_equal(mine.to_ndarray(), stock.to_ndarray())
    np.testing.assert_array_equal(mine.areas, stock.areas)
    np.testing.assert_array_equal(list(mine), list(stock))
    assert torch.equal(mine.to_tensor(torch.bool, "cpu"), stock.to_tensor(torch.bool, "cpu"))
    assert torch.equal(mine.get_bboxes(HorizontalBoxes).tensor, stock.get_bboxes("hbox").tensor)
    assert len(mine) == masks
    assert mine.masks.dtype == stock.masks.dtype


def test_empty_masks_have_no_box_and_no_confidence() -> None:
    mine = made(np.zeros((1, 4, 5), np.uint8))
    assert mine.areas.tolist() == [0]
    assert mine.mean_confidence.tolist() == [0.0]
    assert mine.get_bboxes(HorizontalBoxes).tensor.tolist() == [[0, 0, 0, 0]]


class TestMaking:
    def test_plain_masks_are_certain(self) -> None:
        plain_MHW = (random_values(1, 2) > 0).astype(np.uint8)
        for masks in (plain_MHW, plain_MHW.astype(bool), list(plain_MHW), plain_MHW.astype(np.int64)):
            np.testing.assert_array_equal(ConfidenceMasks(masks, *SHAPE).values, plain_MHW * 255)
        np.testing.assert_array_equal(ConfidenceMasks.certain(BitmapMasks(plain_MHW, *SHAPE)).values, plain_MHW * 255)
        assert (ConfidenceMasks.random().values != 1).all()

    def test_certain_forgets_the_confidence(self) -> None:
        values_MHW = random_values(2, 3)
        np.testing.assert_array_equal(ConfidenceMasks.certain(made(values_MHW)).values, (values_MHW > 0) * 255)

    def test_no_confidence_inside_is_the_least_there_is(self) -> None:
        inside_MHW = np.array([[[1, 1, 0]]], np.uint8)
        masks = ConfidenceMasks.from_confidence(inside_MHW, np.array([[[0, 77, 99]]], np.uint8))
        assert masks.values.tolist() == [[[1, 77, 0]]]
        assert masks[0].flip().values.tolist() == [[[0, 77, 1]]]
        assert masks[0].crop(np.array([0, 0, 1, 1])).values.tolist() == [[[1]]]

    def test_wrong_shapes_and_values_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(M, 4, 5\), not \(2, 5, 4\)"):
            ConfidenceMasks(np.zeros((2, 5, 4), np.uint8), 4, 5)
        with pytest.raises(ValueError, match=r"in 0..255, not -1..300"):
            ConfidenceMasks(np.array([[[-1, 300]]]), 1, 2)
        with pytest.raises(ValueError, match="keep their shape"):
            made(random_values(0, 2)).masks = np.zeros((1, *SHAPE), np.uint8)
        with pytest.raises(ValueError, match="cannot be padded"):
            made(random_values(0, 2)).pad((12, 40))
        with pytest.raises(ValueError, match="at least one"):
            ConfidenceMasks.cat([])

    def test_stock_masks_join_as_certain_ones(self) -> None:
        values_MHW = random_values(3, 2)
        joined = made(values_MHW).cat([made(values_MHW), BitmapMasks((values_MHW > 0).astype(np.uint8), *SHAPE)])
        np.testing.assert_array_equal(joined.values, np.concatenate([values_MHW, (values_MHW > 0) * 255]))

    @pytest.mark.parametrize("border", [0, 1, 255])
    def test_borders_are_empty_or_certain(self, border: int) -> None:
        masks = made(np.full((1, 4, 4), 9, np.uint8))
        assert set(np.unique(masks.pad((6, 6), border).values)) == {9, 255 if border else 0}
        moved = masks.translate((4, 4), 1, border_value=border)
        assert moved.values[0, :, 0].tolist() == [255 if border else 0] * 4
        assert (moved.values[0, :, 1:] == 9).all()


def test_what_is_written_into_the_plain_view_counts() -> None:
    masks = made(np.full((2, 4, 4), 77, np.uint8))
    masks.values[1, 3] = 0
    masks.masks[:, 0:2, 0:2] = 0
    masks.masks[1, 3, 3] = 1
    expected_MHW = np.full((2, 4, 4), 77, np.uint8)
    expected_MHW[1, 3, :3], expected_MHW[1, 3, 3] = 0, 255
    expected_MHW[:, :2, :2] = 0
    np.testing.assert_array_equal(masks.flip().flip().values, expected_MHW)
    masks.masks = np.zeros((2, 4, 4), np.uint8)
    assert not masks.values.any()


def test_they_travel_between_processes() -> None:
    masks = made(np.concatenate([random_values(5, 3), np.zeros((1, *SHAPE), np.uint8)]))
    for kept in (masks, masks.flip(), masks.crop(np.array([2, 1, 11, 9])), masks[:0]):
        for twin in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept)):
            assert type(twin) is ConfidenceMasks
            np.testing.assert_array_equal(twin.values, kept.values)
            np.testing.assert_array_equal(twin.masks, kept.masks)
            assert (twin.height, twin.width) == (kept.height, kept.width)


def test_they_travel_light() -> None:
    values_MHW = np.zeros((5, 400, 500), np.uint8)
    values_MHW[:, 100:150, 200:260] = 9
    masks = made(values_MHW)
    assert masks.masks.any()
    assert len(pickle.dumps(masks)) < 1.1 * 5 * 50 * 60


class TestTargets:
    BOXES = ((2.3, 1.1, 14.2, 10.9), (0.0, 0.0, 17.0, 13.0), (5.0, 5.0, 6.0, 6.0), (0.4, 7.7, 9.6, 8.1))

    def boxes(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.BOXES), torch.tensor([2, 0, 1, 2])

    def test_confidence_is_aligned_as_an_independent_roi_align_does(self) -> None:
        values_MHW = random_values(6, 3)
        boxes_P4, inds_P = self.boxes()
        _, got_Phw = aligned_targets(made(values_MHW), boxes_P4, inds_P, (14, 14))
        expected_Phw = confidence_targets(made(values_MHW), boxes_P4.numpy(), (14, 14), inds_P.numpy())
        torch.testing.assert_close(got_Phw, expected_Phw, rtol=0, atol=1e-5)
        maps_MHW = np.where(values_MHW > 0, values_MHW / 255, 1.0)
        np.testing.assert_allclose(made(values_MHW).confidence_map, maps_MHW, atol=1e-7)

    def test_they_are_one_when_all_is_certain(self) -> None:
        masks = ConfidenceMasks.certain(made(random_values(7, 3)))
        boxes_P4, inds_P = self.boxes()
        assert (aligned_targets(masks, boxes_P4, inds_P, (28, 28))[1] == 1).all()

    @pytest.mark.parametrize("binarize", [True, False])
    def test_mask_targets_equal_the_stock_ones(self, binarize: bool) -> None:
        values_MHW = random_values(8, 3)
        stock = BitmapMasks((values_MHW > 0).astype(np.uint8), *SHAPE)
        boxes_P4, inds_P = self.boxes()
        mine, theirs = (
            masks.crop_and_resize(boxes_P4.numpy(), (28, 20), inds_P.numpy(), "cpu", binarize=binarize)
            for masks in (made(values_MHW), stock)
        )
        np.testing.assert_array_equal(mine.masks, theirs.masks)
        assert (mine.height, mine.width, len(mine)) == (28, 20, 4)
        config = ConfigDict(mask_size=28)
        targets = [mask_target([boxes_P4], [inds_P], [masks], config) for masks in (made(values_MHW), stock)]
        assert torch.equal(*targets)

    def test_no_boxes_and_no_masks(self) -> None:
        none_P4, none_P = torch.zeros((0, 4)), torch.zeros(0, dtype=torch.long)
        for count in (2, 0):
            masks = made(random_values(0, count))
            assert aligned_targets(masks, none_P4, none_P, (28, 28))[1].shape == (0, 28, 28)
            assert len(masks.crop_and_resize(none_P4, (28, 28), none_P)) == 0


def test_all_of_them_are_not_copied() -> None:
    masks = made(random_values(10, 3))
    for everything in (np.arange(3), np.ones(3, bool)):
        assert masks[everything].values is masks.values
    assert masks[np.array([True, False, True])].values is not masks.values
    np.testing.assert_array_equal(masks[np.array([[0, 1, 2]])].values, masks.values)
    with pytest.raises(IndexError):
        masks[np.ones(4, bool)]
    assert masks[np.array([0, 2])].values is not masks.values
    np.testing.assert_array_equal(masks[np.array([0, 1])].values, masks.values[:2])
    np.testing.assert_array_equal(masks[:2][np.array([False, True])].values, masks.values[1:2])


def test_mean_confidence_is_over_the_instance() -> None:
    values_MHW = random_values(9, 3)
    expected_M = [value_HW[value_HW > 0].mean() / 255 for value_HW in values_MHW]
    np.testing.assert_allclose(made(values_MHW).mean_confidence, expected_M, rtol=1e-6)
