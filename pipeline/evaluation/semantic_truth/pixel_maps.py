"""Label maps as files: pictures whose pixels are numbers of classes, and not colours.

H, W pixels
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import ImageError, SourceError
from pipeline.evaluation.semantic_truth.truth import MapError
from pipeline.images.damage import PNG_MAGIC, check_complete, why_unidentified
from pipeline.images.photos import MAX_PIXELS
from pipeline.storage.locations import contents_of

# Without losses: in a JPEG the numbers of two classes mix along their border.
FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP")
ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".webp")

# Pillow stretches grey of 2 and 4 bits to 0..255.
_STRETCH = {2: 85, 4: 17}


def read_pixels(location: str) -> np.ndarray:
    """The numbers of a map, integers (H, W), or uint8 (H, W, 3) where it has colours.

    Palettes count by index, and where all of their colours are grey by these: programs that make files smaller write
    grey maps so. Grey of 1, 2 and 4 bits is as stored. Three equal channels are one; an alpha channel is left out.

    Raises MapError, its detail naming the file, when it cannot be read as a map.
    """
    try:
        data = contents_of(location)
    except SourceError as error:
        raise MapError("unreadable", str(error)) from error
    if not data:
        raise MapError("zero_byte", f"{location} is empty")
    try:
        return _decoded(data)
    except ImageError as error:
        raise MapError(error.reason, f"{location}: {error.detail}") from error.__cause__


def _decoded(data: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(b"\xff\xd8\xff"):
            raise MapError("lossy", "a JPEG, which changes the numbers of classes: give PNG maps") from error
        raise why_unidentified(data) from error
    except Image.DecompressionBombError as error:
        raise MapError("too_large", str(error)) from error
    # Decoders meet damaged bytes here and raise almost anything.
    except Exception as error:
        raise MapError("truncated", f"the header is cut or corrupt ({error})") from error
    if image.width * image.height > MAX_PIXELS:
        raise MapError("too_large", f"{image.width}x{image.height} pixels, the limit is {MAX_PIXELS}")
    check_complete(data, str(image.format))
    try:
        image.load()
    except Exception as error:
        raise MapError("truncated", f"the pixels are cut or corrupt ({error})") from error
    return _numbers(image, data)


def _numbers(image: Image.Image, data: bytes) -> np.ndarray:
    mode = image.mode
    if mode == "P":
        return _of_palette(image)
    if mode == "1":
        return np.asarray(image).astype(np.uint8)
    if mode == "L":
        bits = data[24] if data.startswith(PNG_MAGIC) else 8
        return np.asarray(image) // _STRETCH.get(bits, 1)
    if mode.startswith("I"):
        return np.asarray(image)
    if mode in ("LA", "RGB", "RGBA"):
        channels = np.asarray(image)
        colours = channels[..., :-1] if mode.endswith("A") else channels
        grey = (colours == colours[..., :1]).all()
        return colours[..., 0] if grey else colours
    raise MapError("unsupported", f"its pixels are stored as {mode}: a map has whole numbers, of 8 or 16 bits")


def _of_palette(image: Image.Image) -> np.ndarray:
    indices = np.asarray(image)
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = np.unique(indices)
    used = used[used < len(colours)]
    greys = colours[used, 0]
    # The colours that do not occur count, too: a map may have grey classes alone.
    if not (colours == colours[:, :1]).all() or len(np.unique(greys)) < len(used):
        return indices
    table = np.arange(256, dtype=np.uint8)
    table[used] = greys
    return table[indices]
