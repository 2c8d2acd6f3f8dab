import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from support.reference_confidence import confidence_targets
from support.shrunk_cascade import batch, build, drop, losses_and_gradients, shrunk, stock

from detector.data.confidence_masks import ConfidenceMasks
from detector.model.mask_head import ConfidenceMaskHead, SpatialConfidenceLoss, aligned_targets
from pipeline.errors import ConfigError

TRAIN = ConfigDict(mask_size=28)


class Sampled:
    """What the mask head reads of a SamplingResult."""

    def __init__(self, boxes_P4: torch.Tensor, indices_P: torch.Tensor) -> None:
        self.pos_priors = boxes_P4
        self.pos_assigned_gt_inds = indices_P
        self.pos_gt_labels = torch.zeros(len(boxes_P4), dtype=torch.long)


def random_image(rng: np.random.Generator, masks: int = 3, proposals: int = 5) -> tuple[ConfidenceMasks, Sampled]:
    values_MHW = rng.integers(1, 256, (masks, 40, 50), dtype=np.uint8) * (rng.random((masks, 40, 50)) < 0.6)
    corners = np.sort(rng.uniform(-5, 55, (proposals, 2, 2)), axis=1).reshape(proposals, 4).astype(np.float32)
    indices_P = torch.from_numpy(rng.integers(0, masks, proposals))
    return ConfidenceMasks.from_confidence(values_MHW > 0, values_MHW), Sampled(torch.from_numpy(corners), indices_P)


def head(**options: object) -> ConfidenceMaskHead:
    torch.manual_seed(0)
    return ConfidenceMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=1, **options)


def plain(masks: ConfidenceMasks) -> BitmapMasks:
    return BitmapMasks(masks.masks.copy(), masks.height, masks.width)


# --- the loss


def test_loss_is_the_mean_over_pixels_of_confidence_times_cross_entropy() -> None:
    target_Phw = torch.tensor([[[0.0, 1], [1, 0]]])
    confidence_Phw = torch.tensor([[[1.0, 0.5], [0.25, 0]]])
    undecided = torch.zeros(1, 1, 2, 2)  # BCE is ln 2 everywhere
    torch.testing.assert_close(
        SpatialConfidenceLoss(2.0)(undecided, target_Phw, confidence_Phw),
        torch.tensor(2 * np.log(2) * 1.75 / 4).float(),
    )
    # a pixel that is wrong by a logit of 10 costs 10 + ln(1 + e^-10), and half of that at half the confidence
    wrong_P1hw = torch.tensor([[[[-10.0, -10], [10, -10]]]])
    right = np.log1p(np.exp(-10))
    expected = (right + 0.5 * (10 + right) + 0.25 * right + 0) / 4
    torch.testing.assert_close(
        SpatialConfidenceLoss()(wrong_P1hw, target_Phw, confidence_Phw), torch.tensor(expected).float()
    )


def test_gradient_of_the_loss() -> None:
    torch.manual_seed(0)
    logits_P1hw = torch.randn(3, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    target_Phw = (torch.rand(3, 4, 5) < 0.5).double()
    confidence_Phw = torch.rand(3, 4, 5, dtype=torch.float64)
    loss = SpatialConfidenceLoss(0.7)
    assert torch.autograd.gradcheck(loss, (logits_P1hw, target_Phw, confidence_Phw))
    (gradient,) = torch.autograd.grad(loss(logits_P1hw, target_Phw, confidence_Phw), logits_P1hw)
    expected_Phw = 0.7 * confidence_Phw * (logits_P1hw.sigmoid()[:, 0] - target_Phw) / target_Phw.numel()
    torch.testing.assert_close(gradient[:, 0], expected_Phw)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_loss_in_single_precision(dtype: torch.dtype) -> None:
    logits_P1hw = torch.full((2, 1, 100, 100), 30000.0, dtype=dtype, requires_grad=True)
    loss = SpatialConfidenceLoss()(logits_P1hw, torch.zeros(2, 100, 100), torch.full((2, 100, 100), 0.5))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, 0.5 * logits_P1hw.detach()[0, 0, 0, 0].float())
    loss.backward()
    assert logits_P1hw.grad.isfinite().all()


# --- targets


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_targets_are_those_of_stock_masks_and_confidence_is_aligned_like_them(seed: int) -> None:
    masks, sampled = random_image(np.random.default_rng(seed))
    target_Phw, confidence_Phw = aligned_targets(masks, sampled.pos_priors, sampled.pos_assigned_gt_inds, (14, 7))
    clipped_P4 = sampled.pos_priors.numpy().copy()
    clipped_P4[:, 0::2] = clipped_P4[:, 0::2].clip(0, masks.width)
    clipped_P4[:, 1::2] = clipped_P4[:, 1::2].clip(0, masks.height)
    indices = sampled.pos_assigned_gt_inds.numpy()
    stock_target = plain(masks).crop_and_resize(clipped_P4, (14, 7), indices, binarize=False).masks
    np.testing.assert_array_equal(target_Phw.numpy(), stock_target)
    seen = (np.diff(clipped_P4.reshape(-1, 2, 2), axis=1) > 0).all(axis=(1, 2))  # RoIAlign of an empty box is 0
    other = confidence_targets(masks, clipped_P4, (14, 7), indices)
    torch.testing.assert_close(confidence_Phw[seen], other[seen], rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_confidence_of_a_cell_is_the_mean_of_its_pixels(seed: int, wide: int, high: int) -> None:
    """A box on pixel borders, whose cells are wide × high pixels: RoIAlign samples each pixel's centre once."""
    rng = np.random.default_rng(seed)
    masks, _ = random_image(rng)
    left, top = int(rng.integers(0, 50 - 4 * wide)), int(rng.integers(0, 40 - 5 * high))
    box_14 = torch.tensor([[left, top, left + 4 * wide, top + 5 * high]]).float()
    target_1hw, confidence_1hw = aligned_targets(masks, box_14, torch.tensor([1]), (5, 4))
    window = np.s_[top : top + 5 * high, left : left + 4 * wide]
    values_HW = masks.values[1].astype(float)
    confidence_HW = np.where(values_HW > 0, values_HW / 255, 1.0)

    def cells(map_HW: np.ndarray) -> np.ndarray:
        return map_HW[window].reshape(5, high, 4, wide).mean(axis=(1, 3))

    np.testing.assert_allclose(target_1hw[0], cells(values_HW > 0), atol=1e-5)
    np.testing.assert_allclose(confidence_1hw[0], cells(confidence_HW), atol=1e-5)


def test_a_degenerate_box_loses_no_confidence() -> None:
    masks, _ = random_image(np.random.default_rng(0))
    outside_14 = torch.tensor([[60.0, 10, 70, 20]])  # clipped to nothing
    target_1hw, confidence_1hw = aligned_targets(masks, outside_14, torch.tensor([0]), (7, 7))
    assert (target_1hw == 0).all()
    assert (confidence_1hw == 1).all()


# --- the head


def test_full_confidence_is_the_stock_head_bit_for_bit() -> None:
    masks, sampled = random_image(np.random.default_rng(1))
    certain = ConfidenceMasks.certain(plain(masks))
    features = torch.randn(5, 4, 14, 14)
    torch.manual_seed(0)
    stock_head = FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=1)

    def run(module: FCNMaskHead, gt_masks: BitmapMasks) -> list[torch.Tensor]:
        truth = InstanceData(masks=gt_masks)
        result = module.loss_and_target(module(features), [sampled], [truth], TRAIN)
        loss = result["loss_mask"]["loss_mask"].mean()
        module.zero_grad()
        loss.backward()
        return [loss.detach(), result["mask_targets"], *(p.grad.clone() for p in module.parameters())]

    expected = run(stock_head, plain(masks))
    for module, gt_masks in [
        (head(), certain),
        (head(), plain(masks)),
        (head(use_confidence=False), masks),
        (head(loss_mask={"type": "SpatialConfidenceLoss", "loss_weight": 1.0}), certain),
    ]:
        for got, wanted in zip(run(module, gt_masks), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    assert not torch.equal(run(head(), masks)[0], expected[0])


def test_confidence_weighs_the_pixels_of_all_images() -> None:
    rng = np.random.default_rng(2)
    (masks_a, sampled_a), (masks_b, sampled_b) = random_image(rng), random_image(rng, masks=2, proposals=4)
    logits_P1hw = torch.randn(9, 1, 28, 28)
    truths = [InstanceData(masks=masks_a), InstanceData(masks=plain(masks_b))]  # the second knows no confidence
    result = head().loss_and_target(logits_P1hw, [sampled_a, sampled_b], truths, TRAIN)
    target_a, confidence_a = aligned_targets(masks_a, sampled_a.pos_priors, sampled_a.pos_assigned_gt_inds, (28, 28))
    target_b, _ = aligned_targets(masks_b, sampled_b.pos_priors, sampled_b.pos_assigned_gt_inds, (28, 28))
    target_Phw = (torch.cat([target_a, target_b]) >= 0.5).float()
    bce_Phw = F.binary_cross_entropy_with_logits(logits_P1hw[:, 0], target_Phw, reduction="none")
    expected = (torch.cat([confidence_a, torch.ones(4, 28, 28)]) * bce_Phw).mean()
    torch.testing.assert_close(result["loss_mask"]["loss_mask"], expected)
    assert torch.equal(result["mask_targets"], target_Phw)
    soft = head().loss_and_target(
        logits_P1hw, [sampled_a, sampled_b], truths, ConfigDict(mask_size=28, soft_mask_target=True)
    )
    assert torch.equal(soft["mask_targets"], torch.cat([target_a, target_b]))


def test_heads_with_classes_take_the_channel_of_the_label() -> None:
    masks, sampled = random_image(np.random.default_rng(3))
    sampled.pos_gt_labels = torch.tensor([0, 2, 1, 1, 0])
    logits_PChw = torch.randn(5, 3, 28, 28)
    several = ConfidenceMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=3)
    truths = [InstanceData(masks=masks)]
    loss = several.loss_and_target(logits_PChw, [sampled], truths, TRAIN)["loss_mask"]["loss_mask"]
    chosen_P1hw = torch.stack([logits_PChw[p, label][None] for p, label in enumerate(sampled.pos_gt_labels)])
    sampled.pos_gt_labels = torch.zeros(5, dtype=torch.long)
    expected = head().loss_and_target(chosen_P1hw, [sampled], truths, TRAIN)["loss_mask"]["loss_mask"]
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)


def test_no_positive_proposal_costs_nothing_and_keeps_the_graph() -> None:
    masks, _ = random_image(np.random.default_rng(4))
    nobody = Sampled(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    module = head()
    empty = ConfidenceMasks(np.zeros((0, 40, 50), np.uint8), 40, 50)
    truths = [InstanceData(masks=masks), InstanceData(masks=empty)]
    result = module.loss_and_target(module(torch.zeros(0, 4, 14, 14)), [nobody, nobody], truths, TRAIN)
    loss = result["loss_mask"]["loss_mask"]
    assert loss == 0
    loss.backward()
    assert all((p.grad == 0).all() for p in module.parameters())
    assert result["mask_targets"].shape == (0, 28, 28)


def test_what_it_cannot_use_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="CrossEntropyLoss, which takes no confidence: use SpatialConfidenceLoss"):
        head(loss_mask={"type": "CrossEntropyLoss", "use_mask": True})
    polygons = PolygonMasks([[np.array([0.0, 0, 9, 0, 9, 9])]], 40, 50)
    with pytest.raises(ConfigError, match="PolygonMasks: load ConfidenceMasks"):
        aligned_targets(polygons, torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), (28, 28))


# --- the cascade


def test_with_everything_off_the_cascade_is_the_stock_cascade_bit_for_bit() -> None:
    """Each loss of each stage and each gradient; the confidence of the masks is there, and not used."""
    whole = {"bbox_roi_extractor": {"gradient_scale": 1.0}, "mask_roi_extractor": {"gradient_scale": 1.0}}
    losses, gradients = losses_and_gradients(build(drop(None, shrunk(roi_head=whole))), batch())
    expected_losses, expected_gradients = losses_and_gradients(build(stock(shrunk())), batch())
    assert losses == expected_losses
    assert {"s0.loss_mask", "s1.loss_mask", "s2.loss_mask"} <= set(losses)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_confidence_lowers_the_mask_loss_of_each_stage_and_nothing_else() -> None:
    on = losses_and_gradients(build(shrunk(roi_head={"mask_head": {"use_confidence": True}})), batch())[0]
    off = losses_and_gradients(build(shrunk()), batch())[0]
    assert set(on) == set(off)
    for name in off:
        if name == "loss" or "loss_mask" in name:
            assert 0 < on[name] < off[name], name
        else:
            assert on[name] == off[name], name


def test_certain_masks_and_stock_masks_train_alike() -> None:
    model = shrunk(roi_head={"mask_head": {"use_confidence": True}})
    losses, _ = losses_and_gradients(build(model), batch(certain=True))
    expected, _ = losses_and_gradients(build(shrunk()), batch())
    assert losses == expected


def test_the_cascade_trains_under_bfloat16_autocast() -> None:
    model = build(shrunk(roi_head={"mask_head": {"use_confidence": True}}))
    expected, _ = losses_and_gradients(model, batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, gradients = losses_and_gradients(model, batch())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    for name in (name for name in losses if "loss" in name):
        torch.testing.assert_close(losses[name].float(), expected[name], rtol=0.3, atol=0.05)
