"""Copy-paste on samples of small runs: who is pasted, what becomes of the sample, and that a Draw decides all of it."""

import itertools
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures.bbox import HorizontalBoxes
from PIL import Image
from support.stored_run import GRID, StoredRun, instance, make_run, sample_records

import detector.data.copy_paste
from detector.data.copy_paste import ConfidentCopyPaste, PlainCopyPaste
from detector.data.dataset import StoreDataset
from detector.data.flat_store import FlatStore
from detector.data.loading import LoadConfidenceMasks, LoadPhoto, recent_photo
from detector.data.sampling import Draw, SeededSampler
from pipeline.errors import ConfigError
from pipeline.images.manifest import ImageRef
from pipeline.results.instances import ImageRecord, Instance

SIZE = (24, 32)
# The partner lies on the target as it is.
EXACT: dict[str, Any] = {"ratio": (1.0, 1.0), "flip": 0.0}


def rectangle(top: int, left: int, bottom: int, right: int, confidence: float = 1.0) -> Instance:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return instance(mask, np.full(GRID, round(255 * confidence), np.uint8), score=confidence / 2)


def run_of(folder: Path, images: list[list[Instance]]) -> StoredRun:
    """Images of one size in one colour each: 40, 80, 120, ..."""
    records, refs = [], []
    (folder / "photos").mkdir(parents=True)
    for i, instances in enumerate(images):
        name = f"{i}.png"
        Image.fromarray(np.full((*SIZE, 3), 40 * (i + 1), np.uint8)).save(folder / "photos" / name)
        refs.append(ImageRef(name, str(folder / "photos" / name)))
        records.append(ImageRecord(name, SIZE, "ok" if instances else "no_masks", tuple(instances), {}, None))
    return make_run(folder, records, refs)


def data_set(run: StoredRun, paste: PlainCopyPaste | None, folder: Path, **options: Any) -> StoreDataset:
    pipeline = [LoadPhoto(), LoadConfidenceMasks(), *([paste] if paste else [])]
    return StoreDataset(run.url, {"min_per_image": 0}, folder / "cache", **{"pipeline": pipeline} | options)


def pasted_into_first(folder: Path, images: list[list[Instance]], paste: PlainCopyPaste) -> dict[str, Any]:
    """The first image's sample with the second as partner."""
    return data_set(run_of(folder, images), paste, folder)[Draw(0, 7, 1)]


def test_a_hidden_half_by_hand(tmp_path: Path) -> None:
    """A mask of 10×10 loses its right 4 columns to the partner's, another one nothing."""
    first = [rectangle(2, 2, 12, 12, 0.6), rectangle(20, 0, 24, 5, 0.8)]
    results = pasted_into_first(tmp_path, [first, [rectangle(0, 8, 16, 30, 0.4)]], PlainCopyPaste(**EXACT))
    values = results["gt_masks"].values
    expected = np.zeros((3, *SIZE), np.uint8)
    expected[0, 2:12, 2:8], expected[1, 20:24, 0:5], expected[2, 0:16, 8:30] = 153, 204, 102
    np.testing.assert_array_equal(values, expected)
    assert results["gt_bboxes"].tensor.tolist() == [[2, 2, 8, 12], [0, 20, 5, 24], [8, 0, 30, 16]]
    assert results["gt_pasted"].tolist() == [False, False, True]
    assert results["gt_bboxes_labels"].tolist() == [0, 0, 0]
    assert results["gt_ignore_flags"].tolist() == [False] * 3
    np.testing.assert_allclose(results["gt_scores"], [0.3, 0.4, 0.2])
    np.testing.assert_allclose(results["gt_relative_scores"], [0.75, 1, 1])  # each by the best of its own photo
    np.testing.assert_allclose(results["gt_confidences"], [0.6, 0.8, 0.4], atol=1e-3)
    for channel_HW in np.moveaxis(results["img"], 2, 0):
        np.testing.assert_array_equal(channel_HW, np.where(expected[2] > 0, 80, 40))
    assert results["img"].dtype == np.uint8


def test_blended_by_confidence(tmp_path: Path) -> None:
    """0.4 · 80 + 0.6 · 40 = 56; the same, not blended, is 80."""
    images = [[rectangle(20, 0, 24, 5)], [rectangle(0, 8, 16, 30, 0.4)]]
    blended = pasted_into_first(tmp_path / "a", images, ConfidentCopyPaste(**EXACT))
    assert set(np.unique(blended["img"][0:16, 8:30])) == {56}
    assert set(np.unique(blended["img"][16:])) | set(np.unique(blended["img"][:, :8])) == {40}
    opaque = pasted_into_first(tmp_path / "b", images, ConfidentCopyPaste(**EXACT, blend=False))
    assert set(np.unique(opaque["img"][0:16, 8:30])) == {80}
    for results in (blended, opaque):
        assert results["gt_masks"].values[1].max() == 102


@pytest.mark.parametrize(("columns", "kept"), [(14, True), (15, False), (20, False)])
def test_what_covers_half_of_a_mask_is_left_out(tmp_path: Path, columns: int, kept: bool) -> None:
    """Of the target's 10 columns from 10 on, the partner covers those left of `columns`: 4, 5 or all 10."""
    images = [[rectangle(0, 10, 10, 20)], [rectangle(0, 0, 10, columns)]]
    results = pasted_into_first(tmp_path, images, PlainCopyPaste(**EXACT))
    assert results["gt_pasted"].tolist() == ([False, True] if kept else [False])
    assert (results["img"] == 80).any() == kept
    if not kept:
        assert results["gt_masks"].areas.tolist() == [100]


def test_only_the_one_that_covers_too_much_is_left_out(tmp_path: Path) -> None:
    """Of three masks that sit inside one another two go: one covers the mask whole, one half of it."""
    partner = [rectangle(0, 0, 20, 30), rectangle(0, 0, 10, 15), rectangle(0, 0, 10, 14)]
    images = [[rectangle(0, 10, 10, 20)], partner]
    results = pasted_into_first(tmp_path, images, ConfidentCopyPaste(**EXACT, share=1.0))
    assert results["gt_masks"].areas.tolist() == [60, 140]


@pytest.mark.parametrize(("min_pixels", "left"), [(1, [60, 1, 320]), (2, [60, 320])])
def test_masks_that_vanish_are_dropped(tmp_path: Path, min_pixels: int, left: list[int]) -> None:
    """The partner leaves 60, 1 and no pixels of three masks."""
    first = [rectangle(0, 10, 10, 26), rectangle(3, 19, 4, 21), rectangle(5, 22, 8, 25)]
    images = [first, [rectangle(0, 0, 16, 20), rectangle(0, 20, 16, 26), rectangle(0, 0, 1, 1)]]
    paste = ConfidentCopyPaste(**EXACT, share=0.3, max_cover=2.0, min_pixels=min_pixels)
    results = pasted_into_first(tmp_path, images, paste)
    # Of equally sure masks the first is pasted: columns 0..19.
    assert results["gt_masks"].areas.tolist() == [60, *left[1:-1], 9, 320]
    assert len(results["gt_bboxes"]) == len(results["gt_scores"]) == len(results["gt_pasted"]) == len(left) + 1


def test_a_mask_that_is_hidden_whole_is_gone(tmp_path: Path) -> None:
    images = [[rectangle(2, 2, 8, 8, 0.9), rectangle(0, 0, 24, 32, 0.7)], [rectangle(0, 0, 16, 20)]]
    results = pasted_into_first(tmp_path, images, PlainCopyPaste(**EXACT, max_cover=1.5))
    assert results["gt_masks"].areas.tolist() == [24 * 32 - 16 * 20, 16 * 20]
    np.testing.assert_allclose(results["gt_confidences"], [0.7, 1.0], atol=2e-3)
    np.testing.assert_array_equal(results["gt_bboxes"].tensor, results["gt_masks"].get_bboxes(HorizontalBoxes).tensor)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FlatStore:
    """Five masks of different confidence, and one."""
    folder = tmp_path_factory.mktemp("who")
    confidences = [[0.5, 0.9, 0.7, 0.8, 0.6], [0.4]]
    images = [[rectangle(0, i, 20, i + 1, c) for i, c in enumerate(row)] for row in confidences]
    return FlatStore.open(run_of(folder, images).url, folder / "cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """Four images of a mask each, but for the third, which has none."""
    masks = [[rectangle(0, 0, 4, 4)], [rectangle(10, 10, 20, 20)], [], [rectangle(8, 8, 9, 9)]]
    return run_of(tmp_path_factory.mktemp("partner"), masks)


class TestWho:
    """Which of a partner's masks are pasted."""

    def confidences(self, store: FlatStore, paste: PlainCopyPaste, image: int = 0) -> list[float]:
        rows = paste.candidates(store, store.masks_of(image))
        assert set(rows) <= set(store.masks_of(image))
        return store.mean_confidence[rows].round(1).tolist()

    @pytest.mark.parametrize(("share", "counts"), [(0.5, {2, 3}), (0.4, {2}), (0.01, {1}), (0.3, {1, 2}), (1.0, {5})])
    def test_the_surest_come_first(self, store: FlatStore, share: float, counts: set[int]) -> None:
        np.random.seed(0)  # noqa: NPY002
        drawn = [self.confidences(store, ConfidentCopyPaste(share=share)) for _ in range(400)]
        assert all(np.allclose(row, [0.9, 0.8, 0.7, 0.6, 0.5][: len(row)]) for row in drawn)
        assert {len(row) for row in drawn} == counts
        assert abs(np.mean([len(row) for row in drawn]) - max(1, 5 * share)) < 0.1

    def test_none_that_are_not_sure_enough(self, store: FlatStore) -> None:
        sure = ConfidentCopyPaste(share=1.0, min_confidence=0.75)
        assert np.allclose(self.confidences(store, sure), [0.9, 0.8])
        assert self.confidences(store, sure, image=1) == []

    def test_plain_takes_a_random_part_and_never_all(self, store: FlatStore) -> None:
        np.random.seed(0)  # noqa: NPY002
        drawn = [self.confidences(store, PlainCopyPaste()) for _ in range(800)]
        counts = Counter(map(len, drawn))
        assert set(counts) == {1, 2, 3, 4}
        assert min(counts.values()) > 150
        picked = Counter(c for row in drawn for c in row)
        assert max(picked.values()) < 1.2 * min(picked.values())

    def test_plain_takes_the_only_one(self, store: FlatStore) -> None:
        assert np.allclose(self.confidences(store, PlainCopyPaste(), image=1), [0.4])
        assert len(PlainCopyPaste().candidates(store, np.empty(0, np.int64))) == 0


class TestPartner:
    """Which image is the partner."""

    def colours(self, made: StoreDataset, draws: list[Draw]) -> Counter[int]:
        """How often each image was pasted: by the brightness of its photo."""
        found: Counter[int] = Counter()
        for draw in draws:
            own = 40 * (draw.index + 1)
            found.update(set(np.unique(made[draw]["img"])) - {own})
        return found

    def test_the_neighbour_of_the_draw(self, run: StoredRun, tmp_path: Path) -> None:
        made = data_set(run, PlainCopyPaste(**EXACT), tmp_path)
        assert self.colours(made, [Draw(0, seed, 1) for seed in range(20)]) == {80: 20}
        assert self.colours(made, [Draw(0, seed, 3) for seed in range(20)]) == {160: 20}

    def test_a_random_other_one_if_there_is_no_neighbour(self, run: StoredRun, tmp_path: Path) -> None:
        made = data_set(run, PlainCopyPaste(**EXACT), tmp_path)
        for partner in (None, 2, 0):
            found = self.colours(made, [Draw(0, seed, partner) for seed in range(200)])
            assert set(found) == {80, 160}
            assert 70 < found[80] < 130
            assert found.total() == 200

    def test_only_of_the_same_data_set(self, run: StoredRun, tmp_path: Path) -> None:
        made = data_set(run, PlainCopyPaste(**EXACT), tmp_path, indices=[0, 3])
        assert self.colours(made, [Draw(0, seed) for seed in range(50)]) == {160: 50}
        assert set(np.unique(made[Draw(1, 5, 0)]["img"])) == {160, 40}

    def test_an_image_without_masks_is_pasted_into(self, run: StoredRun, tmp_path: Path) -> None:
        results = data_set(run, PlainCopyPaste(**EXACT), tmp_path)[Draw(2, 0, 1)]
        assert results["gt_masks"].areas.tolist() == [100]
        assert results["gt_bboxes"].tensor.tolist() == [[10, 10, 20, 20]]
        assert results["gt_pasted"].tolist() == [True]

    def test_nobody_to_paste_from(self, run: StoredRun, tmp_path: Path) -> None:
        for indices in ([0], [0, 2]):
            made = data_set(run, PlainCopyPaste(**EXACT), tmp_path, indices=indices)
            results = made[Draw(0, 3)]
            assert results["gt_pasted"].tolist() == [False]
            assert (results["img"] == 40).all()

    def test_never_when_switched_off(self, run: StoredRun, tmp_path: Path) -> None:
        made = data_set(run, ConfidentCopyPaste(**EXACT, prob=0.0), tmp_path)
        assert self.colours(made, [Draw(0, seed, 1) for seed in range(30)]) == {}
        half = data_set(run, ConfidentCopyPaste(**EXACT, prob=0.5), tmp_path)
        assert 60 < self.colours(half, [Draw(0, seed, 1) for seed in range(200)])[80] < 140


def test_photos_that_are_gone_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(tmp_path, [[rectangle(0, 0, 4, 4)], [rectangle(10, 10, 20, 20)], [rectangle(10, 10, 20, 20)]])
    (tmp_path / "photos" / "1.png").unlink()
    made = data_set(run, PlainCopyPaste(**EXACT), tmp_path)
    with caplog.at_level(logging.WARNING):
        results = made[Draw(0, 1, 1)]
    assert set(np.unique(results["img"])) == {40, 120}
    assert results["gt_masks"].areas.tolist() == [16, 100]
    assert "1.png" in caplog.text
    (tmp_path / "photos" / "2.png").unlink()
    recent_photo.cache_clear()
    assert (made[Draw(0, 1, 1)]["img"] == 40).all()


def test_the_floor_of_the_sample_is_that_of_what_is_pasted(tmp_path: Path) -> None:
    run = run_of(tmp_path, [[rectangle(0, 0, 4, 4, 0.1)], [rectangle(10, 10, 20, 20, 0.1)]])
    pipeline = [LoadPhoto(), LoadConfidenceMasks(floor=0.6), PlainCopyPaste(**EXACT)]
    floored = data_set(run, None, tmp_path, pipeline=pipeline)[Draw(0, 0, 1)]
    assert [values[values > 0].tolist()[0] for values in floored["gt_masks"].values] == [153, 153]


def test_nothing_is_read_of_a_partner_that_is_not_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(ref: ImageRef, size: tuple[int, int]) -> np.ndarray:
        read.append(ref.id)
        return recent_photo(ref, size)

    monkeypatch.setattr(detector.data.copy_paste, "recent_photo", count)
    images = [[rectangle(0, 0, 8, 8)], [rectangle(0, 0, 20, 20)], [rectangle(10, 10, 20, 20)]]
    made = data_set(run_of(tmp_path, images), PlainCopyPaste(**EXACT), tmp_path)
    made[Draw(0, 0, 1)]  # covers all of the mask
    assert read == []
    made[Draw(0, 0, 2)]
    assert read == ["2.png"]


def test_each_photo_of_a_pair_is_read_once(tmp_path: Path) -> None:
    images = [[rectangle(0, 0, 8, 8)], [rectangle(10, 10, 20, 20)], [rectangle(10, 10, 20, 20)]]
    made = data_set(run_of(tmp_path, images), PlainCopyPaste(**EXACT), tmp_path)
    recent_photo.cache_clear()
    for draw in (Draw(0, 0, 1), Draw(1, 1, 0), Draw(2, 2, 1)):
        made[draw]
    assert recent_photo.cache_info().misses == 3


@pytest.fixture(scope="module")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredRun, Path]:
    folder = tmp_path_factory.mktemp("random")
    return make_run(folder, sample_records(14, seed=3)), folder


@pytest.mark.parametrize("kind", [PlainCopyPaste, ConfidentCopyPaste])
def test_random_samples(random_run: tuple[StoredRun, Path], kind: type[PlainCopyPaste]) -> None:
    made = data_set(random_run[0], kind(), random_run[1])
    plain = data_set(random_run[0], None, random_run[1])

    @settings(max_examples=60)
    @given(st.integers(0, len(made) - 1), st.integers(0, 2**32 - 1))
    def check(index: int, seed: int) -> None:
        before, after = plain[index], made[Draw(index, seed)]
        values, pasted = after["gt_masks"].values, after["gt_pasted"]
        assert len(values) == len(after["gt_bboxes"]) == len(after["gt_scores"]) == len(after["gt_bboxes_labels"])
        assert pasted.tolist() == sorted(pasted.tolist())
        hidden = values[pasted].any(axis=0)
        np.testing.assert_array_equal(after["img"][~hidden], before["img"][~hidden])
        left = np.where(hidden, 0, before["gt_masks"].values)
        np.testing.assert_array_equal(values[~pasted], left[left.any(axis=(1, 2))])
        assert (after["gt_masks"].areas > 0).all()
        np.testing.assert_array_equal(after["gt_bboxes"].tensor, after["gt_masks"].get_bboxes(HorizontalBoxes).tensor)
        again = made[Draw(index, seed)]
        np.testing.assert_array_equal(again["img"], after["img"])
        np.testing.assert_array_equal(again["gt_masks"].values, values)

    check()
    assert sum(made[Draw(i % len(made), i)]["gt_pasted"].any() for i in range(60)) > 20


def test_samples_do_not_depend_on_those_before(random_run: tuple[StoredRun, Path]) -> None:
    """Neither on what is kept of recent photos nor on which worker made which."""
    made = data_set(random_run[0], ConfidentCopyPaste(), random_run[1])
    draws = list(itertools.islice(SeededSampler(made, seed=1), 2 * len(made)))
    forward, backward = [made[draw] for draw in draws], [made[draw] for draw in reversed(draws)]
    for one, other in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(one["img"], other["img"])
        np.testing.assert_array_equal(one["gt_masks"].values, other["gt_masks"].values)
    assert sum(sample["gt_pasted"].any() for sample in forward) > len(made) // 2


def test_loaded_samples_are_their_own(random_run: tuple[StoredRun, Path]) -> None:
    """What is kept of recent photos and masks is not what a sample gets to change."""
    made = data_set(random_run[0], None, random_run[1])
    index = next(i for i in range(len(made)) if len(made.store.masks_of(i)))
    first = made[index]
    expected = first["img"].copy(), first["gt_masks"].values.copy()
    first["img"][:], first["gt_masks"].values[:] = 0, 0
    again = made[index]
    np.testing.assert_array_equal(again["img"], expected[0])
    np.testing.assert_array_equal(again["gt_masks"].values, expected[1])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PlainCopyPaste, {"prob": 1.5}, r"prob must be in 0\.\.1, not 1\.5"),
        (PlainCopyPaste, {"ratio": (0.5, 1.5)}, r"ratio must be two rising numbers in \]0, 1\]"),
        (PlainCopyPaste, {"ratio": (0.0, 1.0)}, "ratio must be"),
        (PlainCopyPaste, {"flip": -1}, "flip must be"),
        (PlainCopyPaste, {"max_cover": 0}, "max_cover must be above 0"),
        (PlainCopyPaste, {"min_pixels": 0}, "min_pixels must be at least 1"),
        (ConfidentCopyPaste, {"share": 0}, r"ConfidentCopyPaste: share must be in \]0, 1\]"),
        (ConfidentCopyPaste, {"min_confidence": 1.2}, "min_confidence must be"),
    ],
)
def test_options_out_of_range(kind: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**options)


def test_samples_of_other_data_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples of StoreDataset"):
        PlainCopyPaste()({"img": np.zeros((4, 4, 3), np.uint8)})


def test_it_says_what_it_is() -> None:
    assert "share=0.5" in repr(ConfidentCopyPaste())
    assert "blend=True" in repr(ConfidentCopyPaste())
