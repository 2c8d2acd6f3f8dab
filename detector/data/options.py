"""Options of a dataclass, as configurations give them by name."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def options_of(kind: type[Options], given: Mapping[str, Any], where: str, beside: Sequence[str] = ()) -> Options:
    """An object of this dataclass; what is not given stays at its default.

    where: what the options belong to, for messages. beside: options there that are no fields, and not among the given.

    Raises ConfigError for an option that there is not, and what the dataclass raises for values.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigError(f"{where}: there is no {', '.join(unknown)}; there are {', '.join((*beside, *known))}")
    return kind(**given)
