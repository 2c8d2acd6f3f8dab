"""Makes image files of every kind that data sets hold, good, odd and broken, for the tests of the pipeline."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (height, width, 3): red grows to the right, green downwards, blue is a corner mark. No symmetry at all."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    rgb[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    rgb[: height // 3, : width // 4, 2] = 255
    return rgb


def encoded(pixels: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_orientation(pixels: np.ndarray, orientation: int, form: str = "PNG") -> bytes:
    """An image with an EXIF orientation tag; the stored pixels are `pixels` as they are."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, form, exif=exif.tobytes())


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def bad_folder(folder: Path) -> dict[str, str]:
    """Fills `folder` with one file of each kind that cannot be used; returns name -> reason."""
    photo = encoded(gradient(), "JPEG")
    png = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "PNG")
    files = {
        "cut.jpg": (photo[: len(photo) // 2], "truncated"),
        "cut_header.jpg": (photo[:40], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "zero_filled.png": (png[: len(png) // 2] + bytes(len(png) - len(png) // 2), "truncated"),
        "empty.jpg": (b"", "zero_byte"),
        "page.jpg": (b"<!DOCTYPE html><title>404</title>" * 50, "not_an_image"),
        "noise.png": (np.random.default_rng(1).bytes(5000), "not_an_image"),
        "bomb.png": (bomb(30_000, 30_000), "too_large"),
        "phone.jpg": (b"\0\0\0\x18ftypheic" + bytes(500), "unsupported"),
        "dot.png": (encoded(gradient(3, 40), "PNG"), "too_small"),
    }
    for name, (data, _) in files.items():
        write(folder / name, data)
    return {name: reason for name, (_, reason) in files.items()}
