"""Every odd and broken file against expected pixels or the expected reason."""

import errno
import io
import os
import struct
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from support.bad_images import bad_folder, bomb, encoded, gradient, with_orientation, write

from pipeline.errors import ImageError, SourceError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import MAX_PIXELS, Photo, load_photo, load_photos

FS = fsspec.filesystem("memory")


def ref_of(data: bytes, name: str = "photo") -> ImageRef:
    FS.pipe_file(f"/images/{name}", data)
    return ImageRef(name, f"memory://images/{name}")


def decoded(data: bytes) -> np.ndarray:
    return load_photo(ref_of(data)).rgb


def reason_of(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        load_photo(ref_of(data), **options)
    assert "images/photo" in caught.value.detail
    return caught.value.reason


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_lossless_formats_keep_every_pixel(form: str) -> None:
    rgb = decoded(encoded(gradient(), form))
    np.testing.assert_array_equal(rgb, gradient())
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True, "quality": 95}), ("WEBP", {})]
)
def test_lossy_formats_come_close(form: str, options: dict[str, int]) -> None:
    error = np.abs(decoded(encoded(gradient(), form, **options)).astype(int) - gradient())
    assert error.mean() < 6


# Where the stored image must be taken from to stand upright, written out independently with PIL's own operations.
_TO_STORE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_turns_the_photo_upright(orientation: int, form: str) -> None:
    upright = gradient()
    stored = Image.fromarray(upright)
    if orientation in _TO_STORE:
        stored = stored.transpose(_TO_STORE[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    rgb = decoded(encoded(stored, form, exif=exif.tobytes(), **options))
    np.testing.assert_array_equal(rgb, upright)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_meaningless_orientation_is_ignored(orientation: int) -> None:
    np.testing.assert_array_equal(decoded(with_orientation(gradient(), orientation)), gradient())


def test_corrupt_exif_harms_no_pixel() -> None:
    data = encoded(gradient(), "JPEG")
    clean = decoded(data)
    for body in (b"Exif\0\0", b"Exif\0\0garbage, not a TIFF", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"):
        segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        np.testing.assert_array_equal(decoded(data[:2] + segment + data[2:]), clean)


def test_grey_and_one_bit() -> None:
    grey = gradient()[..., 0]
    np.testing.assert_array_equal(decoded(encoded(grey, "PNG")), np.stack([grey] * 3, axis=-1))
    bits = grey > 100
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits), "PNG"))[..., 1], bits * np.uint8(255))


def test_alpha_is_laid_on_white() -> None:
    rgb, alpha = gradient(), np.zeros(gradient().shape[:2], np.uint8)
    alpha[:16], alpha[16:32] = 255, 128
    result = decoded(encoded(np.dstack([rgb, alpha]), "PNG"))
    np.testing.assert_array_equal(result[:16], rgb[:16])
    half = rgb[16:32] * (128 / 255) + 255 * (1 - 128 / 255)
    np.testing.assert_allclose(result[16:32], half, atol=1)
    assert (result[32:] == 255).all()


def test_grey_with_alpha_and_transparent_palettes() -> None:
    grey = gradient()[..., 0]
    alpha = np.where(np.arange(48)[:, None] < 24, 255, 0).astype(np.uint8) + np.zeros_like(grey)
    result = decoded(encoded(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG"))
    np.testing.assert_array_equal(result[:24, :, 2], grey[:24])
    assert (result[24:] == 255).all()

    palette = Image.fromarray((np.indices((32, 32)).sum(0) % 3).astype(np.uint8), "L").convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = decoded(encoded(palette, "PNG"))
    assert [tuple(colours[0, x]) for x in range(3)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for transparency in (1, bytes([255, 0, 255])):
        see_through = decoded(encoded(palette, "PNG", transparency=transparency))
        assert [tuple(see_through[0, x]) for x in range(3)] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]


def test_cmyk_with_and_without_adobes_inversion() -> None:
    cmyk = np.zeros((32, 32, 4), np.uint8)
    cmyk[:16, :, 0] = 255  # cyan: no red
    cmyk[16:, :, 3] = 255  # black ink
    for form, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        data = encoded(Image.frombytes("CMYK", (32, 32), cmyk.tobytes()), form, **options)
        if form == "JPEG":
            assert b"Adobe" in data  # Pillow, as Photoshop, stores inverted inks and says so in APP14
        rgb = decoded(data).astype(int)
        np.testing.assert_allclose(rgb[:14], np.broadcast_to([0, 255, 255], (14, 32, 3)), atol=6)
        np.testing.assert_allclose(rgb[18:], 0, atol=6)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(form: str) -> None:
    deep = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    expected = np.rint(deep / 257)
    rgb = decoded(encoded(deep, form))
    np.testing.assert_array_equal(rgb, np.stack([expected] * 3, axis=-1))
    # Dark is not black: full scale is that of the format where at least a quarter of it is used.
    assert decoded(encoded((deep // 4 + 1).astype(np.uint16), form)).max() == 64


def test_big_endian_16_bit_tiff() -> None:
    deep = np.linspace(0, 65535, 64 * 48).astype(">u2").reshape(48, 64)
    tags = {256: (4, 64), 257: (4, 48), 258: (3, 16), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1), 278: (4, 48)}
    tags[279] = (4, deep.nbytes)
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">I", value) if kind == 4 else struct.pack(">HH", value, 0))
        for tag, (kind, value) in sorted(tags.items())
    )
    data = b"MM\0*" + struct.pack(">I", 8 + deep.nbytes) + deep.tobytes()
    data += struct.pack(">H", len(tags)) + entries + bytes(4)
    np.testing.assert_array_equal(decoded(data)[..., 0], np.rint(deep / 257))


def test_float_and_32_bit_tiff() -> None:
    unit = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)
    np.testing.assert_array_equal(decoded(encoded(unit, "TIFF"))[..., 0], np.rint(unit * 255))
    stretched = decoded(encoded(unit * 900 - 300, "TIFF"))[..., 0]
    np.testing.assert_allclose(stretched, unit * 255, atol=0.6)
    holes = unit.copy()
    holes[0, 0], holes[5, 5] = np.nan, np.inf
    assert decoded(encoded(holes, "TIFF"))[5, 5, 0] == 0
    constant = decoded(encoded(np.full((20, 20), 7.0, np.float32), "TIFF"))
    assert np.ptp(constant) == 0
    whole = np.linspace(0, 65535, 64 * 48).astype(np.int32).reshape(48, 64)
    np.testing.assert_array_equal(decoded(encoded(whole, "TIFF"))[..., 0], np.rint(whole / 257))
    np.testing.assert_array_equal(decoded(encoded(whole // 257, "TIFF"))[..., 0], whole // 257)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_many(form: str) -> None:
    first, second = (Image.new("RGB", (40, 32), colour) for colour in ((250, 10, 10), (10, 10, 250)))
    buffer = io.BytesIO()
    first.save(buffer, form, save_all=True, append_images=[second])
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        assert image.n_frames == 2
    np.testing.assert_allclose(decoded(buffer.getvalue()), np.broadcast_to([250, 10, 10], (32, 40, 3)), atol=4)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_each_bad_file_has_its_reason(tmp_path: Path) -> None:
    expected = bad_folder(tmp_path)
    reasons = {}
    for name in expected:
        with pytest.raises(ImageError) as caught:
            load_photo(ImageRef(name, str(tmp_path / name)))
        assert str(tmp_path / name) in caught.value.detail
        reasons[name] = caught.value.reason
    assert reasons == expected


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_cut_files_are_truncated_in_every_format(form: str, options: dict) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = encoded(noise, form, **options)
    assert decoded(data).shape == (60, 80, 3)
    for fraction in (0.3, 0.5, 0.8, 0.97):
        assert reason_of(data[: int(len(data) * fraction)]) == "truncated"


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_zero_filled_tail_is_truncated(form: str) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), form)
    assert reason_of(data[: len(data) // 2] + bytes(len(data) - len(data) // 2)) == "truncated"


def test_a_lost_block_inside_a_png_is_noticed() -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), "PNG")
    assert reason_of(data[:100_000] + bytes(512) + data[100_512:]) == "truncated"


def test_the_end_of_an_exif_thumbnail_is_not_the_end_of_the_photo() -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), "JPEG")
    thumbnail = b"Exif\0\0" + encoded(gradient(), "JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    assert decoded(data).shape == (300, 400, 3)
    assert reason_of(data[:-2000] + bytes(2000)) == "truncated"


def test_junk_after_the_end_is_harmless() -> None:
    for form in ("JPEG", "PNG", "GIF"):
        data = encoded(gradient(), form)
        np.testing.assert_array_equal(decoded(data + b"junk" * 100), decoded(data))


def test_bombs_are_judged_by_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
        assert reason_of(bomb(50_000, 50_000)) == "too_large"  # beyond Pillow's own limit
        assert reason_of(bomb(13_000, 13_700)) == "too_large"  # beyond ours only (178.1 Mpx)
        assert reason_of(encoded(gradient(), "PNG"), max_pixels=48 * 64 - 1) == "too_large"
    assert load_photo(ref_of(encoded(gradient(), "PNG")), max_pixels=48 * 64).rgb.shape == (48, 64, 3)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert 2 * limit > MAX_PIXELS
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_degenerate_sizes() -> None:
    assert reason_of(encoded(gradient(15, 100), "PNG")) == "too_small"
    assert reason_of(encoded(gradient(100, 15), "PNG")) == "too_small"
    assert decoded(encoded(gradient(16, 16), "PNG")).shape == (16, 16, 3)


def test_what_pillow_reads_but_we_do_not() -> None:
    lab = encoded(Image.frombytes("LAB", (32, 32), bytes(32 * 32 * 3)), "TIFF")
    assert reason_of(lab) == "unsupported"
    assert reason_of(b"8BPS" + bytes(200)) == "unsupported"
    assert reason_of(b"%PDF-1.7\n" + bytes(200)) == "unsupported"
    assert reason_of(encoded(gradient(), "TGA")) == "not_an_image"
    odd = bytearray(encoded(gradient(), "TIFF"))
    position = odd.index(struct.pack("<HH", 277, 3))  # samples per pixel
    odd[position + 8 : position + 10] = struct.pack("<H", 7)
    assert reason_of(bytes(odd)) == "unsupported"


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    write(tmp_path / "file.jpg", b"x")
    reasons = {}
    for name in ("none.jpg", "file.jpg/none.jpg", "", "pipe.jpg", "nul\0.jpg"):
        with pytest.raises(ImageError) as caught:
            load_photo(ImageRef("a.jpg", str(tmp_path / name)))
        reasons[name] = caught.value.reason
    assert reasons == {
        "none.jpg": "missing",
        "file.jpg/none.jpg": "missing",
        "": "unreadable",
        "pipe.jpg": "unreadable",
        "nul\0.jpg": "unreadable",
    }
    with pytest.raises(ImageError, match="missing"):
        load_photo(ImageRef("a.jpg", "memory://nowhere/a.jpg"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", encoded(gradient(), "JPEG"))
    path.chmod(0)
    with pytest.raises(ImageError, match=r"unreadable.*Permission denied"):
        load_photo(ImageRef("a.jpg", str(path)))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_errors_of_the_disk_keep_their_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = write(tmp_path / "a.jpg", encoded(gradient(), "JPEG"))

    def refuse(self: Path, mode: str) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError) as caught:
        load_photo(ImageRef("a.jpg", str(path)))
    assert caught.value.reason == "unreadable"
    assert os.strerror(code) in caught.value.detail


def test_errors_of_a_remote_client_are_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ref_of(encoded(gradient(), "JPEG"))

    def fail(*args: object, **options: object) -> bytes:
        raise RuntimeError("503 slow down")

    monkeypatch.setattr(type(FS), "cat_file", fail)
    with pytest.raises(ImageError, match=r"unreadable.*503 slow down"):
        load_photo(ref)


def test_absent_fsspec_package_blames_the_machine_not_the_image() -> None:
    if find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(SourceError, match=r"s3:// needs one more package.*Install s3fs"):
        load_photo(ImageRef("a.jpg", "s3://bucket/a.jpg"))


# --- byte ranges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False])
def test_byte_ranges(tmp_path: Path, local: bool) -> None:
    photo = encoded(gradient(), "PNG")
    blob = b"before" * 7 + photo + b"after" * 9
    uri = str(write(tmp_path / "shard.tar", blob)) if local else "memory://images/shard.tar"
    FS.pipe_file("/images/shard.tar", blob)
    inside = ImageRef("shard.tar/a.png", uri, offset=42, length=len(photo))
    np.testing.assert_array_equal(load_photo(inside).rgb, gradient())
    for offset, length, reason in (
        (42, 0, "zero_byte"),
        (42, len(blob), "truncated"),
        (10, len(photo), "not_an_image"),
    ):
        with pytest.raises(ImageError) as caught:
            load_photo(ImageRef("shard.tar/a.png", uri, offset, length))
        assert caught.value.reason == reason
        assert "shard.tar" in caught.value.detail


# --- fuzz -------------------------------------------------------------------------------------------------------------

_SEEDS = [
    encoded(gradient(), "JPEG"),
    encoded(gradient(), "JPEG", progressive=True, exif=with_orientation(gradient(), 6, "JPEG")[12:60]),
    with_orientation(gradient(), 6, "JPEG"),
    encoded(gradient(), "PNG"),
    encoded(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64), "PNG"),
    encoded(gradient(), "TIFF", compression="tiff_lzw"),
    encoded(gradient(), "GIF"),
    encoded(gradient(), "WEBP"),
]


@settings(max_examples=400)
@given(
    seed=st.sampled_from(_SEEDS),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_broken_bytes_give_pixels_or_an_image_error(seed: bytes, flips: list[tuple[float, int]], keep: float) -> None:
    data = bytearray(seed[: int(len(seed) * keep)])
    for where, value in flips:
        if data:
            # Squared, so that headers, where the structure is, are hit most.
            data[int(where**2 * len(data))] = value
    ref = ref_of(bytes(data))
    # Anything but an ImageError would come out of the generator and fail the test.
    (result,) = load_photos([ref], workers=1, max_pixels=1_000_000)
    if isinstance(result, Photo):
        assert result.rgb.dtype == np.uint8
        assert result.rgb.ndim == 3
        assert result.rgb.shape[2] == 3
    else:
        assert result[1].reason in {"zero_byte", "not_an_image", "truncated", "too_large", "unsupported", "too_small"}
