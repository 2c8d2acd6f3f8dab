"""Masks that the plain transcription of MaskCut finds in photos, recorded once: recorded_maskcut.npz.

Its dense solves take a second a photo and do not change. Where the shared photos and weights are, this records again:

    PYTHONPATH=.:tests python tests/support/recorded_maskcut.py
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.models.load import load_features
from support.made_once import made_once
from support.reference_maskcut import maskcut

RECORDING = Path(__file__).with_suffix(".npz")

PHOTOS = 50
GRID = (30, 30)
TAU = 0.3
ROUNDS = 3


def photos(assets: Path, factory: pytest.TempPathFactory | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Id of each photo and its features (N, D) float16, of DINOv2 ViT-S/14 on GRID.

    factory: of a test; the features, a second of the network per photo, are then computed once for all tests.
    """
    weights = assets / "weights" / "dinov2_vits14_fp16.safetensors"
    extractor = cache(lambda: load_features(f"dinov2_vits14={weights}", "cpu", {"size": 14 * GRID[0]}))
    for place, ref in enumerate(list_images(str(assets / "coco" / "images")).refs[:PHOTOS]):

        def read(ref: ImageRef = ref) -> np.ndarray:
            features: np.ndarray = extractor()([load_photo(ref).rgb])[0].numpy()
            return features

        if factory is None:
            yield ref.id, read()
        else:
            folder = made_once(
                factory, f"photo-{place}", lambda into, read=read: np.save(into / "features.npy", read())
            )
            yield ref.id, np.load(folder / "features.npy")


def transcribed(features_ND: np.ndarray, grid: tuple[int, int], tau: float, rounds: int) -> np.ndarray:
    """(rounds, Gh, Gw) bool: what each round of the transcription puts out, nothing where it drops its mask."""
    found = maskcut(features_ND.astype(np.float64), grid, tau, rounds, peak_positive=True)
    return np.stack([one.output for one in found])


def recorded() -> dict[str, np.ndarray]:
    """By photo, what `transcribed` made of it."""
    shape = (ROUNDS, *GRID)
    with np.load(RECORDING) as arrays:
        return {
            name: np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
            for name, bits in arrays.items()
        }


def main() -> None:
    from conftest import ASSETS

    masks = {name: np.packbits(transcribed(features, GRID, TAU, ROUNDS)) for name, features in photos(ASSETS)}
    np.savez_compressed(RECORDING, **masks)
    print(f"{len(masks)} photos: {RECORDING.stat().st_size / 1e3:.0f} kB in {RECORDING}")


if __name__ == "__main__":
    main()
