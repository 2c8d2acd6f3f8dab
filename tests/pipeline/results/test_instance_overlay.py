"""Labels of an overlay: each can be read, on whatever lies below it."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.results.instance_overlay import Labels, deepest, draw_overlay
from pipeline.results.instances import ImageRecord, Instance


def record_of(masks: list[np.ndarray]) -> ImageRecord:
    instances = []
    for number, mask in enumerate(masks):
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        box = tuple(coco_mask.toBbox(code).tolist())
        sure = np.full((1, 1), 255, np.uint8)
        instances.append(Instance(code["counts"], box, int(mask.sum()), 0.1 * number, sure, round=0))
    return ImageRecord("a.jpg", masks[0].shape, "ok", tuple(instances), {}, None)


class Rectangles(Labels):
    """Keeps where labels are."""

    def boxes(self) -> np.ndarray:
        return self._placed - (0, 0, 1, 1)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (96, 64)])
def test_labels_lie_apart_within_the_picture(size: tuple[int, int]) -> None:
    labels = Rectangles(Image.new("RGB", size))
    for at in [(0, 0), (0, 0), (size[1] - 1, size[0] - 1), *[(size[1] // 2, size[0] // 2)] * 3]:
        labels.write(at, "0.12", (255, 0, 0))
    boxes = labels.boxes()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size).all()
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    centre = (boxes[3, :2] + boxes[3, 2:]) / 2
    np.testing.assert_allclose(centre, np.array(size) / 2, atol=1)


def test_more_labels_than_there_is_room_for_are_drawn_all_the_same() -> None:
    labels = Rectangles(Image.new("RGB", (40, 30)))
    for _ in range(30):
        labels.write((15, 20), "0.12", (255, 0, 0))
    assert len(labels.boxes()) == 30


@pytest.mark.parametrize("colour", [(255, 255, 0), (80, 0, 255), (255, 38, 38)])
def test_a_label_differs_from_its_own_ground(colour: tuple[int, int, int]) -> None:
    picture = Image.new("RGB", (200, 100), colour)
    Labels(picture).write((50, 100), "0.12", colour)
    lights = np.asarray(picture.convert("L")).astype(int)
    assert lights.max() - lights.min() > 100


def test_the_label_of_a_mask_lies_where_it_can_be_seen() -> None:
    large, small = np.zeros((300, 400), bool), np.zeros((300, 400), bool)
    large[20:280, 20:380] = True
    small[60:240, 60:300] = True  # on top of the middle of the large one
    row, column = deepest(large & ~small)
    assert 300 < column < 380
    plain = np.asarray(draw_overlay(np.full((300, 400, 3), 128, np.uint8), record_of([large, small])))
    dark = np.argwhere((plain < 20).all(axis=2))
    assert {bool(300 < x < 380) for _, x in dark} == {True, False}, "two labels, one on each"
    assert (row, column) == deepest(large & ~small)


def test_a_mask_of_a_pixel_has_a_deepest_one() -> None:
    one = np.zeros((1000, 1000), bool)
    one[501, 333] = True
    assert deepest(one) == (501, 333)


def test_an_image_without_masks_says_so() -> None:
    empty = ImageRecord("a.jpg", (60, 80), "no_masks", (), {}, None)
    picture = np.asarray(draw_overlay(np.zeros((60, 80, 3), np.uint8), empty))
    assert (picture == 255).all(axis=2).any()
