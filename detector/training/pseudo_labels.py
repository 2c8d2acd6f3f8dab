"""What a panoptic detector teaches itself of an image: what it sees in views of it, scaled and mirrored, as targets.

CUPS (Hahn et al., CVPR 2025), section 3.3 and its code. M instances · T thing classes · S stuff classes · H, W pixels
of the image · h, w cells of a box's mask
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import batched_nms
from mmdet.structures import DetDataSample
from torch import Tensor

from detector.data.confidence_masks import CERTAIN
from detector.data.panoptic_loading import IGNORED
from detector.data.panoptic_paste import PanopticSample
from detector.data.paste import boxes
from detector.model.two_stage import TwoStage
from detector.prediction.detections import Detections, Limits
from detector.prediction.panoptic import PanopticRule, instances
from detector.prediction.panoptic_predictor import enlarged, shares_of
from detector.prediction.predictor import limited
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class LabelRule:
    """What of the predictions becomes a label; the defaults are CUPS'.

    scales: of the views, in sizes of the image; each is seen mirrored, too.
    min_score: instances of at least this score, 0..1.
    max_per_image: the best by score.
    nms_iou: of two boxes of a class that overlap more, from whatever views, the worse goes.
    max_cover: see `PanopticRule`.
    class_share: a class is a pixel's label only where its probability is above this share of its largest in the image;
        of several the most probable one; where none is, the pixel is ignored. 0..1, below 1.
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0)
    min_score: float = 0.7
    max_per_image: int = 100
    nms_iou: float = 0.5
    max_cover: float = 0.5
    class_share: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales are {self.scales}: give one or more above 0")
        if not 0 <= self.class_share < 1:
            raise ConfigError(f"class_share is {self.class_share}: it must be from 0 to below 1")
        _ = self.limits, self.merging(0.5)

    @property
    def limits(self) -> Limits:
        """Of the detections in a view."""
        return Limits(self.min_score, self.max_per_image, self.nms_iou)

    def merging(self, mask_threshold: float) -> PanopticRule:
        """How instances share the pixels."""
        return PanopticRule(self.min_score, self.max_cover, mask_threshold=mask_threshold)


class _View(NamedTuple):
    """An image as the network saw it.

    features: the pyramid. factors: of its width and height, to those of the image. meta: as the heads are told.
    """

    features: tuple[Tensor, ...]
    factors: tuple[float, float]
    meta: dict[str, Any]
    mirrored: bool


class Labeller:
    """A panoptic detector in evaluation mode that labels images, one at a time."""

    def __init__(self, model: Any, rule: LabelRule) -> None:
        self._network, self._model, self.rule = TwoStage(model), model, rule
        self._test_cfg = limited(model.roi_head.test_cfg, rule.limits)
        self._merging = rule.merging(float(self._test_cfg.mask_thr_binary))

    @torch.no_grad()
    def __call__(self, image_3HW: Tensor) -> PanopticSample:
        """The image, uint8 (3, H, W) as a loader gives it, with its labels. Instances share no pixel; the semantic
        classes know nothing of them.
        """
        size = int(image_3HW.shape[1]), int(image_3HW.shape[2])
        views = list(self._views(image_3HW))
        boxes_M4, scores_M, labels_M = self._boxes(views, size)
        masks_Mhw = self._masks(views, boxes_M4, labels_M, size)
        found = Detections(*(part.float().cpu().numpy() for part in (boxes_M4, scores_M, masks_Mhw)))
        ids_HW, kept = instances(found, size, self._merging)
        values_MHW = np.zeros((len(kept), *size), np.uint8)
        for number, values_HW in enumerate(values_MHW, 1):
            values_HW[ids_HW == number] = CERTAIN
        return PanopticSample(
            image_3HW.cpu().numpy(),
            values_MHW,
            labels_M.cpu().numpy()[kept],
            boxes(values_MHW),
            classes_by_share(self._probabilities(views, size), self.rule.class_share).cpu().numpy(),
        )

    def _views(self, image_3HW: Tensor) -> Iterator[_View]:
        height, width = image_3HW.shape[1:]
        for scale in self.rule.scales:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            scaled_3hw = image_3HW.float()
            if size != (height, width):
                scaled_3hw = F.interpolate(scaled_3hw[None], size, mode="bilinear", antialias=True)[0]
            for mirrored in (False, True):
                factors = size[1] / width, size[0] / height
                meta = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
                seen_3hw = scaled_3hw.flip(-1) if mirrored else scaled_3hw
                data = {"inputs": [seen_3hw], "data_samples": [DetDataSample(metainfo=meta)]}
                data = self._model.data_preprocessor(data, False)
                (sample,) = data["data_samples"]
                yield _View(self._network.features(data["inputs"]), factors, sample.metainfo, mirrored)

    def _boxes(self, views: Sequence[_View], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (M, 4) in pixels of the image, scores and labels (M,): the best of all views after class-wise NMS."""
        found = [self._network.boxes(view.features, [view.meta], self._test_cfg)[0] for view in views]
        boxes_N4 = torch.cat([_to_image(one.bboxes, view, size) for one, view in zip(found, views, strict=True)])
        scores_N, labels_N = (torch.cat([one[name] for one in found]) for name in ("scores", "labels"))
        if len(boxes_N4) == 0:
            return boxes_N4, scores_N, labels_N
        _, kept = batched_nms(boxes_N4, scores_N, labels_N, {"type": "nms", "iou_threshold": self.rule.nms_iou})
        kept = kept[: self.rule.max_per_image]
        return boxes_N4[kept], scores_N[kept], labels_N[kept]

    def _masks(self, views: Sequence[_View], boxes_M4: Tensor, labels_M: Tensor, size: tuple[int, int]) -> Tensor:
        """(M, h, w): the mean over the views of the boxes' masks."""
        masks = [self._network.masks(view.features, [_to_view(boxes_M4, view, size)], [labels_M])[0] for view in views]
        turned = [mask.flip(-1) if view.mirrored else mask for mask, view in zip(masks, views, strict=True)]
        return torch.stack(turned).mean(dim=0)

    def _probabilities(self, views: Sequence[_View], size: tuple[int, int]) -> Tensor:
        """(S + 1, H, W): the mean over the views of the semantic head's probabilities."""
        total = None
        for view in views:
            probability_Chw = self._model.semantic_head.logits(view.features)[0].softmax(dim=0)
            probability_CHW = enlarged(probability_Chw, size, shares_of(view.meta))
            if view.mirrored:
                probability_CHW = probability_CHW.flip(-1)
            total = probability_CHW if total is None else total.add_(probability_CHW)
        assert total is not None
        return total / len(views)


def classes_by_share(probability_CHW: Tensor, share: float) -> Tensor:
    """uint8 (H, W): see `LabelRule.class_share`; 255 where the pixel is ignored."""
    largest_C11 = probability_CHW.amax(dim=(1, 2), keepdim=True)
    sure_CHW = torch.where(probability_CHW > share * largest_C11, probability_CHW, -1)
    best_HW, classes_HW = sure_CHW.max(dim=0)
    return torch.where(best_HW < 0, IGNORED, classes_HW).to(torch.uint8)


def _to_image(boxes_N4: Tensor, view: _View, size: tuple[int, int]) -> Tensor:
    """Boxes of a view in pixels of the image."""
    boxes_N4 = boxes_N4.float() / boxes_N4.new_tensor(view.factors).repeat(2)
    return _mirrored(boxes_N4, size[1]) if view.mirrored else boxes_N4


def _to_view(boxes_M4: Tensor, view: _View, size: tuple[int, int]) -> Tensor:
    """The inverse."""
    boxes_M4 = _mirrored(boxes_M4, size[1]) if view.mirrored else boxes_M4
    return boxes_M4 * boxes_M4.new_tensor(view.factors).repeat(2)


def _mirrored(boxes_M4: Tensor, width: int) -> Tensor:
    left, top, right, bottom = boxes_M4.unbind(dim=1)
    return torch.stack([width - right, top, width - left, bottom], dim=1)
