"""Where the photos of an annotation file are: it names them relative to a folder that it does not name."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pipeline.errors import SourceError
from pipeline.storage.locations import existing, filesystem, is_url, parent_of, resolve
from pipeline.wording import counted

# Photos that are looked for in each place before the next one is tried, and, when these are in none, before it is
# believed that none is there; a server takes its time for each.
FEW = 5
MOST_LOCAL, MOST_REMOTE = 100_000, 100

_SPLIT = re.compile(r"validation|(?:train|val|test)(?:20\d\d)?")


def places_beside(location: str) -> list[str]:
    """Folders where the photos of an annotation file may be: its own, images/ in it, those named after its split beside
    it, and the same one folder up (data/annotations/instances_val2017.json, data/val2017/).
    """
    folder = parent_of(location)
    names = ["images", *dict.fromkeys(_SPLIT.findall(PurePosixPath(location).name))]
    bases = dict.fromkeys((folder, parent_of(folder)))
    return [place for base in bases for place in (base, *(f"{base.rstrip('/')}/{name}" for name in names))]


def below(name: str, root: str) -> str | None:
    """A name in a file as a path below the folder that it is relative to, without ".."; None when it is not below.

    name: relative to `root`, or absolute.
    """
    if name[:1] not in ("", ".", "/") and "/." not in name and "://" not in name:
        return name  # nearly all are
    if name.startswith(("file://", "local://")):
        name = filesystem(name)[1]
    is_whole = is_url(name) or name.startswith("/")
    # The root may be a link, and the name be of where it leads.
    bases = [root.rstrip("/")] if is_url(root) else [root.rstrip("/"), os.path.realpath(root)]
    for base in bases:
        path = _without_dots(name if is_whole else f"{base}/{name}")
        prefix = f"{_without_dots(base)}/"
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return None


def _without_dots(location: str) -> str:
    """A path or URL without ".." and ".", by its letters alone."""
    scheme, mark, path = location.rpartition("://")
    return f"{scheme}{mark}{posixpath.normpath(path)}" if "/." in path else location


def first_that_holds(folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The first folder with at least one of the files, of which a sample is looked for; None when none has."""
    for at_most in (FEW, None):
        for folder in folders:
            if any(_exists(name, folder) for name in _sample(names, folder, at_most)):
                return folder
    return None


def folder_of_photos(location: str, names: Sequence[str], given: str | None, remedy: str) -> str:
    """The folder that the names in an annotation file are relative to: `given`, or else one beside it.

    Raises SourceError, which ends with the remedy, when none of the photos is there.
    """
    folders = [given] if given is not None else places_beside(location)
    found = first_that_holds(folders, names)
    if found is None:
        raise none_is_there(location, names, folders, remedy)
    return found


def as_written_here(location: str, names: Sequence[str], given: str | None) -> Sequence[str]:
    """The names in an annotation file, with "/" where Windows has "\\" if photos are there by these names alone."""
    if not any("\\" in name for name in names):
        return names
    folders = [given] if given is not None else places_beside(location)
    turned = [name.replace("\\", "/") for name in names]
    if first_that_holds(folders, names) is not None or first_that_holds(folders, turned) is None:
        return names
    return turned


def none_is_there(location: str, names: Sequence[str], folders: Sequence[str], remedy: str) -> SourceError:
    """The error for it.

    location: of what names the photos.
    folders: where they were looked for, [""] for nowhere in particular.
    """
    looked = f" in {' or '.join(folders)}" if any(folders) else ""
    count = len(list(_sample(names, folders[0], None)))
    name = names[0]
    example = name if ".." in name and is_url(folders[0]) else resolve(name, folders[0])
    hint = ""
    if "\\" in name:
        hint = ' (its name has "\\" between folders, as Windows writes it: "/" was tried, too)'
    elif any(folders) and all(below(name, folder) is None for folder in folders):
        hint = ", which is in none of these folders"
    return SourceError(
        f"{location}: none of {counted(count, 'image')} looked for{looked} exists, "
        f"for example {example}{hint}; {remedy}"
    )


def _sample(names: Sequence[str], folder: str, at_most: int | None) -> Iterator[str]:
    """Evenly spread ones."""
    most = at_most or (MOST_REMOTE if is_url(folder or names[0]) else MOST_LOCAL)
    yield from names[:: -(-len(names) // most)]


def _exists(name: str, folder: str) -> bool:
    found = below(name, folder) if folder else name
    return found is not None and existing(resolve(found, folder)) is not None
