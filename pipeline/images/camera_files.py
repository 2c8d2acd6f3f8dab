"""Stereo cameras as data sets write them: KITTI's projection matrices, Cityscapes' JSON."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.clip_files import camera_of
from pipeline.storage.locations import contents_of, read_json, text_of
from stages.motion.camera import Camera

# Of a focal length, by which the two matrices of one camera may differ: they are written with seven digits.
_TOLERANCE = 1e-4


def kitti_camera(location: str, left: int, right: int) -> Camera:
    """The camera of a rectified pair, out of a file with a line for each lens's 3x4 projection matrix: "P2: ..." as
    KITTI 2012 has it, or "P_rect_02: ..." as the raw recordings and scene flow 2015.

    left, right: numbers of the lenses, 0 to 3.

    A matrix is K [I | t]: its last column over the focal length is where the lens is, and the difference of the two is
    the baseline. Raises SourceError, which names the file and the line, where it cannot be read, a line is missing or
    no matrix, or the two are no rectified pair.
    """
    lines = dict(line.split(":", 1) for line in text_of(contents_of(location), location).splitlines() if ":" in line)
    one, other = (_projection(lines, lens, location) for lens in (left, right))
    # cut to the columns that rays depend on, both are the same matrix K
    if not np.allclose(one[:, :3], other[:, :3], rtol=0, atol=_TOLERANCE * max(1.0, abs(one[0, 0]))):
        raise SourceError(
            f"{location}: the matrices of lenses {left} and {right} differ in more than their last column, as those of "
            "pictures that are not rectified do: take the rectified ones"
        )
    fx, skew, cx, shift = one[0]
    if skew or one[1, 0] or tuple(one[2, :3]) != (0, 0, 1):
        raise SourceError(f"{location}: the matrix of lens {left} is no projection of a rectified camera")
    baseline = (shift - other[0, 3]) / fx if fx else math.nan
    return _named(location, fx=fx, fy=one[1, 1], cx=cx, cy=one[1, 2], baseline=baseline)


def cityscapes_camera(location: str) -> Camera:
    """The camera of a Cityscapes file, NAME_camera.json; SourceError, which names file and number, for what is none."""
    read = read_json(location)
    intrinsic, extrinsic = (read.get(part) if isinstance(read, Mapping) else None for part in _PARTS)
    if not isinstance(intrinsic, Mapping) or not isinstance(extrinsic, Mapping):
        raise SourceError(f"{location} has no {' and '.join(_PARTS)}, as a camera of Cityscapes has")
    names = {"fx": "fx", "fy": "fy", "cx": "u0", "cy": "v0"}
    numbers = {name: intrinsic.get(theirs) for name, theirs in names.items()}
    return _named(location, **numbers, baseline=extrinsic.get("baseline"))


_PARTS = ("intrinsic", "extrinsic")


def _projection(lines: Mapping[str, str], lens: int, location: str) -> np.ndarray:
    """float64 (3, 4)."""
    names = (f"P_rect_{lens:02d}", f"P{lens}")
    line = next((lines[name] for name in names if name in lines), None)
    if line is None:
        raise SourceError(f"{location} has no line {' or '.join(names)}: the camera of lens {lens} is not in it")
    try:
        numbers = np.array(line.split(), np.float64)
    except ValueError:
        numbers = np.empty(0)
    if numbers.shape != (12,) or not np.isfinite(numbers).all():
        raise SourceError(f"{location}: the matrix of lens {lens} is not 12 numbers: {line.strip():.60}")
    return numbers.reshape(3, 4)


def _named(location: str, **numbers: Any) -> Camera:
    try:
        return camera_of(
            **{name: float(value) if isinstance(value, float) else value for name, value in numbers.items()}
        )
    except SourceError as error:
        raise SourceError(f"{location}: {error}") from error
