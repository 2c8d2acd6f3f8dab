"""Where the pictures of a run's images go below a folder."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from PIL import Image

from pipeline.errors import StoreError
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.files import VERIFY_HINT
from pipeline.storage.outputs import writing

T = TypeVar("T")

_MAX_NAME = 255  # bytes, of the common file systems


def picture_names(run: RunFolder) -> dict[str, str]:
    """Name of the PNG of each image below an output folder, each one a file of its own on any file system: its id with
    the ending .png; where two images would have the same (cat.jpg, cat.webp), .png is appended to the whole id; where
    another has that already (cat.jpg, cat.png, cat.jpg.webp), to the id with a digest of it. Of parts that are too long
    for a file system (object stores and tars have such) the end gives way to a digest.
    """
    return unique_names([ref.id for ref in run.manifest.refs])


def unique_names(ids: Sequence[str]) -> dict[str, str]:
    """See `picture_names`."""
    names = {id_: _name(id_, 0) for id_ in ids}
    choice = dict.fromkeys(ids, 0)
    while clashing := _clashing(names):
        for group in clashing:
            plainest = min(choice[id_] for id_ in group)
            for id_ in group:
                if choice[id_] == plainest:
                    choice[id_] += 1
                    names[id_] = _name(id_, choice[id_])
    return names


def _clashing(names: Mapping[str, str]) -> list[list[str]]:
    """Groups of images whose files would be one file, or of which one's file would be another's folder. Some file
    systems know no capitals, some no way to write an accent but one.
    """
    users: dict[str, list[str]] = {}
    folders: dict[str, str] = {}
    for id_, name in names.items():
        key = unicodedata.normalize("NFC", name).casefold()
        users.setdefault(key, []).append(id_)
        while "/" in key and (key := key.rpartition("/")[0]) not in folders:
            folders[key] = id_
    groups = [group for group in users.values() if len(group) > 1]
    return groups + [[group[0]] for key, group in users.items() if len(group) == 1 and key in folders]


def _name(id_: str, choice: int) -> str:
    """The plainest name is 0, 2 and more are names with a digest."""
    if choice == 0:
        return _shortened(PurePosixPath(id_).with_suffix(".png").as_posix())
    if choice == 1:
        return _shortened(f"{id_}.png")
    return _shortened(f"{id_}~{hashlib.sha256(f'{choice} {id_}'.encode()).hexdigest()[:16]}.png")


def output_path(root: Path, name: str) -> Path:
    """Where a file of this name goes below a folder; StoreError for a name that would leave it."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise StoreError(f"{name!r} would be written outside of {root}: the manifest is not to be trusted")
    return path


def save_picture(image: Image.Image, root: Path, name: str) -> Path:
    """Write it as PNG below a folder, which need not be there yet; where it is now."""
    path = output_path(root, name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG")
    return path


def of_image(known: Mapping[str, T], record: Any) -> T:
    """What is known of a record's image, by id; StoreError for an image that the manifest does not have."""
    if record.id not in known:
        raise StoreError(f"a shard of the run holds image {record.id!r}, the manifest does not", VERIFY_HINT)
    return known[record.id]


def _shortened(name: str) -> str:
    parts = name.split("/")
    if all(len(part.encode()) <= _MAX_NAME for part in parts):
        return name
    return "/".join(part if len(part.encode()) <= _MAX_NAME else _short(part) for part in parts)


def _short(part: str) -> str:
    suffix = ".png" if part.endswith(".png") else ""
    digest = hashlib.sha256(part.encode()).hexdigest()[:16]
    start = part.encode()[: _MAX_NAME - len(digest) - len(suffix) - 1].decode(errors="ignore")
    return f"{start}~{digest}{suffix}"
