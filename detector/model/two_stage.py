"""What detectors of two stages find on the features of images: boxes, and the mask of each as the heads give it, not
yet pasted.

N images · M detections · h, w cells of a box's mask
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor, nn

from pipeline.errors import ConfigError


class TwoStage:
    """A detector with a mask head on boxes, in evaluation mode.

    Raises ConfigError when the model is no such detector.
    """

    def __init__(self, model: Any) -> None:
        roi_head = getattr(model, "roi_head", None)
        if roi_head is None or not getattr(roi_head, "with_mask", False):
            raise ConfigError(
                f"{type(model).__name__} has no mask head on boxes: a two-stage detector with masks is needed"
            )
        self.model = model
        self._stages = _stages(roi_head)

    @property
    def classes(self) -> int:
        """That it tells apart."""
        return max(head.num_classes for _, head in self._stages)

    def features(self, inputs_N3HW: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of normalised images, float32: half precision is for products, coordinates need more; it has a
        grain of whole pixels where photos end.
        """
        return _floats(self.model.extract_feat(inputs_N3HW))

    def boxes(
        self, features: tuple[Tensor, ...], metas: list[dict[str, Any]], test_cfg: Mapping[str, Any]
    ) -> list[InstanceData]:
        """For each image bboxes (M, 4) xyxy in pixels of the input, scores (M,), labels (M,), the best first."""
        outputs = [_floats(levels) for levels in self.model.rpn_head(features)]
        proposals = self.model.rpn_head.predict_by_feat(*outputs, batch_img_metas=metas, rescale=False)
        found: list[InstanceData] = self.model.roi_head.predict_bbox(
            features, metas, proposals, test_cfg, rescale=False
        )
        return found

    def masks(
        self, features: tuple[Tensor, ...], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """For each image float32 (M, h, w), probability of the box's class over the box: the mean over the stages of
        the cascade, as MMDetection's `predict_mask` has it.

        boxes: (M, 4) an image, xyxy in pixels of the input. labels: (M,) an image.
        """
        rois, labels_M = bbox2roi(list(boxes)), torch.cat(list(labels))
        places_M = torch.arange(len(rois), device=rois.device)
        # float before sigmoid: half precision has no numbers between 0.9995 and 1
        stages = [
            head(extractor(features[: extractor.num_inputs], rois))
            .float()
            .sigmoid()[places_M, torch.zeros_like(labels_M) if head.class_agnostic else labels_M]
            for extractor, head in self._stages
        ]
        masks: tuple[Tensor, ...] = torch.stack(stages).mean(dim=0).split([len(part) for part in boxes])
        return masks


def _floats(levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(level.float() for level in levels)


def _stages(roi_head: Any) -> list[tuple[Any, Any]]:
    """RoI extractor and mask head of each stage of the cascade; one where there is no cascade, or they share a head."""
    extractors, heads = (
        list[Any](part) if isinstance(part, nn.ModuleList) else [part]
        for part in (roi_head.mask_roi_extractor, roi_head.mask_head)
    )
    return list({id(head): (extractor, head) for extractor, head in zip(extractors, heads, strict=True)}.values())
