"""A cascade that scores boxes, and finds their masks, as Detectron2's does."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DetectronCascade(CascadeRoIHead):
    """CascadeRoIHead for detectors that Detectron2 trained.

    A score is the mean of the stages' probabilities. The stock head takes the mean of their logits, so that scores, and
    the order of the boxes, would be others. The stages share one mask head, under the names of three. P proposals of
    all images together, C classes, whose boxes are moved alike.
    """

    def init_mask_head(self, *args: Any, **kwargs: Any) -> None:
        super().init_mask_head(*args, **kwargs)
        first = self.get_submodule("mask_head.0")
        self.mask_head = nn.ModuleList([first] * self.num_stages)

    def _refine_roi(
        self,
        x: tuple[Tensor, ...],
        rois: Tensor,
        batch_img_metas: list[dict],
        num_proposals_per_img: Sequence[int],
        **kwargs: Any,
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """Per image: boxes (p, 5) that the last stage starts from, scores (p, C + 1) whose softmax is the mean
        probability, and the last stage's deltas (p, 4).
        """
        counts = list(num_proposals_per_img)
        rois_P5, stages = rois, []
        for stage in range(self.num_stages):
            result = self._bbox_forward(stage, x, rois_P5, **kwargs)
            stages.append(result["cls_score"].softmax(dim=-1))
            deltas = result["bbox_pred"].split(counts)
            parts = rois_P5.split(counts)
            if stage < self.num_stages - 1:
                head = self.bbox_head[stage]
                moved = [
                    head.regress_by_class(part[:, 1:], part.new_zeros(len(part), dtype=torch.long), delta, meta)
                    for part, delta, meta in zip(parts, deltas, batch_img_metas, strict=True)
                ]
                rois_P5 = torch.cat([rois_P5[:, :1], torch.cat(moved)], dim=1)
        scores_PC = torch.stack(stages).mean(dim=0).log()
        return parts, scores_PC.split(counts), deltas
