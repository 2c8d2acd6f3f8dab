"""A method that needs no weights and takes milliseconds: a tiny random ViT on 64×64 pixels, depth from brightness."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from timm.models.vision_transformer import VisionTransformer

from pipeline.engine import checks
from pipeline.engine import run as runner
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.cuts.recipes import get_recipe
from pipeline.methods.cuts.settings import with_thresholds
from pipeline.runs.launch import Launch
from stages.depth import relative_depth
from stages.feature_presets import FeaturePreset
from stages.features import FeatureConfig, FeatureExtractor
from stages.patch_merging import MergeThresholds


class BrightnessDepth:
    """Darker is nearer."""

    name = "brightness"
    fingerprint = "brightness/1"

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        return [relative_depth(image.mean(axis=2), "depth", id_) for image, id_ in zip(images, ids, strict=True)]


def tiny_vit() -> VisionTransformer:
    """Two blocks on 64×64 pixels, its weights the same every time."""
    torch.manual_seed(0)
    return VisionTransformer(img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)


def tiny_method(recipe: str = "cuts3d", overrides: Sequence[str] = (), device: str = "cpu") -> CutsMethod:
    """The named recipe on an 8×8 grid. LocalCut's threshold is left alone: it goes with the grid."""
    config = FeatureConfig(model="tiny", patch_size=8, kind="tokens", centred=True, size=64)
    chosen = get_recipe(recipe, ["refine.size=64", "refine.crf=none", *overrides])
    merge = MergeThresholds(0.1, 0.1, 0.1)
    preset = FeaturePreset(config, 0.1, levels=(0.7, 0.4, 0.1), merge=merge, adjacent=merge)
    chosen = with_thresholds(chosen, preset, config.model)
    depth = BrightnessDepth() if chosen.needs_depth else None
    return CutsMethod(chosen, FeatureExtractor(tiny_vit(), config, device), depth, torch.device(device))


def in_place_of_models(patch: pytest.MonkeyPatch, load: Callable[[Launch], CutsMethod]) -> None:
    """Every run of this process works with what `load` makes of its launch; what the launch itself tells of the models
    that it names is not held against the run.
    """
    patch.setattr(runner, "load_method", lambda launch, device, until: load(launch))
    patch.setattr(checks, "known_config", lambda *_: {})


def photos_and_a_broken_one(folder: Path, n: int) -> Path:
    """n of `draw_photos`, and broken.png, which ends too early."""
    draw_photos(folder, n)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


def draw_photos(folder: Path, n: int, seed: int = 0) -> list[Path]:
    """n pictures of two discs on a bright background, 80 pixels wide."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i in range(n):
        image = Image.new("RGB", (80, 64 + i % 3), (230, 230, 210))
        pen = ImageDraw.Draw(image)
        for colour in ((120, 30, 30), (20, 20, 90)):
            x, y, r = (int(v) for v in rng.integers((15, 15, 8), (65, 50, 16)))
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        files.append(folder / f"{i:03d}.png")
        image.save(files[-1])
    return files
