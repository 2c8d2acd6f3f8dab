"""Options as texts, the way `--set` takes them, as values of the dataclasses that hold them."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable
from typing import Any

from pipeline.errors import ConfigError

R = typing.TypeVar("R")


def parse_overrides(kind: type, overrides: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Options like "size=420" as values of the fields of a dataclass type; ConfigError names what is wrong, with the
    prefix that the options were given with.
    """
    hints = typing.get_type_hints(kind)
    values = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"override {prefix + override!r} is not of the form {prefix}option=value")
        if name not in hints:
            raise ConfigError(f"there is no option {prefix + name!r}; options: {', '.join(map(prefix.__add__, hints))}")
        try:
            values[name] = parsed(text, hints[name], prefix + name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return values


def options_of(config: type) -> dict[str, Any]:
    """The options of a recipe or stage and their types."""
    return {name: hint for name, hint in typing.get_type_hints(config).items() if name != "name"}


def path_of(override: str) -> str:
    """What an override like "movers.runs=4" changes: movers.runs."""
    return override.partition("=")[0].strip()


def path_and_text(override: str, form: str = "stage.option=value") -> tuple[str, str]:
    """What an override changes, and to what; ConfigError, with the form that it should have, for what is none."""
    path, equals, text = (piece.strip() for piece in override.partition("="))
    if not equals or not path:
        raise ConfigError(f"override {override!r} is not of the form {form}")
    return path, text


def with_override(recipe: R, name: str, override: str) -> R:
    """A recipe of this name, changed by an override like "movers.runs=4"; ConfigError names what is wrong."""
    path, text = path_and_text(override)
    try:
        changed: R = with_option(recipe, name, path.split("."), text, path)
    except ValueError as error:
        raise ConfigError(f"override {override!r} of recipe {name}: {error}") from error
    return changed


def with_option(stage: Any, name: str, path: list[str], text: str, whole: str) -> Any:
    """A stage's configuration, or that of a part of it, with one option changed."""
    if stage is None:
        raise ValueError(f"this recipe has no {name}: switch it on first, {name}=on, or take one that has it")
    if not dataclasses.is_dataclass(stage) or isinstance(stage, type):
        raise ValueError(f"{name} has no options of its own")
    option, *rest = path
    hints = options_of(type(stage))
    if option not in hints:
        raise ValueError(f"there is no {option!r} here; options: {', '.join(hints)}")
    value = (
        with_option(getattr(stage, option), option, rest, text, whole) if rest else parsed(text, hints[option], whole)
    )
    return dataclasses.replace(stage, **{option: value})


def parsed(text: str, hint: Any, whole: str) -> Any:
    """A value of the field's type from its text."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if text.lower() == "none":
        if type(None) not in kinds:
            raise ValueError(f"{whole} cannot be none")
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if dataclasses.is_dataclass(kind):
        if text.lower() == "on":
            return typing.cast(type, kind)()
        fields = ", ".join(f"{whole}.{field.name}" for field in dataclasses.fields(kind))
        raise ValueError(f"{whole} is a group of options: set {fields}, or {whole}=none or on to switch it")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{whole} is true or false, got {text!r}")
        return text.lower() == "true"
    if typing.get_origin(kind) is tuple:
        pieces = _unbracketed(text, whole).removesuffix(",").split(",")
        return tuple(parsed(piece.strip(), typing.get_args(kind)[0], whole) for piece in pieces)
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            raise ValueError(f"{whole} is a number ({kind.__name__}), got {text!r}") from None
        if kind is float and not math.isfinite(number):
            raise ValueError(f"{whole} is a finite number, got {text!r}")
        return number
    return text


def _unbracketed(text: str, whole: str) -> str:
    """A list without the brackets that it may be written in, as Python and TOML write it."""
    text = text.strip()
    for opening, closing in ("[]", "()"):
        if (text[:1] == opening) != (text[-1:] == closing):
            raise ValueError(f"{whole} is a list, {whole}=[VALUE,VALUE], got {text!r}: a bracket is missing")
        if text[:1] == opening:
            return text[1:-1].strip()
    return text
