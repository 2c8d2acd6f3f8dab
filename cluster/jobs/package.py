"""The working directory of a job: the files of a folder that belong to its code, in one zip for the cluster."""

import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.errors import ConfigError
from pipeline.wording import counted

LIMIT_BYTES = 100_000_000
"""Code is small: what is larger is data by mistake. Ray itself takes up to 512 MiB."""

# Never shipped, whatever .gitignore says: environments, caches, stores, keys.
EXCLUDED = (
    *(".git", ".venv", "venv", "__pycache__", "node_modules", "*.egg-info", "*.pyc"),
    *(".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints"),
    *("*.zarr", "*.zarr.zip"),
    *(".env", ".env.*", ".netrc", "*.pem", "*.key"),
)
EXCLUDED_AT_TOP = ("runs", "demo", "semantic-demo", "cups-demo", "build", "dist")

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first date a zip knows: the same files make the same zip, which Ray keeps


@dataclass(frozen=True)
class Package:
    """A zip of a folder: how many files it holds, and their size in bytes."""

    file: Path
    folder: Path
    files: int
    bytes: int

    def __str__(self) -> str:
        return f"{counted(self.files, 'file')}, {self.bytes / 1e6:.1f} MB of {self.folder}"


def pack(folder: Path, target: Path) -> Package:
    """Zip what belongs to the code in a folder: what git would track, or where there is no git, everything but
    EXCLUDED. Links are followed to files, not to folders.

    Raises ConfigError when the folder is none, holds nothing, or holds more than LIMIT_BYTES: it names the largest
    folders.
    """
    if not folder.is_dir():
        raise ConfigError(f"working directory {folder} is no folder: give one, or --working-dir none to ship nothing")
    names = sorted(files_of(folder))
    sizes = {name: (folder / name).stat().st_size for name in names}
    if not names:
        raise ConfigError(f"working directory {folder} holds no files to ship: give --working-dir none")
    if sum(sizes.values()) > LIMIT_BYTES:
        raise ConfigError(_too_large(folder, sizes))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(str(name), _LONG_AGO)
            entry.external_attr = (folder / name).stat().st_mode << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (folder / name).read_bytes())
    return Package(target, folder, len(names), sum(sizes.values()))


def files_of(folder: Path) -> Iterator[PurePosixPath]:
    """The files that `pack` takes, relative to the folder."""
    listed = _git_files(folder)
    names = _walk(folder, PurePosixPath()) if listed is None else listed
    return (name for name in names if not is_excluded(name) and (folder / name).is_file())


def is_excluded(name: PurePosixPath) -> bool:
    """Whether a path below the folder is never shipped."""
    if name.parts[0] in EXCLUDED_AT_TOP:
        return True
    return any(fnmatchcase(part, pattern) for part in name.parts for pattern in EXCLUDED)


def _git_files(folder: Path) -> list[PurePosixPath] | None:
    """Files that git tracks or would, as .gitignore says; None where git or a repository is not there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    return [PurePosixPath(name) for name in set(done.stdout.decode(errors="surrogateescape").split("\0")) if name]


def _walk(folder: Path, below: PurePosixPath) -> Iterator[PurePosixPath]:
    for path in (folder / below).iterdir():
        name = below / path.name
        if path.is_dir() and not path.is_symlink():
            if not is_excluded(name):
                yield from _walk(folder, name)
        else:
            yield name


def _too_large(folder: Path, sizes: dict[PurePosixPath, int]) -> str:
    folders: Counter[str] = Counter()
    for name, size in sizes.items():
        folders[str(name.parent) if name.parent.parts else str(name)] += size
    largest = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in folders.most_common(5))
    return (
        f"working directory {folder} holds {sum(sizes.values()) / 1e6:.0f} MB, more than the {LIMIT_BYTES / 1e6:.0f} "
        f"that a job takes along; the largest: {largest}. Name in .gitignore what is not code, give a smaller "
        "--working-dir, or --working-dir none where the cluster has cuts3d installed"
    )
