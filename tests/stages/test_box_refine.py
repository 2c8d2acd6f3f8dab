"""A mask in its own box: where the CRF looks, what is kept of it, and what stays as it was."""

import numpy as np
import pytest
import torch

from stages import box_refine
from stages.box_refine import BoxRefineConfig, box_iou, refine_in_boxes
from stages.crf import CrfConfig, dense_crf
from stages.refine import sampled

CRF = CrfConfig(iterations=3)


def photo(height: int = 48, width: int = 64) -> np.ndarray:
    """A red disc on blue."""
    y, x = np.mgrid[:height, :width]
    inside = (y - 24) ** 2 + (x - 30) ** 2 < 120
    return np.where(inside[..., None], (200, 40, 40), (40, 40, 160)).astype(np.uint8)


def patches(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((1, 8, 8), bool)
    mask[0, top:bottom, left:right] = True
    return mask


def test_the_crf_sees_the_box_and_a_third_more_on_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def looking(images: torch.Tensor, masks: list[torch.Tensor], config: CrfConfig) -> list[torch.Tensor]:
        seen.append((images, masks))
        return dense_crf(images, masks, config)

    monkeypatch.setattr(box_refine, "dense_crf", looking)
    masks = patches(2, 2, 6, 5)  # rows 12..36, columns 16..40
    found = refine_in_boxes(photo(), masks, BoxRefineConfig(crf=CRF))
    ((image, (mask,)),) = seen
    np.testing.assert_array_equal(image[0].numpy(), photo()[12 - 8 : 36 + 8, 16 - 8 : 40 + 8])
    np.testing.assert_array_equal(mask[0].numpy(), sampled(masks, (48, 64))[0, 4:44, 8:48])
    expected = dense_crf(image, [mask], CRF)[0][0].numpy()
    np.testing.assert_array_equal(found.masks[0, 4:44, 8:48], expected)
    assert found.masks[0].sum() == expected.sum()
    assert 0.5 < found.crf_iou[0] < 1
    refine_in_boxes(photo(), patches(0, 0, 8, 8), BoxRefineConfig(crf=CRF))
    assert seen[-1][0].shape == (1, 48, 64, 3)  # no further than the photo
    refine_in_boxes(photo(), masks, BoxRefineConfig(crf=CRF, max_side=20))
    assert seen[-1][0].shape == (1, 20, 20, 3)


@pytest.mark.parametrize("after", ["nothing", "another box"])
def test_what_the_crf_takes_elsewhere_stays_as_it_was(after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(images: torch.Tensor, masks: list[torch.Tensor], config: CrfConfig) -> list[torch.Tensor]:
        new = torch.zeros_like(masks[0])
        new[:, :3, :3] = after != "nothing"
        return [new]

    monkeypatch.setattr(box_refine, "dense_crf", elsewhere)
    masks = patches(2, 2, 6, 5)
    found = refine_in_boxes(photo(), masks, BoxRefineConfig())
    np.testing.assert_array_equal(found.masks, sampled(masks, (48, 64)))
    assert (found.crf_iou.tolist(), found.keep.tolist()) == ([0.0], [True])
    if after != "nothing":
        moved = refine_in_boxes(photo(), masks, BoxRefineConfig(min_box_iou=0.0))
        assert moved.masks.sum() == 9


def test_without_crf_and_without_masks() -> None:
    masks = patches(2, 2, 6, 5)
    found = refine_in_boxes(photo(), masks, BoxRefineConfig(crf=None))
    np.testing.assert_array_equal(found.masks, sampled(masks, (48, 64)))
    assert found.crf_iou.tolist() == [1.0]
    none = refine_in_boxes(photo(), np.zeros((0, 8, 8), bool), BoxRefineConfig())
    assert (none.masks.shape, none.keep.shape) == ((0, 48, 64), (0,))


def test_photos_smaller_than_the_grid_lose_masks_without_a_pixel() -> None:
    masks = np.zeros((2, 60, 60), bool)
    masks[0, 1, 1], masks[1, 10:40, 10:40] = True, True
    found = refine_in_boxes(photo(16, 16), masks, BoxRefineConfig(crf=CRF))
    assert found.keep.tolist() == [False, True]
    assert found.masks[1].any()


def test_iou_of_boxes_by_hand() -> None:
    assert box_iou((0, 0, 4, 4), (0, 0, 4, 4)) == 1
    assert box_iou((0, 0, 4, 4), (0, 2, 4, 6)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 4, 4), (4, 4, 8, 8)) == 0


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": float("nan")}, {"max_side": 0}, {"min_box_iou": 1.1}])
def test_what_is_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"refine.{next(iter(options))}"):
        BoxRefineConfig(**options)  # type: ignore[arg-type]
