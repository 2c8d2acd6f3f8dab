"""What the labels of a run are to a panoptic detector, pixel by pixel; and crops at the image's own aspect."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures.bbox import HorizontalBoxes

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.panoptic_loading import AreaCrop, LoadPanoptic, TargetRules, panoptic_targets
from detector.data.paste import boxes
from pipeline.errors import ConfigError
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import NONE, Classes

# Clusters 1 and 3 are things; so stuff is 0, 2 and 4, which the semantic head calls 1, 2 and 3.
THINGS = (False, True, False, True, False)
SKY, CAR, ROAD, PERSON, TREE = range(5)


def split_by(things: tuple[bool, ...] = THINGS) -> ThingSplit:
    return ThingSplit.given(Classes.clusters(len(things)), things, {})


def boxes_in(ids: np.ndarray, count: int) -> np.ndarray:
    """int32 (M, 4): x, y, width, height."""
    found = boxes(np.array([ids == k + 1 for k in range(count)], np.uint8)).astype(np.int32)
    return np.hstack([found[:, :2], found[:, 2:] - found[:, :2]])


def targets(
    labels: Any, ids: Any, classes: list[int], ignore: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return panoptic_targets(
        np.array(labels, np.uint8),
        np.array(ids, np.uint8),
        np.array(classes, np.uint8),
        boxes_in(np.array(ids), len(classes)),
        TargetRules(split_by(), ignore),
    )


def test_by_hand() -> None:
    """A car, a pixel of a person that nobody holds, an instance of road, and stuff."""
    labels = [[SKY, SKY, PERSON, NONE], [CAR, CAR, ROAD, ROAD], [TREE, CAR, ROAD, ROAD]]
    ids = [[0, 0, 0, 0], [1, 1, 2, 0], [0, 1, 2, 0]]
    seg, masks, things = targets(labels, ids, [CAR, ROAD])
    assert seg.tolist() == [[1, 1, 255, 255], [0, 0, 255, 2], [3, 0, 255, 2]]
    assert seg.dtype == masks.dtype == np.uint8
    assert masks.tolist() == [[[0] * 4, [255, 255, 0, 0], [0, 255, 0, 0]]]
    assert things.tolist() == [0]
    released, same, _ = targets(labels, ids, [CAR, ROAD], ignore=False)
    assert released.tolist() == [[1, 1, 0, 255], [0, 0, 255, 2], [3, 0, 255, 2]]
    np.testing.assert_array_equal(same, masks)


def test_stuff_instances_are_ignored_also_where_no_other_is_left() -> None:
    """The released code leaves such an image as it is."""
    seg, masks, things = targets([[SKY, ROAD]], [[0, 1]], [ROAD])
    assert seg.tolist() == [[1, 255]]
    assert (len(masks), len(things)) == (0, 0)


def test_an_instance_keeps_its_class_whatever_an_augmentation_left_of_its_pixels() -> None:
    """The released code takes the largest label inside: 255, and the instance is gone."""
    seg, masks, things = targets([[PERSON, NONE, SKY]], [[1, 1, 0]], [PERSON])
    assert seg.tolist() == [[0, 0, 1]]
    assert (masks[0].tolist(), things.tolist()) == ([[255, 255, 0]], [1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_against_a_loop_over_pixels(data: st.DataObject) -> None:
    things = tuple(data.draw(st.lists(st.booleans(), min_size=1, max_size=6)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count, ignore = data.draw(st.integers(0, 5)), data.draw(st.booleans())
    classes = rng.integers(0, len(things), count).astype(np.uint8)
    ids = rng.integers(0, count + 1, (6, 7)).astype(np.uint16)
    free = rng.integers(0, len(things) + 1, ids.shape)
    labels = np.where(ids > 0, np.append(0, classes)[ids], np.where(free < len(things), free, NONE)).astype(np.uint8)
    seg, masks, found = panoptic_targets(
        labels, ids, classes, boxes_in(ids, count), TargetRules(split_by(things), ignore)
    )
    stuffs = [c for c, thing in enumerate(things) if not thing]
    numbers = [c for c, thing in enumerate(things) if thing]
    for place in np.ndindex(ids.shape):
        label, id_ = labels[place], ids[place]
        if id_:
            expected = 0 if things[classes[id_ - 1]] else 255
        elif label == NONE:
            expected = 255
        elif things[label]:
            expected = 255 if ignore else 0
        else:
            expected = 1 + stuffs.index(label)
        assert seg[place] == expected
    own = [k for k in range(count) if things[classes[k]]]
    assert found.tolist() == [numbers.index(classes[k]) for k in own]
    np.testing.assert_array_equal(masks, [np.where(ids == k + 1, 255, 0) for k in own] or np.empty((0, 6, 7)))


def test_more_stuff_than_the_semantic_head_can_number() -> None:
    TargetRules(split_by((False,) * 254 + (True,)))
    with pytest.raises(ConfigError, match="254 classes can be stuff, not 255"):
        TargetRules(split_by((False,) * 255))


class Store:
    """What `LoadPanoptic` asks of one."""

    def __init__(self, labels: Any, ids: Any, classes: list[int], things: tuple[bool, ...] = THINGS) -> None:
        self.split = split_by(things)
        self._maps = np.array(labels, np.uint8), np.array(ids, np.uint8), np.array(classes, np.uint8)

    def labels(self, image: int) -> np.ndarray:
        return self._maps[0]

    def instance_ids(self, image: int) -> np.ndarray:
        return self._maps[1]

    def classes_of(self, image: int) -> np.ndarray:
        return self._maps[2]

    def boxes_of(self, image: int) -> np.ndarray:
        return boxes_in(self._maps[1], len(self._maps[2]))


def test_the_sample() -> None:
    load = LoadPanoptic()
    sample = load({"store": Store([[SKY, CAR], [PERSON, CAR]], [[0, 2], [1, 2]], [PERSON, CAR]), "store_index": 0})
    assert sample["gt_seg_map"].tolist() == [[1, 0], [0, 0]]
    assert isinstance(sample["gt_masks"], ConfidenceMasks)
    assert sample["gt_masks"].masks.tolist() == [[[0, 0], [1, 0]], [[0, 1], [0, 1]]]
    assert sample["gt_bboxes"].tensor.tolist() == [[0, 1, 1, 2], [1, 0, 2, 2]]
    assert sample["gt_bboxes_labels"].tolist() == [1, 0]
    assert sample["gt_bboxes_labels"].dtype == np.int64
    assert sample["gt_ignore_flags"].tolist() == [False, False]
    # another data set through the same transform, with another split
    other = load({"store": Store([[SKY, CAR]], [[0, 1]], [CAR], (False,) * 5), "store_index": 0})
    assert other["gt_seg_map"].tolist() == [[1, 255]]
    assert (len(other["gt_masks"]), other["gt_masks"].height, len(other["gt_bboxes"])) == (0, 1, 0)


def sample_of(size: tuple[int, int], seed: int = 0, count: int = 6) -> dict[str, Any]:
    """An image whose pixels tell where they were (rows in blue, columns in green), and instances that are disjoint."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    ids = rng.integers(0, count + 1, (5, 5))[rows * 5 // size[0], columns * 5 // size[1]]
    values = np.stack([np.where(ids == k + 1, np.uint8(255), np.uint8(0)) for k in range(count)])
    image = np.stack([rows * 255 / (size[0] - 1), columns * 255 / (size[1] - 1), 0 * rows], axis=-1)
    return {
        "img": image.astype(np.uint8),
        "gt_seg_map": np.where(ids > 0, 0, 1).astype(np.uint8),
        "gt_masks": ConfidenceMasks.from_values(values),
        "gt_bboxes": HorizontalBoxes(boxes(values)),
        "gt_bboxes_labels": np.arange(count),
        "gt_ignore_flags": np.zeros(count, bool),
    }


@pytest.mark.parametrize("size", [(40, 80), (90, 30), (64, 64)])
def test_crops_have_the_images_own_aspect(size: tuple[int, int]) -> None:
    """A crop of half the area is √½ of both sides, whichever is the longer one."""
    crop = AreaCrop((0.5, 0.5))
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        rows, columns = crop._window(size)
        assert (rows.stop - rows.start, columns.stop - columns.start) == tuple(round(side * 0.5**0.5) for side in size)
        assert 0 <= rows.start <= rows.stop <= size[0]
        assert 0 <= columns.start <= columns.stop <= size[1]


def test_shares_and_places_are_drawn_evenly() -> None:
    np.random.seed(0)  # noqa: NPY002
    size = (100, 200)
    windows = [AreaCrop()._window(size) for _ in range(2000)]
    shares = [(r.stop - r.start) * (c.stop - c.start) / 20000 for r, c in windows]
    assert 0.69 < min(shares) < 0.705
    assert 0.995 < max(shares) <= 1.0
    assert abs(np.mean(shares) - 0.85) < 0.01
    room = [(r.start / (100 - (r.stop - r.start)), c.start / (200 - (c.stop - c.start))) for r, c in windows
            if r.stop - r.start < 95]  # fmt: skip
    np.testing.assert_allclose(np.mean(room, axis=0), 0.5, atol=0.03)
    assert np.min(room) == 0
    assert np.max(room) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(40, 80), (61, 33), (24, 24)]), st.sampled_from([0.1, 0.7]))
def test_all_parts_of_a_sample_are_cropped_alike(seed: int, size: tuple[int, int], least: float) -> None:
    sample = sample_of(size, seed)
    np.random.seed(seed)  # noqa: NPY002
    crop = AreaCrop((least, 1.0))
    window = crop._window(size)
    np.random.seed(seed)  # noqa: NPY002
    done = crop(dict(sample))
    assert done["img"].shape == (*size, 3)
    assert done["gt_seg_map"].shape == done["gt_masks"].masks.shape[1:] == size
    # where the pixels come from, by what they say themselves
    for axis, part in enumerate(window):
        scale = 255 / (size[axis] - 1)
        assert abs(done["img"][..., axis].min() - part.start * scale) <= scale + 1
        assert abs(done["img"][..., axis].max() - (part.stop - 1) * scale) <= scale + 1
    inside = sample["gt_masks"].values[:, *window].any(axis=(1, 2))
    assert done["gt_bboxes_labels"].tolist() == np.flatnonzero(inside).tolist()
    assert len(done["gt_ignore_flags"]) == len(done["gt_masks"])
    np.testing.assert_array_equal(done["gt_bboxes"].tensor, boxes(done["gt_masks"].values))
    np.testing.assert_array_equal(done["gt_masks"].masks.sum(axis=0), done["gt_seg_map"] == 0)
    assert set(np.unique(done["gt_masks"].values)) <= {0, 255}


def test_an_image_that_loses_all_instances_stays() -> None:
    sample = sample_of((40, 40), count=1)
    values = np.zeros((1, 40, 40), np.uint8)
    values[0, 0, 0] = 255
    sample["gt_masks"] = ConfidenceMasks.from_values(values)
    np.random.seed(1)  # noqa: NPY002
    done = AreaCrop((0.25, 0.25))(sample)
    assert (len(done["gt_masks"]), len(done["gt_bboxes"]), len(done["gt_bboxes_labels"])) == (0, 0, 0)


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.8, 0.7), (0.5, 1.1), (0.5,)])
def test_wrong_areas(area: Any) -> None:
    with pytest.raises(ConfigError, match="area must be two rising numbers"):
        AreaCrop(area)
