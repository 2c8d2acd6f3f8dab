"""An error on its way from one process to another: it comes out as what went in.

Only its class and plain values are sent, and nothing but an exception is made of them: what arrives is never a pickle
of somebody's objects.
"""

import importlib
import operator
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import CutsError

_PLAIN = (str, bytes, int, float, bool, type(None))


@dataclass(frozen=True)
class MadeOf:
    """What an exception is made again of: where its class is found, its arguments, and its attributes."""

    module: str
    name: str
    arguments: tuple[Any, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, error: Exception) -> Self | None:
        """As it would be pickled; None where that needs more than plain values."""
        try:
            reduced: Any = error.__reduce__()
            made_by, arguments, *more = reduced
        except Exception:  # noqa: BLE001  whatever the method of its class raises
            return None
        attributes = more[0] if more else {}
        if made_by is not type(error) or len(more) > 1 or not _is_plain([arguments, attributes]):
            return None
        return cls(made_by.__module__, made_by.__qualname__, arguments, attributes)

    def error(self) -> Exception:
        """The exception; TypeError where what is found is none. Raises what importing and making it raises."""
        found = operator.attrgetter(self.name)(importlib.import_module(self.module))
        if not isinstance(found, type) or not issubclass(found, Exception):
            raise TypeError(f"{self.module}.{self.name} is no exception")
        error = found(*self.arguments)
        error.__setstate__(dict(self.attributes))
        return error


@dataclass(frozen=True)
class SentError:
    """text: what it says; of errors that cuts3d does not raise on purpose with their class and the end of their
        traceback.
    made_of: None where it would not come out the same.
    """

    text: str
    made_of: MadeOf | None = None

    @classmethod
    def of(cls, error: Exception) -> Self:
        """To be called where it was caught. To an error of others a note is added, which says where it was raised."""
        text = str(error)
        if not isinstance(error, CutsError):
            trace = "".join(traceback.format_exception(error, limit=-3))
            text = f"{type(error).__name__}: {error}\n{trace}"
            error.add_note(f"In the process that raised it:\n{trace}")
        sent = cls(text, MadeOf.of(error))
        again = sent.error()
        return sent if (type(again), str(again)) == (type(error), str(error)) else cls(text)

    def error(self) -> Exception:
        """The exception; a CutsError that says the same where it cannot be made, its package not being installed here
        for instance.
        """
        if self.made_of is not None:
            try:
                return self.made_of.error()
            except Exception:  # noqa: BLE001  whatever its class raises
                return CutsError(self.text)
        return CutsError(self.text)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    return type(value) in _PLAIN
