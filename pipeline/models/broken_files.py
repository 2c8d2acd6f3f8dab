"""Files of models that are none: what `git clone` leaves without git-lfs, a server's error page, an empty file."""

import json
import zipfile
from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.wording import brief

_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
# Of a folder with a transformers model: what is read of it.
_OF_A_MODEL = ("*.safetensors", "*.bin", "*.json")


def refuse_pointer(path: Path) -> bytes:
    """WeightsError for what git-lfs leaves in the place of a file. Else the file's first bytes, b"" of one that is not
    there.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {brief(error)}") from error
    if start.startswith(_POINTER):
        raise WeightsError(
            f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` in its repository, or fetch the "
            "file again"
        )
    return start


def refuse_broken(path: Path) -> None:
    """WeightsError, in one line that names the file and the remedy, for a file that cannot be a model by its first
    bytes; nothing for one that is not there.
    """
    start = refuse_pointer(path)
    if start.lstrip().lower().startswith(_PAGES):
        raise WeightsError(f"{path} is a web page, as a server sends it in place of a file: fetch it again")
    if not start and path.exists():
        raise WeightsError(f"{path} is empty: fetch it again")


def refuse_broken_in(folder: Path) -> None:
    """The same for the files of a transformers model in a folder; and for weights of it that were cut short."""
    for file in sorted(file for pattern in _OF_A_MODEL for file in folder.glob(pattern) if file.is_file()):
        refuse_broken(file)
        if _is_cut_short(file):
            raise WeightsError(f"{file} is cut short or damaged: fetch it again")


def _is_cut_short(file: Path) -> bool:
    """Whether the file ends before it should, by what it says of its own length."""
    if file.suffix == ".safetensors":
        try:
            return _safetensors_length(file) != file.stat().st_size
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return True
    with file.open("rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"
    return is_zip and not zipfile.is_zipfile(file)


def _safetensors_length(file: Path) -> int:
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
        if header > file.stat().st_size:
            raise ValueError("the header is longer than the file")
        tensors = json.loads(opened.read(header))
    ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    return 8 + header + int(max(ends, default=0))
