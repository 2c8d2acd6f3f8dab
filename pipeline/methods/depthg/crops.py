"""Where a photo is cut into the images that are trained on, and the pixels and the depth there.

STEGO cuts every photo into five: its corners and its centre, each half as high and as wide as the photo. Of each crop,
or of the whole photo, the short side is scaled to the resolution, and the square in its middle is taken.

H, W pixels of the photo · S side of the square · h, w patch grid · K crops of a photo
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

Layout = Literal["five", "whole"]
Resize = Literal["bilinear", "nearest"]
PER_PHOTO: dict[Layout, int] = {"five": 5, "whole": 1}

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}
_SHARE = 0.5  # of the photo's height and width that a crop has
_LONGEST = 16  # times as long as wide that a part may be


@dataclass(frozen=True)
class CropConfig:
    """How photos become the images that are trained on.

    layout: five crops of each photo, its corners and its centre at half its height and width; or whole, the square in
        its middle.
    resize: bilinear, which counts every pixel; nearest takes single pixels, as the released code of STEGO and DepthG
        does.
    """

    layout: Layout = "five"
    resize: Resize = "bilinear"

    def __post_init__(self) -> None:
        for name, kinds in (("layout", get_args(Layout)), ("resize", get_args(Resize))):
            if getattr(self, name) not in kinds:
                raise ValueError(f"{name} is {getattr(self, name)!r}: use one of {', '.join(kinds)}")

    @property
    def per_photo(self) -> int:
        """K."""
        return PER_PHOTO[self.layout]


class Part(NamedTuple):
    """top, left: of a part of a photo, in whole pixels. height, width: likewise."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, side: int) -> tuple[int, int]:
        """Height and width when its short side is scaled to S, as in torchvision."""
        short = min(self.height, self.width)
        height, width = (side if length == short else int(side * length / short) for length in self[2:])
        return height, width


def parts(size: tuple[int, int], layout: Layout) -> list[Part]:
    """The K parts of a photo that become its crops: corners row by row, then the centre.

    size: H, W. A part of an extreme shape is the middle of it, so that no scaled photo outgrows memory.
    """
    height, width = size
    if layout == "whole":
        return [_shortened(Part(0, 0, height, width))]
    own_height, own_width = int(height * _SHARE), int(width * _SHARE)
    below, right = height - own_height, width - own_width
    starts = [(0, 0), (0, right), (below, 0), (below, right), (round(below / 2), round(right / 2))]
    return [_shortened(Part(*start, own_height, own_width)) for start in starts]


def _shortened(part: Part) -> Part:
    top, left, height, width = part
    longest = _LONGEST * min(height, width)
    own_height, own_width = min(height, longest), min(width, longest)
    return Part(top + (height - own_height) // 2, left + (width - own_width) // 2, own_height, own_width)


def cut_photo(rgb_HW3: np.ndarray, config: CropConfig, side: int) -> list[np.ndarray]:
    """The K crops of a photo, uint8 (H, W, 3): uint8 (S, S, 3) each."""
    photo = Image.fromarray(rgb_HW3)
    crops = []
    for part in parts((photo.height, photo.width), config.layout):
        height, width = part.scaled(side)
        crop = photo.crop((part.left, part.top, part.left + part.width, part.top + part.height))
        y, x = round((height - side) / 2), round((width - side) / 2)
        square = crop.resize((width, height), _FILTERS[config.resize]).crop((x, y, x + side, y + side))
        crops.append(np.asarray(square))
    return crops


def cut_depth(depth_hw: np.ndarray, size: tuple[int, int], config: CropConfig, side: int, grid: int) -> np.ndarray:
    """The depth in the K crops of a photo, on the patch grid: float32 (K, grid, grid).

    depth_hw: float32, of the whole photo, at any resolution; not scaled again in a crop, so that depths of all crops of
        a photo can be compared.
    size: H, W of the photo.

    Every pixel of a patch counts, or lies between its neighbours where the depth is coarser than the grid.
    """
    depth = Image.fromarray(np.ascontiguousarray(depth_hw, np.float32))
    y, x = depth.height / size[0], depth.width / size[1]
    crops = []
    for part in parts(size, config.layout):
        left, top, right, bottom = square_of(part, side)
        # rounding may put an edge beyond the map, which Pillow refuses
        box = (max(0.0, left * x), max(0.0, top * y), min(depth.width, right * x), min(depth.height, bottom * y))
        crops.append(np.asarray(depth.resize((grid, grid), Image.Resampling.BILINEAR, box=box), np.float32))
    return np.stack(crops)


def square_of(part: Part, side: int) -> tuple[float, float, float, float]:
    """The square in the middle of a part that its crop shows: left, top, right, bottom in pixels of the photo."""
    height, width = part.scaled(side)
    y, x = part.height / height, part.width / width  # pixels of the photo per scaled pixel
    top, left = part.top + round((height - side) / 2) * y, part.left + round((width - side) / 2) * x
    return left, top, left + side * x, top + side * y
