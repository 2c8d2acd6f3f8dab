"""Pictures of more than 8 bits: what is stretched, what stays, and that it is said."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from support.bad_images import encoded, png_chunk, write

from pipeline.errors import ImageError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import Photo, load_photo

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)


def photo_of(data: bytes, folder: Path) -> Photo:
    return load_photo(ImageRef("a", str(write(folder / "a.png", data))))


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits in each of 2, 3 or 4 channels."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_16_are_seen_as_what_they_are(bits: int, form: str, tmp_path: Path) -> None:
    deep = np.rint(RAMP * ((1 << bits) - 1)).astype(np.uint16)
    photo = photo_of(encoded(deep, form), tmp_path)
    np.testing.assert_allclose(photo.rgb[..., 0], RAMP * 255, atol=1.1 if bits == 8 else 0.65)
    assert photo.remark == f"values up to {(1 << bits) - 1} of 65535 stretched, as {bits} bits"


def test_what_uses_a_quarter_of_its_range_stays(tmp_path: Path) -> None:
    photo = photo_of(encoded(np.rint(RAMP * 16384).astype(np.uint16), "PNG"), tmp_path)
    assert (photo.rgb.max(), photo.remark) == (64, "")
    assert photo_of(encoded(np.zeros((20, 20), np.uint16), "PNG"), tmp_path).remark == "", "black is black"
    assert photo_of(encoded((RAMP * 20).astype(np.uint8), "PNG"), tmp_path).rgb.max() <= 20, "8 bits are as they are"


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits(channels: int, tmp_path: Path) -> None:
    """Of which Pillow gives the upper 8 bits alone."""
    deep = np.rint(np.repeat(RAMP[..., None], channels, axis=2) * 4095).astype(np.uint16)
    if channels != 3:
        deep[..., -1] = 65535
    photo = photo_of(deep_png(deep), tmp_path)
    # Of grey with alpha not even Pillow has the lower 8.
    np.testing.assert_allclose(photo.rgb[..., 0], RAMP * 255, atol=17 if channels == 2 else 1)
    assert "as 12 bits" in photo.remark
    full = photo_of(deep_png(np.where(deep == 65535, 65535, deep * 16).astype(np.uint16)), tmp_path)
    np.testing.assert_allclose(full.rgb[..., 0], RAMP * 255, atol=1.5)
    assert full.remark == ""


def tiff_of_planes(pixels: np.ndarray) -> bytes:
    """A TIFF of 16 bits that has its colours one after the other, not compressed."""
    height, width, channels = pixels.shape
    planes = np.moveaxis(pixels, 2, 0).astype("<u2").tobytes()
    size = len(planes) // channels
    at = 8 + len(planes)
    lists = struct.pack("<3H", 16, 16, 16) + b"\0\0" + struct.pack("<3I", *(8 + i * size for i in range(3)))
    lists += struct.pack("<3I", size, size, size)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, at + 8), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, at + 20), (284, 3, 1, 2)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(lists)) + planes + lists + directory


def test_what_pillow_misreads_is_set_aside(tmp_path: Path) -> None:
    deep = np.rint(np.repeat(RAMP[..., None], 3, axis=2) * 65535).astype(np.uint16)
    with pytest.raises(ImageError, match=r"unsupported: .*16-bit colours in planes of their own"):
        photo_of(tiff_of_planes(deep), tmp_path)


def tiff(pixels: np.ndarray, no_data: str | None = None) -> bytes:
    tags = ImageFileDirectory_v2()
    if no_data is not None:
        tags[42113] = no_data
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", tiffinfo=tags)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("hole", "declared"),
    [(-9999.0, None), (-32768.0, None), (-3.4e38, None), (np.nan, None), (np.inf, None), (7.0, "7"), (-1.0, "-1\0")],
)
def test_values_for_no_data_are_left_out(hole: float, declared: str | None, tmp_path: Path) -> None:
    """The rest is what it is without them."""
    unit = RAMP.astype(np.float32)
    holes = unit.copy()
    holes[:4, :4] = hole
    plain, photo = (photo_of(tiff(pixels, declared), tmp_path) for pixels in (unit, holes))
    np.testing.assert_array_equal(photo.rgb[4:], plain.rgb[4:])
    assert (photo.rgb[:4, :4] == 0).all()
    assert (plain.remark, photo.remark) == ("", "16 pixels without data left out")


def test_declared_values_that_are_none(tmp_path: Path) -> None:
    assert photo_of(tiff(RAMP.astype(np.float32), "unknown"), tmp_path).remark == ""
    nothing = photo_of(tiff(np.full((20, 20), -9999, np.float32)), tmp_path)
    assert (nothing.rgb.max(), nothing.remark) == (0, "400 pixels without data left out")


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        (RAMP * 900 - 300, "values -300 to 600 stretched"),
        (RAMP * 0.1, "values up to 0.1 of 1 stretched"),
        (RAMP * 0.3, ""),
    ],
)
def test_floats(values: np.ndarray, remark: str, tmp_path: Path) -> None:
    photo = photo_of(tiff(values.astype(np.float32)), tmp_path)
    assert photo.remark == remark
    np.testing.assert_allclose(photo.rgb[..., 0], (RAMP if remark else values) * 255, atol=0.6)


def test_signed_integers_with_no_data(tmp_path: Path) -> None:
    heights = np.rint(RAMP * 4000).astype(np.int32)
    heights[0, :9] = -32768
    photo = photo_of(tiff(heights), tmp_path)
    assert photo.remark == "values up to 4000 of 65535 stretched, as 12 bits, 9 pixels without data left out"
    np.testing.assert_allclose(photo.rgb[1:, :, 0], (RAMP * 4000 / 4095 * 255)[1:], atol=0.6)
