"""Flow and disparity that the user already has, in folders that mirror the images.

H, W pixels of the pictures · h, w of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError
from pipeline.models.map_folder import MapFolder, is_other_aspect
from pipeline.models.motion_files import DISPARITY_SUFFIXES, FLOW_SUFFIXES, read_disparity, read_flow
from stages.fingerprint import text_digest
from stages.motion.clip_motion import MAPS, ClipMotion, ClipPictures
from stages.motion.opencv_motion import OpencvMotion

# What the folder of each map of `ClipMotion` is called.
FOLDERS = {name: name.rpartition("_")[0] for name in MAPS}

# How far the aspect of a map may be from the pictures': networks round sides to multiples of 8 or so. One that was cut
# from them has another, and its pixels are not theirs.
_ASPECT_TOLERANCE = 0.05


class MotionMaps:
    """A `MotionModel` that looks maps up: the flow of the clip whose left picture is `a/b.png` is `flow/a/b.png`,
    `.flo`, `.pfm`, `.npy` or `.npz` in the folder, its other maps are in `flow_back`, `disparity`, `disparity_right`,
    `disparity_next` and `disparity_right_next`; `a/b.png.flo` and so on comes first. Formats: see `motion_files`.

    A map of another resolution, but the pictures' aspect, takes the nearest pixel, and lengths are scaled with it. Of
    folders that are not there the maps are computed by another model; where one is there, each clip must have its map.

    computed: gives the other maps.

    Raises ConfigError when the folder does not exist, or holds none of the six.
    """

    device, in_processes = "cpu", True

    def __init__(self, folder: Path, computed: OpencvMotion) -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder: give that which holds {', '.join(FOLDERS.values())}")
        self.name = f"maps:{folder}"
        self._computed = computed
        self._maps = {
            name: MapFolder(
                folder / below, FLOW_SUFFIXES if _is_flow(name) else DISPARITY_SUFFIXES, "motion_map", below
            )
            for name, below in FOLDERS.items()
            if (folder / below).is_dir()
        }
        if all(maps.is_empty() for maps in self._maps.values()):
            raise ConfigError(
                f"{folder} holds no maps: it needs one of the folders {', '.join(FOLDERS.values())}, with a file for "
                "each clip"
            )

    @property
    def missing(self) -> tuple[str, ...]:
        """The maps of MAPS that are computed."""
        return tuple(name for name in MAPS if name not in self._maps)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all maps by their names and contents, see `MapFolder.contents`, and of what computes the others."""
        contents = (part for name, maps in self._maps.items() for part in (name, *maps.contents()))
        return text_digest("contents of motion maps", *contents, self._computed.fingerprint if self.missing else "")

    def __call__(self, clips: Sequence[ClipPictures], ids: Sequence[str]) -> list[ClipMotion]:
        """See `MotionModel`. Raises ImageError "no_motion_map" when a clip lacks a map that has a folder,
        "bad_motion_map" when one cannot be read, or has another aspect than the pictures.
        """
        read = [self._read(id_, clip.left.shape[:2]) for id_, clip in zip(ids, clips, strict=True)]
        others: list[dict[str, np.ndarray]] = [{} for _ in ids]
        if self.missing:
            others = self._computed.some(self.missing, clips)
        return [ClipMotion(**maps, **other) for maps, other in zip(read, others, strict=True)]

    def _read(self, id_: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
        def flow(path: Path) -> np.ndarray:
            return _at_size(read_flow(path), size)

        def disparity(path: Path) -> np.ndarray:
            return _at_size(read_disparity(path), size)

        return {name: maps.read(id_, flow if _is_flow(name) else disparity) for name, maps in self._maps.items()}


def _is_flow(name: str) -> bool:
    return name.startswith("flow")


def _at_size(map_: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map at (H, W): the nearest pixel at each, whose lengths are scaled as the axis they lie on."""
    (h, w), (H, W) = map_.shape[:2], size
    if (h, w) == (H, W):
        return map_
    if is_other_aspect((h, w), size, _ASPECT_TOLERANCE):
        raise ValueError(f"it is {w}x{h} (width x height) for pictures of {W}x{H}: cut from them, not scaled")
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in ((H, h), (W, w)))
    nearest = map_[rows[:, None], columns]
    scale = np.array([W / w, H / h] if map_.ndim == 3 else W / w, np.float32)
    return np.asarray(nearest * scale, np.float32)
