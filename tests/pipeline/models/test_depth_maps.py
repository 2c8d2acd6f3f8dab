"""Depth maps on disk: found beside their image's id, read in every format, refused one by one."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, ImageError
from pipeline.models.depth_maps import DepthMaps
from stages.fingerprint import text_digest

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
        ("a.npy", np.array([[{}]]), "it holds Python objects, not numbers"),
        ("a.png", b"no picture", "it is damaged or cut short, copy it again"),
        ("a.npy", b"", "it is no NPY or NPZ file"),
        ("a.npy", b"<html>", "it is no NPY or NPZ file: write it with numpy.save"),
        ("a.npz", b"PK\x03\x04 torn", "it is damaged or cut short, copy it again"),
        ("a.npy", b"\x93NUMPY\x01\x00\x76\x00{'descr'", "it is damaged or cut short, copy it again"),
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


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz"])
def test_whatever_is_damaged_is_told_of_the_image(tmp_path: Path, suffix: str) -> None:
    """Every tenth byte of a file turned over, one at a time: it is read or refused, never anything else."""
    depth = (1000 + 9000 * RAMP).astype(np.uint16)
    if suffix == ".npz":
        np.savez_compressed(tmp_path / "a.npz", depth=depth)
    else:
        save(tmp_path, f"a{suffix}", depth)
    path = tmp_path / f"a{suffix}"
    whole = path.read_bytes()
    for place in range(0, min(len(whole), 1500), 10):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(ImageError):
            DepthMaps(tmp_path).predict([PHOTO], ["a.jpg"])


def test_npz_needs_one_array_or_one_named_depth(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", anything=RAMP)
    np.savez(tmp_path / "b.npz", one=RAMP, two=RAMP)
    depth = DepthMaps(tmp_path)
    assert depth.predict([PHOTO], ["a.jpg"])[0].shape == (30, 40)
    with pytest.raises(ImageError, match="it holds one, two: name the one that counts `depth`"):
        depth.predict([PHOTO], ["b.jpg"])


def test_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        DepthMaps(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("none yet")
    with pytest.raises(ConfigError, match=r"holds no depth maps \(\.png, \.npy, \.npz\)"):
        DepthMaps(tmp_path).refuse_none()
    save(tmp_path, "sub/a.png", np.arange(1200, dtype=np.uint16).reshape(30, 40))
    DepthMaps(tmp_path).refuse_none()


class TestFingerprint:
    """It is of the maps: their names, sizes and contents; not of where they lie, nor of when they were written."""

    def make(self, folder: Path) -> Path:
        save(folder, "a.png", np.arange(1200, dtype=np.uint16).reshape(30, 40))
        save(folder, "sub/b.npy", RAMP)
        save(folder, "sub/c.npz", RAMP)
        return folder

    def test_other_spellings_moves_and_copies_do_not_change_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        maps = self.make(tmp_path / "maps")
        expected = DepthMaps(maps).fingerprint
        shutil.copytree(maps, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
        (tmp_path / "link").symlink_to(maps)
        (maps / "notes.txt").write_text("no map")
        monkeypatch.chdir(tmp_path)
        for spelt in ("maps", "./maps/", "maps/sub/..", "copy", "link"):
            assert DepthMaps(Path(spelt)).fingerprint == expected
        maps.rename(tmp_path / "moved")
        assert DepthMaps(tmp_path / "moved").fingerprint == expected

    @pytest.mark.parametrize("name", ["a.png", "sub/b.npy", "sub/c.npz"])
    def test_one_value_changed_in_place_changes_it(self, tmp_path: Path, name: str) -> None:
        maps = self.make(tmp_path)
        before, stat = DepthMaps(maps).fingerprint, (maps / name).stat()
        changed = np.arange(1200, dtype=np.uint16).reshape(30, 40) if name == "a.png" else RAMP.copy()
        changed[15, 20] += 1
        save(maps, name, changed)
        os.utime(maps / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert DepthMaps(maps).fingerprint != before

    def test_large_npy_made_by_another_model_changes_it(self, tmp_path: Path) -> None:
        large = np.random.default_rng(0).random((512, 512))
        np.save(tmp_path / "a.npy", large)
        before = DepthMaps(tmp_path).fingerprint
        np.save(tmp_path / "a.npy", large + 1e-9)
        assert DepthMaps(tmp_path).fingerprint != before

    def test_kind_names_and_number_count(self, tmp_path: Path) -> None:
        maps = self.make(tmp_path)
        prints = {DepthMaps(maps).fingerprint, DepthMaps(maps, "inverse_depth").fingerprint}
        (maps / "a.png").rename(maps / "d.png")
        prints.add(DepthMaps(maps).fingerprint)
        (maps / "d.png").unlink()
        prints.add(DepthMaps(maps).fingerprint)
        assert len(prints) == 4

    def test_folders_linked_in_a_circle_end(self, tmp_path: Path) -> None:
        maps = self.make(tmp_path / "maps")
        (maps / "sub" / "up").symlink_to(maps)
        assert DepthMaps(maps).fingerprint

    def test_it_was_of_the_path(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        expected = text_digest("depth maps", str(tmp_path.resolve()), "depth")
        assert DepthMaps(tmp_path / "x" / "..").earlier_fingerprint == expected


def painted(folder: Path, name: str, picture: Image.Image) -> np.ndarray:
    picture.save(folder / name)
    (depth,) = DepthMaps(folder).predict([PHOTO], [name])
    return depth


def test_palettes_of_colours_are_refused_and_of_greys_are_read(tmp_path: Path) -> None:
    grey = Image.fromarray((RAMP * 200 + 20).astype(np.uint8))
    expected = painted(tmp_path, "grey.png", grey)
    palette = grey.quantize(250)  # as tools write it to save space, its numbers in any order
    assert palette.mode == "P"
    np.testing.assert_array_equal(painted(tmp_path, "palette.png", palette), expected)
    rainbow = grey.convert("P")
    rainbow.putpalette([value for i in range(256) for value in (i, (i * 7) % 256, 255 - i)])
    with pytest.raises(ImageError, match=r"rainbow\.png is of no use: it is a coloured picture"):
        painted(tmp_path, "rainbow.png", rainbow)


def test_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="two values only, 0 and 1: that is a mask"):
        painted(tmp_path, "a.png", Image.fromarray(RAMP > 0.5))
    with pytest.raises(ImageError, match="two values only, 0 and 5000"):
        painted(tmp_path, "b.png", Image.fromarray(np.where(RAMP > 0.5, 5000, 0).astype(np.uint16)))


def test_what_was_filled_is_masked(tmp_path: Path) -> None:
    holes = np.zeros(RAMP.shape, bool)
    holes[5:10, 5:10] = True
    depth = painted(tmp_path, "a.png", Image.fromarray(np.where(holes, 0, 1000 + 9000 * RAMP).astype(np.uint16)))
    assert isinstance(depth, np.ma.MaskedArray)
    np.testing.assert_array_equal(np.ma.getmaskarray(depth), holes)
    np.testing.assert_allclose(np.asarray(depth), RAMP, atol=0.1)


def test_a_result_of_depth_anything_3_is_read(tmp_path: Path) -> None:
    """Its `mini_npz` of one photo: float32 with an axis for the photos, beside confidences and cameras."""
    depth = (1 + 4 * np.tile(np.linspace(0, 1, 504, dtype=np.float32), (378, 1)))[None]
    cameras = {"extrinsics": np.eye(3, 4, dtype=np.float32)[None], "intrinsics": np.eye(3, dtype=np.float32)[None]}
    np.savez_compressed(tmp_path / "a.npz", depth=np.round(depth, 8), conf=np.ones_like(depth), **cameras)
    (found,) = DepthMaps(tmp_path).predict([PHOTO], ["a.jpg"])
    np.testing.assert_allclose(found, np.tile(np.linspace(0, 1, 504), (378, 1)), atol=1e-5)
    np.savez_compressed(tmp_path / "b.npz", depth=np.concatenate([depth, depth]), conf=depth)
    with pytest.raises(ImageError, match=r"its shape is \(2, 378, 504\), .*one file per photo"):
        DepthMaps(tmp_path).predict([PHOTO], ["b.jpg"])
