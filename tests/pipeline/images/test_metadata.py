"""Whole pixels beside texts, histories and profiles that Pillow gives up on: the pixels count."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from support.bad_images import encoded, gradient, png_chunk, with_orientation, write

from pipeline.errors import ImageError
from pipeline.images.manifest import ImageRef
from pipeline.images.metadata import without_metadata
from pipeline.images.photos import load_photo, photo_size

PNG, JPEG = encoded(gradient(), "PNG"), encoded(gradient(), "JPEG", quality=95)
LARGE = 2_000_000  # bytes, more than Pillow unpacks


def chunk(kind: bytes, body: bytes, damage: int = 0) -> bytes:
    return png_chunk(kind, body)[:-4] + struct.pack(">I", zlib.crc32(kind + body) ^ damage)


def segment(kind: int, body: bytes) -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body


PNG_EXTRAS = {
    "history": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<step/>" * (LARGE // 7))),
    "comment": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(LARGE))),
    "profile": chunk(b"iCCP", b"scanner\0\0" + zlib.compress(bytes(LARGE))),
    "checksum": chunk(b"tEXt", b"Comment\0hello", damage=1),
    "checksum of the gamma": chunk(b"gAMA", struct.pack(">I", 45455), damage=1),
    "checksum of the time": chunk(b"tIME", b"\x07\xe8\1\1\0\0\0", damage=7),
}


def check(data: bytes, plain: bytes, folder: Path) -> None:
    """The pixels are those of the plain file."""
    ref, without = (ImageRef("a", str(write(folder / name, content))) for name, content in (("a", data), ("b", plain)))
    np.testing.assert_array_equal(load_photo(ref).rgb, load_photo(without).rgb)
    assert photo_size(ref)[:2] == gradient().shape[:2]


@pytest.mark.parametrize("name", PNG_EXTRAS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_pixels_beside_large_or_damaged_texts(name: str, place: str, tmp_path: Path) -> None:
    at = 33 if place == "before" else len(PNG) - 12  # behind the header, or before the end
    check(PNG[:at] + PNG_EXTRAS[name] + PNG[at:], PNG, tmp_path)


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "WEBP", "PNG"])
def test_large_profiles_and_histories(form: str, tmp_path: Path) -> None:
    profile = np.random.default_rng(0).bytes(LARGE)
    more = {"xmp": b"<x/>" * 500_000} if form == "WEBP" else {}
    check(encoded(gradient(), form, icc_profile=profile, **more), encoded(gradient(), form), tmp_path)


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE2, b"ICC_PROFILE\0\1\x09" + bytes(100)),
        segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xEE, b"Adobe\0"),
        segment(0xE0, b"JFIF\0"),
        segment(0xFE, bytes(60_000)) * 60,
    ],
)
def test_odd_segments_of_a_jpeg(extra: bytes, tmp_path: Path) -> None:
    check(JPEG[:2] + extra + JPEG[2:], JPEG, tmp_path)


def test_the_orientation_is_kept(tmp_path: Path) -> None:
    turned = with_orientation(gradient(), 6, "JPEG")
    odd = turned[:2] + segment(0xE0, b"JFIF\0") + turned[2:]
    ref = ImageRef("a", str(write(tmp_path / "a.jpg", odd)))
    assert load_photo(ref).rgb.shape == (64, 48, 3)


def test_what_is_cut_stays_cut(tmp_path: Path) -> None:
    """And the reason is that of the file itself."""
    for data in (PNG[:33] + PNG_EXTRAS["comment"] + PNG[33 : len(PNG) // 2], JPEG[: len(JPEG) // 2]):
        with pytest.raises(ImageError, match="truncated"):
            load_photo(ImageRef("a", str(write(tmp_path / "a.png", data))))
    pixels = PNG.index(b"IDAT")
    broken = PNG[: pixels + 30] + bytes([PNG[pixels + 30] ^ 255]) + PNG[pixels + 31 :]
    with pytest.raises(ImageError, match="truncated"):
        load_photo(ImageRef("a", str(write(tmp_path / "a.png", broken))))


def test_nothing_to_leave_out() -> None:
    for data in (b"", b"GIF89a", PNG, encoded(gradient(), "WEBP"), encoded(gradient(), "TIFF")):
        assert without_metadata(data) == data
