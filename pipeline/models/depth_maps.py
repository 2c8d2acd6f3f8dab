"""Depth maps that the user already has, in a folder that mirrors the images."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import ConfigError, ImageError
from stages.depth import DepthKind, check_kind, relative_depth
from stages.fingerprint import text_digest

SUFFIXES = (".png", ".npy", ".npz")
# How far the aspect of a map may be from its photo's: models round sides to multiples of 32 or 64.
_ASPECT_TOLERANCE = 0.15


class DepthMaps:
    """A `DepthModel` that looks depth up: the map of image `a/b.jpg` is `a/b.png`, `.npy` or `.npz` in the folder, or
    `a/b.jpg.png` and so on, which comes first and tells `b.jpg` from `b.png`.

    PNG: one channel of 8 or 16 bit; NPY: a (h, w) array of any real type; NPZ: one array, or the one named `depth`.
    A map has any resolution but the photo's aspect (after EXIF rotation), or is square: the photo squeezed.

    kind: "depth" or "inverse_depth".
    fingerprint: of the folder's path and kind; the maps are not read for it.

    Raises ConfigError when the folder does not exist.
    """

    def __init__(self, folder: Path, kind: DepthKind = "depth") -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder: give the root of the depth maps")
        self.name = f"maps:{folder}"
        self.kind = check_kind(kind)
        self.fingerprint = text_digest("depth maps", str(folder.resolve()), self.kind)
        self._folder = folder

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """See `DepthModel.predict`; (h, w) is the size of the map on disk.

        Raises ImageError "no_depth_map" when an image has none, "bad_depth_map" when it cannot be read, is not one
        channel, has NaN or infinity in it, or another aspect than the photo.
        """
        return [self._depth(image, id_) for image, id_ in zip(images, ids, strict=True)]

    def _depth(self, image: np.ndarray, id_: str) -> np.ndarray:
        path = self._find(id_)
        try:
            raw = _read(path)
            _check_aspect(raw, image)
            return relative_depth(raw, self.kind, str(path))
        except (OSError, UnidentifiedImageError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ImageError("bad_depth_map", f"{id_}: depth map {path} is of no use: {error}") from error

    def _find(self, id_: str) -> Path:
        stems = (self._folder / id_, (self._folder / id_).with_suffix(""))
        candidates = [Path(f"{stem}{suffix}") for stem in stems for suffix in SUFFIXES]
        for path in candidates:
            if path.is_file():
                return path
        raise ImageError("no_depth_map", f"{id_}: none of {', '.join(map(str, candidates))} exists")


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        with Image.open(path) as png:
            return np.asarray(png)
    with path.open("rb") as file:  # numpy leaves open what it opened itself when the file is damaged
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        names = loaded.files
        if "depth" not in names and len(names) != 1:
            raise ValueError(f"it holds {', '.join(names) or 'nothing'}: name the one that counts `depth`")
        return loaded["depth" if "depth" in names else names[0]]


def _check_aspect(raw: np.ndarray, image: np.ndarray) -> None:
    if raw.ndim != 2 or 0 in raw.shape:
        raise ValueError(f"its shape is {raw.shape}, a depth map has (height, width)")
    (h, w), (H, W) = raw.shape, image.shape[:2]
    if h != w and abs(np.log((w / h) / (W / H))) > np.log1p(_ASPECT_TOLERANCE):
        raise ValueError(f"it is {w}x{h} (width x height) for a photo of {W}x{H}: another aspect")
