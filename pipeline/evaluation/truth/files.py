"""Reading the files that benchmarks come in, and finding their photos."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import ImageError, SourceError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import PhotoSize, photo_size
from pipeline.storage.locations import contents_of, filesystem, location_of, parent_of, resolve

log = logging.getLogger(__name__)

_READERS = 16  # of photos' headers at a time
_SPLIT = re.compile(r"validation|(?:train|val|test)(?:20\d\d)?")


def read_many(locations: Sequence[str]) -> list[bytes]:
    """Small files, many at a time; SourceError, naming the first that cannot be read."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
        return list(pool.map(contents_of, locations))


def files_in(folder: str, ending: str) -> list[str]:
    """Files directly in a folder with this ending, sorted; [] when there is no such folder."""
    files, path = filesystem(folder)
    try:
        found = files.ls(path, detail=False) if files.isdir(path) else []
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {error.strerror or error}") from error
    return sorted(location_of(files, name) for name in found if name.endswith(ending))


def read_text(location: str) -> str:
    """A text file in UTF-8; SourceError, naming it, when it cannot be read."""
    try:
        return contents_of(location).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{location} is not text in UTF-8: {error}") from error


def entries(dataset: Any, key: str, location: str) -> list[Mapping[str, Any]]:
    """A list of objects of a COCO file; SourceError when it is none."""
    found = dataset.get(key) if isinstance(dataset, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise SourceError(f'{location} is not a COCO instances file: it has no list "{key}" of objects')
    return found


def sizes_of(names: Sequence[str], root: str, location: str) -> dict[str, PhotoSize]:
    """Sizes of photos below `root`, from their headers. Photos that are not there are left out, and the log says so.

    location: the file that lists them, for messages. Raises SourceError when none is there.
    """
    refs = [ImageRef(name, resolve(name, root)) for name in names]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="headers") as pool:
        sizes = dict(zip(names, pool.map(_size_or_none, refs), strict=True))
    found = {name: size for name, size in sizes.items() if size is not None}
    if not found:
        raise SourceError(
            f"{location} does not say how large its images are, and none of its {len(names)} photos is in {root}, for "
            f"example {refs[0].uri}: say where they are"
        )
    if len(found) < len(names):
        missing = next(name for name in names if name not in found)
        log.warning(
            "%d of the %d photos of %s are not in %s or not to be read, such as %s: these images do not count",
            *(len(names) - len(found), len(names), location, root, missing),
        )
    return found


def places_beside(location: str) -> Iterator[str]:
    """Folders where the photos of an annotation file may be: its own, images/ in it, those named after its split beside
    it, and the same one folder up (data/annotations/instances_val2017.json, data/val2017/).
    """
    folder = parent_of(location)
    splits = dict.fromkeys(_SPLIT.findall(PurePosixPath(location).name))
    for base in (folder, parent_of(folder)):
        yield base
        yield from (f"{base.rstrip('/')}/{name}" for name in ("images", *splits))


def first_that_has(candidates: Iterable[str], name: str) -> str:
    """The first folder with a file of this name; the first of all when none has it."""
    folders = list(candidates)
    for folder in folders:
        files, path = filesystem(resolve(name, folder))
        if files.exists(path):
            return folder
    return folders[0]


def _size_or_none(ref: ImageRef) -> PhotoSize | None:
    try:
        return photo_size(ref)
    except ImageError:
        return None
