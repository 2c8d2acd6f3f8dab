"""Reading the files that benchmarks come in, and the sizes of their photos."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import SourceError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import PhotoSize, photo_sizes
from pipeline.storage.locations import contents_of, filesystem, location_of, resolve, text_of
from pipeline.wording import part_of

log = logging.getLogger(__name__)

_READERS = 16  # of files at a time


def read_many(locations: Sequence[str]) -> list[bytes | SourceError]:
    """Small files, many at a time; of one that cannot be read, the error."""

    def attempt(location: str) -> bytes | SourceError:
        try:
            return contents_of(location)
        except SourceError as error:
            return error

    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
        return list(pool.map(attempt, locations))


def files_in(folder: str, ending: str) -> list[str]:
    """Files directly in a folder with this ending, sorted; [] when there is no such folder."""
    files, path = filesystem(folder)
    try:
        found = files.ls(path, detail=False) if files.isdir(path) else []
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {error.strerror or error}") from error
    return sorted(location_of(files, name) for name in found if name.endswith(ending))


def read_text(location: str) -> str:
    """A text file, see `text_of`; SourceError, naming it, when it cannot be read."""
    return text_of(contents_of(location), location)


def sizes_of(names: Sequence[str], root: str, location: str) -> dict[str, PhotoSize]:
    """Sizes of photos below `root`, from their headers. Photos that are not there are left out, and the log says so.

    location: the file that lists them, for messages. Raises SourceError when none is there.
    """
    refs = [ImageRef(name, resolve(name, root)) for name in names]
    sizes = dict(zip(names, photo_sizes(refs), strict=True))
    found = {name: size for name, size in sizes.items() if isinstance(size, PhotoSize)}
    if not found:
        raise SourceError(
            f"{location} does not say how large its images are, and none of its photos ({len(names)}) is in {root}, "
            f"for example {refs[0].uri}: say with --truth-images where they are"
        )
    if len(found) < len(names):
        missing = next(name for name in names if name not in found)
        log.warning(
            "%s: %s not in %s or cannot be read, such as %s: these images do not count",
            *(location, part_of(len(names) - len(found), len(names), "photo"), root, missing),
        )
    return found
