"""Patch features of any timm ViT: keys, queries or values of the last block's attention, or the final tokens.

Letters: B images, N = Gh*Gw patches, D feature width, S side of the square input in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from stages.cpu_products import onednn_keeps_float32, onednn_products
from stages.fingerprint import tensors_digest, text_digest
from stages.late import torch

FeatureKind = Literal["keys", "queries", "values", "tokens"]
Precision = Literal["float32", "bfloat16", "float16"]
_QKV_ROW = {"queries": 0, "keys": 1, "values": 2}


@dataclass(frozen=True)
class FeatureConfig:
    """Which feature of which ViT.

    model: timm's name.
    patch_size: pixels.
    size: side of the square input in pixels, a multiple of patch_size.
    kind: keys, queries or values of the last block (heads concatenated), or tokens after the final norm.
    centred: subtract the mean over the image's patches, which takes out a bias that all patches share.
    mean, std: what RGB in 0..1 is normalised with.
    precision: of the matrix products; float32 is the accurate default, the others are for GPUs. Measured on DINOv2
        ViT-S/14, smallest cosine of a patch's feature with the float32 one: float16 0.9998, bfloat16 0.90 (0.6 % of the
        thresholded affinities flip, and about 0.1 % of the patches of a bipartition).
    """

    model: str
    patch_size: int
    kind: FeatureKind
    centred: bool
    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.patch_size < 1:
            raise ValueError(f"patch_size is {self.patch_size}: use at least 1")
        if self.kind not in get_args(FeatureKind):
            raise ValueError(f"kind is {self.kind!r}: use one of {', '.join(get_args(FeatureKind))}")
        if self.size < 2 * self.patch_size or self.size % self.patch_size:
            near = max(2, round(self.size / self.patch_size)) * self.patch_size
            raise ValueError(
                f"size is {self.size}: use a multiple of patch_size ({self.patch_size}) from two patches up, as {near}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean, std are {self.mean}, {self.std}: use three numbers each, std above 0")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r}: use one of {', '.join(get_args(Precision))}")


class FeatureExtractor:
    """Photos in, one feature vector a patch out.

    model: a timm ViT (`num_classes=0`) or a `stages.vit.PlainViT`, with weights loaded, at the size it was made for; it
        is taken over: resized to config.size (position embedding resampled bicubically), moved to the device, set to
        evaluation.
    fingerprint: digest of the weights as loaded and of the configuration.

    Raises ValueError when the model is no ViT, has another patch size, or its last block has no keys to read.

    The forward pass stops as soon as the feature exists: of the last block, keys need the first norm and a third of one
    projection, so its attention and MLP (1/12 of a ViT-S) are never run.
    """

    def __init__(self, model: torch.nn.Module, config: FeatureConfig, device: torch.device | str = "cpu") -> None:
        vit: Any = model
        _check_vit(vit, config)
        self.config = config
        self.device = torch.device(device)
        self.fingerprint = text_digest(tensors_digest(model.state_dict()), repr(sorted(asdict(config).items())))
        vit.set_input_size(img_size=(config.size, config.size))
        self._vit = vit.to(self.device).eval()
        self._mean = torch.tensor(config.mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(config.std, device=self.device).view(3, 1, 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(Gh, Gw), the patch grid."""
        side = self.config.size // self.config.patch_size
        return side, side

    def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """features_BND of photos: float16 on the extractor's device, patches row by row, not normalised.

        images: uint8 (H, W, 3) RGB of any size, resized to a square of config.size (LANCZOS, aspect not kept, as in
        MaskCut). Always rounded to float16, so that features kept on disk and features passed on are the same.
        Raises RuntimeError when a feature is not finite in float16 (broken weights, or too low a precision).
        """
        if not images:
            raise ValueError("no images to extract features from")
        with torch.inference_mode():
            return self._extracted(images)

    def _extracted(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        S = self.config.size
        pixels = np.stack([np.asarray(Image.fromarray(i).resize((S, S), Image.Resampling.LANCZOS)) for i in images])
        x = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        with self._products():
            features_BND = self._features((x - self._mean) / self._std).float()
        if self.config.centred:
            features_BND = features_BND - features_BND.mean(dim=1, keepdim=True)
        features_BND = features_BND.half()
        if not torch.isfinite(features_BND).all():
            raise RuntimeError(
                f"{self.config.model} gives features that are not finite in float16: "
                f"its weights are broken, or precision {self.config.precision} is too low for it"
            )
        return features_BND

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        kind, depth = self.config.kind, len(self._vit.blocks)
        tokens = kind == "tokens"
        x = self._vit.forward_intermediates(
            x,
            indices=[depth - 1 if tokens else depth - 2],
            norm=tokens,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )[0]
        if tokens:
            return x
        # Class and register tokens are gone by now: a projection treats each token alone, so the patches suffice.
        block = self._vit.blocks[-1]
        qkv, attention = block.attn.qkv, block.attn
        width = qkv.out_features // 3
        rows = slice(_QKV_ROW[kind] * width, (_QKV_ROW[kind] + 1) * width)
        x = torch.nn.functional.linear(block.norm1(x), qkv.weight[rows], None if qkv.bias is None else qkv.bias[rows])
        if kind == "values":
            return x
        norm = attention.k_norm if kind == "keys" else attention.q_norm
        return norm(x.unflatten(-1, (attention.num_heads, -1))).flatten(-2)

    def _products(self) -> Any:
        if self.config.precision != "float32":
            return torch.autocast(self.device.type, getattr(torch, self.config.precision))
        if self.device.type == "cpu" and onednn_keeps_float32():
            return onednn_products()
        return nullcontext()


def _check_vit(vit: Any, config: FeatureConfig) -> None:
    needed = ("blocks", "patch_embed", "forward_intermediates", "set_input_size")
    if any(not hasattr(vit, name) for name in needed):
        raise ValueError(f"{config.model} ({type(vit).__name__}) is not a ViT of timm: it lacks {' or '.join(needed)}")
    if tuple(vit.patch_embed.patch_size) != (config.patch_size, config.patch_size):
        raise ValueError(f"patch_size is {config.patch_size}: {config.model} has {vit.patch_embed.patch_size}")
    if config.kind == "tokens":
        return
    if not _is_plain(vit.blocks[-1]):
        raise ValueError(
            f"{config.model} has no plain attention block at its end to read {config.kind} from: use tokens"
        )
    if len(vit.blocks) < 2:
        raise ValueError(f"{config.model} has a single block, {config.kind} need a block before the last: use tokens")


def _is_plain(block: torch.nn.Module) -> bool:
    from stages.vit import Block

    if type(block) is Block:
        return True
    from timm.models import vision_transformer  # which is there already if the block is timm's

    return type(block) is vision_transformer.Block
