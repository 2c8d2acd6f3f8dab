"""An error on its way from one process to another: it comes out as what went in."""

import pickle
import traceback
from dataclasses import dataclass
from typing import Self

from pipeline.errors import CutsError


@dataclass(frozen=True)
class SentError:
    """text: what it says; of errors that cuts3d does not raise on purpose with their class and the end of their
    traceback. pickled: the exception; empty where it does not pickle.
    """

    text: str
    pickled: bytes = b""

    @classmethod
    def of(cls, error: Exception) -> Self:
        """To be called where it was caught. To an error of others a note is added, which says where it was raised."""
        text = str(error)
        if not isinstance(error, CutsError):
            trace = "".join(traceback.format_exception(error, limit=-3))
            text = f"{type(error).__name__}: {error}\n{trace}"
            error.add_note(f"In the process that raised it:\n{trace}")
        return cls(text, _pickled(error))

    def error(self) -> Exception:
        """The exception; a CutsError that says the same where it does not pickle, or its package is not installed."""
        if self.pickled:
            try:
                error = pickle.loads(self.pickled)
                if isinstance(error, Exception):
                    return error
            except Exception:  # noqa: BLE001  it raises whatever the class raises that is made again
                return CutsError(self.text)
        return CutsError(self.text)


def _pickled(error: Exception) -> bytes:
    """Empty where it would not come out the same: classes that take more than a message need a `__reduce__`."""
    try:
        pickled = pickle.dumps(error)
        again = pickle.loads(pickled)
    except Exception:  # noqa: BLE001  as above
        return b""
    return pickled if type(again) is type(error) and str(again) == str(error) else b""
