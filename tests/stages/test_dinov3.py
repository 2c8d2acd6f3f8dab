"""DINOv3 through timm's Eva: tokens are transformers', keys and queries what its last block projects, before rotation.

Weights are tiny and random; all else is what the presets' models have.
"""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import apply_rot_embed_cat
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from stages.feature_presets import PRESETS
from stages.features import FeatureConfig, FeatureExtractor

SIZE, WIDTH, DEPTH, HEADS = 96, 64, 3, 4
PHOTOS = [np.random.default_rng(s).integers(0, 256, (50 + s, 70, 3), dtype=np.uint8) for s in range(2)]
DINOV3 = [name for name in PRESETS if name.startswith("dinov3")]


def config_of(preset: str, kind: str = "tokens") -> FeatureConfig:
    return FeatureConfig(PRESETS[preset].config.model, 16, kind=kind, centred=False, size=SIZE)  # type: ignore[arg-type]


def tiny(preset: str, **changes: Any) -> Any:
    torch.manual_seed(3)
    model = PRESETS[preset].config.model
    vit: Any = timm.create_model(model, num_classes=0, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, **changes)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return vit.eval()


def of_transformers(vit: Any, gated: bool) -> Any:
    """The same network, built by transformers."""
    config = DINOv3ViTConfig(
        **{"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "image_size": SIZE},
        **{"intermediate_size": 4 * WIDTH, "use_gated_mlp": gated, "hidden_act": "silu" if gated else "gelu"},
        **{"num_register_tokens": 4, "query_bias": False, "value_bias": False},
    )
    given, wanted = dict(vit.state_dict()), {}
    for layer in range(DEPTH):
        mine, theirs = f"blocks.{layer}.", f"layer.{layer}."
        for letter, part in zip("qkv", given.pop(f"{mine}attn.qkv.weight").chunk(3), strict=True):
            wanted[f"{theirs}attention.{letter}_proj.weight"] = part
        names = {"attn.proj": "attention.o_proj", "norm1": "norm1", "norm2": "norm2"}
        names |= {"mlp.fc1_g": "mlp.gate_proj", "mlp.fc1_x": "mlp.up_proj"} if gated else {"mlp.fc1": "mlp.up_proj"}
        for name, other in {**names, "mlp.fc2": "mlp.down_proj"}.items():
            for end in (".weight", ".bias"):
                wanted[theirs + other + end] = given.pop(mine + name + end)
        for number in (1, 2):
            wanted[f"{theirs}layer_scale{number}.lambda1"] = given.pop(f"{mine}gamma_{number}")
    wanted |= {
        "embeddings.cls_token": given.pop("cls_token"),
        "embeddings.register_tokens": given.pop("reg_token"),
        "embeddings.patch_embeddings.weight": given.pop("patch_embed.proj.weight"),
        "embeddings.patch_embeddings.bias": given.pop("patch_embed.proj.bias"),
        "norm.weight": given.pop("norm.weight"),
        "norm.bias": given.pop("norm.bias"),
    }
    assert given == {}
    other = DINOv3ViTModel(config).eval()
    ours = set(other.state_dict()) - {"embeddings.mask_token"}
    names_of = {name: name if name in ours else f"model.{name}" for name in wanted}
    report = other.load_state_dict({names_of[name]: tensor for name, tensor in wanted.items()}, strict=False)
    assert report.unexpected_keys == []
    assert report.missing_keys == ["embeddings.mask_token"]
    return other


def seen_by(extractor: FeatureExtractor, photos: list[np.ndarray]) -> torch.Tensor:
    """What the network is given for photos, (B, 3, S, S)."""
    seen: list[torch.Tensor] = []
    hook = extractor._vit.patch_embed.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    extractor(photos)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("preset", ["dinov3_vits16", "dinov3_vits16plus"])
def test_tokens_are_those_of_transformers(preset: str) -> None:
    vit = tiny(preset)
    extractor = FeatureExtractor(vit, config_of(preset))
    other = of_transformers(vit, gated=preset.endswith("plus"))
    pixels = seen_by(extractor, PHOTOS)
    with torch.inference_mode():
        tokens = extractor._features(pixels, ["tokens"])["tokens"]
        expected = other(pixel_values=pixels).last_hidden_state[:, 5:]
    assert tokens.shape == (2, 36, WIDTH)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in ("queries", "keys", "values")),
        *((kind, {"qkv_bias": True}) for kind in ("queries", "keys")),  # timm adds that of values where no hook is
        *((kind, {"qkv_fused": False, "qkv_bias": True}) for kind in ("queries", "keys", "values")),
    ],
)
def test_keys_and_queries_are_those_before_the_rotation(kind: str, changes: dict[str, Any]) -> None:
    """Read by hooks out of a whole forward pass, where the norms that come before the rotation get them."""
    vit = tiny("dinov3_vits16", **changes)
    seen: dict[str, torch.Tensor] = {}
    attention = vit.blocks[-1].attn
    for name, norm in (("queries", attention.q_norm), ("keys", attention.k_norm)):
        norm.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    if attention.qkv is None:
        attention.v_proj.register_forward_hook(lambda _m, _i, out: seen.update(values=out))
    else:
        attention.qkv.register_forward_hook(lambda _m, _i, out: seen.update(values=out.chunk(3, dim=-1)[2]))
    extractor = FeatureExtractor(vit, config_of("dinov3_vits16", kind))
    pixels = seen_by(extractor, PHOTOS)
    seen.clear()
    with torch.inference_mode():
        vit.forward_features(pixels)
    expected = seen[kind]
    if kind != "values":
        expected = expected.transpose(1, 2).flatten(-2)
    torch.testing.assert_close(extractor(PHOTOS), expected[:, 5:].half(), rtol=1e-3, atol=1e-5)


def test_the_rotation_would_say_how_far_apart_patches_lie() -> None:
    """Patches that look alike have like keys, wherever they are; turned by their places they have not."""
    vit = tiny("dinov3_vits16")
    blank = [np.full((SIZE, SIZE, 3), 90, np.uint8)]
    extractor = FeatureExtractor(vit, config_of("dinov3_vits16", "keys"))
    keys_ND = extractor(blank)[0].float()
    heads_HNd = keys_ND.unflatten(-1, (HEADS, -1)).transpose(0, 1)
    turned = apply_rot_embed_cat(heads_HNd, vit.rope.get_embed((6, 6)), half=True)
    turned_ND = turned.transpose(0, 1).flatten(-2)

    def least(features_ND: torch.Tensor) -> float:
        unit = torch.nn.functional.normalize(features_ND, dim=-1)
        return float((unit @ unit.T).min())

    assert least(keys_ND) > 0.99
    assert least(turned_ND) < 0.8


@pytest.mark.parametrize("name", DINOV3)
def test_presets_are_of_their_models(name: str) -> None:
    preset = PRESETS[name]
    assert preset.tau is None
    assert (preset.config.kind, preset.config.size // preset.config.patch_size) == ("tokens", 60)
    with torch.device("meta"):
        vit: Any = timm.create_model(preset.config.model, num_classes=0)
    width, depth, gated = {
        "dinov3_vits16": (384, 12, False),
        "dinov3_vits16plus": (384, 12, True),
        "dinov3_vitb16": (768, 12, False),
        "dinov3_vitl16": (1024, 24, False),
    }[name]
    assert (vit.embed_dim, len(vit.blocks), hasattr(vit.blocks[0].mlp, "fc1_g")) == (width, depth, gated)
    assert vit.patch_embed.patch_size == (16, 16)
    assert (vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"]) == (preset.config.mean, preset.config.std)
