"""The entries of the lists in a large JSON document, one after the other, and where in the file each of them lies.

A COCO file of ImageNet is gigabytes: as Python objects it would fill the memory of most machines, and most of it is
needed once, a shard's worth at a time. So a first look walks over the entries, and later ones read some of them again.
"""

import codecs
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.errors import SourceError
from pipeline.storage.locations import filesystem, is_local, json_of

ROOT = ""  # what stands for the key where the document itself is a list

_CHUNK = 8 << 20
# Nothing that is an image or an annotation is longer: what is longer than this is no JSON.
_LONGEST = 64 << 20
_BLANK = " \t\n\r"
# A decoder that meets the end of what was read so far stops or complains at most this far before it.
_TAIL = 16

_scan = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a list: the list's key, the bytes start .. end-1 of the file, and the entry as json gives it."""

    key: str
    start: int
    end: int
    value: Any


class JsonLists:
    """A JSON file, open for reading: an object that has lists, or a list. name: for messages. For one thread only.

    keys: of the lists that `entries` has come to, empty ones among them.

    Raises SourceError, with the place in the file, for what is not JSON.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self.name = name
        self.keys: set[str] = set()

    def entries(self) -> Iterator[Entry]:
        """All entries of all lists of the document's own level, in the order of the file."""
        window = _Window(self._file, self.name)
        if window.peek() == "[":
            self.keys.add(ROOT)
            yield from window.list_entries(ROOT)
        elif window.peek() == "{":
            yield from self._entries_of_object(window)
        else:
            raise window.error('"{" or "[" is expected')
        if window.peek():
            raise window.error("the document ends before this")

    def read(self, start: int, end: int) -> Any:
        """The entry that `entries` found at these bytes."""
        self._file.seek(start)
        return json_of(self._file.read(end - start))

    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        digest = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def _entries_of_object(self, window: "_Window") -> Iterator[Entry]:
        window.take("{")
        first = True
        while window.peek() != "}":
            if not first:
                window.take(",")
            first = False
            key = window.value().value
            if not isinstance(key, str):
                raise window.error("a key is expected")
            window.take(":")
            if window.peek() == "[":
                self.keys.add(key)
                yield from window.list_entries(key)
            else:
                window.value()
        window.take("}")


@contextmanager
def open_lists(location: str) -> Iterator[JsonLists]:
    """A JSON file, local or at an fsspec URL (fetched into a temporary file), in UTF-8, or UTF-16 or 32 as PowerShell
    writes it; SourceError when it cannot be read.
    """
    files, path = filesystem(location)
    with ExitStack() as stack:
        try:
            if is_local(files):
                file: IO[bytes] = stack.enter_context(Path(path).open("rb"))
            else:
                file = stack.enter_context(tempfile.TemporaryFile("w+b"))
                files.get_file(path, file)
        except OSError as error:
            raise SourceError(f"{location} cannot be read: {error.strerror or error}") from error
        file.seek(0)
        encoding = json.detect_encoding(file.read(4))
        if not encoding.startswith("utf-8"):
            copy = stack.enter_context(tempfile.TemporaryFile("w+b"))
            _copy_in_utf8(file, encoding, copy, location)
            file = copy
        yield JsonLists(file, location)


def _copy_in_utf8(file: IO[bytes], encoding: str, copy: IO[bytes], name: str) -> None:
    file.seek(0)
    text = codecs.getreader(encoding)(file)
    try:
        while piece := text.read(_CHUNK):
            copy.write(piece.encode())
    except UnicodeError as error:
        raise SourceError(f"{name} is not JSON in {encoding.upper()}, which it begins like: {error}") from error


class _Window:
    """The part of a file that is being decoded, as text with one character a byte, so that places in the one are places
    in the other. What has other characters than ASCII is decoded from its bytes.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        self._length = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._start = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # of the text, in the file; after a mark of UTF-8
        self._at = 0  # in the text
        self._text = ""

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _BLANK:
                at += 1
            self._at = at
            if at < len(text):
                return text[at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f'"{character}" is expected')
        self._at += 1

    def value(self, key: str = ROOT) -> Entry:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = _scan(self._text, self._at)
                # A number at the end may continue: "1." and "2e-" are decoded as 1 and 2.
                if end <= len(self._text) - _TAIL or not self._more():
                    break
            except json.JSONDecodeError as error:
                if not self._is_cut(error) or not self._more():
                    self._at = error.pos
                    raise self.error(error.msg) from error
            except RecursionError as error:
                raise self.error("it is nested too deeply") from error
        start, self._at = self._at, end
        if not self._text.isascii() and not (piece := self._text[start:end]).isascii():
            value = json_of(piece.encode("latin-1"))
        return Entry(key, self._start + start, self._start + end, value)

    def list_entries(self, key: str) -> Iterator[Entry]:
        """The entries of a list that begins here."""
        self.take("[")
        first = True
        while self.peek() != "]":
            if not first:
                self.take(",")
            first = False
            yield self.value(key)
        self.take("]")

    def error(self, what: str) -> SourceError:
        place = f"byte {self._start + self._at} of {self._length}"
        return SourceError(f"{self._name} is not JSON, or was cut short: {what} at {place}; fetch or write it again")

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether a complaint can be due to the end of the text, and not to what is in it."""
        return error.pos >= len(self._text) - _TAIL or error.msg.startswith("Unterminated string")

    def _more(self) -> bool:
        """Read on, and let go of what was decoded. False at the end of the file."""
        left = self._text[self._at :]
        if len(left) > _LONGEST:
            raise self.error(f"an entry of over {_LONGEST >> 20} MB")
        # Sought each time: others read from the file in between. At least as much as is left over, so that a long entry
        # is not decoded again for every chunk of it.
        self._file.seek(self._start + len(self._text))
        chunk = self._file.read(max(_CHUNK, len(left)))
        if not chunk:
            return False
        self._start, self._at = self._start + self._at, 0
        self._text = left + chunk.decode("latin-1")
        return True
