"""Files of flow and disparity, as data sets and other programs write them.

h, w pixels of a map
"""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.models.map_folder import damage_said, one_map, read_array

FLOW_SUFFIXES = (".png", ".flo", ".pfm", ".npy", ".npz")
DISPARITY_SUFFIXES = (".png", ".pfm", ".npy", ".npz")

_FLO_TAG = b"PIEH"  # 202021.25 as float32
_FLO_UNKNOWN = 1e9  # Middlebury writes larger numbers where flow is not known
_KITTI_FLOW, _KITTI_ZERO = 64, 1 << 15
_KITTI_DISPARITY = 256
_LONGEST_LINE = 100  # of the header of a PFM file


def read_flow(path: Path) -> np.ndarray:
    """Flow float32 (h, w, 2), (u, v), pixels to the right and down; NaN where not known.

    PNG: KITTI's, three channels of 16 bit, (value - 2^15) / 64, the third 0 where not known. FLO: Middlebury's. PFM: of
    three channels, the third unused. NPY, NPZ (its only array, or `flow`): (h, w, 2) or (2, h, w).
    Raises ValueError, which says the remedy, for a file that is none of these, OSError for one that cannot be opened.
    """
    if path.suffix == ".png":
        return _kitti_flow(_png(path))
    if path.suffix == ".flo":
        return _known(_flo(path.read_bytes()))
    if path.suffix == ".pfm":
        map_ = _pfm(path.read_bytes())
        if map_.ndim != 3:
            raise ValueError("it has one channel: flow in a PFM file has three, the third of them unused")
        return _known(map_[..., :2])
    array = _real(read_array(path, "flow"))
    if array.ndim == 3 and array.shape[0] == 2 and array.shape[2] != 2:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 2:
        raise ValueError(f"its shape is {array.shape}, flow has (height, width, 2) or (2, height, width)")
    return _known(array)


def read_disparity(path: Path) -> np.ndarray:
    """Disparity float32 (h, w), pixels >= 0; NaN where not known.

    PNG: KITTI's, one channel of 16 bit, value / 256, 0 where not known. PFM: of one channel. NPY, NPZ (its only array,
    or `disparity`): (h, w), or with an axis of length 1 more. Where most numbers are below 0, the file has horizontal
    flow to the right picture, as FlyingThings3D and RAFT do, and is turned; what is then below 0 is 0.
    Raises as `read_flow`.
    """
    if path.suffix == ".png":
        png = _png(path)
        if png.ndim != 2:
            raise ValueError("it has several channels: a disparity in PNG has one, as KITTI has it")
        return np.where(png == 0, np.float32(np.nan), png.astype(np.float32) / _KITTI_DISPARITY)
    array = one_map(_pfm(path.read_bytes()) if path.suffix == ".pfm" else _real(read_array(path, "disparity")))
    if array.ndim != 2:
        raise ValueError(f"its shape is {array.shape}, a disparity has (height, width)")
    known = _known(array)
    finite = known[np.isfinite(known)]
    if finite.size and np.median(finite) < 0:
        known = -known
    return np.maximum(known, 0)  # NaN stays


def _kitti_flow(png: np.ndarray) -> np.ndarray:
    if png.ndim != 3 or png.shape[2] != 3:
        raise ValueError("it has one channel: flow in PNG has three, as KITTI has it")
    u, v, known = (png[..., channel].astype(np.float32) for channel in (2, 1, 0))  # OpenCV reads blue first
    flow = (np.stack([u, v], axis=-1) - _KITTI_ZERO) / _KITTI_FLOW
    flow[known == 0] = np.nan
    return flow


def _png(path: Path) -> np.ndarray:
    """uint16 (h, w) or (h, w, 3), blue first; ValueError for pictures of 8 bit."""
    import cv2

    with damage_said(), Image.open(path, formats=("PNG",)) as png:
        png.verify()  # OpenCV says nothing of a file that was cut short
    # Pillow makes 8 bits of channels of 16
    found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise ValueError("it cannot be decoded: copy it again")
    if found.dtype != np.uint16:
        raise ValueError("it has 8 bits a channel: KITTI's maps have 16, others are taken as NPY, PFM or FLO")
    return found


def _flo(content: bytes) -> np.ndarray:
    if content[:4] != _FLO_TAG or len(content) < 12:
        raise ValueError("it is no FLO file, which begins with PIEH: copy it again")
    width, height = struct.unpack("<ii", content[4:12])
    if min(width, height) < 1 or len(content) != 12 + 8 * width * height:
        raise ValueError(f"it says {width}x{height} pixels, and has {len(content)} bytes: copy it again")
    flow = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    return np.where((np.abs(flow) > _FLO_UNKNOWN).any(axis=2, keepdims=True), np.nan, flow)


def _pfm(content: bytes) -> np.ndarray:
    """float32 (h, w) or (h, w, 3); the file has the lowest row first."""
    lines = content[: 3 * _LONGEST_LINE].split(b"\n", 3)
    try:
        kind, (width, height), order = lines[0].strip(), map(int, lines[1].split()), float(lines[2])
        channels = {b"Pf": 1, b"PF": 3}[kind]
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(
            "it is no PFM file, which three lines begin, Pf or PF, width and height, and a scale: copy it again"
        ) from error
    start = sum(len(line) + 1 for line in lines[:3])
    if min(width, height) < 1 or len(content) - start != 4 * channels * width * height:
        raise ValueError(
            f"it says {width}x{height} pixels of {channels} channels, and has {len(content)} bytes: copy it again"
        )
    numbers = np.frombuffer(content, "<f4" if order < 0 else ">f4", offset=start)
    map_ = numbers.reshape((height, width) if channels == 1 else (height, width, 3))
    return map_[::-1]


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"it holds {array.dtype}, a map holds real numbers")
    return array


def _known(array: np.ndarray) -> np.ndarray:
    """float32, with NaN at pixels where anything is not finite."""
    map_ = np.array(array, np.float32)  # in the machine's own order of bytes
    finite = np.isfinite(map_)
    map_[~(finite.all(axis=2) if map_.ndim == 3 else finite)] = np.nan
    return map_
