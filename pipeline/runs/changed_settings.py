"""What differs between the settings that something was started with and those it is to resume with."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeGuard

ABSENT = object()  # in place of the value of a setting that one of the two has not

_SHOWN = 20  # differences that are told one by one
_DIGESTS = (".fingerprint", ".sha256")
_LONG_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST = 200  # characters of a value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of each setting that differs, by its dotted name, in the order of the names.

    before, now: plain JSON. Settings nest in mappings, and in lists that hold mappings or lists. Where several parts of
    a list differ, as when one was put before the others, the value is the whole list.
    """
    whole = _changed_lists(before, now)
    ours, theirs = _flat(before, whole=whole), _flat(now, whole=whole)
    pairs = {name: (ours.get(name, ABSENT), theirs.get(name, ABSENT)) for name in sorted(ours | theirs)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def values_of(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Values of some settings, by dotted name; of those that are there."""
    flat = _flat(settings)
    return {name: flat[name] for name in names if name in flat}


def in_lines(found: Mapping[str, tuple[Any, Any]], before: str) -> list[str]:
    """What `differences` found, for people, a line each. before: what to call the first value, as in "run has"."""
    told = without_noise(found)
    lines = [_line(name, before, old, new) for name, (old, new) in list(told.items())[:_SHOWN]]
    return [*lines, f"  and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else lines


def _line(name: str, before: str, old: object, new: object) -> str:
    if _has_parts(old) and _has_parts(new):
        return f"  {name}: {_parts(before, old, new)}"
    why = ": other contents, or read in another way" if name.endswith(_DIGESTS) and ABSENT not in (old, new) else ""
    return f"  {name}: {before} {shown(old)}, now {shown(new)}{why}"


def without_noise(found: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """What `differences` found, for people: one line where a whole group is on or off, by the name that it has; no
    digest beside what it is a digest of.
    """
    found = dict(found)
    for name, pair in list(found.items()):
        below = [other for other in found if other.startswith(f"{name}.")]
        if below and None in pair and any(value is ABSENT for value in pair):
            title = found.get(f"{name}.name", (ABSENT, ABSENT))
            found[name] = tuple(  # type: ignore[assignment]
                None if value is None else "on" if own is ABSENT else own
                for value, own in zip(pair, title, strict=True)
            )
            for other in below:
                del found[other]
    groups = [name.rpartition(".")[0] for name in found if not name.endswith(_DIGESTS)]
    return {n: p for n, p in found.items() if not n.endswith(_DIGESTS) or n.rpartition(".")[0] not in groups}


def shown(value: object) -> str:
    """A value for people; ABSENT is that there is no such setting."""
    if value is ABSENT or value is None:
        return "no such setting" if value is ABSENT else "none"
    if isinstance(value, str) and _LONG_DIGEST.fullmatch(value):
        return f"{value[:12]}…"
    return json.dumps(value, ensure_ascii=False)[:_LONGEST]


def _parts(before: str, old: list[Any], new: list[Any]) -> str:
    """How many each list has, and those that the other has not."""
    gone, added = (
        " | ".join(_words(part, [*old, *new]) for part in these if part not in those)
        for these, those in ((old, new), (new, old))
    )
    if not gone and not added and len(old) == len(new):
        return "in another order"
    counts = f"{before} {len(old)}, now {len(new)}"
    return f"{counts}{f'; no more: {gone}' if gone else ''}{f'; new: {added}' if added else ''}"


def _words(part: Any, all_parts: list[Any]) -> str:
    """A part by the settings in which the parts differ at all; by its digests only where nothing else tells."""
    if not isinstance(part, Mapping):
        return shown(part)
    others = [other for other in all_parts if isinstance(other, Mapping)]
    told = [name for name in part if any(other.get(name, ABSENT) != part[name] for other in others)]
    plain = [name for name in told if not f".{name}".endswith(_DIGESTS)]
    words = ", ".join(f"{name} {shown(part[name]).strip(chr(34))}" for name in plain or told)
    return words[:_LONGEST]


def _has_parts(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and any(isinstance(part, (Mapping, list)) for part in value)


def _changed_lists(before: Any, now: Any, name: str = "") -> set[str]:
    """Dotted names of lists with parts of which more than one differs."""
    if _has_parts(before) and _has_parts(now):
        n_changed = abs(len(before) - len(now)) + sum(a != b for a, b in zip(before, now, strict=False))
        if n_changed > 1:
            return {name}
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return set()
    dotted = f"{name}." if name else ""
    return set().union(*(_changed_lists(before[key], now[key], f"{dotted}{key}") for key in before if key in now))


def _flat(value: Any, name: str = "", whole: Collection[str] = ()) -> dict[str, Any]:
    """Nested settings as one level with dotted names. whole: names of lists that stay one value."""
    if name in whole:
        return {name: value}
    if isinstance(value, Mapping) and (value or not name):
        parts = value.items()
    elif _has_parts(value):
        parts = dict(enumerate(value)).items()
    else:
        return {name: value}
    return {n: v for key, part in parts for n, v in _flat(part, f"{name}.{key}" if name else str(key), whole).items()}
