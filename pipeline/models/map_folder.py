"""Maps that the user already has, a file for each image, in a folder that mirrors the images."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError
from pipeline.storage.locations import is_file
from pipeline.wording import brief

# Files that end with checksums of all that they hold.
_CHECKED = (".png", ".npz")
# Bytes that are read of a map for the fingerprint: the last ones of files with checksums; of others all, of a large one
# blocks all over it.
_BLOCK, _BLOCKS, _SMALL = 4096, 16, 1 << 20
_READERS = 8


class MapFolder:
    """A folder in which the map of image `a/b.jpg` is `a/b` with one of the suffixes, or `a/b.jpg` with one, which
    comes first and tells `b.jpg` from `b.png`.

    suffixes: of the files that are maps, in the order in which they are looked for.
    kind: of map, for the reasons of `read`: "depth_map".
    words: the same in its messages.
    """

    def __init__(self, folder: Path, suffixes: tuple[str, ...], kind: str, words: str) -> None:
        self.folder = folder
        self._suffixes, self._kind, self._words = suffixes, kind, words

    def is_empty(self) -> bool:
        """Whether no file below the folder could be a map."""
        return next(self._files(), None) is None

    def read(self, id_: str, reader: Callable[[Path], np.ndarray]) -> np.ndarray:
        """What a reader makes of the map of an image.

        Raises ImageError: "no_KIND", which lists where it was looked for, when there is none; "bad_KIND" for whatever
        the reader raises.
        """
        path = self._find(id_)
        try:
            return reader(path)
        except Exception as error:  # whatever the reader meets costs no other image
            why = f"{id_}: {self._words} {path} is of no use: {brief(error)}"
            raise ImageError(f"bad_{self._kind}", why) from error

    def _find(self, id_: str) -> Path:
        stems = (self.folder / id_, (self.folder / id_).with_suffix(""))
        candidates = [Path(f"{stem}{suffix}") for stem in stems for suffix in self._suffixes]
        for path in candidates:
            if is_file(path):
                return path
        raise ImageError(f"no_{self._kind}", f"{id_}: none of {', '.join(map(str, candidates))} exists")

    def contents(self) -> list[str]:
        """Names of all maps below the folder, sorted, each with a digest of size and content, not of where the folder
        is. Contents: checksums at the end of PNG and NPZ files; of other files all, of those over 1 MiB 16 blocks of
        4 KiB. So little is read, and a map that was made differently is noticed; in a large file without checksums a
        few pixels may not be.
        """
        with ThreadPoolExecutor(_READERS, thread_name_prefix="maps") as readers:
            found = sorted(readers.map(self._content, self._files()))
        return [part for name_digest in found for part in name_digest]

    def _files(self) -> Iterator[str]:
        """Names of the files that are maps by their endings, from the folder; in any order, links followed once."""
        seen: set[str] = set()
        for folder, below, names in os.walk(self.folder, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            for name in names:
                if name.endswith(self._suffixes):
                    yield Path(folder, name).relative_to(self.folder).as_posix()

    def _content(self, name: str) -> tuple[str, str]:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.sha256(str(size).encode())
                is_checked = path.suffix in _CHECKED
                is_whole = not is_checked and size <= _SMALL
                for block in range(0 if is_checked or is_whole else _BLOCKS):
                    file.seek(size * block // _BLOCKS)
                    digest.update(file.read(_BLOCK))
                file.seek(0 if is_whole else max(0, size - _BLOCK))
                digest.update(file.read())
        except OSError as error:
            return name, f"cannot be read: {type(error).__name__}"  # its image is told so, by name
        return name, digest.hexdigest()


def read_array(path: Path, name: str) -> np.ndarray:
    """The array of an NPY file, or of an NPZ file the one of this name, or the only one. Raises ValueError, which says
    the remedy, for what is none, OSError for a file that cannot be opened.
    """
    with path.open("rb") as file:  # numpy leaves open what it opened itself when the file is damaged
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("it is no NPY or NPZ file: write it with numpy.save or numpy.savez, or copy it again")
        file.seek(0)
        with damage_said():
            loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        names = loaded.files
        if name not in names and len(names) != 1:
            raise ValueError(f"it holds {', '.join(names) or 'nothing'}: name the one that counts `{name}`")
        with damage_said():
            found: np.ndarray = loaded[name if name in names else names[0]]
        return found


@contextmanager
def damage_said() -> Iterator[None]:
    """A library's error for the content of a file, which speaks to programmers and may advise to load unsafely, becomes
    a ValueError with a remedy.
    """
    try:
        yield
    except Exception as error:  # zlib, zipfile, struct, NumPy and Pillow each have errors of their own
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, or of who may read
        if "pickle" in str(error):
            raise ValueError("it holds Python objects, not numbers: write numbers with numpy.save") from error
        why = f"it is damaged or cut short, copy it again or write it anew ({brief(error, 120)})"
        raise ValueError(why) from error


def one_map(array: np.ndarray) -> np.ndarray:
    """Without an axis of length 1 before or after height and width: Depth Anything 3 writes (1, h, w) for a photo."""
    if array.ndim != 3 or 1 not in (array.shape[0], array.shape[2]):
        return array
    return array[0] if array.shape[0] == 1 else array[..., 0]


def is_other_aspect(map_size: tuple[int, ...], size: tuple[int, ...], tolerance: float) -> bool:
    """Whether one height and width have another aspect than the other, by more than this share."""
    (h, w), (H, W) = map_size, size
    return bool(abs(np.log((w / h) / (W / H))) > np.log1p(tolerance))
