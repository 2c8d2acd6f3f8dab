"""What flat stores have in common, whatever they hold for an image: which images, from which runs, and where they are.

Shards are made for writing: each is a compressed file. Training reads single images at random, from many processes. So
the shards are consolidated once into a cache folder, named by a digest of everything that decides its content, and
mapped from there: memory is the page cache's, whatever the number of processes. The cache may be deleted at any time;
it is made again when it is asked for next. Arrays of every store:

    size, run                        int32 (B, 2) height, width; int32 (B,) number of the run
    id, id_offsets, uri, uri_offsets uint8 bytes, int64 (B+1)   UTF-8
    place                            int64 (B, 5)               offset, length, height, width, coco_id of the ImageRef;
                                                                -1 for None

B images
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from detector.data.array_writer import ArrayWriter
from pipeline.errors import ConfigError, StoreError
from pipeline.images.manifest import ImageRef
from pipeline.runs.ledger import is_retry
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import MANIFEST_FILE, RunFolder
from pipeline.storage.cache import cache_folder
from pipeline.wording import part_of

log = logging.getLogger(__name__)

Reader = TypeVar("Reader", bound=RunReader)

# Name, dtype and what a row is; the names of offsets say what they are offsets into.
IMAGE_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    **{"size": ("<i4", (2,)), "run": ("<i4", ()), "place": ("<i8", (5,))},
    **{"id": ("u1", ()), "id_offsets": ("<i8", ()), "uri": ("u1", ()), "uri_offsets": ("<i8", ())},
}
_PLACE_FIELDS = ("offset", "length", "height", "width", "coco_id")


class FlatImages(ABC):
    """Images of a flat store, by number from 0, in the order of the runs and their manifests.

    Several runs over one data set stay apart: an image that is in two runs is here twice. Pickled and copied, a store
    stays the same mapped files. Do not write to any of it.

    folder: of the arrays.
    store: arrays by name, those of `IMAGE_ARRAYS` among them.
    images: int64, rows of the images that are here.
    runs: facts of each run, "url" among them.
    """

    def __init__(
        self, folder: Path, store: Mapping[str, np.ndarray], images: np.ndarray, runs: Sequence[Mapping[str, Any]]
    ) -> None:
        self.folder = folder
        self._store = store
        self._images = images
        self._runs = runs

    def __len__(self) -> int:
        """Images."""
        return len(self._images)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: data sets and samples are copied by MMDetection, and the arrays are not to be."""
        return self

    @abstractmethod
    def summary(self) -> str:
        """What is here and what was left out, in a sentence for people."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a detector's file says about what it was trained on: plain JSON, images and how many of what."""

    @property
    def runs(self) -> list[str]:
        """URLs of the runs."""
        return [str(run["url"]) for run in self._runs]

    def size(self, image: int) -> tuple[int, int]:
        """Height and width in pixels, after EXIF rotation."""
        height, width = self._store["size"][self._images[image]].tolist()
        return height, width

    def ref(self, image: int) -> ImageRef:
        """Where the photo is, as the run's manifest says."""
        row = int(self._images[image])
        place = [None if value < 0 else value for value in self._store["place"][row].tolist()]
        fields = dict(zip(_PLACE_FIELDS, place, strict=True))
        return ImageRef(self._text("id", row), self._text("uri", row), **fields)

    def run_url(self, image: int) -> str:
        """The run that an image comes from."""
        return self.runs[int(self._store["run"][self._images[image]])]

    def _text(self, name: str, row: int) -> str:
        return self._bytes(name, row).decode()

    def _bytes(self, name: str, row: int) -> bytes:
        """What `name` holds for a row, by its offsets."""
        start, stop = self._store[f"{name}_offsets"][row : row + 2].tolist()
        return self._store[name][start:stop].tobytes()


def cache_root(cache: str | Path | None) -> Path:
    """Folder for the arrays of all stores; None: `flat` in the cache of cuts3d (see `pipeline.models.weights`)."""
    return Path(cache).expanduser() if cache is not None else cache_folder() / "flat"


def open_readers(runs: str | Sequence[str], read: Callable[[RunFolder], Reader]) -> list[Reader]:
    """Readers of runs; of one that is not complete, of what is committed now, with a warning.

    Raises:
        ConfigError: no runs, one twice, or one of another kind.
        StoreError: no run, or no committed shard there.
        RunMismatchError: a run is of another schema.
    """
    named = [runs] if isinstance(runs, str) else list(runs)
    if not named:
        raise ConfigError("no runs: name the folder or URL of at least one run whose masks are to be learned")
    readers = [read(RunFolder.open(run)) for run in named]
    urls = [reader.run.url for reader in readers]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice is not None:
        raise ConfigError(f"the run {twice} is named twice: its images would count double")
    for reader in readers:
        planned = reader.run.n_shards
        done = sum(not is_retry(key) for key in reader.commits)
        if done == 0:
            raise StoreError(
                f"{reader.run.url} has no committed shard yet: start its `cuts3d run` again, or wait for it"
            )
        if done < planned:
            _warn_of(reader.run.url, planned - done, planned)
    return readers


@cache
def _warn_of(run: str, missing: int, planned: int) -> None:
    """Once in a process, which opens a run to look at its classes, to tell what is there, and to learn from it."""
    log.warning("%s is not complete: %s missing", run, part_of(missing, planned, "shard"))


def digest_of(layout: str, readers: Sequence[RunReader]) -> str:
    """Of everything that decides the arrays: what is committed, and the manifests with the URIs of the images.

    layout: name and version of the arrays' layout.
    """
    digest = hashlib.sha256(f"{layout}\n".encode())
    for reader in readers:
        try:
            manifest = hashlib.sha256(reader.run.files.read_bytes(MANIFEST_FILE)).hexdigest()
        except FileNotFoundError as error:
            raise StoreError(
                f"{reader.run.url} has no {MANIFEST_FILE}: start the run again with the same images to restore it"
            ) from error
        # The URL is kept beside the arrays for messages; a run that was moved is another store.
        digest.update(f"{reader.run.url}\n{reader.run.fingerprint} {reader.run.digest} {manifest}\n".encode())
        for key, commit in reader.commits.items():
            files = (commit.shard.sha256, commit.quarantine.sha256 if commit.quarantine else "")
            digest.update(f"{key} {' '.join(files)}\n".encode())
    return digest.hexdigest()[:32]


def refs_of(run: RunFolder) -> Callable[[str, Sequence[str]], list[ImageRef]]:
    """A function that finds images of a run by the name of a shard and their ids; StoreError for one that the manifest
    has not.
    """
    refs = {ref.id: ref for ref in run.manifest.refs}

    def find(shard: str, ids: Sequence[str]) -> list[ImageRef]:
        missing = next((id_ for id_ in ids if id_ not in refs), None)
        if missing is not None:
            raise StoreError(f"{run.url}: {shard} has the image {missing!r}, which the manifest has not")
        return [refs[id_] for id_ in ids]

    return find


def append_images(out: ArrayWriter, refs: Sequence[ImageRef], size_B2: np.ndarray, number: int) -> None:
    """Images of run `number`. size_B2: height, width of each."""
    out.append("size", size_B2)
    out.append("run", np.full(len(refs), number))
    places = [[-1 if (value := getattr(ref, field)) is None else value for field in _PLACE_FIELDS] for ref in refs]
    out.append("place", np.array(places, np.int64).reshape(-1, len(_PLACE_FIELDS)))
    for name in ("id", "uri"):
        append_parts(out, name, [getattr(ref, name).encode() for ref in refs])


def append_parts(out: ArrayWriter, name: str, parts: Sequence[bytes]) -> None:
    """Bytes of any length, one after the other, with their offsets."""
    out.append(name, b"".join(parts))
    out.append_lengths(f"{name}_offsets", np.array([len(part) for part in parts], np.int64))
