from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler, SamplingResult
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from support.shrunk_cascade import CHANNELS, SIDE, batch, build, drop, losses_and_gradients, shrunk, stock

from detector.model.drop_loss import DropLossBBoxHead, DropLossRPNHead, TruthRandomSampler
from detector.model.roi_features import GradientScaledRoIExtractor
from pipeline.errors import ConfigError

TRAIN = ConfigDict(pos_weight=-1)
OBJECT, BACKGROUND = 0, 1
CODER = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}


def head(kind: type = DropLossBBoxHead, **options: Any) -> Shared2FCBBoxHead:
    torch.manual_seed(0)
    options = {"in_channels": 4, "fc_out_channels": 8, "num_classes": 1, "bbox_coder": CODER, **options}
    return kind(reg_class_agnostic=True, **options)


def sampled(
    priors_P4: torch.Tensor,
    truth_G4: torch.Tensor,
    positive: dict[int, int] | None = None,
    class_G: tuple[int, ...] | None = None,
) -> SamplingResult:
    """All proposals of an image as a sampling result, those in `positive` assigned to a true box. They come first.

    class_G: of the true boxes; all OBJECT by default.
    """
    positive = positive or {}
    classes = torch.tensor((*(class_G or [OBJECT] * len(truth_G4)), -1))  # -1: of those that are assigned to none
    gt_inds_P = torch.zeros(len(priors_P4), dtype=torch.long)
    for proposal, truth in positive.items():
        gt_inds_P[proposal] = truth + 1
    assigned = ConfigDict()
    assigned.gt_inds, assigned.labels = gt_inds_P, classes[gt_inds_P - 1]
    result = SamplingResult(
        pos_inds=(gt_inds_P > 0).nonzero()[:, 0],
        neg_inds=(gt_inds_P == 0).nonzero()[:, 0],
        priors=priors_P4,
        gt_bboxes=truth_G4,
        assign_result=assigned,
        gt_flags=torch.zeros(len(priors_P4), dtype=torch.uint8),
    )
    result.truth_boxes_G4 = truth_G4
    return result


def losses_of(
    module: Shared2FCBBoxHead, scores_PC: torch.Tensor, deltas_P4: torch.Tensor, results: list[SamplingResult]
) -> dict[str, torch.Tensor]:
    rois_P5 = bbox2roi([result.priors for result in results])
    return module.loss_and_target(scores_PC, deltas_P4, rois_P5, results, TRAIN)["loss_bbox"]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


# --- box heads


def test_what_overlaps_no_true_box_is_dropped_and_still_counts_in_the_mean() -> None:
    truth_14 = torch.tensor([[0.0, 0, 100, 100]])
    priors_P4 = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 50], [100, 100, 150, 150], [300, 300, 400, 400]])
    result = sampled(priors_P4, truth_14, {0: 0})
    scores_P2 = torch.tensor([[0.0, 0], [0, 0], [5, 0], [9, 0]])
    losses = losses_of(head(), scores_P2, torch.zeros(4, 4), [result])
    # ln 2 for each of the two that overlap; the confident mistakes far from the object are free
    torch.testing.assert_close(losses["loss_cls"], torch.tensor(2 * np.log(2) / 4).float())
    assert losses["kept"] == 0.5
    unpunished = losses_of(head(drop_threshold=None), scores_P2, torch.zeros(4, 4), [result])
    assert unpunished["loss_cls"] > 3
    assert unpunished["loss_bbox"] == losses["loss_bbox"]
    assert unpunished["acc"] == losses["acc"]


def test_an_overlap_of_just_the_threshold_is_dropped() -> None:
    result = sampled(torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([[0.0, 0, 10, 10]]))
    for threshold, kept in [(0.49, 1), (0.5, 0), (0.51, 0)]:
        losses = losses_of(head(drop_threshold=threshold), torch.zeros(1, 2), torch.zeros(1, 4), [result])
        assert losses["kept"] == kept
        torch.testing.assert_close(losses["loss_cls"], torch.tensor(kept * np.log(2)).float())


def test_the_predicted_box_decides_and_not_the_proposal() -> None:
    truth_14 = torch.tensor([[0.0, 0, 10, 10]])
    priors_P4 = torch.tensor([[0.0, 0, 10, 10], [50, 0, 60, 10]])
    away, home = [50.0, 0, 0, 0], [-50.0, 0, 0, 0]  # five widths, at a standard deviation of 0.1
    result = sampled(priors_P4, truth_14, {0: 0})
    scores_P2 = torch.tensor([[0.0, 3], [2, 0]])
    losses = losses_of(head(), scores_P2, torch.tensor([away, home]), [result])
    expected = F.cross_entropy(scores_P2[1:], torch.tensor([BACKGROUND])) / 2
    torch.testing.assert_close(losses["loss_cls"], expected)
    assert losses["loss_bbox"] > 0  # the positive proposal's box is still learnt


def test_true_boxes_that_no_positive_was_sampled_of_count() -> None:
    truth_G4 = torch.tensor([[0.0, 0, 10, 10], [50, 50, 90, 90]])
    on_the_second = torch.tensor([[0.0, 0, 10, 10], [55, 50, 90, 90]])
    losses = losses_of(head(), torch.zeros(2, 2), torch.zeros(2, 4), [sampled(on_the_second, truth_G4, {0: 0})])
    assert losses["kept"] == 1


def test_true_boxes_of_other_images_do_not_count() -> None:
    here, there = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[50.0, 50, 60, 60]])
    results = [sampled(there, here), sampled(there, there)]
    scores_P2 = torch.tensor([[4.0, 0], [1, 0]])
    losses = losses_of(head(), scores_P2, torch.zeros(2, 4), results)
    torch.testing.assert_close(losses["loss_cls"], F.cross_entropy(scores_P2[1:], torch.tensor([BACKGROUND])) / 2)


def test_an_image_without_true_boxes_punishes_nothing() -> None:
    scores_P2 = torch.randn(3, 2, requires_grad=True)
    deltas_P4 = torch.randn(3, 4, requires_grad=True)
    priors_P4 = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20], [0, 0, 40, 40]])
    losses = losses_of(head(), scores_P2, deltas_P4, [sampled(priors_P4, torch.zeros(0, 4))])
    assert losses["loss_cls"] == losses["loss_bbox"] == losses["kept"] == 0
    (losses["loss_cls"] + losses["loss_bbox"]).backward()
    assert (scores_P2.grad == 0).all()
    assert (deltas_P4.grad == 0).all()


def test_heads_of_several_classes_and_an_image_without_instances_beside_others() -> None:
    """CUPS' threshold, 0.4. In the released code one such image switches DropLoss off for the batch: here what lies in
    it is dropped, and so is what overlaps nothing in the others.
    """
    truth_G4 = torch.tensor([[0.0, 0, 100, 100], [200, 0, 300, 100]])
    priors_P4 = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 41], [0, 0, 100, 40], [200, 0, 300, 100]])
    full = sampled(priors_P4, truth_G4, {0: 0, 3: 1}, class_G=(2, 0))
    empty = sampled(torch.tensor([[0.0, 0, 100, 100]]), torch.zeros(0, 4))
    scores_P4 = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    losses = losses_of(head(drop_threshold=0.4, num_classes=3), scores_P4, torch.zeros(5, 4), [full, empty])
    # positives come first: proposals 0 and 3, then 1 and 2; the background is class 3, and 2 overlaps by 0.4
    labels_P = torch.tensor([2, 0, 3])
    expected = F.cross_entropy(scores_P4[:3], labels_P, reduction="sum") / 5
    torch.testing.assert_close(losses["loss_cls"], expected)
    torch.testing.assert_close(losses["kept"], torch.tensor(0.6))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.3]))
def test_equals_the_definition_written_out(seed: int, threshold: float) -> None:
    module = head(drop_threshold=threshold)
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    results, overlaps, labels, deltas = [], [], [], []
    for _ in range(rng.integers(1, 4)):
        count, objects = int(rng.integers(1, 8)), int(rng.integers(0, 4))
        corner = rng.uniform(0, 60, (count + objects, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 40, corner.shape)], axis=1).astype(np.float32)
        priors, truth = torch.from_numpy(boxes[:count]), torch.from_numpy(boxes[count:])
        positive = {p: int(rng.integers(0, objects)) for p in range(count) if objects and rng.random() < 0.4}
        result = sampled(priors, truth, positive)
        deltas_P4 = torch.randn(count, 4, generator=generator)
        predicted = module.bbox_coder.decode(result.priors, deltas_P4).numpy().astype(float)
        overlaps += [max((iou(box, true) for true in truth.numpy()), default=0.0) for box in predicted]
        labels += [OBJECT] * len(positive) + [BACKGROUND] * (count - len(positive))
        results.append(result)
        deltas.append(deltas_P4)
    scores_P2 = torch.randn(len(labels), 2, generator=generator)
    losses = losses_of(module, scores_P2, torch.cat(deltas), results)
    each_P = F.cross_entropy(scores_P2, torch.tensor(labels), reduction="none")
    expected = (each_P * (torch.tensor(overlaps) > threshold)).mean()
    torch.testing.assert_close(losses["loss_cls"], expected.float())
    undropped = losses_of(head(drop_threshold=None), scores_P2, torch.cat(deltas), results)
    assert torch.equal(losses["loss_bbox"], undropped["loss_bbox"])


def test_gradient_goes_to_the_kept_scores_alone() -> None:
    torch.manual_seed(1)
    truth_14 = torch.tensor([[0.0, 0, 10, 10]], dtype=torch.float64)
    priors_P4 = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [70, 70, 90, 90]], dtype=torch.float64)
    result = sampled(priors_P4, truth_14, {0: 0})
    scores_P2 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    deltas_P4 = (0.1 * torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    module = head()

    def loss_cls(scores: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
        return losses_of(module, scores, deltas, [result])["loss_cls"]

    # stock cross-entropy puts float32 weights on it, hence the tolerance
    assert torch.autograd.gradcheck(lambda scores: loss_cls(scores, deltas_P4.detach()), (scores_P2,), atol=1e-6)
    by_score, by_delta = torch.autograd.grad(loss_cls(scores_P2, deltas_P4), (scores_P2, deltas_P4), allow_unused=True)
    expected_P2 = (scores_P2.softmax(1) - F.one_hot(torch.tensor([OBJECT, BACKGROUND, BACKGROUND]))) / 3
    expected_P2[2] = 0
    torch.testing.assert_close(by_score, expected_P2)
    assert by_delta is None


def test_without_threshold_and_with_nothing_to_drop_it_is_the_stock_loss_bit_for_bit() -> None:
    torch.manual_seed(2)
    truth_14 = torch.tensor([[0.0, 0, 50, 50]])
    priors_P4 = torch.rand(6, 4) * 10 + torch.tensor([0.0, 0, 30, 30])
    result = sampled(priors_P4, truth_14, {0: 0, 3: 0})
    features = torch.randn(6, 4, 7, 7)

    def run(module: Shared2FCBBoxHead) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        losses = losses_of(module, *module(features), [result])
        module.zero_grad()
        (losses["loss_cls"] + losses["loss_bbox"]).backward()
        losses.pop("kept", None)
        return losses, [parameter.grad.clone() for parameter in module.parameters()]

    expected = run(head(Shared2FCBBoxHead))
    for module in (head(drop_threshold=None), head(drop_threshold=0.01)):
        torch.testing.assert_close(run(module), expected, rtol=0, atol=0)


def test_thresholds_out_of_range_other_samplers_and_boxes_by_class_are_refused() -> None:
    for threshold in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
            head(drop_threshold=threshold)
        with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
            DropLossRPNHead(in_channels=4, drop_threshold=threshold)
    with pytest.raises(ConfigError, match="reg_class_agnostic"):
        DropLossBBoxHead(in_channels=4, num_classes=3)
    unknowing = sampled(torch.tensor([[0.0, 0, 10, 10]]), torch.zeros(0, 4))
    del unknowing.truth_boxes_G4
    with pytest.raises(ConfigError, match="TruthRandomSampler"):
        losses_of(head(), torch.zeros(1, 2), torch.zeros(1, 4), [unknowing])


def test_the_sampler_samples_as_the_stock_one_and_knows_all_true_boxes() -> None:
    corner = torch.arange(0.0, 400, 10)
    truth = InstanceData(
        bboxes=torch.stack([corner, corner, corner + 9, corner + 9], dim=1), labels=torch.zeros(40, dtype=torch.long)
    )
    priors = InstanceData(priors=torch.cat([truth.bboxes + 0.5, truth.bboxes + 200]))

    def sample(kind: type[RandomSampler]) -> SamplingResult:
        torch.manual_seed(0)
        assigned = MaxIoUAssigner(0.5, 0.5).assign(priors, truth)
        return kind(num=16, pos_fraction=0.25, add_gt_as_proposals=True).sample(assigned, priors, truth)

    knowing, plain = sample(TruthRandomSampler), sample(RandomSampler)
    assert torch.equal(knowing.priors, plain.priors)
    assert len(knowing.pos_gt_bboxes) == 4  # of 40: what a loss could reconstruct the truth from
    assert torch.equal(knowing.truth_boxes_G4, truth.bboxes)


# --- the cascade


def test_drop_loss_in_the_cascade_changes_the_classification_of_the_stages_only() -> None:
    on, _ = losses_and_gradients(build(shrunk()), batch())
    off, _ = losses_and_gradients(build(drop(None, shrunk())), batch())
    assert {name for name in on if name not in off} == {"s0.kept", "s1.kept", "s2.kept"}
    for stage in range(3):
        assert 0 < on[f"s{stage}.kept"] < 1
        assert 0 < on[f"s{stage}.loss_cls"] < off[f"s{stage}.loss_cls"]
    for name in set(off) - {"loss", "s0.loss_cls", "s1.loss_cls", "s2.loss_cls"}:
        assert on[name] == off[name], name


def test_a_batch_without_any_object_trains() -> None:
    losses, gradients = losses_and_gradients(build(shrunk()), batch(objects=0))
    assert losses["s0.loss_cls"] == losses["s2.loss_mask"] == 0
    assert losses["loss_rpn_cls"] > 0
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


# --- the RPN


def rpn(threshold: float | None) -> dict[str, Any]:
    return {"rpn_head": {"drop_threshold": threshold}}


def test_rpn_without_threshold_is_the_stock_rpn_bit_for_bit() -> None:
    plain = build(stock(shrunk())).rpn_head
    ours = build(shrunk()).rpn_head
    ours.load_state_dict(plain.state_dict())
    losses, expected = rpn_losses(ours)[0], rpn_losses(plain)[0]
    assert torch.equal(torch.stack(losses["loss_rpn_cls"]), torch.stack(expected["loss_rpn_cls"]))
    assert torch.equal(torch.stack(losses["loss_rpn_bbox"]), torch.stack(expected["loss_rpn_bbox"]))


def test_rpn_drops_negatives_by_their_predicted_box() -> None:
    """Against a loop over all sampled anchors, whose mean goes over those that are dropped, too."""
    module = build(shrunk(**rpn(0.01))).rpn_head
    with torch.no_grad():
        module.rpn_reg.weight *= 30  # boxes that have left their anchors
    losses, scores, deltas, samples = rpn_losses(module)
    undropped = build(shrunk()).rpn_head
    undropped.load_state_dict(module.state_dict())
    expected, _, _, _ = rpn_losses(undropped)
    assert torch.equal(torch.stack(losses["loss_rpn_bbox"]), torch.stack(expected["loss_rpn_bbox"]))
    assert sum(losses["loss_rpn_cls"]) < sum(expected["loss_rpn_cls"])

    total, dropped = 0.0, 0
    anchors_K4 = torch.cat(module.prior_generator.grid_priors([score.shape[-2:] for score in scores], device="cpu"))
    results = module._raw_positive_infos["sampling_results"]
    for image, result in enumerate(results):
        logits_K = torch.cat([score[image].permute(1, 2, 0).reshape(-1) for score in scores])
        deltas_K4 = torch.cat([delta[image].permute(1, 2, 0).reshape(-1, 4) for delta in deltas])
        boxes_K4 = module.bbox_coder.decode(anchors_K4, deltas_K4).double().numpy()
        truth = samples[image].gt_instances.bboxes.numpy()
        total += float(F.softplus(-logits_K[result.pos_inds].double()).sum())
        for anchor in result.neg_inds:
            if max(iou(boxes_K4[anchor], true) for true in truth) > 0.01:
                total += float(F.softplus(logits_K[anchor].double()))
            else:
                dropped += 1
    assert 0 < dropped < sum(len(result.neg_inds) for result in results)
    assert float(sum(losses["loss_rpn_cls"]).detach()) == pytest.approx(
        total / sum(result.avg_factor for result in results), rel=1e-5
    )


def test_rpn_with_threshold_needs_the_sampler() -> None:
    model = shrunk(**rpn(0.01))
    model.train_cfg.rpn.sampler.type = "RandomSampler"
    with pytest.raises(ConfigError, match="TruthRandomSampler"):
        rpn_losses(build(model).rpn_head)


def rpn_losses(module: DropLossRPNHead) -> tuple[dict[str, list], list, list, list]:
    torch.manual_seed(3)
    features = [torch.randn(2, CHANNELS, SIDE // stride, SIDE // stride) for stride in (4, 8, 16, 32, 48)]
    samples = batch(objects=2)["data_samples"]
    for sample in samples:
        sample.set_metainfo({"pad_shape": (SIDE, SIDE)})
    scores, deltas = module(features)
    torch.manual_seed(4)
    losses = module.loss_by_feat(
        scores, deltas, [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
    )
    return losses, [score.detach() for score in scores], [delta.detach() for delta in deltas], samples


# --- features


def test_features_are_the_stock_ones_and_their_gradient_is_scaled() -> None:
    config = {
        "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
        "out_channels": 4,
        "featmap_strides": [4, 8],
    }
    torch.manual_seed(0)
    feats = [torch.randn(1, 4, 16, 16, requires_grad=True), torch.randn(1, 4, 8, 8, requires_grad=True)]
    rois_P5 = torch.tensor([[0.0, 3, 4, 30, 28], [0, 0, 0, 64, 64], [0, 0, 0, 250, 250]])
    outputs = []
    for scale in (1.0, 1 / 3):
        out = GradientScaledRoIExtractor(**config, gradient_scale=scale)(feats, rois_P5)
        outputs.append((out.detach(), *torch.autograd.grad((out**2).sum(), feats)))
    (out, *whole), (same, *third) = outputs
    assert torch.equal(out, same)
    for a, b in zip(whole, third, strict=True):
        assert a.abs().sum() > 0
        torch.testing.assert_close(b, a / 3)
    assert GradientScaledRoIExtractor(**config)([f.detach() for f in feats], rois_P5).requires_grad is False


def test_boxes_are_not_rounded_to_the_type_of_half_precision_features() -> None:
    extractor = GradientScaledRoIExtractor(
        roi_layer={"type": "RoIAlign", "output_size": 2, "sampling_ratio": 0}, out_channels=1, featmap_strides=[4]
    )
    ramp = (torch.arange(256.0) - 249).to(torch.bfloat16).expand(1, 1, 4, 256)  # fine steps where the box is
    box = torch.tensor([[0.0, 997.3, 0, 1001.3, 16]])  # bfloat16 knows 996 and 1000
    pooled = extractor([ramp], box)
    assert pooled.dtype == torch.bfloat16
    # the cells' centres in pixels of the image, of the map, and of the map from its first pixel's centre on
    expected = torch.tensor([998.3, 1000.3]) / 4 - 0.5 - 249
    torch.testing.assert_close(pooled[0, 0, 0].float(), expected, rtol=0.01, atol=0.01)
