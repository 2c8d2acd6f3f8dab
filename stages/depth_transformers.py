"""Depth by models of the transformers library: ZoeDepth, Depth Anything V2, DPT / MiDaS and their like.

Letters: B images, H, W pixels; h, w the model's output size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image

from stages.depth import DepthKind, check_kind, relative_depth
from stages.fingerprint import tensors_digest, text_digest

# What DPT is trained on: its configuration does not say so, but with each backbone it was published for one target.
# None: the ViT of the first DPT, which is part of the model.
_KIND_OF_DPT_BACKBONE: dict[str | None, DepthKind] = {
    None: "inverse_depth",  # Intel/dpt-large, MiDaS 3.0
    "bit": "inverse_depth",  # Intel/dpt-hybrid-midas, MiDaS 3.0
    "beit": "inverse_depth",  # MiDaS 3.1
    "swin": "inverse_depth",  # MiDaS 3.1
    "swinv2": "inverse_depth",  # MiDaS 3.1
    "dinov2": "depth",  # facebook/dpt-dinov2-*-nyu and -kitti: metres
}

# Metres beyond which DepthPro's depth is no farther: those it gives for sky (10 km) would press all else onto a plane.
# Other models for outdoors end there by themselves, as KITTI does, on which they are trained.
_FAR = 80.0


@dataclass(frozen=True)
class Reading:
    """How the output of a type of model is read.

    kind: whether `predicted_depth`, after `metres`, grows or shrinks with distance.
    metres: makes metres of raw output that is something else; None where it stays as it is.
    crops_itself: whether the processor's post-processing takes off what the processor padded.
    """

    kind: DepthKind
    metres: Callable[[Any, Any], list[torch.Tensor]] | None = None
    crops_itself: bool = False


def _depth_pro_metres(processor: Any, output: Any) -> list[torch.Tensor]:
    # Without target sizes nothing is scaled by the field of view, which changes the unit alone.
    found = processor.post_process_depth_estimation(output)
    return [result["predicted_depth"].clamp(max=_FAR) for result in found]


_READINGS: dict[str, Reading] = {
    "chmv2": Reading("inverse_depth"),  # height of trees, seen from above: higher is nearer
    "depth_pro": Reading("depth", metres=_depth_pro_metres),  # raw: inverse depth of a camera of unit width
    "glpn": Reading("depth"),
    "prompt_depth_anything": Reading("depth"),
    "tipsv2_dpt": Reading("depth"),
    "zoedepth": Reading("depth", crops_itself=True),
}


def reading_of(config: Any) -> Reading:
    """How a transformers depth model's output is read, from its configuration.

    Raises ValueError for a model that is not known here: the caller then has to say the kind.
    """
    name = config.model_type
    if name == "depth_anything":  # trained for either
        return Reading("depth" if config.depth_estimation_type == "metric" else "inverse_depth")
    if name == "dpt":
        backbone = getattr(config.backbone_config, "model_type", None)
        name = "dpt" if backbone is None else f"dpt on {backbone}"
        if backbone in _KIND_OF_DPT_BACKBONE:
            return Reading(_KIND_OF_DPT_BACKBONE[backbone])
    if name in _READINGS:
        return _READINGS[name]
    raise ValueError(
        f"it is of type {name!r}, of which it is not known whether it gives depth or inverse depth: say it with "
        "--depth-kind depth (larger = farther) or --depth-kind inverse_depth (larger = nearer)"
    )


class TransformersDepth:
    """A `DepthModel` over a loaded `AutoModelForDepthEstimation` and its `AutoImageProcessor`.

    kind: what the model's raw output is, in place of what its type tells.

    What the processor pads is cut off again. Raises ValueError for a model of unknown kind, and for a processor that
    cuts off a part of the photo.
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
        if getattr(processor, "do_center_crop", False):
            raise ValueError("its processor cuts off the borders of photos: set do_center_crop to false in its JSON")
        self._crops_itself = config.model_type in _READINGS and _READINGS[config.model_type].crops_itself
        if kind is None:
            reading = reading_of(config)
            self.kind, self._metres = reading.kind, reading.metres
        else:
            self.kind, self._metres = check_kind(kind), None
        self.name = name or str(config.model_type)
        self._model = model.to(device).eval()
        self._processor = processor
        self._device = torch.device(device)
        self._pads = bool(getattr(processor, "do_pad", False))
        parts = [tensors_digest(model.state_dict()), processor.to_json_string(), self.kind]
        # Readings that earlier versions did not have: where they change depths they change the fingerprint.
        parts += ["padding cut off"] if self._pads and not self._crops_itself else []
        parts += [f"metres to {_FAR:g}"] if self._metres else []
        self.fingerprint = text_digest(*parts)

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """See `DepthModel.predict`. Neighbouring images that the processor brings to one size go through together."""
        inputs = [self._prepared(image) for image in images]
        depths = []
        for _, group in groupby(range(len(images)), key=lambda i: inputs[i].shape):
            members = list(group)
            pixels = torch.cat([inputs[i] for i in members]).to(self._device)
            maps = self._maps(self._model(pixel_values=pixels), [images[i] for i in members], pixels.shape[-2:])
            for i, map_HW in zip(members, maps, strict=True):
                raw = map_HW.float().cpu().numpy()
                depths.append(relative_depth(raw, self.kind, f"{ids[i]}: depth by {self.name}"))
        return depths

    def _prepared(self, image: np.ndarray, **options: Any) -> torch.Tensor:
        pixels: torch.Tensor = self._processor(images=Image.fromarray(image), return_tensors="pt", **options)[
            "pixel_values"
        ]
        return pixels

    def _maps(self, output: Any, images: Sequence[np.ndarray], padded: Sequence[int]) -> list[torch.Tensor]:
        """Of each image its map (h, w), without what the processor padded.

        images: of the batch. padded: height and width of what the model was given.
        """
        if self._pads and self._crops_itself:
            sizes = [image.shape[:2] for image in images]
            found = self._processor.post_process_depth_estimation(output, source_sizes=sizes)
            return [result["predicted_depth"] for result in found]
        maps = self._metres(self._processor, output) if self._metres else list(output.predicted_depth)
        if not self._pads:
            return maps
        return [self._unpadded(map_, image, padded) for map_, image in zip(maps, images, strict=True)]

    def _unpadded(self, map_HW: torch.Tensor, image: np.ndarray, padded: Sequence[int]) -> torch.Tensor:
        """Without the borders of zeros that the processor puts on all four sides, half of them on each; a pixel that
        lies on the edge goes with them.
        """
        inner = self._prepared(image, do_pad=False).shape[-2:]
        before = [(outer - own) // 2 for outer, own in zip(padded, inner, strict=True)]
        (top, bottom), (left, right) = (
            (math.ceil(start * side / outer), (start + own) * side // outer)
            for start, own, outer, side in zip(before, inner, padded, map_HW.shape, strict=True)
        )
        return map_HW[top:bottom, left:right]
