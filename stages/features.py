"""Patch features of any timm ViT: keys, queries or values of the last block's attention, or the final tokens; and of
any network that gives features of patches by itself.

Letters: B images, N = Gh*Gw patches, D feature width, S side of the square input in pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from PIL import Image

from stages.cpu_products import onednn_keeps_float32, onednn_products
from stages.fingerprint import tensors_digest, text_digest
from stages.late import torch

FeatureKind = Literal["keys", "queries", "values", "tokens"]
Precision = Literal["float32", "bfloat16", "float16"]
_QKV_ROW = {"queries": 0, "keys": 1, "values": 2}
_LARGEST = 16384  # pixels: far beyond what any machine has memory for, so that a slip of the keyboard is told as one


@dataclass(frozen=True)
class FeatureConfig:
    """Which feature of which ViT.

    model: timm's name.
    patch_size: pixels.
    size: side of the square input in pixels, a multiple of patch_size, at most 16384.
    kind: keys, queries or values of the last block (heads concatenated, before rotary positions turn them), or tokens
        after the final norm.
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
        if self.size > _LARGEST:
            raise ValueError(f"size is {self.size}: use at most {_LARGEST} pixels")
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
        self._check(model, config)
        vit: Any = model
        self.config = config
        self.device = torch.device(device)
        self._weights = tensors_digest(model.state_dict())
        self.fingerprint = self.fingerprint_with(config)
        self._vit = self._sized(vit).to(self.device).eval()
        self._mean = torch.tensor(config.mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(config.std, device=self.device).view(3, 1, 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(Gh, Gw), the patch grid."""
        side = self.config.size // self.config.patch_size
        return side, side

    @property
    def network(self) -> Any:
        """The network; the same object for all readings of it."""
        return self._vit

    def reading(self, kind: FeatureKind, centred: bool) -> Self:
        """Other features of the very same network: see `read_together`. Raises ValueError where it has none such."""
        other = copy.copy(self)
        other.config = replace(self.config, kind=kind, centred=centred)
        other._check(self._vit, other.config)
        other.fingerprint = self.fingerprint_with(other.config)
        return other

    def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """features_BND of photos: float16 on the extractor's device, patches row by row, not normalised.

        images: uint8 (H, W, 3) RGB of any size, resized to a square of config.size (LANCZOS, aspect not kept, as in
        MaskCut). Always rounded to float16, so that features kept on disk and features passed on are the same.
        Raises RuntimeError when a feature is not finite in float16 (broken weights, or too low a precision).
        """
        return read_together([self], images)[0]

    def fingerprint_with(self, config: FeatureConfig) -> str:
        """The fingerprint of an extractor with the same weights and this configuration."""
        return text_digest(self._weights, repr(sorted(asdict(config).items())))

    def with_attention(self, images: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """What a call gives, and attention_BN, how much the class token attends to each patch in the last block: the
        mean over its heads, float32, >= 0, at most 1 in all. From one forward pass.

        Raises ValueError for a model without `has_attention`.
        """
        if not self.has_attention:
            raise ValueError(f"{self.config.model} has no class token whose attention could be read")
        with torch.inference_mode():
            x = self._input(images)
            with self._products():
                tokens_BTD = _all_tokens(self._vit, x, len(self._vit.blocks) - 2)
                attention_BN = class_attention(self._vit, tokens_BTD)
                features_BND = self._of_last_block(tokens_BTD)
            return self._finished(features_BND), attention_BN

    @property
    def has_attention(self) -> bool:
        """Whether the last block has a class token and plain attention, without rotary positions."""
        return (
            getattr(self._vit, "cls_token", None) is not None
            and len(self._vit.blocks) > 1
            and _has_projections(self._vit.blocks[-1])
            and not hasattr(self._vit, "rope")
        )

    def _input(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        S = self.config.size
        pixels = np.stack([np.asarray(Image.fromarray(i).resize((S, S), Image.Resampling.LANCZOS)) for i in images])
        x = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        return (x - self._mean) / self._std

    def _finished(self, features_BND: torch.Tensor) -> torch.Tensor:
        features_BND = features_BND.float()
        if self.config.centred:
            features_BND = features_BND - features_BND.mean(dim=1, keepdim=True)
        features_BND = features_BND.half()
        if not torch.isfinite(features_BND).all():
            raise RuntimeError(
                f"{self.config.model} gives features that are not finite in float16: "
                f"its weights are broken, or precision {self.config.precision} is too low for it"
            )
        return features_BND

    def _check(self, model: Any, config: FeatureConfig) -> None:
        check_vit(model, config)

    def _sized(self, model: Any) -> Any:
        model.set_input_size(img_size=(self.config.size, self.config.size))
        return model

    def _features(self, x: torch.Tensor, kinds: Collection[FeatureKind]) -> dict[FeatureKind, torch.Tensor]:
        vit, last = self._vit, len(self._vit.blocks) - 1
        if set(kinds) == {"tokens"}:
            return {"tokens": _tokens(vit, x, [last], norm=True)[0]}
        before, *after = _tokens(vit, x, [last - 1, last] if "tokens" in kinds else [last - 1], norm=False)
        found: dict[FeatureKind, torch.Tensor] = {"tokens": vit.norm(after[0])} if after else {}
        # Class and register tokens are gone by now: a projection treats each token alone, so the patches suffice.
        normed = vit.blocks[-1].norm1(before)
        return found | {kind: self._projected(normed, kind) for kind in kinds if kind != "tokens"}

    def _of_last_block(self, tokens_BTD: torch.Tensor) -> torch.Tensor:
        """Features from all tokens before the last block."""
        kind, block, prefix = self.config.kind, self._vit.blocks[-1], self._vit.num_prefix_tokens
        if kind != "tokens":
            return self._projected(block.norm1(tokens_BTD[:, prefix:]), kind)
        found: torch.Tensor = self._vit.norm(block(tokens_BTD))[:, prefix:]
        return found

    def _projected(self, normed: torch.Tensor, kind: FeatureKind) -> torch.Tensor:
        attention = self._vit.blocks[-1].attn
        x = torch.nn.functional.linear(normed, *_projection(attention, kind))
        if kind == "values":
            return x
        norm = attention.k_norm if kind == "keys" else attention.q_norm
        found: torch.Tensor = norm(x.unflatten(-1, (attention.num_heads, -1))).flatten(-2)
        return found

    def _products(self) -> Any:
        if self.config.precision != "float32":
            return torch.autocast(self.device.type, getattr(torch, self.config.precision))
        if self.device.type == "cpu" and onednn_keeps_float32():
            return onednn_products()
        return nullcontext()


class NetworkFeatures(FeatureExtractor):
    """The same of any network that gives one feature per patch by itself.

    model: (B, 3, S, S) float, normalised with config's mean and std -> (B, N, D) float, patches row by row, of photos
        of config.size. It is taken over as a ViT is.
    config: of the kind "tokens"; model names the network.

    Raises ValueError for another kind, and, when it is called, where the network gives another shape.
    """

    @property
    def has_attention(self) -> bool:
        """See `FeatureExtractor`; what such a network attends to is not known."""
        return False

    def _check(self, model: Any, config: FeatureConfig) -> None:
        if config.kind != "tokens":
            raise ValueError(f"kind is {config.kind}: {config.model} gives tokens alone")

    def _sized(self, model: Any) -> Any:
        return model

    def _features(self, x: torch.Tensor, kinds: Collection[FeatureKind]) -> dict[FeatureKind, torch.Tensor]:
        found: torch.Tensor = self._vit(x)
        wanted = (len(x), self.grid[0] * self.grid[1])
        if found.ndim != 3 or found.shape[:2] != wanted:
            raise ValueError(
                f"{self.config.model} gives {tuple(found.shape)} for photos of {self.config.size} pixels, not "
                f"{wanted} and the width of a feature: check its patch_size, or make it give one feature per patch"
            )
        return {"tokens": found}


def read_together(extractors: Sequence[FeatureExtractor], images: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """What each of the extractors gives for the images, which go through the network once.

    extractors: one, and `reading`s of it.
    """
    if not images:
        raise ValueError("no images to extract features from")
    first = extractors[0]
    if any(other.network is not first.network for other in extractors):
        raise ValueError("features are read together from one network: take the readings of one extractor")
    with torch.inference_mode():
        x = first._input(images)
        with first._products():
            found = first._features(x, [extractor.config.kind for extractor in extractors])
        return [extractor._finished(found[extractor.config.kind]) for extractor in extractors]


def patch_side(vit: Any) -> int:
    """Side of a patch in pixels of a model of timm that gives one feature per patch; ValueError for any other.

    vit: without memory, on the device "meta"; it is resized.

    A forward pass without numbers tells: hybrids, whose patches lie on the map of a convolutional stem, and networks of
    several scales give another number of features.
    """
    kind = type(vit).__name__
    side = _square_patch(vit)
    if side is None:
        raise ValueError(f"{kind} is not a ViT with square patches")
    patches = 4
    try:
        vit.set_input_size(img_size=(patches * side, patches * side))
        photo = torch.empty(1, 3, patches * side, patches * side, device="meta")
        found = _tokens(vit, photo, [len(vit.blocks) - 1], norm=True)[0].shape
    except Exception as error:  # whatever a model of timm raises that is made for other photos
        raise ValueError(f"{kind} does not take photos of another size: {error}") from error
    if len(found) != 3 or found[1] != patches**2:
        raise ValueError(f"{kind} does not give one feature per patch")
    return side


def check_vit(vit: Any, config: FeatureConfig) -> None:
    """ValueError for a model that is no ViT, or cannot give the features of this configuration."""
    side = _square_patch(vit)
    if side is None:
        raise ValueError(f"{config.model} ({type(vit).__name__}) is not a ViT of timm with square patches")
    if side != config.patch_size:
        raise ValueError(f"patch_size is {config.patch_size}: {config.model} has {side}")
    if config.kind == "tokens":
        return
    if not _has_projections(vit.blocks[-1]):
        raise ValueError(
            f"{config.model} has no plain attention block at its end to read {config.kind} from: use tokens"
        )
    if len(vit.blocks) < 2:
        raise ValueError(f"{config.model} has a single block, {config.kind} need a block before the last: use tokens")


def _square_patch(vit: Any) -> int | None:
    """Side of a patch in pixels, None for what is not built as a ViT of timm is."""
    if any(not hasattr(vit, name) for name in ("blocks", "patch_embed", "forward_intermediates", "set_input_size")):
        return None
    sides = getattr(vit.patch_embed, "patch_size", None)
    return int(sides[0]) if isinstance(sides, tuple) and len(set(sides)) == 1 else None


def _tokens(vit: Any, x: torch.Tensor, blocks: list[int], norm: bool) -> list[torch.Tensor]:
    """Patch tokens after each of these blocks, (B, N, D)."""
    found: list[torch.Tensor] = vit.forward_intermediates(
        x, indices=blocks, norm=norm, stop_early=True, output_fmt="NLC", intermediates_only=True
    )
    return found


def _all_tokens(vit: Any, x: torch.Tensor, block: int) -> torch.Tensor:
    """All tokens after one block, class and registers first, (B, T, D)."""
    (found,) = vit.forward_intermediates(
        x,
        indices=[block],
        norm=False,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
        return_prefix_tokens=True,
    )
    patches, prefix = found
    return torch.cat([prefix, patches], dim=1)


def class_attention(vit: Any, tokens_BTD: torch.Tensor) -> torch.Tensor:
    """Attention of the class token to the patches in the last block, mean over its heads: (B, N) float32.

    tokens_BTD: all tokens before that block, the class token first.
    """
    block = vit.blocks[-1]
    attention, x = block.attn, block.norm1(tokens_BTD)

    def of_heads(kind: FeatureKind, tokens: torch.Tensor) -> torch.Tensor:
        projected = torch.nn.functional.linear(tokens, *_projection(attention, kind))
        return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    query_BH1d = attention.q_norm(of_heads("queries", x[:, :1]))
    keys_BHTd = attention.k_norm(of_heads("keys", x))
    products_BH1T = query_BH1d @ keys_BHTd.transpose(2, 3) * query_BH1d.shape[-1] ** -0.5
    return products_BH1T.float().softmax(dim=-1)[:, :, 0, vit.num_prefix_tokens :].mean(dim=1)


def _has_projections(block: torch.nn.Module) -> bool:
    """Whether queries, keys and values of a block are what its attention projects its first norm to."""
    from stages.vit import Block

    if type(block) is Block:
        return True
    from timm.models import eva, vision_transformer  # which is there already if the block is timm's

    if type(block) is eva.EvaBlock:
        return isinstance(block.attn, eva.EvaAttention)
    return type(block) is vision_transformer.Block


def _projection(attention: Any, kind: FeatureKind) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias that give queries, keys or values, for all patches alike: of a ViT with rotary positions they are
    those before the rotation. After it the cosine of two keys would say how far apart their patches lie, too.
    """
    if attention.qkv is None:  # Eva's with a projection of each
        own = getattr(attention, f"{kind[0]}_proj")
        return own.weight, own.bias
    width = attention.qkv.out_features // 3
    rows = slice(_QKV_ROW[kind] * width, (_QKV_ROW[kind] + 1) * width)
    if attention.qkv.bias is not None:
        return attention.qkv.weight[rows], attention.qkv.bias[rows]
    return attention.qkv.weight[rows], getattr(attention, f"{kind[0]}_bias", None)  # Eva keeps them apart
