"""Masks that pydensecrf made of photos and of drawn images, recorded once: recorded_crf.npz holds them and no photos.

Where pydensecrf2 is installed and the shared photos are, this records them again:

    PYTHONPATH=.:tests python tests/support/recorded_crf.py

H, W pixels · M masks of an image
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from stages.crf import CrfConfig

RECORDING = Path(__file__).with_suffix(".npz")

PHOTOS = ((240, 40), (480, 12))  # size in pixels, number of photos
DRAWN = ((37, 50), (64, 31), (1, 1), (1, 40))  # height, width
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"iterations": 1},
    {"gaussian_sxy": 2.0, "bilateral_sxy": 9.0, "bilateral_srgb": 20.0},
)

Case = tuple[str, torch.Tensor, torch.Tensor]  # key, image (H, W, 3) uint8, masks (M, H, W) bool


def photos(folder: Path, size: int, count: int) -> list[Case]:
    """COCO photos at size² with up to three of their largest instances, blurred to a 60×60 grid and up-sampled."""
    coco = json.loads((folder / "instances.json").read_text())
    cases = []
    for image in coco["images"]:
        own = [a for a in coco["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        masks = []
        for annotation in sorted(own, key=lambda a: -a["area"])[:3]:
            height, width = image["height"], image["width"]
            rle = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], height, width))
            grid = Image.fromarray(coco_mask.decode([rle])[:, :, 0] * 255).resize((60, 60), Image.Resampling.BILINEAR)
            coarse = np.asarray(grid.resize((size, size), Image.Resampling.NEAREST)) > 127
            if coarse.mean() > 0.01:
                masks.append(coarse)
        if masks:
            photo = Image.open(folder / "images" / image["file_name"]).convert("RGB")
            rgb = np.array(photo.resize((size, size), Image.Resampling.LANCZOS))
            name = f"{size}/{image['file_name']}"
            cases.append((name, torch.from_numpy(rgb), torch.from_numpy(np.stack(masks))))
        if len(cases) == count:
            return cases
    raise ValueError(f"fewer than {count} photos with instances in {folder}")


def drawn(height: int, width: int, setting: int) -> Case:
    """An image and three masks drawn by seed; `setting` is a position in SETTINGS."""
    return f"drawn/{height}x{width}/{setting}", random_image(height, width, 5), random_masks(3, height, width, 6)


def random_image(height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return torch.from_numpy((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def random_masks(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    grid = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(grid, (height, width), mode="bilinear")[:, 0] > 0.5


class Recording:
    """What pydensecrf made of the cases."""

    def __init__(self) -> None:
        with np.load(RECORDING) as arrays:
            self._arrays: Mapping[str, np.ndarray] = dict(arrays)

    def masks(self, case: Case) -> torch.Tensor:
        """Masks (M, H, W) bool. ValueError when the case is no longer what was recorded."""
        key, image, masks = case
        bits, digest = self._arrays[key], self._arrays[f"{key} made of"]
        if digest.tobytes() != _digest(image, masks):
            raise ValueError(f"{key} is not the image and masks of {RECORDING.name}: record again, see {__file__}")
        pixels = np.unpackbits(bits, count=masks.numel()).reshape(masks.shape)
        return torch.from_numpy(pixels.astype(bool))


def _digest(image: torch.Tensor, masks: torch.Tensor) -> bytes:
    return hashlib.sha256(image.numpy().tobytes() + masks.numpy().tobytes()).digest()[:8]


def main() -> None:
    from conftest import ASSETS

    from support.reference_crf import crf_of_an_image

    cases = [(case, CrfConfig()) for size, count in PHOTOS for case in photos(ASSETS / "coco", size, count)]
    for height, width in DRAWN:
        cases += [(drawn(height, width, i), CrfConfig(**settings)) for i, settings in enumerate(SETTINGS)]
    arrays: dict[str, np.ndarray] = {}
    for (key, image, masks), config in cases:
        arrays[key] = np.packbits(crf_of_an_image(image, masks, config).numpy())
        arrays[f"{key} made of"] = np.frombuffer(_digest(image, masks), np.uint8)
    np.savez_compressed(RECORDING, **arrays)
    print(f"{len(cases)} images: {RECORDING.stat().st_size / 1e3:.0f} kB in {RECORDING}")


if __name__ == "__main__":
    main()
