"""Copy-paste in a batch: what is pasted, with which class, what becomes of what lies below, and what stays as it is."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data.panoptic_paste import CutOut, PanopticSample, PasteOptions, cut_outs, paste_batch
from detector.data.paste import boxes
from pipeline.errors import ConfigError

SIZE = (48, 64)
# Pasted as it is.
EXACT: dict[str, Any] = {"scale": (1.0, 1.0), "flip": 0.0, "min_side": 0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(values: list[np.ndarray] = [], labels: list[int] = [], shade: int = 10) -> PanopticSample:  # noqa: B006
    """An image of one shade, its semantic class 7 outside of the instances."""
    values_MHW = np.array(values, np.uint8).reshape(-1, *SIZE)
    seg = np.where(values_MHW.any(axis=0), 0, 7).astype(np.uint8)
    image = np.full((3, *SIZE), shade, np.uint8)
    return PanopticSample(image, values_MHW, np.array(labels, np.int64), boxes(values_MHW), seg)


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def cut(height: int, width: int, label: int, shade: int | None = None) -> CutOut:
    """A full rectangle whose shade tells its label."""
    image = np.full((height, width, 3), 100 + label if shade is None else shade, np.uint8)
    return CutOut(image, np.full((height, width), 255, np.uint8), label)


def random_sample(seed: int, count: int) -> PanopticSample:
    """Disjoint instances of random labels, in an image of noise."""
    numbers = rng(seed)
    rows, columns = np.indices(SIZE)
    ids = numbers.integers(0, count + 1, (6, 8))[rows * 6 // SIZE[0], columns * 8 // SIZE[1]]
    values = [np.where(ids == k + 1, 255, 0) for k in range(count) if (ids == k + 1).any()]
    made = sample(values, numbers.integers(0, 3, len(values)).tolist())
    return replace(made, image_3HW=numbers.integers(0, 100, (3, *SIZE), np.uint8))


def test_cut_outs_by_hand() -> None:
    """Boxes above 32 on both sides, each with its own class: released, a small one before it shifts the classes."""
    big, other = rectangle(2, 3, 36, 40), rectangle(10, 20, 47, 60)
    small, flat = rectangle(0, 0, 4, 4), rectangle(0, 0, 32, 64)
    image = rng().integers(0, 256, (3, *SIZE), np.uint8)
    found = list(cut_outs(image, np.array([small, big, flat, other]), [5, 1, 6, 2]))
    assert [one.label for one in found] == [1, 2]
    assert found[0].inside_hw.shape == (34, 37)
    np.testing.assert_array_equal(found[1].image_hw3, image[:, 10:47, 20:60].transpose(1, 2, 0))
    assert [one.label for one in cut_outs(image, np.array([small, flat]), [5, 6], min_side=3)] == [5, 6]
    assert list(cut_outs(image, np.zeros((1, *SIZE), np.uint8), [0], min_side=0)) == []


def test_a_cut_out_is_a_copy() -> None:
    image, values = np.zeros((3, *SIZE), np.uint8), np.array([rectangle(0, 0, 40, 40)])
    (found,) = cut_outs(image, values, [0])
    image[:], values[:] = 9, 0
    assert not found.image_hw3.any()
    assert found.inside_hw.all()


def test_what_covers_and_what_is_covered() -> None:
    """A patch over the whole image but its first column: one instance loses most of itself, another one all."""
    before = sample([rectangle(0, 0, 10, 10), rectangle(20, 20, 30, 30)], [4, 5])
    (after,) = paste_batch([before], [cut(SIZE[0], SIZE[1] - 1, 1)], PasteOptions(**EXACT), rng(3))
    free = np.flatnonzero((after.image_3HW[0] == 10).all(axis=0))
    assert len(free) == 1
    assert free[0] in (0, SIZE[1] - 1)
    if free[0] == 0:
        assert after.labels_M.tolist() == [4, 1]
        assert after.boxes_M4.tolist() == [[0, 0, 1, 10], [1, 0, 64, 48]]
        assert after.values_MHW[0].sum() == 10 * 255
    else:
        assert after.labels_M.tolist() == [1]
    assert after.pasted == 1
    assert set(np.unique(after.seg_HW[:, free])) <= {0, 7}
    assert not after.seg_HW[:, [column for column in range(SIZE[1]) if column != free[0]]].any()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_sample_stays_true_to_itself(data: st.DataObject) -> None:
    """Every pixel is the old image's or of one instance that was pasted there last; masks are disjoint, without holes
    between them and the semantic targets; boxes are those of the masks.
    """
    seed, count = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 6))
    before = random_sample(seed, count)
    source = [
        cut(5 + k, 3 + 4 * k, label) for k, label in enumerate(data.draw(st.lists(st.integers(0, 9), max_size=12)))
    ]
    options = PasteOptions(scale=(0.25, 6.0), min_side=0, instances=data.draw(st.sampled_from([(1, 8), (2, 2)])))
    (after,) = paste_batch([before], source, options, rng(seed))
    masks = after.values_MHW > 0
    assert set(np.unique(after.values_MHW)) <= {0, 255}
    assert (masks.sum(axis=0) <= 1).all()
    assert masks.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(after.boxes_M4, boxes(after.values_MHW))
    np.testing.assert_array_equal(masks.any(axis=0), after.seg_HW == 0)
    pasted = masks[len(masks) - after.pasted :]
    assert after.pasted <= min(options.instances[1], len(source))
    # by the shade, which no pixel of the old image has
    fresh = after.image_3HW[0] >= 100
    np.testing.assert_array_equal(fresh, pasted.any(axis=0))
    np.testing.assert_array_equal(after.image_3HW[:, ~fresh], before.image_3HW[:, ~fresh])
    np.testing.assert_array_equal(after.seg_HW[~fresh], before.seg_HW[~fresh])
    for mask, label in zip(pasted, after.labels_M[len(masks) - after.pasted :], strict=True):
        assert set(np.unique(after.image_3HW[:, mask])) == {100 + label}
    # of the old ones: what nothing hides, in their order
    left = [(value > 0) & ~fresh for value in before.values_MHW]
    old = [(mask, label) for mask, label in zip(left, before.labels_M, strict=True) if mask.any()]
    assert after.labels_M[: len(old)].tolist() == [label for _, label in old]
    for mask, (expected, _) in zip(masks, old, strict=False):
        np.testing.assert_array_equal(mask, expected)


def test_nothing_that_is_given_is_written_to() -> None:
    """Not even where an image's own instances are pasted into it: in the released self-training the source changes."""
    batch = [random_sample(seed, 5) for seed in range(3)]
    source = [one for each in batch for one in cut_outs(each.image_3HW, each.values_MHW, each.labels_M, 0)]
    kept = [(one.image_3HW.copy(), one.values_MHW.copy(), one.boxes_M4.copy(), one.seg_HW.copy()) for one in batch]
    cuts = [one.image_hw3.copy() for one in source]
    paste_batch(batch, source, PasteOptions(min_side=0), rng())
    for one, (image, values, boxes_M4, seg) in zip(batch, kept, strict=True):
        np.testing.assert_array_equal(one.image_3HW, image)
        np.testing.assert_array_equal(one.values_MHW, values)
        np.testing.assert_array_equal(one.boxes_M4, boxes_M4)
        np.testing.assert_array_equal(one.seg_HW, seg)
    for before, after in zip(cuts, source, strict=True):
        np.testing.assert_array_equal(before, after.image_hw3)


def test_one_image_does_not_switch_off_the_others() -> None:
    """An image without instances gets some, and those beside it get theirs."""
    batch = [random_sample(0, 4), sample(), random_sample(1, 4)]
    after = paste_batch(batch, [cut(8, 8, 1)], PasteOptions(**EXACT), rng())
    assert [one.pasted for one in after] == [1, 1, 1]
    assert after[1].labels_M.tolist() == [1]


def test_without_a_source_nothing_changes() -> None:
    batch = [random_sample(0, 4), sample()]
    after = paste_batch(batch, [], PasteOptions(), rng())
    assert [one.pasted for one in after] == [0, 0]
    np.testing.assert_array_equal(after[0].image_3HW, batch[0].image_3HW)


def test_all_follows_from_the_generator() -> None:
    batch, source = [random_sample(0, 4)] * 2, [cut(9, 7, k) for k in range(9)]
    first, second, other = (paste_batch(batch, source, PasteOptions(min_side=0), rng(seed)) for seed in (1, 1, 2))
    for one, same, different in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(one.image_3HW, same.image_3HW)
        np.testing.assert_array_equal(one.values_MHW, same.values_MHW)
        assert one.image_3HW.tobytes() != different.image_3HW.tobytes()
    assert first[0].image_3HW.tobytes() != first[1].image_3HW.tobytes()


def test_one_to_eight_all_as_often() -> None:
    """Of patches of one pixel, which hardly ever hide each other; each comes once at most."""
    source = [cut(1, 1, k) for k in range(100)]
    pasted = paste_batch([sample()] * 800, source, PasteOptions(**EXACT), rng())
    counts = Counter(one.pasted for one in pasted)
    assert set(counts) == set(range(1, 9))
    assert all(60 < count < 145 for count in counts.values())
    assert max(Counter(one.labels_M.tolist()).most_common(1)[0][1] for one in pasted) == 1


def test_places_sizes_and_sides() -> None:
    """Anywhere inside, up to both edges; sides between ¼ and 1½ of the original, the aspect kept; half mirrored."""
    left_is_dark = np.repeat(np.array([100] * 10 + [200] * 10, np.uint8)[None, :, None], 10, axis=0).repeat(3, axis=2)
    source = [CutOut(left_is_dark, np.full((10, 20), 255, np.uint8), 0)]
    after = paste_batch([sample()] * 600, source, PasteOptions(min_side=0), rng())
    boxes_N4 = np.array([one.boxes_M4[0] for one in after])
    widths, heights = boxes_N4[:, 2] - boxes_N4[:, 0], boxes_N4[:, 3] - boxes_N4[:, 1]
    assert (widths.min(), widths.max()) == (5, 30)
    assert (heights.min(), heights.max()) in ((2, 15), (3, 15))
    assert abs(widths.mean() - 20 * 0.875) < 0.6
    assert np.abs(widths / 2 - heights).max() <= 1
    assert (boxes_N4[:, 0].min(), boxes_N4[:, 1].min()) == (0, 0)
    assert (boxes_N4[:, 2].max(), boxes_N4[:, 3].max()) == (SIZE[1], SIZE[0])
    mirrored = sum(int(one.image_3HW[0, int(b[1]), int(b[0])]) > 150 for one, b in zip(after, boxes_N4, strict=True))
    assert 250 < mirrored < 350


def test_what_is_larger_than_the_image_is_cut() -> None:
    (after,) = paste_batch([sample()], [cut(100, 30, 3)], PasteOptions(**EXACT), rng())
    assert after.boxes_M4[0, 1::2].tolist() == [0, SIZE[0]]
    assert after.boxes_M4[0, 2] - after.boxes_M4[0, 0] == 30


def test_pixels_outside_of_the_shape_stay() -> None:
    """A triangle in its box."""
    inside = np.tril(np.full((10, 10), 255, np.uint8))
    source = [CutOut(np.full((10, 10, 3), 200, np.uint8), inside, 0)]
    (after,) = paste_batch([sample()], source, PasteOptions(**EXACT), rng())
    assert (after.image_3HW[0] == 200).sum() == 55
    np.testing.assert_array_equal(after.image_3HW[0] == 200, after.values_MHW[0] > 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"instances": (0, 3)},
        {"instances": (4, 3)},
        {"scale": (0, 1)},
        {"scale": (2, 1)},
        {"flip": 1.2},
        {"min_side": -1},
    ],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
        PasteOptions(**wrong)
