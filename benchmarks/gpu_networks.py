"""The networks that `benchmarks/gpu.py` runs: the real ones, and random ones of the size of those that cannot travel.

A random network takes the time and memory of the real one. What it says means nothing, so the stages after it, whose
time depends on what there is to cut, are only roughly those of the real one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

from pipeline.models.load import feature_preset
from pipeline.runs.launch import Launch


@dataclass(frozen=True)
class DepthSize:
    """Of a Depth Anything V2: width and heads of its DINOv2 (12 blocks), pixels of the input, channels of its head."""

    width: int
    heads: int
    image: int
    neck: tuple[int, int, int, int]
    fusion: int


# As published: 24.8 and 97.5 million parameters.
DEPTH_SIZES = {
    "small": DepthSize(384, 6, 518, (48, 96, 192, 384), 64),
    "base": DepthSize(768, 12, 518, (96, 192, 384, 768), 128),
    "tiny": DepthSize(32, 2, 56, (16, 16, 16, 16), 16),
}
# A random ViT's cosines have a large part that all patches share, which centring takes out.
CENTRED = "features.centred=true"
TINY = ("features.size=128", "affinity.tau=0.1", "refine.size=64", "refine.crf=none")


def real_launch(assets: Path) -> Launch:
    """DINOv2 ViT-S/14 at 840, and FastDepth, out of `assets`/weights."""
    weights = assets / "weights"
    features = f"dinov2_vits14={weights / 'dinov2_vits14_fp16.safetensors'}"
    return Launch(settings={"features": features, "depth": str(weights / "fastdepth.onnx")})


def tiny_launch(folder: Path) -> Launch:
    """The smallest of both kinds, random, written below `folder`."""
    settings = {"features": random_vit("test_vit", folder), "depth": random_depth("tiny", folder)}
    return Launch(settings=settings, overrides=(*TINY, CENTRED))


def large_launches(folder: Path) -> dict[str, Launch]:
    """DINO's ViT-B/8 at 480, with Depth Anything V2 in two sizes, random, written below `folder`; by name."""
    features = random_vit("dino_vitb8", folder)
    return {
        f"vitb8 depth-anything-v2-{size}": Launch(
            settings={"features": features, "depth": random_depth(size, folder)},
            overrides=(CENTRED, "affinity.tau=0.15"),
        )
        for size in ("small", "base")
    }


def random_vit(name: str, folder: Path) -> str:
    """Weights for `--features`: NAME=FILE. name: of a preset or of timm."""
    file = folder / f"{name}.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        model = timm.create_model(feature_preset(name)[0].config.model, pretrained=False, num_classes=0)
        save_file(model.state_dict(), file)
    return f"{name}={file}"


def random_depth(size: str, folder: Path) -> str:
    """A folder for `--depth`. size: of DEPTH_SIZES."""
    target = folder / f"depth-anything-{size}"
    if not (target / "config.json").exists():
        torch.manual_seed(0)
        DepthAnythingForDepthEstimation(depth_config(DEPTH_SIZES[size])).save_pretrained(target)
        depth_processor(DEPTH_SIZES[size].image).save_pretrained(target)
    return str(target)


def depth_config(size: DepthSize) -> DepthAnythingConfig:
    """A Depth Anything V2 of this size, of relative depth."""
    backbone: Any = Dinov2Config(
        image_size=size.image,
        patch_size=14,
        hidden_size=size.width,
        num_hidden_layers=12,
        num_attention_heads=size.heads,
        out_features=["stage3", "stage6", "stage9", "stage12"],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=size.width,
        neck_hidden_sizes=list(size.neck),
        fusion_hidden_size=size.fusion,
        head_hidden_size=32,
    )


def depth_processor(image: int) -> DPTImageProcessor:
    """The published preprocessing: the shorter side to `image` pixels, the aspect kept, multiples of 14."""
    return DPTImageProcessor(
        size={"height": image, "width": image},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


def parameters(model: torch.nn.Module) -> int:
    """How many weights a network has."""
    return sum(p.numel() for p in model.parameters())
