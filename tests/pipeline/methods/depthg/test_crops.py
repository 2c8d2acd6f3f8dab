"""Where crops lie, and their pixels and depth."""

import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from pipeline.methods.depthg.crops import CropConfig, Layout, cut_depth, cut_photo, parts, square_of

SIZES = [(427, 640), (333, 500), (16, 16), (481, 321), (17, 60), (224, 224), (449, 1001)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
@pytest.mark.parametrize("side", [56, 224])
def test_pixels_are_those_of_five_crop_resize_and_center_crop(size: tuple[int, int], resize: Any, side: int) -> None:
    """As the released code of STEGO cuts them, whose resize is nearest."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    mode = InterpolationMode[resize.upper()]
    five = reference.five_crop(photo, [size[0] // 2, size[1] // 2])
    for layout, whole in zip(get_args(Layout), (five, [photo]), strict=True):
        expected = [reference.center_crop(reference.resize(one, side, mode), [side, side]) for one in whole]
        found = cut_photo(pixels, CropConfig(layout, resize), side)
        assert len(found) == CropConfig(layout).per_photo
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_depth_is_cut_where_the_pixels_are() -> None:
    """A photo and a depth that both are ramps: brightness and depth of a crop agree, whatever the depth's size."""
    ramp = np.add.outer(np.linspace(0, 0.6, 300), np.linspace(0, 0.4, 500)).astype(np.float32)
    photo = np.rint(255 * ramp).astype(np.uint8)[..., None].repeat(3, axis=2)
    coarse = np.asarray(Image.fromarray(ramp).resize((250, 100), Image.Resampling.BOX), np.float32)
    for layout in get_args(Layout):
        config = CropConfig(layout)
        grey = [crop[..., 0].reshape(8, 14, 8, 14).mean(axis=(1, 3)) / 255 for crop in cut_photo(photo, config, 112)]
        for depth in (ramp, coarse):
            found = cut_depth(depth, (300, 500), config, 112, 8)
            assert found.dtype == np.float32
            assert found.shape == (config.per_photo, 8, 8)
            assert np.abs(found - np.array(grey)).max() < 0.02


def test_depth_counts_every_pixel_and_is_not_scaled_again() -> None:
    depth = np.zeros((64, 64), np.float32)
    depth[:32:2, :32:2] = 1  # one pixel in four of the first corner
    found = cut_depth(depth, (64, 64), CropConfig("five"), 32, 4)
    assert found[0, 1:3, 1:3] == pytest.approx(0.25, abs=0.02)
    assert found[3, 1:, 1:].max() == 0, "what lies farther off than a patch"


def test_the_corners_and_the_centre_of_an_odd_photo() -> None:
    assert [tuple(part) for part in parts((11, 21), "five")] == [
        (0, 0, 5, 10),
        (0, 11, 5, 10),
        (6, 0, 5, 10),
        (6, 11, 5, 10),
        (3, 6, 5, 10),
    ]
    assert square_of(parts((100, 200), "whole")[0], 50) == (50, 0, 150, 100)


def test_a_strip_takes_no_more_memory_than_a_photo() -> None:
    strip = np.zeros((16, 400_000, 3), np.uint8)
    strip[:, 199_990:200_010] = 255
    tracemalloc.start()
    (crop,) = cut_photo(strip, CropConfig("whole"), 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert crop.shape == (224, 224, 3)
    assert crop.min() == 255, "the middle"
    assert peak < 2 * strip.nbytes
    depth = cut_depth(np.zeros((16, 16), np.float32), (16, 400_000), CropConfig("five"), 224, 28)
    assert depth.shape == (5, 28, 28)


@pytest.mark.parametrize(("values", "said"), [({"layout": "six"}, "five, whole"), ({"resize": "cubic"}, "bilinear")])
def test_a_wrong_option_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CropConfig(**values)
