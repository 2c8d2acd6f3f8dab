"""Files of models that are none: what `git clone` leaves without git-lfs, a server's error page, an empty file."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.wording import brief

_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
# Of a folder with a transformers model: what is read of it.
_OF_A_MODEL = ("*.safetensors", "*.bin", "*.json")


def refuse_broken(path: Path) -> None:
    """WeightsError, in one line that names the file and the remedy, for a file that cannot be a model by its first
    bytes; nothing for one that is not there.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {brief(error)}") from error
    if start.startswith(_POINTER):
        raise WeightsError(
            f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` in its repository, or fetch the "
            "file again"
        )
    if start.lstrip().lower().startswith(_PAGES):
        raise WeightsError(f"{path} is a web page, as a server sends it in place of a file: fetch it again")
    if not start:
        raise WeightsError(f"{path} is empty: fetch it again")


def refuse_broken_in(folder: Path) -> None:
    """The same for the files of a transformers model in a folder."""
    for file in _files_of_a_model(folder):
        refuse_broken(file)


def _files_of_a_model(folder: Path) -> Iterable[Path]:
    return sorted(file for pattern in _OF_A_MODEL for file in folder.glob(pattern) if file.is_file())
