"""A run that any process can launch by its settings alone: real code all through, a ViT of 60 thousand weights drawn at
random, depth maps made from brightness, photos of two discs.
"""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.runs.launch import Launch
from support.tiny_method import draw_photos


def tiny_launch(folder: Path, images: int = 12, shard_size: int = 3) -> Launch:
    """Draw `images` photos and all that goes with them below `folder`; the launch that uses them."""
    photos, maps = folder / "photos", folder / "depth"
    maps.mkdir(parents=True)
    for photo in draw_photos(photos, images):
        np.save(maps / f"{photo.stem}.npy", np.asarray(Image.open(photo), np.float32).mean(axis=2))
    torch.manual_seed(0)
    weights = folder / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), weights)
    overrides = ("features.size=128", "affinity.tau=0.1", "refine.size=64", "refine.crf=none")
    return Launch(
        str(photos),
        settings={"features": f"test_vit={weights}", "depth": f"maps:{maps}"},
        overrides=overrides,
        shard_size=shard_size,
    )
