"""Depth maps on disk: found beside their image's id, read in every format, refused one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, ImageError
from pipeline.models.depth_maps import DepthMaps

PHOTO = np.zeros((30, 40, 3), np.uint8)
RAMP = np.tile(np.linspace(0, 1, 40), (30, 1))


def save(folder: Path, name: str, depth: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(depth).save(path)
    elif path.suffix == ".npy":
        np.save(path, depth)
    else:
        np.savez(path, depth=depth, other=np.zeros(3))


@pytest.mark.parametrize(
    ("suffix", "scale", "dtype"),
    [
        (".png", 65535, np.uint16),
        (".png", 255, np.uint8),
        (".npy", 10, np.float32),
        (".npy", 900, np.int32),
        (".npz", 10, np.float64),
    ],
)
@pytest.mark.parametrize("stem", ["sub/a", "sub/a.jpg"])
def test_every_format_is_read(tmp_path: Path, suffix: str, scale: float, dtype: Any, stem: str) -> None:
    save(tmp_path, stem + suffix, np.round(RAMP * scale, 3).astype(dtype))
    (depth,) = DepthMaps(tmp_path).predict([PHOTO], ["sub/a.jpg"])
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, RAMP, atol=1 / 250)
    (nearer,) = DepthMaps(tmp_path, "inverse_depth").predict([PHOTO], ["sub/a.jpg"])
    np.testing.assert_allclose(nearer, 1 - depth, atol=1e-6)


def test_16_bit_keeps_its_precision(tmp_path: Path) -> None:
    save(tmp_path, "a.png", np.arange(1200, dtype=np.uint16).reshape(30, 40))
    (depth,) = DepthMaps(tmp_path).predict([PHOTO], ["a.jpg"])
    assert len(np.unique(depth)) == 1200


def test_the_full_name_comes_first(tmp_path: Path) -> None:
    save(tmp_path, "a.npy", RAMP)
    save(tmp_path, "a.png.npy", 1 - RAMP)
    jpg, png = DepthMaps(tmp_path).predict([PHOTO, PHOTO], ["a.jpg", "a.png"])
    np.testing.assert_allclose(jpg, 1 - png, atol=1e-6)


@pytest.mark.parametrize("shape", [(60, 80), (15, 20), (32, 40), (24, 24)])
def test_other_resolutions_of_the_aspect_and_squares_are_taken(tmp_path: Path, shape: tuple[int, int]) -> None:
    save(tmp_path, "a.npy", np.random.default_rng(0).random(shape))
    assert DepthMaps(tmp_path).predict([PHOTO], ["a.jpg"])[0].shape == shape


def test_missing_map_lists_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"b/a\.jpg: none of .*b/a\.jpg\.png, .*b/a\.npz exists") as caught:
        DepthMaps(tmp_path).predict([PHOTO], ["b/a.jpg"])
    assert caught.value.reason == "no_depth_map"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", RAMP.T, "it is 30x40 .* for a photo of 40x30"),
        ("a.npy", np.zeros((30, 40, 3)), r"its shape is \(30, 40, 3\)"),
        ("a.png", np.zeros((30, 40, 3), np.uint8), r"its shape is \(30, 40, 3\)"),
        ("a.npy", np.where(RAMP > 0.5, np.nan, RAMP), "600 of 1200 depth values are NaN"),
        ("a.npy", np.array([[{}]]), "pickle"),
        ("a.png", b"no picture", "cannot identify"),
        ("a.npy", b"", "No data left"),
        ("a.npz", b"PK\x03\x04 torn", "zip"),
    ],
)
def test_useless_maps_are_refused_by_image(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        save(tmp_path, name, content)
    with pytest.raises(ImageError, match=f"a.jpg: depth map .*{name} is of no use: .*{message}") as caught:
        DepthMaps(tmp_path).predict([PHOTO], ["a.jpg"])
    assert caught.value.reason == "bad_depth_map"


def test_npz_needs_one_array_or_one_named_depth(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", anything=RAMP)
    np.savez(tmp_path / "b.npz", one=RAMP, two=RAMP)
    depth = DepthMaps(tmp_path)
    assert depth.predict([PHOTO], ["a.jpg"])[0].shape == (30, 40)
    with pytest.raises(ImageError, match="it holds one, two: name the one that counts `depth`"):
        depth.predict([PHOTO], ["b.jpg"])


def test_folder_must_exist_and_is_in_the_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        DepthMaps(tmp_path / "none")
    (tmp_path / "other").mkdir()
    prints = {
        DepthMaps(tmp_path).fingerprint,
        DepthMaps(tmp_path / "other").fingerprint,
        DepthMaps(tmp_path, "inverse_depth").fingerprint,
    }
    assert len(prints) == 3
    assert DepthMaps(tmp_path / "other" / "..").fingerprint in prints
