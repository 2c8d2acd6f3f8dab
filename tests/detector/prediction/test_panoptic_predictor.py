"""The panoptic predictor gives what the model itself predicts, at the photo's size and whatever shares the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from support.tiny_detector import SCALE, write_tiny
from support.tiny_panoptic import STUFFS, THINGS, panoptic_model, write_panoptic

from detector.model.checkpoints import DetectorCheckpoint
from detector.prediction.detections import Limits, paste
from detector.prediction.panoptic import PanopticDetections
from detector.prediction.panoptic_predictor import PanopticPredictor, classes_at, enlarged
from detector.prediction.predictor import Predictor
from pipeline.errors import ConfigError
from pipeline.results.semantic_codes import grid_of

CPU = torch.device("cpu")
SIZES = ((128, 160), (100, 160), (90, 60), (300, 400))


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 255, (height // 10 + 1, width // 10 + 1, 3), np.uint8) for height, width in SIZES]
    big = [image.repeat(10, axis=0).repeat(10, axis=1) for image in coarse]
    return [image[:height, :width] for image, (height, width) in zip(big, SIZES, strict=True)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> DetectorCheckpoint:
    return write_panoptic(tmp_path_factory.mktemp("tiny") / "detector.safetensors")


@pytest.fixture(scope="module")
def predictor(checkpoint: DetectorCheckpoint) -> PanopticPredictor:
    return PanopticPredictor(checkpoint, CPU)


@pytest.fixture(scope="module")
def found(predictor: PanopticPredictor, photos: list[np.ndarray]) -> list[PanopticDetections]:
    return predictor(photos)


@pytest.mark.parametrize("index", [0, 1])  # a photo that is not scaled, without padding and with
def test_it_is_what_the_model_predicts(photos: list[np.ndarray], found: list[PanopticDetections], index: int) -> None:
    rgb, (height, width) = photos[index], SIZES[index]
    assert SCALE == (160, 128)
    model = panoptic_model()
    meta = {"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
    pixels = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
    data = model.data_preprocessor({"inputs": [pixels], "data_samples": [DetDataSample(metainfo=meta)]})
    with torch.no_grad():
        (sample,) = model.predict(data["inputs"], data["data_samples"], rescale=True)
    ours, theirs = found[index], sample.pred_instances
    assert len(theirs) > 20
    assert np.array_equal(ours.labels, theirs.labels.numpy())
    np.testing.assert_allclose(ours.things.scores, theirs.scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.things.boxes, theirs.bboxes.numpy(), atol=1e-4)
    assert set(np.unique(ours.semantic_HW)) == set(range(len(STUFFS) + 1))
    assert (ours.semantic_HW == sample.pred_sem_seg.sem_seg[0].numpy()).mean() > 0.999
    for mask, box, theirs_HW in zip(ours.things.masks, ours.things.boxes, theirs.masks.numpy(), strict=True):
        window = paste(mask, box, (height, width))
        mask_HW = np.zeros((height, width), bool)
        rows, columns = window.values.shape
        mask_HW[window.top : window.top + rows, window.left : window.left + columns] = window.values >= 0.5
        assert np.count_nonzero(mask_HW != theirs_HW) <= 0.02 * max(theirs_HW.sum(), 50)


def test_photos_together_are_photos_alone(
    predictor: PanopticPredictor, photos: list[np.ndarray], found: list[PanopticDetections]
) -> None:
    for photo, together in zip(photos, found, strict=True):
        (alone,) = predictor([photo])
        np.testing.assert_allclose(alone.things.boxes, together.things.boxes, atol=2e-3)
        assert np.array_equal(alone.labels, together.labels)
        assert (alone.semantic_HW == together.semantic_HW).mean() > 0.999
        assert together.semantic_HW.shape == photo.shape[:2]
        assert together.certainty.shape == grid_of(photo.shape[:2])
        assert 1 / (len(STUFFS) + 1) <= together.certainty.min() < together.certainty.max() <= 1


def test_scores_and_numbers_are_limited(checkpoint: DetectorCheckpoint, photos: list[np.ndarray]) -> None:
    (few,) = PanopticPredictor(checkpoint, CPU, Limits(min_score=0.7, max_per_image=4))(photos[:1])
    assert 0 < len(few.labels) <= 4
    assert (few.things.scores >= 0.7).all()
    assert set(few.labels.tolist()) <= set(range(len(THINGS)))


def test_half_precision_is_close(
    checkpoint: DetectorCheckpoint, photos: list[np.ndarray], found: list[PanopticDetections]
) -> None:
    for half, whole in zip(PanopticPredictor(checkpoint, CPU, amp=True)(photos[:2]), found[:2], strict=True):
        assert half.things.boxes.dtype == half.things.masks.dtype == half.certainty.dtype == np.float32
        assert np.isfinite(half.things.boxes).all()
        assert (half.semantic_HW == whole.semantic_HW).mean() > 0.9
        assert half.things.scores[0] == pytest.approx(whole.things.scores[0], abs=0.05)


def test_other_detectors_are_refused(checkpoint: DetectorCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no semantic head: a panoptic detector is needed"):
        PanopticPredictor(write_tiny(tmp_path / "instances.safetensors"), CPU)
    with pytest.raises(ConfigError, match="tells 2 classes apart"):
        Predictor(checkpoint, CPU)


@pytest.mark.parametrize("size", [(96, 64), (33, 71), (192, 128)])
def test_a_map_is_enlarged_as_by_interpolation(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    map_Chw = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(0))
    wanted_CHW = F.interpolate(map_Chw[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(enlarged(map_Chw, size, [1.0, 1.0]), wanted_CHW, atol=1e-4, rtol=0)
    monkeypatch.setattr("detector.prediction.panoptic_predictor._VALUES", 3 * size[1] * 5)  # five rows at a time
    classes_HW = classes_at(map_Chw, size, [1.0, 1.0])
    assert (classes_HW == wanted_CHW.argmax(dim=0)).float().mean() > 0.999
    assert classes_HW.dtype == torch.uint8


def test_padding_is_left_out() -> None:
    """Of a map whose right half is padding, the left half is what there is of the photo."""
    map_1hw = torch.arange(16.0).expand(1, 8, 16).clone()
    row_W = enlarged(map_1hw, (8, 64), [1.0, 0.5])[0, 4]
    place_W = (torch.arange(64) + 0.5) / 64 * 8 - 0.5
    torch.testing.assert_close(row_W, place_W.clamp(min=0), atol=1e-4, rtol=0)
