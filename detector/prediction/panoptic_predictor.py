"""A trained panoptic detector on photos: what its heads see, at the size of the photo.

S stuff classes · H, W pixels of the photo · h, w cells of the semantic head, a quarter of the network's input
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from detector.model.checkpoints import DetectorCheckpoint
from detector.model.panoptic_head import StuffHead
from detector.prediction.panoptic import PanopticDetections
from detector.prediction.predictor import PhotoNetwork
from pipeline.errors import ConfigError
from pipeline.results.semantic_codes import grid_of

# Values of the enlarged logits that are held at a time: of 28 classes 20 rows of a photo of 12 megapixels.
_VALUES = 1 << 21


class PanopticPredictor(PhotoNetwork[PanopticDetections]):
    """A panoptic detector, see `PhotoNetwork`; ConfigError for one without a semantic head."""

    def __init__(self, checkpoint: DetectorCheckpoint, *arguments: Any, **options: Any) -> None:
        super().__init__(checkpoint, *arguments, **options)
        if not isinstance(getattr(self._model, "semantic_head", None), StuffHead):
            raise ConfigError(f"{checkpoint.path} has no semantic head: a panoptic detector is needed here")

    def _from_features(
        self, features: tuple[torch.Tensor, ...], metas: list[dict[str, Any]]
    ) -> Iterator[PanopticDetections]:
        logits = self._model.semantic_head.logits(features)
        for (result, found), logits_Chw, meta in zip(self._detected(features, metas), logits, metas, strict=True):
            shares, size = shares_of(meta), meta["ori_shape"]
            sure_1hw = logits_Chw.softmax(dim=0).amax(dim=0, keepdim=True)
            yield PanopticDetections(
                found,
                result.labels.cpu().numpy(),
                classes_at(logits_Chw, size, shares).cpu().numpy(),
                enlarged(sure_1hw, grid_of(size), shares)[0].clamp(0, 1).cpu().numpy(),
            )


def shares_of(meta: Mapping[str, Any]) -> list[float]:
    """Of height and width of the network's input what an image takes up, by its metainfo; the rest is padding."""
    return [side / padded for side, padded in zip(meta["img_shape"], meta["batch_input_shape"], strict=True)]


def classes_at(logits_Chw: torch.Tensor, size: tuple[int, int], shares: list[float]) -> torch.Tensor:
    """uint8 (H, W): the class of the highest logit at each pixel of a photo, some rows of it at a time.

    size: H, W. shares: of the map's height and width that the photo takes up, see `shares_of`.
    """
    height, width = size
    rows = max(1, _VALUES // (len(logits_Chw) * width))
    parts = [
        enlarged(logits_Chw, size, shares, top, min(top + rows, height)).argmax(dim=0).to(torch.uint8)
        for top in range(0, height, rows)
    ]
    return torch.cat(parts)


def enlarged(
    map_Chw: torch.Tensor, size: tuple[int, int], shares: list[float], top: int = 0, bottom: int | None = None
) -> torch.Tensor:
    """(C, bottom - top, W): a map at the pixels of these rows of a photo, bilinear between the centres of its cells.

    size, shares: as of `classes_at`.
    """
    rows, columns = (
        (torch.arange(start, end, device=map_Chw.device) + 0.5) / side * share * 2 - 1
        for start, end, side, share in zip((top, 0), (bottom or size[0], size[1]), size, shares, strict=True)
    )
    place_HW2 = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    map_1Chw = map_Chw[None].float()
    return F.grid_sample(map_1Chw, place_HW2[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
