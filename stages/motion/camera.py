"""A rectified stereo camera, and what becomes of it when its pictures are scaled or cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Camera:
    """A rectified stereo camera, for pictures of the size that the clip has.

    A point (X, Y, Z) in metres, right, down and forward of the left lens, is at the pixel (fx·X/Z + cx, fy·Y/Z + cy);
    whole numbers are centres of pixels, (0, 0) that of the left upper one. Its disparity is fx·baseline/Z.

    fx, fy: focal lengths in pixels, > 0.
    cx, cy: principal point of the left picture in pixels.
    baseline: distance of the two lenses in metres, > 0.

    Raises ValueError, which names the field, for anything else.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    baseline: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"camera: {field.name} is {value!r}, it must be a number")
            if field.name not in ("cx", "cy") and value <= 0:
                raise ValueError(f"camera: {field.name} is {value}, it must be above 0")

    def scaled(self, factor_y: float, factor_x: float) -> Camera:
        """The camera of the same pictures at another size: `factor_y` times their height, `factor_x` their width.

        The left upper corner, at (-0.5, -0.5), stays where it is; that of the first pixel's centre does not.
        """
        cx, cy = (self.cx + 0.5) * factor_x - 0.5, (self.cy + 0.5) * factor_y - 0.5
        return replace(self, fx=self.fx * factor_x, fy=self.fy * factor_y, cx=cx, cy=cy)

    def cropped(self, top: float, left: float) -> Camera:
        """The camera of pictures that lack so many rows at the top and columns at the left (negative: have more)."""
        return replace(self, cx=self.cx - left, cy=self.cy - top)
