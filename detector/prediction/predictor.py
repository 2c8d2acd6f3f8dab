"""A trained detector on photos: boxes, scores, and the mask of each box as the head gives it, not yet pasted.

MMDetection pastes all masks of a photo at its full size, which for a hundred detections in twelve megapixels is over a
gigabyte; `detector.prediction.detections` does it box by box instead.

B images · M detections · h, w cells of a box's mask · H, W pixels
"""

import contextlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from detector.model.build import build_model
from detector.model.checkpoints import DetectorCheckpoint
from detector.model.two_stage import TwoStage
from detector.prediction.detections import Detections, Limits
from pipeline.errors import ConfigError

Found = TypeVar("Found")


class PhotoNetwork(ABC, Generic[Found]):
    """A detector of two stages on its device, which gives something of each photo; one object serves several threads.

    checkpoint: of a detector with a mask head.
    amp: half precision where that is safe (float16 on a GPU, bfloat16 on a CPU).

    What is found in a photo does not depend on what else is in its batch: photos are put together by their size, so
    that none is padded for another's sake.

    Raises:
        ConfigError: the model is no such detector.
        WeightsError: it cannot be built.
    """

    def __init__(
        self, checkpoint: DetectorCheckpoint, device: torch.device, limits: Limits | None = None, amp: bool = False
    ) -> None:
        self.device, self.amp = device, amp
        resize = checkpoint.config["resize"]
        self._scale = (int(resize["long"]), int(resize["short"]))
        self._backend = resize.get("backend", "cv2")
        self._model = cast(Any, build_model(checkpoint).to(device))
        self._network = TwoStage(self._model)
        self._test_cfg = limited(self._model.roi_head.test_cfg, limits or Limits())

    @property
    def threshold(self) -> float:
        """Probability from which a pixel belongs to the mask, as the model's configuration has it."""
        return float(self._test_cfg.mask_thr_binary)

    def __call__(self, photos: Sequence[np.ndarray]) -> list[Found]:
        """What is found in each of the photos, uint8 (H, W, 3) RGB."""
        resized = [self._fitted(photo) for photo in photos]
        divisor = self._model.data_preprocessor.pad_size_divisor
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(resized):
            alike[-(-image.shape[0] // divisor), -(-image.shape[1] // divisor)].append(i)
        found: dict[int, Found] = {}
        with torch.inference_mode(), self._precision():
            for group in alike.values():
                samples = [_sample(photos[i].shape, resized[i].shape) for i in group]
                found.update(zip(group, self._found([resized[i] for i in group], samples), strict=True))
        return [found[i] for i in range(len(photos))]

    def _found(self, images: Sequence[np.ndarray], samples: list[DetDataSample]) -> Iterator[Found]:
        inputs = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images]
        batch = self._model.data_preprocessor({"inputs": inputs, "data_samples": samples}, False)
        features = self._network.features(batch["inputs"])
        return self._from_features(features, [sample.metainfo for sample in batch["data_samples"]])

    @abstractmethod
    def _from_features(self, features: tuple[torch.Tensor, ...], metas: list[dict[str, Any]]) -> Iterator[Found]:
        """What is found in each image, of a batch's pyramid."""

    def _detected(
        self, features: tuple[torch.Tensor, ...], metas: list[dict[str, Any]]
    ) -> Iterator[tuple[InstanceData, Detections]]:
        """Of each image what the heads give, and the same in pixels of the photo."""
        results = self._network.boxes(features, metas, self._test_cfg)
        masks = self._network.masks(features, [r.bboxes for r in results], [r.labels for r in results])
        for meta, result, mask_Mhw in zip(metas, results, masks, strict=True):
            yield result, _in_photo(result, mask_Mhw, meta["scale_factor"])

    def _fitted(self, rgb: np.ndarray) -> np.ndarray:
        """The photo as MMDetection's `Resize(keep_ratio=True)` would have it: uint8 BGR."""
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        image: np.ndarray = mmcv.imrescale(bgr, self._scale, interpolation="bilinear", backend=self._backend)
        return image

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if not self.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.device.type == "cuda" else torch.bfloat16)


class Predictor(PhotoNetwork[Detections]):
    """A detector of a single class; see `PhotoNetwork`. ConfigError for one of several classes."""

    def __init__(self, checkpoint: DetectorCheckpoint, *arguments: Any, **options: Any) -> None:
        super().__init__(checkpoint, *arguments, **options)
        if self._network.classes != 1:
            raise ConfigError(
                f"the detector tells {self._network.classes} classes apart: one of a single class is needed"
            )

    def _from_features(self, features: tuple[torch.Tensor, ...], metas: list[dict[str, Any]]) -> Iterator[Detections]:
        return (found for _, found in self._detected(features, metas))


def limited(test_cfg: Mapping[str, Any], limits: Limits) -> ConfigDict:
    nms = dict(test_cfg["nms"])
    if limits.nms_iou is not None:
        nms["iou_threshold"] = limits.nms_iou
    changed = {"score_thr": limits.min_score, "max_per_img": limits.max_per_image, "nms": nms}
    return ConfigDict({**test_cfg, **changed})


def _sample(photo: tuple[int, ...], resized: tuple[int, ...]) -> DetDataSample:
    """What the heads are told of an image. Its scale factor is by width and height, as `Resize` gives it."""
    factor = (resized[1] / photo[1], resized[0] / photo[0])
    meta = {"ori_shape": photo[:2], "img_shape": resized[:2], "scale_factor": factor}
    return DetDataSample(metainfo=meta)


def _in_photo(result: InstanceData, mask_Mhw: torch.Tensor, factor: tuple[float, float]) -> Detections:
    boxes_M4 = result.bboxes.float() / result.bboxes.new_tensor(factor).float().repeat(2)
    return Detections(boxes_M4.cpu().numpy(), result.scores.float().cpu().numpy(), mask_Mhw.cpu().numpy())
