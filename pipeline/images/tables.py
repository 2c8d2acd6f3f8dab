"""CSV tables with a line of names first, of which an odd row costs no other."""

import csv
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import SourceError
from pipeline.storage.locations import is_unicode, line_not_utf8, text_of


class Row(NamedTuple):
    """line: where it begins, from 1. fields: by name, None where the row ends before; or why it cannot be read."""

    line: int
    fields: dict[str, str | None] | SourceError


class Table(NamedTuple):
    """names: of the columns. rows: those that are not empty."""

    names: list[str]
    rows: list[Row]


def read_table(content: bytes, location: str) -> Table:
    """A CSV file. location: of the file, for messages. SourceError when it is no text, or the line of names no row."""
    lines = _Lines(text_of(content, location, "a table"))
    names: list[str] | None = None
    rows = []
    for line, row in _rows(lines, location):
        if names is None:
            if isinstance(row, SourceError):
                raise row
            names = row
        elif isinstance(row, SourceError):
            rows.append(Row(line, row))
        else:
            rows.append(Row(line, dict(zip(names, [*row, *[None] * len(names)], strict=False))))
    return Table(names or [], rows)


class _Lines:
    """Lines for csv, which can be sent back. at: how many it has taken."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self.at = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at == len(self._lines):
            raise StopIteration
        self.at += 1
        return f"{self._lines[self.at - 1]}\n"

    def are_one_row(self, first: int) -> bool:
        """Whether those taken from here on are one, with every quote closed."""
        try:
            next(csv.reader((f"{line}\n" for line in self._lines[first : self.at]), strict=True))
        except csv.Error:
            return False
        return True


def _rows(lines: _Lines, location: str) -> Iterator[tuple[int, list[str] | SourceError]]:
    """Rows that are not empty, with the number of the line that each begins in.

    A quote that nobody closes takes the lines after it for its own: such a row is the one line, and the others are rows
    again.
    """
    reader, width = csv.reader(lines), 0
    while True:
        first = lines.at
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = SourceError(f"{location}, line {first + 1}: {error}; mend the row")
            if lines.at > first + 1:
                fault = _not_closed(lines, first, location)
            yield first + 1, fault
            continue
        if lines.at > first + 1 and (len(row) != (width or len(row)) or not lines.are_one_row(first)):
            yield first + 1, _not_closed(lines, first, location)
        elif not all(map(is_unicode, row)):
            yield first + 1, line_not_utf8(location, first + 1)
        elif row:
            width = width or len(row)
            yield first + 1, row


def _not_closed(lines: _Lines, first: int, location: str) -> SourceError:
    lines.at = first + 1
    return SourceError(f"{location}, line {first + 1}: a quote is not closed; mend the row")
