"""CuVLER's soft targets, against losses written out here from their description, and by what must hold of any."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import SamplingResult
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from support.shrunk_cascade import batch, build, losses_and_gradients, shrunk

from detector.data.confidence_masks import ConfidenceMasks
from detector.model.drop_loss import DropLossBBoxHead, TruthRandomSampler
from detector.model.mask_head import ConfidenceMaskHead, aligned_targets
from pipeline.errors import ConfigError

CODER = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}
TRUTH_G4 = torch.tensor([[0.0, 0, 40, 40], [60, 60, 100, 90]])
PRIORS_P4 = torch.tensor([[0.0, 0, 38, 42], [58, 60, 102, 88], [2, 2, 41, 39], [200, 200, 240, 240], [0, 50, 30, 90]])
ASSIGNED_P = torch.tensor([1, 2, 1, 0, 0])  # 0 is the background


def box_head(**options: object) -> DropLossBBoxHead:
    torch.manual_seed(0)
    return DropLossBBoxHead(
        in_channels=4, fc_out_channels=8, num_classes=1, bbox_coder=CODER, reg_class_agnostic=True,
        loss_bbox={"type": "L1Loss", "loss_weight": 1.0}, **options,
    )  # fmt: skip


def sampled(scores_G: torch.Tensor | None) -> SamplingResult:
    assigned = ConfigDict()
    assigned.gt_inds, assigned.labels = ASSIGNED_P, torch.where(ASSIGNED_P > 0, 0, -1)
    result = SamplingResult(
        pos_inds=(ASSIGNED_P > 0).nonzero()[:, 0],
        neg_inds=(ASSIGNED_P == 0).nonzero()[:, 0],
        priors=PRIORS_P4,
        gt_bboxes=TRUTH_G4,
        assign_result=assigned,
        gt_flags=torch.zeros(5, dtype=torch.uint8),
    )
    result.truth_boxes_G4 = TRUTH_G4
    result.truth_scores_G = scores_G
    return result


def box_losses(
    scores_G: torch.Tensor | None, drop_threshold: float | None = 0.01, use_scores: bool = True, seed: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Losses, and the logits and deltas that they are of."""
    torch.manual_seed(seed)
    logits_P2, deltas_P4 = torch.randn(5, 2), torch.randn(5, 4) / 10
    rois_P5 = torch.cat([torch.zeros(5, 1), PRIORS_P4], dim=1)
    head = box_head(drop_threshold=drop_threshold, use_scores=use_scores)
    found = head.loss_and_target(logits_P2, deltas_P4, rois_P5, [sampled(scores_G)], ConfigDict(pos_weight=-1))
    return found["loss_bbox"], logits_P2, deltas_P4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.01, None])
def test_box_head_is_the_loss_written_out(seed: int, threshold: float | None) -> None:
    rng = np.random.default_rng(seed)
    scores_G = torch.from_numpy(rng.random(2)).float()
    losses, logits_P2, deltas_P4 = box_losses(scores_G, threshold, seed=seed)
    kept_P = torch.tensor([1.0, 1, 1, 0, 1 if threshold is None else float(losses["kept"] * 5 - 3)])
    if threshold is None:
        kept_P[3] = 1
    s_P = torch.tensor([scores_G[0], scores_G[1], scores_G[0], 0, 0])
    target_P2 = torch.stack([s_P, 1 - s_P], dim=1)
    each_P = F.cross_entropy(logits_P2, target_P2, reduction="none")
    torch.testing.assert_close(losses["loss_cls"], (kept_P * each_P).mean())
    truth_p4 = box_head().bbox_coder.encode(PRIORS_P4[:3], TRUTH_G4[ASSIGNED_P[:3] - 1])
    expected = (s_P[:3, None] * (deltas_P4[:3] - truth_p4).abs()).sum() / 5
    torch.testing.assert_close(losses["loss_bbox"], expected)


@pytest.mark.parametrize("threshold", [0.01, None])
def test_full_scores_are_the_loss_without(threshold: float | None) -> None:
    soft, _, _ = box_losses(torch.ones(2), threshold)
    hard, _, _ = box_losses(None, threshold, use_scores=False)
    for name in ("loss_cls", "loss_bbox"):
        torch.testing.assert_close(soft[name], hard[name])


def test_losses_are_linear_in_the_score() -> None:
    """Both are expectations over whether the mask is right."""
    none, half, full = (box_losses(torch.full((2,), score))[0] for score in (0.0, 0.5, 1.0))
    for name in ("loss_cls", "loss_bbox"):
        torch.testing.assert_close(half[name], (none[name] + full[name]) / 2)
    assert none["loss_bbox"] == 0


def test_the_sampler_hands_the_scores_on() -> None:
    truth = InstanceData(
        bboxes=TRUTH_G4, labels=torch.zeros(2, dtype=torch.long), relative_scores=torch.tensor([1, 0.4])
    )
    sampler = TruthRandomSampler(num=8, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=False)
    assigned = AssignResult(2, ASSIGNED_P, torch.zeros(5), torch.where(ASSIGNED_P > 0, 0, -1))
    result = sampler.sample(assigned, InstanceData(priors=PRIORS_P4), truth)
    assert result.truth_scores_G is truth.relative_scores
    without = InstanceData(bboxes=TRUTH_G4, labels=truth.labels)
    assert sampler.sample(assigned, InstanceData(priors=PRIORS_P4), without).truth_scores_G is None


def mask_loss(
    scores_M: np.ndarray | None, use_confidence: bool, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and what it is by its description: the mean over pixels of weight times cross entropy."""
    rng = np.random.default_rng(1)
    values_MHW = rng.integers(1, 256, (2, 40, 50), dtype=np.uint8) * (rng.random((2, 40, 50)) < 0.6)
    masks = ConfidenceMasks.from_confidence(values_MHW > 0, values_MHW)
    boxes_P4, indices_P = torch.tensor([[0.0, 0, 20, 20], [5, 5, 45, 30], [0, 0, 50, 40]]), torch.tensor([0, 1, 1])
    found = ConfigDict(pos_priors=boxes_P4, pos_assigned_gt_inds=indices_P, pos_gt_labels=torch.zeros(3).long())
    truth = InstanceData(masks=masks)
    if scores_M is not None:
        truth.relative_scores = torch.from_numpy(scores_M).float()
    torch.manual_seed(0)
    head = ConfidenceMaskHead(
        num_convs=1, in_channels=4, conv_out_channels=4, num_classes=1, use_confidence=use_confidence, **options
    )
    logits_P1hw = torch.randn(3, 1, 28, 28)
    made = head.loss_and_target(logits_P1hw, [found], [truth], ConfigDict(mask_size=28))
    target_Phw, weight_Phw = aligned_targets(masks, boxes_P4, indices_P, (28, 28))
    each_Phw = F.binary_cross_entropy_with_logits(logits_P1hw[:, 0], (target_Phw >= 0.5).float(), reduction="none")
    if scores_M is not None:
        each_Phw = each_Phw * torch.from_numpy(scores_M).float()[indices_P][:, None, None]
    return made["loss_mask"]["loss_mask"], (each_Phw * (weight_Phw if use_confidence else 1)).mean()


@pytest.mark.parametrize("use_confidence", [False, True])
def test_mask_head_is_the_loss_written_out(use_confidence: bool) -> None:
    loss, expected = mask_loss(np.array([0.25, 1.0]), use_confidence, use_scores=True)
    torch.testing.assert_close(loss, expected)
    full, _ = mask_loss(np.ones(2), use_confidence, use_scores=True)
    stock, expected = mask_loss(None, use_confidence)
    torch.testing.assert_close(full, stock)
    torch.testing.assert_close(stock, expected)


def test_scores_that_are_not_there_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="PackScored"):
        box_losses(None)
    with pytest.raises(ConfigError, match="PackScored"):
        mask_loss(None, False, use_scores=True)


def test_a_whole_cascade_trains_on_scores() -> None:
    """Full scores are the model without, to rounding; at half of them boxes and masks count half."""
    model = shrunk()
    plain, _ = losses_and_gradients(build(model), batch())
    for head in (*model.roi_head.bbox_head, model.roi_head.mask_head):
        head.use_scores = True
    full, half = (losses_and_gradients(build(model), scored(score))[0] for score in (1.0, 0.5))
    for name, loss in plain.items():
        torch.testing.assert_close(full[name], loss)
    for name in ("s0.loss_bbox", "s0.loss_mask"):  # later stages see the same boxes, but not the same share of them
        torch.testing.assert_close(half[name], plain[name] / 2)


def scored(score: float) -> dict[str, object]:
    data = batch()
    for sample in data["data_samples"]:
        sample.gt_instances.relative_scores = torch.full((len(sample.gt_instances),), score)
    return data
