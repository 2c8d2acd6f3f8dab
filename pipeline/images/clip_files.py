"""Rows of a manifest that name several pictures: the pair of a stereo camera, the next pair, and the camera."""

from dataclasses import dataclass, fields
from typing import Any

from pipeline.errors import SourceError
from stages.motion.camera import Camera


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


# Why clips of one lens, that have no right pictures, are refused.
NO_RIGHT = (
    "one lens alone is not enough, as distances in metres, and with them rigid motions, come from the disparity of two"
)
PICTURES = ("right", "left_next", "right_next")
NUMBERS = tuple(field.name for field in fields(Camera))


def camera_of(**numbers: Any) -> Camera:
    """The camera of these numbers; SourceError, which names what is wrong, when there is none."""
    try:
        return Camera(**numbers)
    except ValueError as error:
        raise SourceError(str(error)) from error
