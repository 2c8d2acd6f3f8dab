"""Depth maps that the user already has, in a folder that mirrors the images."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.models.map_folder import MapFolder, damage_said, is_other_aspect, one_map, read_array
from stages.depth import DepthKind, check_kind
from stages.fingerprint import text_digest
from stages.stored_depth import relative_stored_depth

SUFFIXES = (".png", ".npy", ".npz")
# How far the aspect of a map may be from its photo's: models round sides to multiples of 32 or 64.
_ASPECT_TOLERANCE = 0.15


class DepthMaps:
    """A `DepthModel` that looks depth up: the map of image `a/b.jpg` is `a/b.png`, `.npy` or `.npz` in the folder, or
    `a/b.jpg.png` and so on, which comes first and tells `b.jpg` from `b.png`.

    PNG: one channel of 8 or 16 bit; NPY: a (h, w) array of any real type; NPZ: one array, or the one named `depth`.
    A leading or trailing axis of length 1 is dropped. A map has any resolution but the photo's aspect (after EXIF
    rotation), or is square: the photo squeezed. Holes and outliers: see `stages.stored_depth`.

    kind: "depth" or "inverse_depth".

    Raises ConfigError when the folder does not exist.
    """

    def __init__(self, folder: Path, kind: DepthKind = "depth") -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder: give the root of the depth maps")
        self.name = f"maps:{folder}"
        self.kind = check_kind(kind)
        self._maps = MapFolder(folder, SUFFIXES, "depth_map", "depth map")

    def refuse_none(self) -> None:
        """ConfigError when no file below the folder could be a map."""
        if self._maps.is_empty():
            raise ConfigError(
                f"{self._maps.folder} holds no depth maps ({', '.join(SUFFIXES)}): give their root, or a folder with "
                "the config.json of a transformers model"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the kind, and of all maps by their names below the folder and contents, see
        `MapFolder.contents`.
        """
        return text_digest("contents of depth maps", self.kind, *self._maps.contents())

    @property
    def earlier_fingerprint(self) -> str:
        """What the fingerprint was of before it was of the maps: the folder's path, and kind."""
        return text_digest("depth maps", str(self._maps.folder.resolve()), self.kind)

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """See `DepthModel.predict`; (h, w) is the size of the map on disk, and what was filled is masked.

        Raises ImageError "no_depth_map" when an image has none, "bad_depth_map" when it cannot be read, is not one
        channel, is a mask, has too many holes, or another aspect than the photo.
        """
        return [self._depth(image, id_) for image, id_ in zip(images, ids, strict=True)]

    def stored(self, image: np.ndarray, id_: str) -> np.ndarray:
        """The numbers of an image's map as they are, real (h, w), in a unit that the caller must know. Raises as
        `predict`, but for holes, unless there is nothing else.
        """
        return self._maps.read(id_, lambda path: _with_a_distance(_read(path, image)))

    def _depth(self, image: np.ndarray, id_: str) -> np.ndarray:
        return self._maps.read(id_, lambda path: relative_stored_depth(_read(path, image), self.kind, str(path)))


def _read(path: Path, image: np.ndarray) -> np.ndarray:
    """The map, of the photo's aspect."""
    if path.suffix == ".png":
        with damage_said():
            png = Image.open(path)
        with png:
            with damage_said():
                png.load()
            raw = _grey(png)
    else:
        raw = one_map(read_array(path, "depth"))
    _check_aspect(raw, image)
    return raw


def _with_a_distance(raw: np.ndarray) -> np.ndarray:
    if not (raw > 0).any():
        raise ValueError("none of its values is above 0, so it tells of no distance")
    return raw


def _grey(png: Image.Image) -> np.ndarray:
    """The numbers of a picture; of one with a palette of greys those greys, which tools write to save space."""
    if png.mode != "P":
        return np.asarray(png)
    colours = np.asarray(png.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise ValueError("it is a coloured picture, whose palette's numbers are no depths: give the depths themselves")
    return colours[..., 0]


def _check_aspect(raw: np.ndarray, image: np.ndarray) -> None:
    if raw.ndim != 2 or 0 in raw.shape:
        more = ", one file per photo" if raw.ndim == 3 else ""
        raise ValueError(f"its shape is {raw.shape}, a depth map has (height, width){more}")
    (h, w), (H, W) = raw.shape, image.shape[:2]
    if h != w and is_other_aspect((h, w), (H, W), _ASPECT_TOLERANCE):
        raise ValueError(f"it is {w}x{h} (width x height) for a photo of {W}x{H}: another aspect")
