"""Where the pictures of a run's images go below a folder."""

import hashlib
from collections import Counter
from pathlib import Path, PurePosixPath

from pipeline.errors import StoreError
from pipeline.runs.run_folder import RunFolder

_MAX_NAME = 255  # bytes, of the common file systems


def picture_names(run: RunFolder) -> dict[str, str]:
    """Name of the PNG of each image below an output folder: its id with the ending .png; where two images differ in
    their endings alone (cat.jpg, cat.webp), .png is appended to the whole id. Of parts that are too long for a file
    system (object stores and tars have such) the end gives way to a digest.
    """
    plain = {ref.id: PurePosixPath(ref.id).with_suffix(".png").as_posix() for ref in run.manifest.refs}
    uses = Counter(plain.values())
    return {id_: _shortened(name if uses[name] == 1 else f"{id_}.png") for id_, name in plain.items()}


def output_path(root: Path, name: str) -> Path:
    """Where a file of this name goes below a folder; StoreError for a name that would leave it."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise StoreError(f"{name!r} would be written outside of {root}: the manifest is not to be trusted")
    return path


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
