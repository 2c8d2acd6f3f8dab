"""Rows of a manifest that name several pictures: the pair of a stereo camera, the next pair, and the camera."""

import math
from dataclasses import dataclass, fields

from pipeline.errors import SourceError


@dataclass(frozen=True, slots=True)
class Camera:
    """A rectified stereo camera, for pictures of the size that the clip has.

    fx, fy: focal lengths in pixels, > 0.
    cx, cy: principal point of the left picture in pixels, from its left upper corner.
    baseline: distance of the two lenses in metres, > 0.
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
                raise SourceError(f"camera: {field.name} is {value!r}, it must be a number")
            if field.name not in ("cx", "cy") and value <= 0:
                raise SourceError(f"camera: {field.name} is {value}, it must be above 0")


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """What a clip has beside its left picture, which is the image itself.

    right, left_next, right_next: local paths or fsspec URLs of whole files.
    camera: of the pair.
    """

    right: str
    left_next: str
    right_next: str
    camera: Camera


PICTURES = ("right", "left_next", "right_next")
NUMBERS = tuple(field.name for field in fields(Camera))
