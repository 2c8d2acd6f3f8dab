"""A photo with its instances drawn on it, for people.

H, W pixels · M masks · Gh, Gw patch grid · K places for a label · L labels placed
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
    full colour, each with its score on a label of its colour. An image without masks says so.
    """
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
    labels = Labels(picture)
    if not masks:
        labels.write((0, 0), "no masks", (255, 255, 255))
    above = np.zeros((size[1], size[0]), bool)
    for m in reversed(order):  # small ones first, as they have fewer places for a label
        if small[m].any():
            visible = small[m] & ~above
            at = deepest(visible if visible.any() else small[m])
            labels.write(at, f"{record.instances[m].score:.2f}", tuple(int(c) for c in colours[m]))
        above |= small[m]
    return picture


def deepest(mask_HW: np.ndarray) -> tuple[int, int]:
    """Row and column of the pixel that lies deepest inside a mask, to within a 200th of the picture."""
    step = max(1, max(mask_HW.shape) // 200)
    inside = np.pad(mask_HW[::step, ::step], 1)
    if not inside.any():  # it lies between the pixels looked at
        row, column = np.argwhere(mask_HW)[0]
        return int(row), int(column)
    row, column = np.unravel_index(scipy.ndimage.distance_transform_cdt(inside).argmax(), inside.shape)
    return int(row - 1) * step, int(column - 1) * step


def decode(rle: bytes, size: tuple[int, int]) -> np.ndarray:
    """COCO run-length code -> (H, W) bool, row by row in memory; size: height, width."""
    # pycocotools goes by columns, and some savers take memory as it lies: findings/safetensors_coco_mask.sh
    return coco_mask.decode({"size": list(size), "counts": rle}).astype(bool, order="C")


def _resize(map_2d: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(map_2d).resize(size, Image.Resampling.BILINEAR))


class Labels:
    """Labels on a picture, sized to it, none of which covers another as long as there is room."""

    def __init__(self, picture: Image.Image) -> None:
        self._pen = ImageDraw.Draw(picture)
        self._size = picture.size
        self._font = ImageFont.load_default(size=max(10, min(max(picture.size) // 42, min(picture.size) // 12)))
        self._placed = np.empty((0, 4))

    def room(self, text: str) -> float:
        """Pixels that it takes."""
        _, _, _, wide, high = self._measured(text)
        return wide * high

    def write(self, near: tuple[int, int], text: str, colour: tuple[int, ...]) -> None:
        """A text on its colour, centred at a row and column, or as near to that as no other label is."""
        left, top, margin, wide, high = self._measured(text)
        x, y = self._free_place(near, wide, high)
        is_bright = np.dot(colour, (0.299, 0.587, 0.114)) > 110
        ink = (0, 0, 0) if is_bright else (255, 255, 255)
        self._pen.rounded_rectangle((x, y, x + wide - 1, y + high - 1), margin, fill=colour, outline=ink)
        self._pen.text((x + margin - left, y + margin - top), text, fill=ink, font=self._font)

    def _measured(self, text: str) -> tuple[float, float, int, float, float]:
        """Where a text begins, left and top, and margin, width and height of its label."""
        left, top, right, bottom = self._pen.textbbox((0, 0), text, font=self._font)
        margin = max(2, round((bottom - top) / 3))
        return left, top, margin, right - left + 2 * margin, bottom - top + 2 * margin

    def _free_place(self, near: tuple[int, int], wide: float, high: float) -> tuple[int, int]:
        """Left and top of the label."""
        label = np.array((wide, high))
        room = (np.array(self._size) - label).clip(0)
        wish = np.clip(np.array(near)[::-1] - label / 2, 0, room)
        across, down = (np.arange(0, side + 1, high / 3) for side in room)
        places_K2 = np.vstack([[wish], np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)])
        ends_K2 = places_K2 + label + 1
        begins_KL2 = np.maximum(places_K2[:, None], self._placed[:, :2])
        shared_KL2 = np.minimum(ends_K2[:, None], self._placed[:, 2:]) - begins_KL2
        covered_K = shared_KL2.clip(0).prod(axis=2).sum(axis=1)
        best = int(np.lexsort((np.linalg.norm(places_K2 - wish, axis=1), covered_K))[0])
        self._placed = np.vstack([self._placed, [*places_K2[best], *ends_K2[best]]])
        return round(places_K2[best, 0]), round(places_K2[best, 1])
