"""Options of a dataclass, as configurations give them by name."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import ConfigError, CutsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def options_of(kind: type[Options], given: Mapping[str, Any], where: str, beside: Sequence[str] = ()) -> Options:
    """An object of this dataclass; what is not given stays at its default.

    where: what the options belong to, for messages. beside: options there that are no fields, and not among the given.

    Raises ConfigError for an option that there is not, or whose value is of another type than it can be, and what the
    dataclass raises for values.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigError(f"{where}: there is no {', '.join(unknown)}; there are {', '.join((*beside, *known))}")
    try:
        return kind(**given)
    except CutsError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        odd = next((name for name, value in given.items() if not _is_taken(kind, name, value)), None)
        if odd is None:
            raise
        default = next(field.default for field in fields(kind) if field.name == odd)
        raise ConfigError(f"{where}: {odd} cannot be {given[odd]!r}, its default is {default!r}") from error


def _is_taken(kind: type[Any], name: str, value: Any) -> bool:
    try:
        kind(**{name: value})
    except CutsError:
        return True  # it says itself what is wrong
    except (TypeError, ValueError, IndexError):
        return False
    return True
