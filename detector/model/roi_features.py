"""RoI features as detectron2's cascade takes them: in single precision, and with a scaled gradient to the backbone."""

from typing import Any

from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor

from detector.model.precision import at_least_single


@MODELS.register_module()
class GradientScaledRoIExtractor(SingleRoIExtractor):
    """SingleRoIExtractor that hands `gradient_scale` times its gradient on to the feature maps.

    Cascades after Cai and Vasconcelos average the losses of their stages as far as the trunk is concerned and let each
    head learn at full rate: with 1 / stages here, and every stage's loss weight 1.

    Under autocast, too, features are sampled in float32 boxes: the stock extractor rounds those to the type of the
    features. What comes back has that type.
    """

    def __init__(self, *args: Any, gradient_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gradient_scale = gradient_scale

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """As in the stock extractor: features (P, C, h, w) of rois (P, 5)."""
        roi_feats = super().forward(tuple(map(at_least_single, feats)), rois, roi_scale_factor).to(feats[0].dtype)
        if roi_feats.requires_grad:
            roi_feats.register_hook(lambda gradient: gradient * self.gradient_scale)
        return roi_feats
