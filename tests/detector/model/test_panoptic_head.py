"""The panoptic model: what its semantic head learns from, what it gives of a batch, and what self-training leaves as it
is.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from support.shrunk_cascade import CHANNELS, PANOPTIC, build, shrunk
from support.tiny_panoptic import STUFFS, THINGS, blocks, panoptic_model
from torch import nn

from detector.model.panoptic_head import StuffHead, head_parameters
from pipeline.errors import ConfigError

SIDE = 64


def head(num_stuffs: int = 3, **options: Any) -> StuffHead:
    torch.manual_seed(0)
    norm = {"type": "GN", "num_groups": 2, "requires_grad": True}
    return StuffHead(num_stuffs, in_channels=4, inner_channels=4, norm_cfg=norm, **options)


def pyramid(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 4, SIDE // s, SIDE // s, generator=generator) for s in (4, 8, 16, 32)]


def samples(maps_NHW: np.ndarray) -> list[DetDataSample]:
    made = [DetDataSample() for _ in maps_NHW]
    for sample, map_HW in zip(made, maps_NHW, strict=True):
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(map_HW[None]))
    return made


def test_the_loss_is_the_mean_over_pixels_that_are_not_ignored() -> None:
    rng = np.random.default_rng(0)
    maps_NHW = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (2, SIDE, SIDE))
    module = head(loss_weight=0.5)
    loss = module.loss(pyramid(), samples(maps_NHW))["loss_seg"]
    logits = F.interpolate(module(pyramid())["seg_preds"], scale_factor=4, mode="bilinear", align_corners=False)
    scores = logits.double().detach().numpy()
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    losses = [-log_p[n, maps_NHW[n, y, x], y, x] for n, y, x in np.argwhere(maps_NHW != 255)]
    assert 0 < len(losses) < maps_NHW.size
    assert loss.item() == pytest.approx(0.5 * np.mean(losses), rel=1e-5)


def test_a_batch_without_labels_has_no_loss_and_still_a_gradient() -> None:
    module = head()
    loss = module.loss(pyramid(), samples(np.full((2, SIDE, SIDE), 255, np.uint8)))["loss_seg"]
    loss.backward()
    assert loss.item() == 0
    assert not module.conv_logits.weight.grad.any()


def test_a_number_of_classes_that_is_none() -> None:
    assert head(0).logits(pyramid()).shape == (2, 1, SIDE // 4, SIDE // 4), "things alone"
    with pytest.raises(ConfigError, match="num_stuffs is -1"):
        head(-1)


@pytest.fixture(scope="module")
def model() -> Any:
    return panoptic_model()


def batch(shown: tuple[int, int] = (SIDE, SIDE), photo: tuple[int, int] = (SIDE, SIDE)) -> Any:
    """Two images of the network, of which `shown` is the photo, scaled."""
    factor = shown[1] / photo[1], shown[0] / photo[0]
    meta = {"img_shape": shown, "ori_shape": photo, "scale_factor": factor}
    meta |= {"batch_input_shape": (SIDE, SIDE), "pad_shape": (SIDE, SIDE), "flip": photo == CUT}
    return blocks(2, SIDE), [DetDataSample(metainfo=meta) for _ in range(2)]


SHOWN, PHOTO, CUT = (SIDE, SIDE - 14), (200, 156), (99, 300)


@pytest.mark.parametrize(("rescale", "photo", "size"), [(True, PHOTO, PHOTO), (False, CUT, SHOWN)])
@torch.no_grad()
def test_what_is_predicted(model: Any, rescale: bool, photo: tuple[int, int], size: tuple[int, int]) -> None:
    """In pixels of the photo; or in those of the network, where the photo was cut and flipped before, too."""
    for sample in model.predict(*batch(SHOWN, photo), rescale=rescale):
        found = sample.pred_instances
        assert found.masks.shape == (len(found), *size)
        assert found.masks.dtype == torch.bool
        assert len(found) > 5
        assert set(found.labels.tolist()) == set(range(len(THINGS)))
        assert (found.scores.diff() <= 0).all()
        assert (found.bboxes[:, 2:].amax(dim=0) <= torch.tensor(size[::-1]) + 0.01).all()
        for mask, box in zip(found.masks, found.bboxes, strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            if len(rows):
                inside = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])
                assert (inside[:2] >= box[:2] - 4).all()
                assert (inside[2:] <= box[2:] + 4).all()
        seen = sample.pred_sem_seg.sem_seg
        assert seen.shape == (1, *size)
        assert set(seen.unique().tolist()) <= set(range(len(STUFFS) + 1))
        assert len(seen.unique()) > 1


@torch.no_grad()
def test_masks_are_of_the_class_of_their_box(model: Any) -> None:
    """Every mask is found again in the channel of its label, and not in the other one."""
    inputs, data = batch()
    sample, _ = model.predict(inputs, data, rescale=False)
    features, found = model.extract_feat(inputs), sample.pred_instances
    rois = torch.cat([torch.zeros(len(found), 1), found.bboxes], dim=1)
    masks = model.roi_head._mask_forward(0, features, rois)["mask_preds"].sigmoid()
    places = torch.arange(len(found))
    own, other = masks[places, found.labels] >= 0.5, masks[places, 1 - found.labels] >= 0.5
    # A mask's share of its box, whatever the size that it is pasted at.
    box = (found.bboxes[:, 2:] - found.bboxes[:, :2]).prod(dim=1)
    large = box > 400
    assert large.sum() > 5
    share = found.masks.sum(dim=(1, 2)) / box
    errors = [(share - part.float().mean(dim=(1, 2))).abs()[large].mean() for part in (own, other)]
    assert errors[0] < 0.1
    assert errors[1] > 2 * errors[0]


def trained(heads_only: bool) -> Any:
    """The base configuration's model for two thing classes and three of stuff, small, as a training builds it."""
    head = {"num_stuffs": 3, "in_channels": CHANNELS, "inner_channels": 4, "norm_cfg": {"num_groups": 2}}
    model = shrunk(PANOPTIC, heads_only=heads_only, semantic_head=head, backbone={"init_cfg": None})
    for part in (*model.roi_head.bbox_head, model.roi_head.mask_head):
        part.num_classes = 2
    for part in (model.backbone, model.neck):
        part.norm_cfg.type = "BN"
    return build(model).train()


def losses(model: nn.Module) -> dict[str, torch.Tensor]:
    inputs, data = batch()
    masks = np.zeros((1, SIDE, SIDE), np.uint8)
    masks[0, 10:40, 8:50] = 1
    for n, sample in enumerate(data):
        found = InstanceData(bboxes=torch.tensor([[8.0, 10, 50, 40]]), labels=torch.tensor([1]))
        found.masks = BitmapMasks(masks, SIDE, SIDE)
        sample.gt_instances = found if n == 0 else found[:0]
        sample.ignored_instances = found[:0]
        sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, SIDE, SIDE), 2, dtype=torch.uint8))
    return model(inputs, data, mode="loss")


def total(found: dict[str, Any]) -> torch.Tensor:
    values = [value for name, value in found.items() if "loss" in name]
    return torch.stack([part for value in values for part in (value if isinstance(value, list) else [value])]).sum()


def test_heads_alone_are_trained() -> None:
    model = trained(heads_only=True)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == set(head_parameters(model))
    assert {name.partition(".")[0] for name in names} == {"rpn_head", "roi_head", "semantic_head"}
    assert not any(".gn." in name or ".bn" in name for name in names)
    assert any(name.startswith("semantic_head.conv_upsample_layers") for name in names), "convolutions beside norms"
    norms = {name: value.clone() for name, value in model.state_dict().items() if "running" in name or ".gn." in name}
    assert len(norms) > 10
    total(losses(model)).backward()
    assert all((p.grad is not None) == (name in names) for name, p in model.named_parameters() if p.numel() > 0)
    for name, value in norms.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_all_is_trained_without() -> None:
    model = trained(heads_only=False)
    before = model.state_dict()["neck.lateral_convs.0.bn.running_mean"].clone()
    found = losses(model)
    assert "loss_seg" in found
    assert "s1.loss_mask" in found
    total(found).backward()
    assert model.backbone.conv1.weight.grad is not None
    assert not torch.equal(model.state_dict()["neck.lateral_convs.0.bn.running_mean"], before)
