"""The panoptic detector: a cascade of boxes and masks for things, and beside it a head that gives each pixel a stuff
class, on one backbone and pyramid (Panoptic FPN, Kirillov et al. 2019, with the cascade heads of CUPS).

Shape legend: N images, M instances, T thing classes, S stuff classes, H×W pixels of the network's input, h×w cells of
the finest level of the pyramid, a quarter of that.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from mmdet.models.detectors import TwoStagePanopticSegmentor
from mmdet.models.seg_heads import PanopticFPNHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from detector.data.panoptic_loading import IGNORED
from detector.model.precision import at_least_single
from pipeline.errors import ConfigError

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@MODELS.register_module()
class StuffHead(PanopticFPNHead):
    """MMDetection's PanopticFPNHead for the classes of our labels: 0 is "some thing", 1..S are stuff.

    num_stuffs: S.
    loss_weight: of the cross entropy.

    Targets are `gt_sem_seg` of the samples, uint8 (1, H, W) of these classes and 255, which is ignored. As in
    Detectron2 the logits are enlarged to the size of the targets; the stock head makes the targets smaller, by picking.
    The loss is the mean over the pixels that are not ignored (the stock one's is over all), and 0 where all are. All
    other arguments are those of PanopticFPNHead.
    """

    def __init__(self, num_stuffs: int, loss_weight: float = 0.5, **layers: Any) -> None:
        if num_stuffs < 0:
            raise ConfigError(f"num_stuffs is {num_stuffs}: it must be at least 0")
        stock_loss = {"type": "CrossEntropyLoss"}  # not used: it divides by the number of all pixels
        super().__init__(num_things_classes=0, num_stuff_classes=num_stuffs, loss_seg=stock_loss, **layers)
        self.loss_weight = loss_weight

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """Float32 (N, S + 1, h, w) of a pyramid."""
        return at_least_single(self(features)["seg_preds"])

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """`loss_seg` of a pyramid and its samples."""
        target_NHW = torch.stack([sample.gt_sem_seg.sem_seg.squeeze(0) for sample in batch_data_samples]).long()
        logits_NCHW = F.interpolate(self.logits(x), target_NHW.shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits_NCHW, target_NHW, ignore_index=IGNORED, reduction="sum")
        return {"loss_seg": self.loss_weight * loss / (target_NHW != IGNORED).sum().clamp(min=1)}


@MODELS.register_module()
class CascadePanoptic(TwoStagePanopticSegmentor):
    """RPN and cascade for T thing classes, and a StuffHead; trained on samples with `gt_instances` and `gt_sem_seg`.

    heads_only: of the parameters only those of heads are trained, and of these none of a norm; batch norms keep the
        statistics they have. It is what self-training does: CUPS selects by "head" and "norm" in Detectron2's names.
    All other arguments are those of TwoStagePanopticSegmentor, without a fusion head: what instances and stuff become
    together is `detector.prediction.panoptic`.
    """

    def __init__(self, *args: Any, heads_only: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heads_only = heads_only
        if heads_only:
            trained = set(head_parameters(self))
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name in trained)

    def train(self, mode: bool = True) -> Self:
        """See `heads_only`."""
        super().train(mode)
        if mode and self.heads_only:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """The samples, each with what is seen in it:

        pred_instances: the best first, after the class-wise NMS of test_cfg: bboxes (M, 4) xyxy, scores (M,) 0..1,
            labels (M,) 0..T-1, masks bool (M, H, W).
        pred_sem_seg.sem_seg: int64 (1, H, W), 0..S.

        rescale: in pixels of the photo, flipped where it was; else of the network's input, without its padding,
            whatever was cut and scaled before.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        features = self.extract_feat(batch_inputs)
        proposals = self.rpn_head.predict(features, batch_data_samples, rescale=False)
        samples = [DetDataSample(metainfo=_shown(meta, rescale)) for meta in metas]
        found = self.roi_head.predict(features, proposals, samples, rescale=True)
        logits_NCHW = F.interpolate(
            self.semantic_head.logits(features), batch_inputs.shape[2:], mode="bilinear", align_corners=False
        )
        for sample, target, instances, logits_CHW in zip(batch_data_samples, samples, found, logits_NCHW, strict=True):
            height, width = sample.img_shape[:2]
            seen_CHW = logits_CHW[:, :height, :width]
            if rescale:
                seen_CHW = F.interpolate(seen_CHW[None], target.ori_shape[:2], mode="bilinear", align_corners=False)[0]
            sample.pred_instances = instances
            sample.pred_sem_seg = PixelData(sem_seg=seen_CHW.argmax(dim=0, keepdim=True))
        return batch_data_samples


def head_parameters(model: nn.Module) -> Iterator[str]:
    """Names of the parameters of a detector's heads (RPN, boxes, masks, semantics) that are not of a norm."""
    norms = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if "head" in name and id(parameter) not in norms:
            yield name


def _shown(meta: dict[str, Any], rescale: bool) -> dict[str, Any]:
    """What heads are told of an image whose pixels are those of the photo, or of the network's input."""
    own = {} if rescale else {"ori_shape": meta["img_shape"][:2], "scale_factor": (1.0, 1.0)}
    # MMDetection would turn over the masks of what was flipped, their boxes not, and fails: a tensor has no steps back
    return {**meta, **own, "flip": False}
