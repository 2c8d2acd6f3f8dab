"""The plain ViT of DINO and DINOv2, number for number timm's. timm knows hundreds of models, and importing it takes as
long as all else that a run does before its first image: torch's compiler comes with it.

Letters: B images, S side of the input in pixels, T tokens (class, registers, then N patches), D width, H heads.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_NAME = re.compile(r"vit_(small|base|large)_patch(\d+)_(?:224\.dino|(reg4_)?dinov2\.lvd142m)")
_SIZES = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width, blocks
_HEAD = 64  # width of a head
_REGISTERS = 4


class PlainViT(nn.Module):
    """A ViT with pre-norm blocks of attention and MLP.

    width: D, a multiple of 64.
    depth: blocks.
    patch: side of a patch in pixels.
    side: S that its position embedding is for.
    scaled: what a block adds is scaled by channel (DINOv2).
    registers: how many; with any, the class token has no position either.

    Parameters have timm's names, so that a digest of them is the same.
    """

    def __init__(self, width: int, depth: int, patch: int, side: int, scaled: bool, registers: int) -> None:
        super().__init__()
        self.num_prefix_tokens, self._placed_prefix = 1 + registers, 0 if registers else 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self._placed_prefix + (side // patch) ** 2, width))
        self.patch_embed = PatchEmbedding(width, patch)
        self.blocks = nn.ModuleList(Block(width, scaled) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Make it one for photos of img_size, (S, S) pixels: the position embedding is resampled bicubically."""
        prefix_1PD, places_1ND = self.pos_embed.split([self._placed_prefix, self._places], dim=1)
        grid = [side // self.patch_embed.patch_size[0] for side in img_size]
        before = round(self._places**0.5)
        if grid == [before, before]:
            return
        map_1DGG = places_1ND.reshape(1, before, before, -1).permute(0, 3, 1, 2)
        map_1DGG = functional.interpolate(map_1DGG, size=grid, mode="bicubic", antialias=True)
        places_1ND = map_1DGG.permute(0, 2, 3, 1).reshape(1, -1, map_1DGG.shape[1])
        self.pos_embed = nn.Parameter(torch.cat([prefix_1PD, places_1ND], dim=1).detach())

    def forward_intermediates(
        self, x: Tensor, *, indices: Sequence[int], norm: bool, return_prefix_tokens: bool = False, **_: Any
    ) -> list[Any]:
        """Patch tokens, (B, N, D), after each of the blocks that `indices` names, in order; none is run after the last.

        x: (B, 3, S, S) float, normalised.
        norm: apply the final norm.
        return_prefix_tokens: give pairs of patch tokens and those before them, class token first.

        This is timm's method of that name with stop_early, intermediates_only and output_fmt="NLC".
        """
        x, found = self._embedded(x), []
        for place, block in enumerate(self.blocks[: max(indices) + 1]):
            x = block(x)
            if place in indices:
                tokens = self.norm(x) if norm else x
                prefix, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
                found.append((patches, prefix) if return_prefix_tokens else patches)
        return found

    @property
    def _places(self) -> int:
        return self.pos_embed.shape[1] - self._placed_prefix

    def _embedded(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        prefix = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        if self._placed_prefix:
            return torch.cat([*prefix, x], dim=1) + self.pos_embed
        return torch.cat([*prefix, x + self.pos_embed], dim=1)


class PatchEmbedding(nn.Module):
    """(B, 3, S, S) -> (B, N, D), patches row by row."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch_size = (patch, patch)
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.proj(x)
        return projected.flatten(2).transpose(1, 2)


class Block(nn.Module):
    """(B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Attention(width)
        self.ls1, self.ls2 = (Scale(width) if scaled else nn.Identity() for _ in range(2))
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Of all tokens to all. q_norm, k_norm: nothing is done there; other ViTs of timm do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // _HEAD
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q_BHTd, k_BHTd, v_BHTd = self.qkv(x).reshape(B, T, 3, self.num_heads, _HEAD).permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd)
        projected: Tensor = self.proj(x.transpose(1, 2).reshape(B, T, D))
        return projected


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return projected


class Scale(nn.Module):
    """Of each channel by a factor of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def plain_vit(model: str, state: Mapping[str, Tensor]) -> PlainViT | None:
    """The ViT of DINO or DINOv2 that timm knows as `model`, with these weights, as float32.

    state: tensors by official names or timm's. None for any other model, and where names or shapes are not exactly what
    the model has: timm can resample what was made for another grid, and says best what is wrong with the rest.
    """
    name = _NAME.fullmatch(model)
    if name is None:
        return None
    width, depth = _SIZES[name[1]]
    is_dinov2 = model.endswith("lvd142m")
    with torch.device("meta"):  # nothing is drawn at random just to be replaced: that would take a second
        vit = PlainViT(width, depth, int(name[2]), 518 if is_dinov2 else 224, is_dinov2, _REGISTERS if name[3] else 0)
    tensors = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    if "register_tokens" in tensors:
        # Official: the class token has a position. timm adds it once and for all.
        tensors["reg_token"] = tensors.pop("register_tokens")
        tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in vit.state_dict().items()}:
        return None
    vit.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True)
    return vit
