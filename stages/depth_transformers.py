"""Depth by models of the transformers library: ZoeDepth, Depth Anything V2, DPT / MiDaS and their like.

Letters: B images, H, W pixels; h, w the model's output size.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image

from stages.depth import DepthKind, check_kind, relative_depth
from stages.fingerprint import tensors_digest, text_digest

# What `predicted_depth` means, by `config.model_type`. Depth Anything is trained for either: its configuration says.
_KIND_OF_MODEL_TYPE: dict[str, DepthKind] = {
    "zoedepth": "depth",
    "glpn": "depth",
    "prompt_depth_anything": "depth",
    "dpt": "inverse_depth",
}


def detect_kind(config: Any) -> DepthKind:
    """Whether a transformers depth model's output grows or shrinks with distance, from its configuration.

    Raises ValueError for a model type that is not known here: the caller then has to say it.
    """
    if config.model_type == "depth_anything":
        return "depth" if config.depth_estimation_type == "metric" else "inverse_depth"
    if config.model_type not in _KIND_OF_MODEL_TYPE:
        raise ValueError(
            f"do not know whether {config.model_type!r} gives depth or inverse depth: say it with "
            'kind="depth" (larger = farther) or kind="inverse_depth" (larger = nearer)'
        )
    return _KIND_OF_MODEL_TYPE[config.model_type]


class TransformersDepth:
    """A `DepthModel` over a loaded `AutoModelForDepthEstimation` and its `AutoImageProcessor`.

    kind: overrides what the model's configuration tells about the direction of its output.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Any,
        device: torch.device | str = "cpu",
        kind: DepthKind | None = None,
        name: str | None = None,
    ) -> None:
        config: Any = model.config
        self.kind = detect_kind(config) if kind is None else check_kind(kind)
        self.name = name or str(config.model_type)
        self.fingerprint = text_digest(tensors_digest(model.state_dict()), processor.to_json_string(), self.kind)
        self._model = model.to(device).eval()
        self._processor = processor
        self._device = torch.device(device)
        # ZoeDepth's processor pads images by reflection; only its own post-processing knows how to cut that off again.
        self._padded = bool(getattr(processor, "do_pad", False)) and config.model_type == "zoedepth"

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """See `DepthModel.predict`. Neighbouring images that the processor brings to one size go through together."""
        inputs = [self._processor(images=Image.fromarray(image), return_tensors="pt") for image in images]
        depths = []
        for _, group in groupby(range(len(images)), key=lambda i: inputs[i]["pixel_values"].shape):
            members = list(group)
            pixels = torch.cat([inputs[i]["pixel_values"] for i in members]).to(self._device)
            output = self._model(pixel_values=pixels)
            if self._padded:
                sizes = [images[i].shape[:2] for i in members]
                maps = [
                    result["predicted_depth"]
                    for result in self._processor.post_process_depth_estimation(output, source_sizes=sizes)
                ]
            else:
                maps = list(output.predicted_depth)
            for i, map_HW in zip(members, maps, strict=True):
                raw = map_HW.float().cpu().numpy()
                depths.append(relative_depth(raw, self.kind, f"{ids[i]}: depth by {self.name}"))
        return depths
