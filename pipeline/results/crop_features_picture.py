"""A picture of features and depth, to see at a glance whether they show what the photo shows.

K crops of the photo · D feature width · h, w patch grid of a crop
"""

import numpy as np
from PIL import Image

from pipeline.results.crop_features import CropFeatures

_TILE, _GAP = 96, 4  # pixels


def draw_crops(rgb_HW3: np.ndarray, result: CropFeatures) -> Image.Image:
    """The photo; below it, for each crop, its features and its depth, dark = near."""
    colours = _colours(result.features)
    rows = [[Image.fromarray(crop) for crop in colours]]
    if result.depth is not None:
        rows.append([Image.fromarray((255 * np.clip(depth, 0, 1)).astype(np.uint8)) for depth in result.depth])
    width = len(colours) * (_TILE + _GAP) - _GAP
    photo = Image.fromarray(rgb_HW3)
    photo.thumbnail((max(width, 3 * _TILE), 3 * _TILE))
    page = Image.new("RGB", (max(width, photo.width), photo.height + len(rows) * (_TILE + _GAP)), "white")
    page.paste(photo)
    for i, tiles in enumerate(rows):
        top = photo.height + _GAP + i * (_TILE + _GAP)
        for k, tile in enumerate(tiles):
            page.paste(tile.resize((_TILE, _TILE), Image.Resampling.NEAREST), (k * (_TILE + _GAP), top))
    return page


def _colours(features_KDhw: np.ndarray) -> np.ndarray:
    """uint8 (K, h, w, 3): the three directions in which the patches of all crops differ most, as red, green, blue."""
    crops, width, *grid = features_KDhw.shape
    patches = features_KDhw.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, width)
    patches = patches - patches.mean(axis=0)
    _, vectors = np.linalg.eigh(patches.T @ patches)
    found = patches @ vectors[:, ::-1][:, :3]
    found = np.pad(found, ((0, 0), (0, 3 - found.shape[1])))  # of features of one or two numbers
    low, high = np.percentile(found, (2, 98), axis=0)
    shares = np.clip((found - low) / np.where(high > low, high - low, 1), 0, 1)
    return (255 * shares).astype(np.uint8).reshape(crops, *grid, 3)
