"""What differs between the settings that something was started with and those it is to resume with."""

import json
from collections.abc import Mapping
from typing import Any

ABSENT = object()  # in place of the value of a setting that one of the two has not

_SHOWN = 20  # differences that are told one by one
_LONGEST = 200  # characters of a value
_DIGITS = 12  # of a fingerprint, which is told apart by them


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of each setting that differs, by its dotted name, in the order of the names.

    before, now: plain JSON. Settings nest in mappings, and in lists that hold mappings or lists.
    """
    ours, theirs = _flat(before), _flat(now)
    pairs = {name: (ours.get(name, ABSENT), theirs.get(name, ABSENT)) for name in sorted(ours | theirs)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def in_lines(found: Mapping[str, tuple[Any, Any]], before: str) -> list[str]:
    """What `differences` found, for people, a line each. before: what to call the first value, as in "run has"."""
    lines = [_line(name, before, old, new) for name, (old, new) in list(found.items())[:_SHOWN]]
    return [*lines, f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else lines


def _line(name: str, before: str, old: object, new: object) -> str:
    if name.endswith("fingerprint") and isinstance(old, str) and isinstance(new, str):
        return f"  {name}: {before} {old[:_DIGITS]}, now {new[:_DIGITS]}: other contents, or read in another way"
    return f"  {name}: {before} {_said(old)}, now {_said(new)}"


def _said(value: object) -> str:
    return "no such setting" if value is ABSENT else json.dumps(value, ensure_ascii=False)[:_LONGEST]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings as one level with dotted names."""
    if isinstance(value, Mapping) and (value or not name):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(part, (Mapping, list)) for part in value):
        parts = dict(enumerate(value)).items()
    else:
        return {name: value}
    return {n: v for key, part in parts for n, v in _flat(part, f"{name}.{key}" if name else str(key)).items()}
