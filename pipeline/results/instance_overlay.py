"""A photo with its instances drawn on it, for people.

H, W pixels · M masks · Gh, Gw patch grid
"""

import colorsys

import numpy as np
import scipy
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from pipeline.results.instances import ImageRecord

LONG_SIDE = 1024  # pixels; larger photos are drawn at this size


def instance_colours(n: int) -> np.ndarray:
    """n colours that differ as much from each other as may be, (n, 3) uint8: steps of the golden ratio around the
    hues.
    """
    hues = [(0.48 + i * 0.618034) % 1.0 for i in range(n)]
    return np.array([[round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 1.0)] for hue in hues], np.uint8)


def draw_overlay(rgb_HW3: np.ndarray, record: ImageRecord) -> Image.Image:
    """The photo, (H, W, 3) uint8, with the masks of its record: filled as strongly as they are confident, outlined in
    full colour, labelled with their scores. An image without masks says so."""
    masks = [decode(instance.rle, record.size) for instance in record.instances]
    scale = min(1.0, LONG_SIDE / max(rgb_HW3.shape[:2]))
    size = (max(1, round(rgb_HW3.shape[1] * scale)), max(1, round(rgb_HW3.shape[0] * scale)))
    canvas = np.asarray(Image.fromarray(rgb_HW3).resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    small = [_resize(mask.astype(np.float32), size) > 0.5 for mask in masks]
    colours = instance_colours(len(masks))
    order = sorted(range(len(masks)), key=lambda m: -int(small[m].sum()))  # small ones on top
    width = max(1, round(max(size) / 400))
    for m in order:
        confidence = _resize(record.instances[m].confidence.astype(np.float32) / 255, size)
        alpha_HW1 = (0.6 * np.clip(confidence, 0.15, 1.0) * small[m])[..., None]
        canvas = canvas * (1 - alpha_HW1) + colours[m] * alpha_HW1
        inner = scipy.ndimage.binary_erosion(small[m], iterations=width, border_value=0)
        canvas[small[m] & ~inner] = colours[m]
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    text_size = max(10, max(size) // 36)
    if not masks:
        _label(pen, (4, 4), "no masks", (255, 255, 255), text_size)
    for m in order:
        rows, columns = np.nonzero(small[m])
        if len(rows):
            at = (int(columns.min()) + 2 * width, int(rows.min()) + 2 * width)
            _label(pen, at, f"{record.instances[m].score:.2f}", tuple(int(c) for c in colours[m]), text_size)
    return picture


def decode(rle: bytes, size: tuple[int, int]) -> np.ndarray:
    """COCO run-length code -> (H, W) bool, row by row in memory; size: height, width."""
    # pycocotools goes by columns, and some savers take memory as it lies: findings/safetensors_coco_mask.sh
    return coco_mask.decode({"size": list(size), "counts": rle}).astype(bool, order="C")


def _resize(map_2d: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(map_2d).resize(size, Image.Resampling.BILINEAR))


def _label(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: tuple[int, ...], size: int) -> None:
    font = ImageFont.load_default(size=size)
    pen.text(at, text, fill=colour, font=font, stroke_width=max(1, size // 8), stroke_fill=(0, 0, 0))
