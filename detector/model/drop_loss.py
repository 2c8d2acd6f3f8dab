"""DropLoss: what may be an object that the pseudo-masks have missed is not punished for being detected.

CutLER multiplies the classification loss of a proposal by 0 when the box predicted from it overlaps no true box by
more than 0.01, and by 1 otherwise; the mean still goes over all proposals, so that dropping makes the loss smaller and
does not make the remaining proposals weightier. Box and mask losses, which are of positive proposals only, stay.

CuVLER's soft targets for the class and the box are here, too: masks that few have voted for count less.

Shape legend: P proposals, G true boxes of an image, N images, K anchors of a pyramid level, A anchors of a place.
"""

from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.task_modules.samplers import RandomSampler, SamplingResult
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from torch import Tensor

from detector.model.precision import at_least_single
from pipeline.errors import ConfigError

NO_SCORES = (
    'use_scores needs instances with relative_scores: a pipeline that ends with dict(type="FilterScored", …), '
    'dict(type="PackScored"), and the sampler TruthRandomSampler'
)


@TASK_UTILS.register_module()
class TruthRandomSampler(RandomSampler):
    """MMDetection's RandomSampler, whose results know all true boxes of their image: `truth_boxes_G4`, xyxy in pixels.
    Where instances have relative_scores, results know those, too: `truth_scores_G`; None elsewhere.

    The stock result knows those of the sampled positives alone, which are not all where there are many objects, and
    RoI heads hand nothing else to the box head's loss.
    """

    def sample(self, assign_result: Any, pred_instances: Any, gt_instances: Any, **kwargs: Any) -> SamplingResult:
        result = super().sample(assign_result, pred_instances, gt_instances, **kwargs)
        result.truth_boxes_G4 = get_box_tensor(gt_instances.bboxes)
        result.truth_scores_G = gt_instances.get("relative_scores")
        return result


@MODELS.register_module()
class DropLossBBoxHead(Shared2FCBBoxHead):
    """Shared2FCBBoxHead with DropLoss, one for each stage of a cascade; its train_cfg's sampler is TruthRandomSampler.

    drop_threshold: proposals whose predicted box has no IoU above it with a true box are dropped; in [0, 1), None is
    the stock loss. In an image without a true box all are dropped: that nothing was found there does not tell that
    nothing is there. `kept` among the losses is the share of the proposals that were not dropped.

    use_scores: CuVLER's soft targets. Where the true box of a proposal has the relative score s, the class is s of an
    object and 1 - s of the background, and the box loss counts s times. False, or scores of 1, is DropLoss alone.

    Scores and deltas are at least float32 under any autocast. Raises ConfigError for a threshold out of range, boxes by
    class, another sampler, or instances without relative_scores where they are used.
    """

    def __init__(
        self, *args: Any, drop_threshold: float | None = 0.01, use_scores: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        _check_threshold(drop_threshold)
        self.use_scores = use_scores
        if drop_threshold is not None and not (self.reg_class_agnostic or self.num_classes == 1):
            raise ConfigError("DropLoss needs one predicted box for each proposal: set reg_class_agnostic=True")
        self.drop_threshold = drop_threshold

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P, C + 1) and deltas (P, 4) of RoI features (P, channels, h, w)."""
        cls_score, bbox_pred = super().forward(x)
        return at_least_single(cls_score), at_least_single(bbox_pred)

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: list[SamplingResult],
        rcnn_train_cfg: Any,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict:
        """As in the stock head: `loss_bbox` (the losses by name) and `bbox_targets`, which are the stock ones."""
        if self.drop_threshold is None and not self.use_scores:
            return super().loss_and_target(
                cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat, reduction_override
            )
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=concat)
        labels_P, weights_P, *box_targets = targets
        if self.drop_threshold is None:
            kept_P = torch.ones_like(weights_P)
        else:
            kept_P = self._kept(rois, bbox_pred, sampling_results)
        weights_kept_P = weights_P * kept_P
        if self.use_scores:
            score_P = torch.cat([_scores(result) for result in sampling_results]).to(weights_P)
            box_targets[1] = box_targets[1] * score_P[:, None]
        losses = self.loss(
            cls_score, bbox_pred, rois, labels_P, weights_kept_P, *box_targets, reduction_override=reduction_override
        )
        if "loss_cls" in losses and reduction_override is None:
            # the stock loss is a mean over the proposals of weight above 0; DropLoss's is over all that were sampled
            losses["loss_cls"] = losses["loss_cls"] * ((weights_kept_P > 0).sum() / (weights_P > 0).sum().clamp(min=1))
        if self.use_scores and "loss_cls" in losses and reduction_override is None:
            sampled = (weights_P > 0).sum().clamp(min=1)
            losses["loss_cls"] = self._soft_class_loss(cls_score, labels_P, weights_kept_P, score_P, sampled)
        losses["kept"] = kept_P.mean() if len(kept_P) else kept_P.sum()
        return {"loss_bbox": losses, "bbox_targets": targets}

    def _soft_class_loss(
        self, logits_PC: Tensor, labels_P: Tensor, weights_P: Tensor, score_P: Tensor, sampled: Tensor
    ) -> Tensor:
        """Cross entropy against s of the label and 1 - s of the background, summed and divided by `sampled`: as it is
        linear in its target, the loss of the one s times and that of the other 1 - s times.
        """
        background_P = torch.full_like(labels_P, self.num_classes)
        label: Tensor = self.loss_cls(logits_PC, labels_P, weights_P * score_P, avg_factor=sampled)
        other: Tensor = self.loss_cls(logits_PC, background_P, weights_P * (1 - score_P), avg_factor=sampled)
        return label + other

    @torch.no_grad()
    def _kept(self, rois_P5: Tensor, deltas_P4: Tensor, sampling_results: list[SamplingResult]) -> Tensor:
        """Float (P,): 0 for the dropped. Predicted boxes are not clipped to the image, as in CutLER."""
        assert self.drop_threshold is not None
        boxes_P4 = get_box_tensor(self.bbox_coder.decode(rois_P5[:, 1:], deltas_P4))
        counts = [len(result.priors) for result in sampling_results]
        kept = [
            _overlapping(boxes, truth, self.drop_threshold)
            for boxes, truth in zip(boxes_P4.split(counts), _truths(sampling_results), strict=True)
        ]
        return torch.cat(kept).to(boxes_P4.dtype)


@MODELS.register_module()
class DropLossRPNHead(RPNHead):
    """RPNHead with DropLoss: negative anchors whose predicted box overlaps no true box are not punished for objectness.

    CutLER does not do this, and few negatives remain, those around true boxes: see decision 10 before switching it on.
    drop_threshold: as in DropLossBBoxHead, and None by default; with it, the sampler of the RPN's train_cfg is
    TruthRandomSampler. Scores and deltas are at least float32 under any autocast. Raises ConfigError likewise.
    """

    def __init__(self, *args: Any, drop_threshold: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_threshold(drop_threshold)
        self.drop_threshold = drop_threshold

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness (N, A, H, W) and deltas (N, 4·A, H, W) of a pyramid level (N, channels, H, W)."""
        cls_score, bbox_pred = super().forward_single(x)
        return at_least_single(cls_score), at_least_single(bbox_pred)

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: float,
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss of a pyramid level; divided by `avg_factor`, which counts all sampled anchors."""
        if self.drop_threshold is not None:
            deltas_NK4 = bbox_pred.permute(0, 2, 3, 1).reshape(len(bbox_pred), -1, self.bbox_coder.encode_size)
            label_weights = label_weights * self._kept(get_box_tensor(anchors), deltas_NK4, labels, label_weights)
        return super().loss_by_feat_single(
            cls_score, bbox_pred, anchors, labels, label_weights, bbox_targets, bbox_weights, avg_factor
        )

    @torch.no_grad()
    def _kept(self, anchors_NK4: Tensor, deltas_NK4: Tensor, labels_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """Float (N, K): 0 for the dropped."""
        assert self.drop_threshold is not None
        kept_NK = torch.ones_like(weights_NK)
        # the stock head keeps the sampling results of the present batch here, before it comes to its levels
        for image, truth_G4 in enumerate(_truths(self._raw_positive_infos["sampling_results"])):
            sampled_k = ((labels_NK[image] == self.num_classes) & (weights_NK[image] > 0)).nonzero()[:, 0]
            boxes_k4 = self.bbox_coder.decode(anchors_NK4[image, sampled_k], deltas_NK4[image, sampled_k])
            overlapping_k = _overlapping(get_box_tensor(boxes_k4), truth_G4, self.drop_threshold)
            kept_NK[image, sampled_k] = overlapping_k.to(kept_NK.dtype)
        return kept_NK


def _overlapping(boxes_P4: Tensor, truth_G4: Tensor, threshold: float) -> Tensor:
    """Bool (P,): whether a box has an IoU above the threshold with any true box."""
    if len(truth_G4) == 0:
        return torch.zeros(len(boxes_P4), dtype=torch.bool, device=boxes_P4.device)
    return bbox_overlaps(boxes_P4, truth_G4.to(boxes_P4.dtype)).amax(dim=1) > threshold


def _truths(sampling_results: list[SamplingResult]) -> list[Tensor]:
    if not all(hasattr(result, "truth_boxes_G4") for result in sampling_results):
        raise ConfigError('DropLoss needs the true boxes of each image: set sampler=dict(type="TruthRandomSampler", …)')
    return [result.truth_boxes_G4 for result in sampling_results]


def _scores(result: SamplingResult) -> Tensor:
    """Relative score of each proposal's true box, (P,), positives first; 1 for those of the background."""
    if getattr(result, "truth_scores_G", None) is None:
        raise ConfigError(NO_SCORES)
    positives_p = result.truth_scores_G[result.pos_assigned_gt_inds]
    return torch.cat([positives_p, positives_p.new_ones(len(result.neg_inds))])


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 <= threshold < 1:
        raise ConfigError(f"drop_threshold is {threshold}: an IoU in [0, 1), or None for no DropLoss")
