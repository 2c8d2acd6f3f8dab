"""What fields of records may hold that are read from a run folder, to which others can write."""

import math

_MAX_TEXT = 300


def require(holds: bool, name: str, value: object) -> None:
    """ValueError, naming the field, unless it holds."""
    if not holds:
        raise ValueError(f"its {name} cannot be {value!r:.80}")


def is_text(value: object) -> bool:
    """Short and printable: it is shown on terminals."""
    return isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()


def is_count(value: object) -> bool:
    """A whole number from 0 up, which 64 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_duration(value: object) -> bool:
    """A finite number of seconds from 0 up."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
