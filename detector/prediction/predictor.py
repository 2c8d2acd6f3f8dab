"""A trained detector on photos: boxes, scores, and the mask of each box as the head gives it, not yet pasted.

MMDetection pastes all masks of a photo at its full size, which for a hundred detections in twelve megapixels is over a
gigabyte; `detector.prediction.detections` does it box by box instead.

B images · M detections · h, w cells of a box's mask · H, W pixels
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from detector.model.build import build_model
from detector.model.checkpoints import DetectorCheckpoint
from detector.prediction.detections import Detections, Limits
from pipeline.errors import ConfigError


class Predictor:
    """A detector on its device; one object serves several threads.

    checkpoint: of a two-stage detector with a mask head of one class.
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
        self._cascade = _stages(self._model)
        self._test_cfg = _limited(self._model.roi_head.test_cfg, limits or Limits())

    @property
    def threshold(self) -> float:
        """Probability from which a pixel belongs to the mask, as the model's configuration has it."""
        return float(self._test_cfg.mask_thr_binary)

    def __call__(self, photos: Sequence[np.ndarray]) -> list[Detections]:
        """Detections in each of the photos, uint8 (H, W, 3) RGB."""
        resized = [self._fitted(photo) for photo in photos]
        divisor = self._model.data_preprocessor.pad_size_divisor
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(resized):
            alike[-(-image.shape[0] // divisor), -(-image.shape[1] // divisor)].append(i)
        found: dict[int, Detections] = {}
        with torch.inference_mode(), self._precision():
            for group in alike.values():
                samples = [_sample(photos[i].shape, resized[i].shape) for i in group]
                found.update(zip(group, self._detect([resized[i] for i in group], samples), strict=True))
        return [found[i] for i in range(len(photos))]

    def _detect(self, images: Sequence[np.ndarray], samples: list[DetDataSample]) -> Iterator[Detections]:
        inputs = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images]
        batch = self._model.data_preprocessor({"inputs": inputs, "data_samples": samples}, False)
        samples = batch["data_samples"]
        metas = [sample.metainfo for sample in samples]
        # Half precision is for products. Coordinates need more: it has a grain of whole pixels where photos end.
        features = _floats(self._model.extract_feat(batch["inputs"]))
        outputs = [_floats(levels) for levels in self._model.rpn_head(features)]
        proposals = self._model.rpn_head.predict_by_feat(*outputs, batch_img_metas=metas, rescale=False)
        results = self._model.roi_head.predict_bbox(features, metas, proposals, self._test_cfg, rescale=False)
        masks = self._mask_probabilities(features, bbox2roi([result.bboxes for result in results]))
        for sample, result, mask_Mhw in zip(samples, results, masks.split([len(r) for r in results]), strict=True):
            yield _in_photo(result, mask_Mhw, sample.scale_factor)

    def _mask_probabilities(self, features: Sequence[torch.Tensor], rois: torch.Tensor) -> torch.Tensor:
        """(M, h, w) float32: mean over the stages of the cascade, as MMDetection's `predict_mask` has it."""
        # float before sigmoid: half precision has no numbers between 0.9995 and 1
        stages = [
            head(extractor(features[: extractor.num_inputs], rois)).float().sigmoid()[:, 0]
            for extractor, head in self._cascade
        ]
        return torch.stack(stages).mean(dim=0)

    def _fitted(self, rgb: np.ndarray) -> np.ndarray:
        """The photo as MMDetection's `Resize(keep_ratio=True)` would have it: uint8 BGR."""
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        image: np.ndarray = mmcv.imrescale(bgr, self._scale, interpolation="bilinear", backend=self._backend)
        return image

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if not self.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.device.type == "cuda" else torch.bfloat16)


def _floats(levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(level.float() for level in levels)


def _stages(model: Any) -> list[tuple[Any, Any]]:
    """RoI extractor and mask head of each stage of the cascade; one where there is no cascade, or they share a head."""
    roi_head = getattr(model, "roi_head", None)
    if roi_head is None or not getattr(roi_head, "with_mask", False):
        raise ConfigError(
            f"{type(model).__name__} has no mask head on boxes: a two-stage detector with masks is needed"
        )
    extractors, heads = (
        list[Any](part) if isinstance(part, nn.ModuleList) else [part]
        for part in (roi_head.mask_roi_extractor, roi_head.mask_head)
    )
    classes = {head.num_classes for head in heads}
    if classes != {1}:
        raise ConfigError(f"the detector tells {max(classes)} classes apart: one of a single class is needed")
    return list({id(head): (extractor, head) for extractor, head in zip(extractors, heads, strict=True)}.values())


def _limited(test_cfg: Mapping[str, Any], limits: Limits) -> ConfigDict:
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
