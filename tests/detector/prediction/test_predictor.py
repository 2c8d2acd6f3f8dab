"""The predictor finds what MMDetection's own test step finds, whatever shares the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope
from support.tiny_detector import SCALE, tiny_config, tiny_model, write_tiny

from detector.model.checkpoints import DetectorCheckpoint
from detector.prediction.detections import Detections, Limits, Window, paste
from detector.prediction.predictor import Predictor
from pipeline.errors import ConfigError, WeightsError

CPU = torch.device("cpu")
SIZES = ((90, 120), (120, 90), (96, 128), (200, 60))


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 255, (height // 10, width // 10, 3), np.uint8) for height, width in SIZES]
    return [image.repeat(10, axis=0).repeat(10, axis=1) for image in coarse]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> DetectorCheckpoint:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "detector.safetensors")


@pytest.fixture(scope="module")
def predictor(checkpoint: DetectorCheckpoint) -> Predictor:
    return Predictor(checkpoint, CPU)


@pytest.fixture(scope="module")
def found(predictor: Predictor, photos: list[np.ndarray]) -> list[Detections]:
    return predictor(photos)


def stock(rgb: np.ndarray, config: dict[str, Any] | None = None) -> Any:
    """What MMDetection's pipeline and test step give, on a model of the same seed."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        pipeline = Compose(
            [
                {"type": "mmdet.LoadImageFromNDArray"},
                {"type": "mmdet.Resize", "scale": SCALE, "keep_ratio": True},
                {"type": "mmdet.PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
            ]
        )
        data = pipeline({"img": np.ascontiguousarray(rgb[..., ::-1]), "img_id": 0})
        model: Any = tiny_model(config)
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        with torch.no_grad():
            return model.test_step(batch)[0].pred_instances


def pasted(found: Detections, m: int, size: tuple[int, ...]) -> np.ndarray:
    window: Window = paste(found.masks[m], found.boxes[m], size[:2])
    photo = np.zeros(size[:2], np.float32)
    rows, columns = window.values.shape
    photo[window.top : window.top + rows, window.left : window.left + columns] = window.values
    return photo


@pytest.mark.parametrize("i", range(len(SIZES)))
def test_it_is_mmdetections_test_step(found: list[Detections], photos: list[np.ndarray], i: int) -> None:
    expected = stock(photos[i])
    assert len(expected) > 10
    assert found[i].scores == pytest.approx(expected.scores.numpy(), abs=1e-4)
    assert np.abs(found[i].boxes - expected.bboxes.numpy()).max() < 0.05
    wrong = total = 0
    for m, mask in enumerate(expected.masks.numpy()):
        probability = pasted(found[i], m, photos[i].shape)
        wrong += np.count_nonzero((probability >= 0.5) != mask)
        total += np.count_nonzero(mask)
    assert total > 1000
    assert wrong < 0.002 * total, "only pixels within rounding of the threshold may differ"


def test_the_batch_makes_no_difference(predictor: Predictor, found: list[Detections], photos: list[np.ndarray]) -> None:
    for together, photo in zip(found, photos, strict=True):
        alone = predictor([photo])[0]
        assert np.abs(together.boxes - alone.boxes).max() < 1e-2
        assert np.abs(together.scores - alone.scores).max() < 1e-4
        assert np.abs(together.masks - alone.masks).max() < 1e-3


def test_limits(checkpoint: DetectorCheckpoint, found: list[Detections], photos: list[np.ndarray]) -> None:
    middle = float(np.median(found[0].scores))
    best = Predictor(checkpoint, CPU, Limits(min_score=middle))(photos[:1])[0]
    assert len(best.scores) == np.count_nonzero(found[0].scores > middle)
    assert np.allclose(best.boxes, found[0].boxes[: len(best.scores)])
    three = Predictor(checkpoint, CPU, Limits(max_per_image=3))(photos[:1])[0]
    assert np.allclose(three.scores, found[0].scores[:3])
    fewer = Predictor(checkpoint, CPU, Limits(nms_iou=0.1))(photos[:1])[0]
    assert len(fewer.scores) < len(found[0].scores)
    none = Predictor(checkpoint, CPU, Limits(min_score=1.0))(photos)
    assert [(f.boxes.shape, f.scores.shape, f.masks.shape) for f in none] == [((0, 4), (0,), (0, 28, 28))] * 4


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"min_score": 1.5}, "min_score"), ({"max_per_image": 0}, "max_per_image"), ({"nms_iou": 0.0}, "nms_iou")],
)
def test_limits_out_of_range(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(**limits)


def test_half_precision_is_close(checkpoint: DetectorCheckpoint, photos: list[np.ndarray]) -> None:
    """On a smooth photo: noise and random weights make a detector that rounding upsets."""
    smooth = np.tile(np.linspace(0, 255, 120).astype(np.uint8)[None, :, None], (90, 1, 3))
    full, half = (Predictor(checkpoint, CPU, amp=amp)([smooth])[0] for amp in (False, True))
    assert full.masks.dtype == half.masks.dtype == np.float32
    assert full.scores.dtype == half.scores.dtype == np.float32
    assert abs(full.scores[0] - half.scores[0]) < 0.05
    assert not np.array_equal(full.scores[:5], half.scores[:5]), "bfloat16 was not used"


def test_detectors_of_other_kinds_are_refused(tmp_path: Path) -> None:
    config = tiny_config()
    config["roi_head"]["mask_head"]["num_classes"] = 80
    with pytest.raises(ConfigError, match="tells 80 classes apart"):
        Predictor(write_tiny(tmp_path / "many.safetensors", config), CPU)
    config = tiny_config()
    del config["roi_head"]["mask_head"], config["roi_head"]["mask_roi_extractor"]
    with pytest.raises(ConfigError, match="no mask head"):
        Predictor(write_tiny(tmp_path / "boxes.safetensors", config), CPU)


def test_weights_of_another_model_are_refused(checkpoint: DetectorCheckpoint) -> None:
    state = {name: tensor for name, tensor in checkpoint.state_dict.items() if "mask_head" not in name}
    broken = DetectorCheckpoint(checkpoint.path, checkpoint.config, {}, state)
    with pytest.raises(WeightsError, match="mask_head"):
        Predictor(broken, CPU)
