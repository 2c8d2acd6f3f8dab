"""The picture of training samples: that it shows what the pipeline makes, whole and in its colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmdet.datasets import transforms as stock
from PIL import Image
from support.stored_run import StoredRun, make_run, sample_records

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.copy_paste import ConfidentCopyPaste
from detector.data.dataset import StoreDataset
from detector.data.loading import LoadConfidenceMasks, LoadPhoto, recent_photo
from detector.data.sample_page import SIDE, TrainingSample, draw_sample, training_samples, write_samples
from detector.data.sampling import SeededSampler
from pipeline.errors import ConfigError, StoreError

LOAD = [LoadPhoto(), LoadConfidenceMasks()]
PACK = stock.PackDetInputs()


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    return make_run(tmp_path, sample_records(12, seed=1))


def data_set(run: StoredRun, tmp_path: Path, pipeline: list[Any], **options: Any) -> StoreDataset:
    return StoreDataset(run.url, cache=tmp_path / "cache", pipeline=pipeline, **options)


def test_samples_are_those_of_a_training(run: StoredRun, tmp_path: Path) -> None:
    made = data_set(run, tmp_path, [*LOAD, ConfidentCopyPaste(), stock.RandomFlip(prob=0.5), PACK])
    shown = list(training_samples(made, 15, seed=4))
    assert len(shown) == 15
    for sample, draw in zip(shown, SeededSampler(made, seed=4), strict=False):
        trained = made[draw]
        np.testing.assert_array_equal(sample.rgb, trained["inputs"].numpy().transpose(1, 2, 0)[..., ::-1])
        np.testing.assert_array_equal(sample.masks.values, trained["data_samples"].gt_instances.masks.values)
        # Pasted masks come last, and all photos have masks of their own.
        assert sample.pasted.tolist() == sorted(sample.pasted.tolist())
        assert sample.name == made.get_data_info(draw)["ref"].id
    assert sum(sample.pasted.any() for sample in shown) > 5
    assert not all(sample.pasted.all() for sample in shown)


def test_marks_stay_with_their_masks_when_others_are_dropped(run: StoredRun, tmp_path: Path) -> None:
    """A filter that leaves large masks only, after pasting."""
    large = stock.FilterAnnotations(min_gt_bbox_wh=(1, 1), by_mask=True, min_gt_mask_area=150, keep_empty=False)
    whole = data_set(run, tmp_path, [*LOAD, ConfidentCopyPaste(), PACK])
    fewer = data_set(run, tmp_path, [*LOAD, ConfidentCopyPaste(), large, PACK])
    before = {sample.name: sample for sample in training_samples(whole, len(whole), seed=2)}
    dropped = 0
    for sample in training_samples(fewer, len(fewer), seed=2):
        kept = before[sample.name].masks.areas >= 150
        assert sample.pasted.tolist() == before[sample.name].pasted[kept].tolist()
        dropped += int((~kept).sum())
    assert dropped > 0


def test_the_picture_holds_all_of_them(run: StoredRun, tmp_path: Path) -> None:
    made = data_set(run, tmp_path, [*LOAD, ConfidentCopyPaste(), stock.Resize(scale=(700, 500)), PACK])
    assert write_samples(made, tmp_path / "page.png", 7, seed=1) == 7
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 3 * SIDE
        assert picture.height > 3 * 100
        twice = np.asarray(picture).copy()
    write_samples(made, tmp_path / "again.png", 7, seed=1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "again.png")), twice)


def test_colours_by_hand() -> None:
    """One mask of its own at confidence 0.4, one pasted at 1, on grey."""
    values = np.zeros((2, 60, 80), np.uint8)
    values[0, 10:40, 10:30], values[1, 20:50, 50:70] = 102, 255
    rgb = np.full((60, 80, 3), 90, np.uint8)
    sample = TrainingSample("a.jpg", rgb, ConfidenceMasks.from_values(values), np.array([False, True]))
    cell = np.asarray(draw_sample(sample))
    photo, confidence = cell[-60:, :80], cell[-60:, -80:]
    assert cell.shape[1] == 162
    assert photo[25, 20].tolist() == photo[35, 60].tolist() == photo[5, 5].tolist() == [90] * 3
    assert confidence[5, 5].tolist() == [0, 0, 0]
    assert abs(int(confidence[25, 20].max()) - 102) <= 1
    assert confidence[35, 60].max() == 255
    white = (photo == 255).all(axis=2)
    assert white[15:55, 45:75].any()
    assert not white[:, :45].any(), "only pasted masks have a white line"
    outline = photo[10, 15].tolist()
    assert max(outline) == 255
    assert min(outline) < 90


def test_samples_without_masks_are_shown(run: StoredRun, tmp_path: Path) -> None:
    made = data_set(run, tmp_path, [*LOAD, PACK], filters={"min_per_image": 0})
    shown = list(training_samples(made, len(made)))
    assert any(len(sample.masks) == 0 for sample in shown)
    assert write_samples(made, tmp_path / "page.png", len(made)) == len(made)


def test_what_cannot_be_shown_is_said(run: StoredRun, tmp_path: Path) -> None:
    made = data_set(run, tmp_path, [*LOAD, PACK])
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*page\.png"):
        write_samples(made, tmp_path / "file" / "page.png", 1)
    with pytest.raises(ConfigError, match="samples can be shown of a StoreDataset, not of a list"):
        next(training_samples([], 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must load masks and end in PackDetInputs"):
        next(training_samples(data_set(run, tmp_path, LOAD), 1))
    for photo in (tmp_path / "photos").iterdir():
        photo.unlink()
    recent_photo.cache_clear()
    with pytest.raises(StoreError, match="not one training sample can be made"):
        write_samples(data_set(run, tmp_path, [*LOAD, PACK]), tmp_path / "page.png", 1)
