"""A photo with its classes on it and a legend below, for people.

H, W pixels of the picture · C classes
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.results.instance_overlay import LONG_SIDE
from pipeline.results.semantic import NONE, SemanticRecord

STRENGTH = 0.55  # of the colours over the photo
_INK, _PAPER = (30, 30, 30), (250, 250, 250)


def draw_overlay(rgb_HW3: np.ndarray, record: SemanticRecord) -> Image.Image:
    """The photo, (H, W, 3) uint8, in grey, its pixels in the colours of their classes, lines between classes, and below
    it the classes of the image with their shares, the largest first. Pixels without a class stay grey.
    """
    size = shown_size(record.size)
    labels_HW = shown_map(record.labels, size)
    strength_HW = np.where(edges(labels_HW), 1.0, STRENGTH)
    return with_legend(Image.fromarray(coloured(rgb_HW3, labels_HW, strength_HW, record)), record)


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the picture of an image of this height and width."""
    scale = min(1.0, LONG_SIDE / max(size))
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))


def shown_map(map_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map of numbers, uint8 or uint16, at the picture's width and height."""
    picture = Image.fromarray(map_HW.astype(np.int32) if map_HW.dtype == np.uint16 else map_HW)
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def coloured(rgb_HW3: np.ndarray, labels_HW: np.ndarray, strength_HW: np.ndarray, record: SemanticRecord) -> np.ndarray:
    """The photo in grey under the colours of its labels, uint8 (H, W, 3).

    labels_HW: at the picture's size, as `strength_HW`, 0..1, of the colours; pixels without a class stay grey.
    """
    size = labels_HW.shape[1], labels_HW.shape[0]
    grey_HW1 = np.asarray(Image.fromarray(rgb_HW3).convert("L").resize(size, Image.Resampling.LANCZOS))[..., None]
    alpha_HW1 = strength_HW[..., None] * (labels_HW != NONE)[..., None]
    return (grey_HW1 * (1 - alpha_HW1) + colour_table(record)[labels_HW] * alpha_HW1).astype(np.uint8)


def colour_table(record: SemanticRecord) -> np.ndarray:
    """Colour of each label, uint8 (256, 3); black for those that are no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(record.classes)] = record.classes.colours
    return table


def edges(labels_HW: np.ndarray) -> np.ndarray:
    """bool (H, W): pixels whose right or lower neighbour has another label."""
    edges_HW = np.zeros(labels_HW.shape, bool)
    edges_HW[:, :-1] |= labels_HW[:, :-1] != labels_HW[:, 1:]
    edges_HW[:-1] |= labels_HW[:-1] != labels_HW[1:]
    return edges_HW


def with_legend(
    picture: Image.Image, record: SemanticRecord, notes: Mapping[int, str] = MappingProxyType({})
) -> Image.Image:
    """The picture above the classes of its image and their shares, the largest first. notes: more words, by class."""
    height = max(11, min(18, max(picture.size) // 50))
    font = ImageFont.load_default(size=height)
    entries = [
        (record.classes.colours[c], f"{record.classes.names[c]}  {_percent(record.shares[c])}{notes.get(int(c), '')}")
        for c in np.argsort(-np.array(record.pixels), kind="stable")
        if record.pixels[c]
    ]
    if record.unlabelled:
        entries.append(((0, 0, 0), f"no class  {_percent(record.unlabelled / record.n_pixels)}"))
    line = round(height * 1.6)
    gap, swatch = round(height * 0.6), height
    widths = [swatch + gap + int(font.getlength(text)) + 2 * gap for _, text in entries]
    width = max(picture.width, *widths) + 2 * gap
    places, x, y = [], gap, gap
    for wide in widths:
        if x > gap and x + wide > width - gap:
            x, y = gap, y + line
        places.append((x, y))
        x += wide
    sheet = Image.new("RGB", (max(picture.width, width - 2 * gap), picture.height + y + line + gap), _PAPER)
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    for (colour, text), (left, top) in zip(entries, places, strict=True):
        top += picture.height
        pen.rectangle((left, top, left + swatch, top + swatch), fill=colour, outline=_INK)
        pen.text((left + swatch + gap, top + swatch / 2), text, fill=_INK, font=font, anchor="lm")
    return sheet


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "< 1%"
