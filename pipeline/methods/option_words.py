"""What an option is for, in the words that stand beside it in the source: the docstring of its dataclass."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FIELD = re.compile(r"([a-z_]+(?:, [a-z_]+)*): (.*)")


@dataclass(frozen=True)
class OptionLine:
    """path: as `--set` takes it. value: that it has, as text. words: what it is for, a line."""

    path: str
    value: str
    words: str


def field_words(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of its fields, each on one line; "" of those that it does not name.

    A field's words begin with "name: ", or "name, other: ", and end at the next field's or at an empty line.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    words: dict[str, str] = dict.fromkeys(names, "")
    told: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        found = _FIELD.match(line.strip())
        if found and set(found[1].split(", ")) <= words.keys():
            told, line = found[1].split(", "), found[2]
        elif not line.strip():
            told = []
        for name in told:
            words[name] = f"{words[name]} {line.strip()}".strip()
    return words


def option_lines(kind: type, prefix: str = "", values: Any = None) -> Iterator[OptionLine]:
    """The options of a dataclass type, and of those that it holds, each with its default, or its value in `values`, an
    instance of it.
    """
    words = field_words(kind)
    for field in dataclasses.fields(kind):
        value = field.default if values is None else getattr(values, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from option_lines(type(value), f"{prefix}{field.name}.", value)
            continue
        said = "to be given" if value is dataclasses.MISSING else "none" if value is None else str(value)
        yield OptionLine(prefix + field.name, said, words[field.name])
