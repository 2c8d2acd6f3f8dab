"""Patch features: the short cut equals the full forward pass; DINOv2's tell objects from their surroundings."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file
from scipy import ndimage
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from stages.cpu_products import onednn_keeps_float32, onednn_products
from stages.feature_presets import PRESETS, FeaturePreset
from stages.features import FeatureConfig, FeatureExtractor, NetworkFeatures, patch_side, read_together
from stages.fingerprint import tensors_digest, text_digest

CONFIG = FeatureConfig("tiny", patch_size=8, kind="keys", centred=False, size=48)
PHOTOS = [np.random.default_rng(s).integers(0, 256, (40 + s, 60, 3), dtype=np.uint8) for s in range(3)]


def tiny_vit(**changes: Any) -> Any:
    torch.manual_seed(5)
    vit = VisionTransformer(
        **{"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0, **changes}
    )
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return vit


def full_forward(vit: Any, images: list[np.ndarray], config: FeatureConfig) -> torch.Tensor:
    """Features read by hooks out of a complete forward pass: the independent reference."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        vit.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, out: seen.update(qkv=out)),
        vit.norm.register_forward_hook(lambda _m, _i, out: seen.update(tokens=out)),
    ]
    squares = [Image.fromarray(image).resize((config.size, config.size), Image.Resampling.LANCZOS) for image in images]
    x = torch.stack([torch.from_numpy(np.array(square)) for square in squares]).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)
    with torch.inference_mode():
        vit.eval()(x)
    for hook in hooks:
        hook.remove()
    parts = dict(zip(("queries", "keys", "values"), seen["qkv"].chunk(3, dim=-1), strict=True))
    wanted = seen["tokens"] if config.kind == "tokens" else parts[config.kind]
    wanted = wanted[:, vit.num_prefix_tokens :]
    return (wanted - wanted.mean(dim=1, keepdim=True) if config.centred else wanted).half()


@pytest.mark.parametrize("kind", ["keys", "queries", "values", "tokens"])
@pytest.mark.parametrize(
    "changes", [{}, {"reg_tokens": 4, "no_embed_class": True}, {"class_token": False, "global_pool": ""}]
)
@pytest.mark.parametrize("centred", [False, True])
def test_short_cut_equals_the_full_forward_pass(kind: Any, changes: dict, centred: bool) -> None:
    config = replace(CONFIG, kind=kind, centred=centred)
    expected = full_forward(tiny_vit(**changes), PHOTOS, config)
    found = FeatureExtractor(tiny_vit(**changes), config)(PHOTOS)
    assert found.shape == (3, 36, 32)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["keys", "values", "tokens"])
@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 4, "no_embed_class": True}, {"qk_norm": True}])
def test_attention_of_the_class_token_is_that_of_the_full_forward_pass(kind: Any, changes: dict) -> None:
    config, vit = replace(CONFIG, kind=kind), tiny_vit(**changes)
    seen: dict[str, torch.Tensor] = {}
    for name in ("q_norm", "k_norm"):
        layer = getattr(vit.blocks[-1].attn, name)
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    full_forward(vit, PHOTOS, config)
    q, k = seen["q_norm"], seen["k_norm"]
    expected = (
        (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)[:, :, 0, vit.num_prefix_tokens :].mean(dim=1)
    )
    extractor = FeatureExtractor(tiny_vit(**changes), config)
    features, attention = extractor.with_attention(PHOTOS)
    torch.testing.assert_close(attention, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(features, extractor(PHOTOS), rtol=1e-3, atol=1e-5)
    assert attention.dtype == torch.float32


def test_a_vit_without_a_class_token_has_no_attention_to_read() -> None:
    extractor = FeatureExtractor(tiny_vit(class_token=False, global_pool=""), CONFIG)
    assert not extractor.has_attention
    with pytest.raises(ValueError, match="has no class token"):
        extractor.with_attention(PHOTOS)


def test_last_block_is_not_run_for_keys() -> None:
    vit = tiny_vit()
    extractor = FeatureExtractor(vit, CONFIG)
    before = extractor(PHOTOS)
    torch.nn.init.constant_(vit.blocks[-1].mlp.fc1.weight, torch.nan)
    torch.nn.init.constant_(vit.blocks[-1].attn.proj.weight, torch.nan)
    assert torch.equal(extractor(PHOTOS), before)


def test_keys_of_a_vit_with_normalised_keys_are_the_normalised_ones() -> None:
    changes = {"qk_norm": True}
    vit = tiny_vit(**changes)
    seen: list[torch.Tensor] = []
    vit.blocks[-1].attn.k_norm.register_forward_hook(lambda _m, _i, out: seen.append(out))
    full_forward(vit, PHOTOS, CONFIG)
    expected = seen[0].transpose(1, 2).flatten(-2)[:, 1:].half()
    torch.testing.assert_close(FeatureExtractor(tiny_vit(**changes), CONFIG)(PHOTOS), expected, rtol=1e-3, atol=1e-5)


def test_features_do_not_depend_on_the_batch() -> None:
    extractor = FeatureExtractor(tiny_vit(), CONFIG)
    together = extractor(PHOTOS)
    for photo, expected in zip(PHOTOS, together, strict=True):
        torch.testing.assert_close(extractor([photo])[0], expected, rtol=1e-3, atol=1e-5)


def test_patches_come_row_by_row() -> None:
    photo = np.zeros((48, 48, 3), np.uint8)
    plain = FeatureExtractor(tiny_vit(), CONFIG)([photo])
    photo[8:16, 40:48] = 255
    changed = (FeatureExtractor(tiny_vit(), CONFIG)([photo]) - plain).float().norm(dim=-1)[0]
    assert int(changed.argmax()) == 1 * 6 + 5


def test_grid_follows_the_size_that_is_asked_for() -> None:
    extractor = FeatureExtractor(tiny_vit(), replace(CONFIG, size=80))
    assert extractor.grid == (10, 10)
    assert extractor(PHOTOS).shape == (3, 100, 32)


def test_low_precision_stays_close() -> None:
    exact = FeatureExtractor(tiny_vit(), CONFIG)(PHOTOS).float()
    rough = FeatureExtractor(tiny_vit(), replace(CONFIG, precision="bfloat16"))(PHOTOS).float()
    assert not torch.equal(exact, rough)
    assert torch.cosine_similarity(exact, rough, dim=-1).min() > 0.99


def test_fingerprint_follows_weights_and_configuration() -> None:
    base = FeatureExtractor(tiny_vit(), CONFIG).fingerprint
    assert FeatureExtractor(tiny_vit(), CONFIG).fingerprint == base
    assert FeatureExtractor(tiny_vit(), replace(CONFIG, centred=True)).fingerprint != base
    changed = tiny_vit()
    torch.nn.init.zeros_(changed.norm.bias)
    assert FeatureExtractor(changed, CONFIG).fingerprint != base


def test_digests_see_values_names_and_borders_but_not_float_width() -> None:
    tensor = torch.arange(4.0)
    assert tensors_digest({"a": tensor}) == tensors_digest({"a": tensor.half()})
    assert tensors_digest({"a": tensor, "b": tensor + 1}) == tensors_digest({"b": tensor + 1, "a": tensor})
    different = [{"a": tensor}, {"b": tensor}, {"a": tensor + 1}, {"a": tensor.view(2, 2)}, {"a": tensor.long()}]
    assert len({tensors_digest(tensors) for tensors in different}) == len(different)
    assert text_digest("ab", "c") != text_digest("a", "bc")


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="single block, keys need"):
        FeatureExtractor(tiny_vit(depth=1), CONFIG)
    assert FeatureExtractor(tiny_vit(depth=1), replace(CONFIG, kind="tokens"))(PHOTOS).shape == (3, 36, 32)
    with pytest.raises(ValueError, match="is not a ViT of timm"):
        FeatureExtractor(timm.create_model("test_resnet", num_classes=0), CONFIG)
    with pytest.raises(ValueError, match="patch_size is 8: tiny has"):
        FeatureExtractor(tiny_vit(patch_size=16), CONFIG)
    with pytest.raises(ValueError, match="no plain attention block"):
        FeatureExtractor(tiny_vit(block_fn=ResPostBlock), CONFIG)


@pytest.mark.parametrize(
    "name",
    [
        *("xcit_nano_12_p8_224", "hiera_tiny_224", "sam2_hiera_tiny", "crossvit_9_240", "vit_tiny_r_s16_p8_224"),
        *("vitamin_small_224", "cait_xxs24_224", "samvit_base_patch16", "naflexvit_base_patch16_gap", "test_resnet"),
    ],
)
def test_networks_without_a_feature_per_patch_are_told_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(ValueError, match=type(model).__name__):
        patch_side(model)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("test_vit", 16), ("vit_relpos_small_patch16_224", 16), ("beit_base_patch16_224", 16)),
        ("eva02_tiny_patch14_224", 14),
    ],
)
def test_plain_transformers_of_every_family_are_taken(name: str, side: int) -> None:
    with torch.device("meta"):
        assert patch_side(timm.create_model(name, num_classes=0)) == side


def test_a_network_of_ones_own() -> None:
    class Means(torch.nn.Module):
        """The mean colour of each patch."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)

    config = replace(CONFIG, kind="tokens", mean=(0, 0, 0), std=(1, 1, 1))
    found = NetworkFeatures(Means(), config)([PHOTOS[0], np.full((48, 48, 3), 51, np.uint8)])
    assert (found.shape, found.dtype) == ((2, 36, 3), torch.float16)
    torch.testing.assert_close(found[1], torch.full((36, 3), 0.2).half())
    assert NetworkFeatures(Means(), replace(config, centred=True))([PHOTOS[0]]).mean(dim=1).abs().max() < 1e-3
    with pytest.raises(ValueError, match="kind is keys: tiny gives tokens alone"):
        NetworkFeatures(Means(), CONFIG)
    with pytest.raises(ValueError, match=r"tiny gives \(1, 36, 3\) for photos of 48 pixels, not \(1, 9\)"):
        NetworkFeatures(Means(), replace(config, patch_size=16))([PHOTOS[0]])


def test_broken_weights_are_noticed() -> None:
    vit = tiny_vit()
    torch.nn.init.constant_(vit.blocks[0].mlp.fc1.bias, torch.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        FeatureExtractor(vit, CONFIG)(PHOTOS)
    with pytest.raises(ValueError, match="no images"):
        FeatureExtractor(tiny_vit(), CONFIG)([])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", 50, "size is 50: use a multiple of patch_size"),
        ("size", 8, "from two patches up"),
        ("size", 8 << 40, "size is 8796093022208: use at most 16384 pixels"),
        ("patch_size", 0, "patch_size is 0"),
        ("kind", "attention", "use one of keys, queries, values, tokens"),
        ("std", (1, 0, 1), "std above 0"),
        ("precision", "int8", "precision is 'int8'"),
    ],
)
def test_wrong_settings_are_refused_by_field(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **{field: value})


def test_presets_fit_their_models() -> None:
    assert set(PRESETS) >= {"dino_vits8", "dino_vitb8", "dino_vits16", "dino_vitb16", "dinov2_vitl14_reg"}
    for name, preset in PRESETS.items():
        if name.startswith("dinov3"):  # see test_dinov3
            continue
        with torch.device("meta"):
            vit: Any = timm.create_model(preset.config.model, num_classes=0)
        assert vit.patch_embed.patch_size == (preset.config.patch_size,) * 2, name
        assert bool(vit.reg_token is not None) == name.endswith("_reg"), name
        assert preset.config.size // preset.config.patch_size == (30 if name.endswith("16") else 60), name
        assert (vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"]) == (preset.config.mean, preset.config.std), name
    with pytest.raises(ValueError, match="tau is 1"):
        FeaturePreset(CONFIG, tau=1)


def test_onednn_is_used_only_where_it_is_exact_and_leaves_no_trace() -> None:
    before = torch.get_float32_matmul_precision()
    if onednn_keeps_float32():
        a = torch.randn(300, 500)
        with onednn_products():
            product = a @ a.T
        torch.testing.assert_close(product.double(), a.double() @ a.double().T, rtol=1e-5, atol=1e-4)
    assert torch.get_float32_matmul_precision() == before


def test_threads_that_overlap_leave_no_trace_either() -> None:
    """The first one in may be the first one out: what it found is to be put back by the last."""
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    both_inside, first_is_out = threading.Event(), threading.Event()

    def second() -> None:
        with onednn_products():
            both_inside.set()
            assert first_is_out.wait()

    thread = threading.Thread(target=second, daemon=True)
    with onednn_products():
        thread.start()
        assert both_inside.wait()
    first_is_out.set()
    thread.join()
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def dinov2(assets: Path) -> FeatureExtractor:
    weights = load_file(assets / "weights" / "dinov2_vits14_fp16.safetensors")
    config = replace(PRESETS["dinov2_vits14"].config, size=336)
    vit = timm.create_model(
        config.model, pretrained=True, num_classes=0, pretrained_cfg_overlay={"state_dict": weights}
    )
    return FeatureExtractor(vit, config)


@pytest.mark.slow
def test_dinov2_tells_objects_from_their_surroundings(assets: Path, dinov2: FeatureExtractor) -> None:
    """Patches of one object are more alike than patches of the object and of a ring around it."""
    coco = COCO(str(assets / "coco" / "instances.json"))
    contrasts = []
    for image_id in sorted(coco.imgs)[:6]:
        info = coco.imgs[image_id]
        rgb = np.asarray(Image.open(assets / "coco" / "images" / info["file_name"]).convert("RGB"))
        features_ND = torch.nn.functional.normalize(dinov2([rgb])[0].float(), dim=-1)
        for annotation in coco.imgToAnns[image_id]:
            mask = Image.fromarray(coco.annToMask(annotation) * np.uint8(255)).resize(dinov2.grid[::-1])
            inside = np.asarray(mask) > 127
            ring = ndimage.maximum_filter(inside, 7) & ~ndimage.maximum_filter(inside, 3)
            if annotation.get("iscrowd") or inside.sum() < 12 or ring.sum() < 12:
                continue
            centre = features_ND[inside.ravel()].mean(dim=0)
            contrasts.append(
                float((features_ND @ centre)[inside.ravel()].mean() - (features_ND @ centre)[ring.ravel()].mean())
            )
    assert len(contrasts) > 10
    assert np.mean(np.array(contrasts) > 0) > 0.95
    assert np.mean(contrasts) > 0.1


def test_readings_of_one_network_are_what_each_gives_alone() -> None:
    passes = []
    first = FeatureExtractor(tiny_vit(), replace(CONFIG, kind="tokens"))
    first.network.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    readings = [first, first.reading("keys", True), first.reading("keys", False), first.reading("values", False)]
    together = read_together(readings, PHOTOS)
    assert len(passes) == 1
    for reading, found in zip(readings, together, strict=True):
        alone = FeatureExtractor(tiny_vit(), reading.config)
        assert reading.fingerprint == alone.fingerprint
        torch.testing.assert_close(found, alone(PHOTOS), rtol=0, atol=2e-3)
    assert len({reading.fingerprint for reading in readings}) == 4
    with pytest.raises(ValueError, match="from one network"):
        read_together([first, FeatureExtractor(tiny_vit(), CONFIG)], PHOTOS)
