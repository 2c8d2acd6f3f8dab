"""Depth maps that the user already has, in a folder that mirrors the images."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from pipeline.errors import ConfigError, ImageError
from pipeline.storage.locations import is_file
from pipeline.wording import brief
from stages.depth import DepthKind, check_kind
from stages.fingerprint import text_digest
from stages.stored_depth import relative_stored_depth

SUFFIXES = (".png", ".npy", ".npz")
# How far the aspect of a map may be from its photo's: models round sides to multiples of 32 or 64.
_ASPECT_TOLERANCE = 0.15
# Bytes that are read of a map for the fingerprint: the last ones of PNG and NPZ files, which are checksums of all that
# they hold; of an NPY file all, of a large one blocks all over it.
_BLOCK, _BLOCKS, _SMALL = 4096, 16, 1 << 20
_READERS = 8


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
        self._folder = folder

    def refuse_none(self) -> None:
        """ConfigError when no file below the folder could be a map."""
        if next(self._files(), None) is None:
            raise ConfigError(
                f"{self._folder} holds no depth maps ({', '.join(SUFFIXES)}): give their root, or a folder with the "
                "config.json of a transformers model"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the kind, and of all maps by their names below the folder, sizes and contents, not of where the
        folder is. Contents: checksums at the end of PNG and NPZ files; NPY files, of those over 1 MiB 16 blocks of
        4 KiB. So little is read, and a map that was made differently is noticed; in a large NPY file a few pixels may
        not be.
        """
        with ThreadPoolExecutor(_READERS, thread_name_prefix="maps") as readers:
            found = sorted(readers.map(self._content, self._files()))
        return text_digest(
            "contents of depth maps", self.kind, *(part for name_digest in found for part in name_digest)
        )

    @property
    def earlier_fingerprint(self) -> str:
        """What the fingerprint was of before it was of the maps: the folder's path, and kind."""
        return text_digest("depth maps", str(self._folder.resolve()), self.kind)

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """See `DepthModel.predict`; (h, w) is the size of the map on disk, and what was filled is masked.

        Raises ImageError "no_depth_map" when an image has none, "bad_depth_map" when it cannot be read, is not one
        channel, is a mask, has too many holes, or another aspect than the photo.
        """
        return [self._depth(image, id_) for image, id_ in zip(images, ids, strict=True)]

    def stored(self, image: np.ndarray, id_: str, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What `read` makes of the numbers of an image's map as they are, real (h, w), in a unit that it must know.
        Raises as `predict`, but for holes; whatever `read` raises is "bad_depth_map", too.
        """
        return self._of_map(image, id_, lambda raw, _: read(raw))

    def _depth(self, image: np.ndarray, id_: str) -> np.ndarray:
        return self._of_map(image, id_, lambda raw, path: relative_stored_depth(raw, self.kind, str(path)))

    def _of_map(self, image: np.ndarray, id_: str, read: Callable[[np.ndarray, Path], np.ndarray]) -> np.ndarray:
        path = self._find(id_)
        try:
            raw = _read(path)
            _check_aspect(raw, image)
            return read(raw, path)
        # zlib, zipfile, struct and Pillow each have errors of their own for what is damaged
        except Exception as error:
            raise ImageError("bad_depth_map", f"{id_}: depth map {path} is of no use: {brief(error)}") from error

    def _find(self, id_: str) -> Path:
        stems = (self._folder / id_, (self._folder / id_).with_suffix(""))
        candidates = [Path(f"{stem}{suffix}") for stem in stems for suffix in SUFFIXES]
        for path in candidates:
            if is_file(path):
                return path
        raise ImageError("no_depth_map", f"{id_}: none of {', '.join(map(str, candidates))} exists")

    def _files(self) -> Iterator[str]:
        """Names of the files that are maps by their endings, from the folder; in any order, links followed once."""
        seen: set[str] = set()
        for folder, below, names in os.walk(self._folder, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            for name in names:
                if name.endswith(SUFFIXES):
                    yield Path(folder, name).relative_to(self._folder).as_posix()

    def _content(self, name: str) -> tuple[str, str]:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.sha256(str(size).encode())
                is_whole = path.suffix == ".npy" and size <= _SMALL
                for block in range(_BLOCKS if path.suffix == ".npy" and not is_whole else 0):
                    file.seek(size * block // _BLOCKS)
                    digest.update(file.read(_BLOCK))
                file.seek(0 if is_whole else max(0, size - _BLOCK))
                digest.update(file.read())
        except OSError as error:
            return name, f"cannot be read: {type(error).__name__}"  # its image is told so, by name
        return name, digest.hexdigest()


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        with Image.open(path) as png:
            return _grey(png)
    with path.open("rb") as file:  # numpy leaves open what it opened itself when the file is damaged
        loaded = _numbers(file)
        if isinstance(loaded, np.ndarray):
            return _one_map(loaded)
        names = loaded.files
        if "depth" not in names and len(names) != 1:
            raise ValueError(f"it holds {', '.join(names) or 'nothing'}: name the one that counts `depth`")
        return _one_map(loaded["depth" if "depth" in names else names[0]])


def _numbers(file: IO[bytes]) -> Any:
    """What NumPy reads; its own messages advise to load unsafely what is no file of its."""
    start = file.read(6)
    if not start.startswith((b"\x93NUMPY", b"PK")):
        raise ValueError("it is no NPY or NPZ file: write it with numpy.save or numpy.savez, or copy it again")
    file.seek(0)
    try:
        return np.load(file, allow_pickle=False)
    except ValueError as error:
        raise ValueError("it holds Python objects, not numbers") if "pickle" in str(error) else error from error


def _grey(png: Image.Image) -> np.ndarray:
    """The numbers of a picture; of one with a palette of greys those greys, which tools write to save space."""
    if png.mode != "P":
        return np.asarray(png)
    colours = np.asarray(png.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise ValueError("it is a coloured picture, whose palette's numbers are no depths: give the depths themselves")
    return colours[..., 0]


def _one_map(array: np.ndarray) -> np.ndarray:
    """Without an axis of length 1 before or after height and width: Depth Anything 3 writes (1, h, w) for a photo."""
    if array.ndim != 3 or 1 not in (array.shape[0], array.shape[2]):
        return array
    return array[0] if array.shape[0] == 1 else array[..., 0]


def _check_aspect(raw: np.ndarray, image: np.ndarray) -> None:
    if raw.ndim != 2 or 0 in raw.shape:
        more = ", one file per photo" if raw.ndim == 3 else ""
        raise ValueError(f"its shape is {raw.shape}, a depth map has (height, width){more}")
    (h, w), (H, W) = raw.shape, image.shape[:2]
    if h != w and abs(np.log((w / h) / (W / H))) > np.log1p(_ASPECT_TOLERANCE):
        raise ValueError(f"it is {w}x{h} (width x height) for a photo of {W}x{H}: another aspect")
