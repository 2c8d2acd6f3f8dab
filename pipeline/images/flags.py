"""One reading of yes and no for every format of annotations: tools write them as numbers, words, or not at all."""

import math
from collections.abc import Collection
from typing import Any

_YES, _NO = frozenset({"true", "yes"}), frozenset({"", "false", "no"})


def read_flag(value: Any, unknown: Collection[str] = ()) -> bool:
    """Whether a value says yes.

    Yes: 1, 1.0, true, "1", "1.0", "true", "yes". No: 0, 0.0, false, the same as text, "no", "", null, and NaN, which
    tables have where a row lacks the value. Case does not matter.
    unknown: what a format has, in small letters, for "nobody looked", which is read as no.

    Raises ValueError for anything else.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if isinstance(value, str | int | float):
        word = str(value).strip().lower()
        if word in _NO or word in unknown:
            return False
        if word in _YES:
            return True
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if number in (0, 1):
            return number == 1
    raise ValueError(f"{value!r:.60} is neither yes nor no: write 1 or 0")
