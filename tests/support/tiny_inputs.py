"""Training inputs without weights: crops of 32 pixels on a tiny random ViT, 4 x 4 patches, depth from brightness."""

from pathlib import Path

import torch

from pipeline.engine.run import run
from pipeline.methods.depthg.crops import CropConfig
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.inputs_method import InputsMethod
from pipeline.methods.depthg.inputs_settings import NAME
from pipeline.runs.launch import Launch
from stages.depth import DepthModel
from stages.features import FeatureConfig, FeatureExtractor
from support.tiny_method import BrightnessDepth, draw_photos, tiny_vit

SIDE, GRID, WIDTH = 32, 4, 32
FIVE, BRIGHTNESS = CropConfig(), BrightnessDepth()


def tiny_inputs(crops: CropConfig = FIVE, depth: DepthModel | None = BRIGHTNESS) -> InputsMethod:
    """Features and depth of the crops of any photo in a millisecond or two."""
    config = FeatureConfig(model="tiny", patch_size=8, kind="tokens", centred=False, size=SIDE)
    return InputsMethod(crops, FeatureExtractor(tiny_vit(), config), depth, torch.device("cpu"))


def run_inputs(photos: Path, out: Path, method: InputsMethod | None = None, shard_size: int = 2) -> TrainingInputs:
    """A run of all photos of a folder, opened."""
    run(out, Launch(str(photos), recipe=NAME, shard_size=shard_size), method=method or tiny_inputs())
    return TrainingInputs.open(out)


def drawn_inputs(folder: Path, photos: int = 5, method: InputsMethod | None = None) -> TrainingInputs:
    """The same of photos that are drawn."""
    draw_photos(folder / "photos", photos)
    return run_inputs(folder / "photos", folder / "inputs", method)
