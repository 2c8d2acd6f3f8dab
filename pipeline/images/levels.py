"""Pictures of more than 8 bits, as cameras, scanners and satellites store them, as 8-bit ones.

Full scale of integers is 255 or 65535, of floats 1. What uses less than a quarter of that would be nearly black, and
what goes beyond it has no full scale: both are stretched, which is said. Values that stand for "no data" are left out.
"""

import io
import sys

import numpy as np
from PIL import Image

from pipeline.wording import counted

# 10 to 14 bits in 16, and 8
_FEWER_BITS = (255.0, 1023.0, 4095.0, 16383.0)
_SIXTEEN = 65535.0
# That programs write for no data where the file does not say so; and whatever is as far from any light.
_NO_DATA = (-999.0, -9999.0, -99999.0, -32767.0, -32768.0)
_FAR = 1e20
_GDAL_NODATA = 42113  # tag of a TIFF
_SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


def grey_8bit(image: Image.Image) -> tuple[np.ndarray, str]:
    """High-depth grey, loaded, as uint8 (H, W); and what was done to it, "" for nothing but to scale its full range."""
    grey = np.asarray(image).astype(np.float64)
    with_data = _with_data(grey, image)
    left_out = int(grey.size - with_data.sum())
    remarks = [f"{counted(left_out, 'pixel')} without data left out"] if left_out else []
    low, high = (float(grey[with_data].min()), float(grey[with_data].max())) if with_data.any() else (0.0, 0.0)
    scales: tuple[float, ...] = (1.0,) if image.mode == "F" else (_SIXTEEN,)
    # 32-bit integers do not say their depth; 16 bits of a PNG or PGM do.
    if image.mode == "I" and image.format == "TIFF":
        scales = (255.0, _SIXTEEN)
    bottom, top, said = _range(low, high, scales)
    scaled = (np.where(with_data, grey, low) - bottom) * (255.0 / (top - bottom))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8), ", ".join([*([said] if said else []), *remarks])


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an opened, not yet loaded image has colours of 16 bits, of which Pillow gives the upper 8."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in _raw_mode(tile) for tile in getattr(image, "tile", ()))


def is_misread(image: Image.Image) -> bool:
    """Whether Pillow takes the bytes of an opened image's 16-bit colours for pixels of their own: in a TIFF that has
    the colours one after the other, not compressed.
    """
    bits = getattr(image, "tag_v2", {}).get(258, ())  # BitsPerSample
    tiles = getattr(image, "tile", ())
    return 16 in bits and any(tile[0] == "raw" and _raw_mode(tile) in ("R", "G", "B", "A") for tile in tiles)


def colour_8bit(image: Image.Image, data: bytes | None, formats: tuple[str, ...]) -> tuple[Image.Image, str]:
    """A loaded image of 16-bit colours, stretched where it uses less than a quarter of them; and what was done to it.

    data: the file, None where there is none.
    """
    upper = np.asarray(image)
    n_colours = upper.shape[2] - (image.mode in ("RGBA", "LA"))
    if upper[..., :n_colours].max() >= 64:
        return image, ""
    lower = None if data is None else _lower_bytes(data, formats)
    if lower is None or lower.shape != upper.shape:
        lower = upper  # few levels, but not black
    colours = upper[..., :n_colours].astype(np.float64) * 256 + lower[..., :n_colours]
    bottom, top, said = _range(0.0, float(colours.max()), (_SIXTEEN,))
    stretched = upper.copy()
    stretched[..., :n_colours] = np.rint(((colours - bottom) * (255.0 / (top - bottom))).clip(0, 255))
    made = Image.fromarray(stretched, image.mode)
    return made, said


def _range(low: float, high: float, scales: tuple[float, ...]) -> tuple[float, float, str]:
    """What becomes black and what white, and how to say that it is not the full scale."""
    top = next((scale for scale in scales if low >= 0 and high <= scale), None)
    if top is None:
        return low, high if high > low else low + 1.0, f"values {low:g} to {high:g} stretched"
    if high == 0 or high >= top / 4 or top == 255.0:
        return 0.0, top, ""
    if top == 1.0:
        return 0.0, high, f"values up to {high:g} of 1 stretched"
    fewer = next(scale for scale in _FEWER_BITS if high <= scale)
    return 0.0, fewer, f"values up to {high:g} of {top:g} stretched, as {int(fewer).bit_length()} bits"


def _with_data(grey: np.ndarray, image: Image.Image) -> np.ndarray:
    """bool (H, W)."""
    finite = np.isfinite(grey)
    found = finite & (np.abs(np.where(finite, grey, 0.0)) < _FAR)
    declared = _declared(image)
    if declared is not None:
        found &= grey != declared
    if found.any() and (low := grey[found].min()) in _NO_DATA:
        found &= grey != low
    return found


def _declared(image: Image.Image) -> float | None:
    """The value for no data that a TIFF declares, as GDAL writes it."""
    text = getattr(image, "tag_v2", {}).get(_GDAL_NODATA)
    try:
        return float(str(text).strip("\0 ")) if text is not None else None
    except ValueError:
        return None


def _lower_bytes(data: bytes, formats: tuple[str, ...]) -> np.ndarray | None:
    """What `Image.load` leaves out of 16-bit colours, uint8 (H, W, C); None where Pillow cannot give it."""
    image = Image.open(io.BytesIO(data), formats=formats)
    tiles = []
    for tile in image.tile:
        mode = _raw_mode(tile)
        other = _SWAPPED.get(mode[-3:])
        if other is None:
            return None
        swapped = mode[:-3] + other
        more = tile.args[1:] if isinstance(tile.args, tuple) else None
        tiles.append(tile._replace(args=swapped if more is None else (swapped, *more)))
    image.tile = tiles
    try:
        image.load()
    except (ValueError, OSError, SystemError):
        return None
    return np.asarray(image)


def _raw_mode(tile: tuple[object, ...]) -> str:
    """How a part of the file stores its pixels, "RGB;16B" for instance."""
    arguments = tile[3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""
