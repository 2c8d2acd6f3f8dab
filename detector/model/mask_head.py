"""A mask head that trusts each pixel of a pseudo-mask as far as its Spatial Confidence goes: the soft-target loss
of CutS3D.

Shape legend: P positive proposals, M masks of an image, C classes, H×W the image as the network sees it, h×w the mask
target of a proposal (28×28).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BitmapMasks
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from detector.data.confidence_masks import CERTAIN, ConfidenceMasks
from detector.model.drop_loss import NO_SCORES
from detector.model.precision import at_least_single
from pipeline.errors import ConfigError


@MODELS.register_module()
class SpatialConfidenceLoss(nn.Module):
    """CutS3D's L_mask: the mean over all pixels of SC_ij · BCE(M̂_ij, M_ij), times `loss_weight`.

    It is divided by the number of pixels, not by the sum of the confidence: with a confidence of 1 it is the mask loss
    of Mask R-CNN, and where the pseudo-masks are doubtful the loss is small.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, logits_P1hw: Tensor, target_Phw: Tensor, confidence_Phw: Tensor | None = None) -> Tensor:
        """Scalar loss of mask logits against targets in [0, 1]; confidence in [0, 1], None for 1 everywhere.

        At least single precision, whatever precision the logits come in: in half precision BCE overflows.
        """
        logits_Phw = at_least_single(logits_P1hw.squeeze(1))
        weight_Phw = None if confidence_Phw is None else confidence_Phw.to(logits_Phw.dtype)
        target_Phw = target_Phw.to(logits_Phw.dtype)
        return self.loss_weight * F.binary_cross_entropy_with_logits(logits_Phw, target_Phw, weight=weight_Phw)


@MODELS.register_module()
class ConfidenceMaskHead(FCNMaskHead):
    """MMDetection's FCNMaskHead with the Spatial Confidence of `ConfidenceMasks` as the weight of each pixel's loss.

    use_confidence: False, or ordinary masks in place of ConfidenceMasks, make it the stock head, loss and gradients.
    use_scores: each instance's loss counts as far as its relative score goes, as in CuVLER; with the confidence, both.
    Masks that are no bitmaps, and scores that are used and not there, raise ConfigError. All other arguments are those
    of FCNMaskHead.
    """

    def __init__(
        self,
        *args: Any,
        use_confidence: bool = True,
        use_scores: bool = False,
        loss_mask: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, loss_mask=loss_mask or {"type": "SpatialConfidenceLoss"}, **kwargs)
        if not isinstance(self.loss_mask, SpatialConfidenceLoss):
            raise ConfigError(
                f"ConfidenceMaskHead's loss_mask is {type(self.loss_mask).__name__}, which takes no confidence: "
                "use SpatialConfidenceLoss, or FCNMaskHead"
            )
        self.use_confidence = use_confidence
        self.use_scores = use_scores

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits (P, C, h, w), at least float32, of RoI features (P, channels, h / 2, w / 2)."""
        return at_least_single(super().forward(x))

    def loss_and_target(
        self, mask_preds: Tensor, sampling_results: list, batch_gt_instances: list, rcnn_train_cfg: Any
    ) -> dict:
        """`loss_mask` ({"loss_mask": loss}) and `mask_targets` (P, h, w) for logits (P, C, h, w) of all positives.

        No positive proposal gives a loss of 0 that still has a graph, as in the stock head.
        """
        size = _pair(rcnn_train_cfg.mask_size)
        aligned = [
            aligned_targets(truth.masks, get_box_tensor(sampled.pos_priors), sampled.pos_assigned_gt_inds, size)
            for sampled, truth in zip(sampling_results, batch_gt_instances, strict=True)
        ]
        target_Phw, confidence_Phw = (torch.cat(parts) for parts in zip(*aligned, strict=True))
        if not rcnn_train_cfg.get("soft_mask_target", False):
            target_Phw = (target_Phw >= 0.5).float()
        if len(mask_preds) == 0:
            loss = mask_preds.sum()
        else:
            labels_P = torch.cat([sampled.pos_gt_labels for sampled in sampling_results])
            channels_P = torch.zeros_like(labels_P) if self.class_agnostic else labels_P
            logits_P1hw = mask_preds[torch.arange(len(mask_preds), device=mask_preds.device), channels_P, None]
            weight_Phw = confidence_Phw if self.use_confidence else None
            if self.use_scores:
                score_P11 = _scores(sampling_results, batch_gt_instances)[:, None, None]
                weight_Phw = (confidence_Phw if self.use_confidence else torch.ones_like(target_Phw)) * score_P11
            loss = self.loss_mask(logits_P1hw, target_Phw, weight_Phw)
        return {"loss_mask": {"loss_mask": loss}, "mask_targets": target_Phw}


def _scores(sampling_results: list, batch_gt_instances: list) -> Tensor:
    """Relative score of the mask of each positive proposal, (P,)."""
    if not all("relative_scores" in truth for truth in batch_gt_instances):
        raise ConfigError(NO_SCORES)
    pairs = zip(sampling_results, batch_gt_instances, strict=True)
    return torch.cat([truth.relative_scores[sampled.pos_assigned_gt_inds] for sampled, truth in pairs])


@torch.no_grad()
def aligned_targets(
    masks: BitmapMasks, boxes_P4: Tensor, indices_P: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What the proposals of one image see of their masks: coverage and confidence, both float32 (P, h, w) in [0, 1].

    boxes_P4: xyxy in pixels of the image, clipped to it here.
    indices_P: which mask each belongs to.

    Both maps are sampled by the RoIAlign, and to its rounding with the values, that BitmapMasks.crop_and_resize samples
    a mask target with. The confidence outside the instance is 1, that of ordinary masks is 1 everywhere.

    Unlike crop_and_resize, which makes a float copy of a mask for every proposal, this converts each mask once, on
    the device of the proposals, where the bytes come to once for both maps.
    """
    if not isinstance(masks, BitmapMasks):
        raise ConfigError(
            f"ConfidenceMaskHead got masks as {type(masks).__name__}: load ConfidenceMasks by LoadConfidenceMasks, "
            "or bitmaps by LoadAnnotations(with_mask=True, poly2mask=True)"
        )
    if len(boxes_P4) == 0:
        return boxes_P4.new_zeros((0, *size)), boxes_P4.new_ones((0, *size))
    limits_4 = boxes_P4.new_tensor([masks.width, masks.height, masks.width, masks.height])
    rois_P5 = torch.cat([indices_P[:, None].float(), boxes_P4.clamp(min=0).minimum(limits_4).float()], dim=1)
    confident = isinstance(masks, ConfidenceMasks)
    values_MHW = torch.from_numpy(np.ascontiguousarray(masks.values if confident else masks.masks))
    planes_MpHW = _planes(values_MHW.to(boxes_P4.device), confident)
    aligned_Pphw = roi_align(planes_MpHW, rois_P5, size, 1.0, 0, "avg", True)
    target_Phw = aligned_Pphw[:, 0]
    return target_Phw, 1 - aligned_Pphw[:, 1] / CERTAIN if confident else torch.ones_like(target_Phw)


def _planes(values_MHW: Tensor, with_confidence: bool) -> Tensor:
    """Float32 (M, 1 or 2, H, W): 1 inside the masks; 255 times the doubt 1 - SC, which is 0 outside of them.

    The doubt is sampled, and not the confidence, so that full confidence stays exactly 1.
    """
    inside_MHW = values_MHW > 0
    if not with_confidence:
        return inside_MHW[:, None].float()
    planes_M2HW = torch.empty((len(values_MHW), 2, *values_MHW.shape[1:]), device=values_MHW.device)
    planes_M2HW[:, 0] = inside_MHW
    planes_M2HW[:, 1] = (CERTAIN - values_MHW) * inside_MHW
    return planes_M2HW
