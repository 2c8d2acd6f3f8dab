"""Words for people that several messages share."""

from collections.abc import Mapping, Sequence

FEW = 5  # names that a message shows


def printable(text: str) -> str:
    """The text for a terminal: names of files and images may hold what would move its cursor or rename its window."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def brief(error: Exception, longest: int = 400) -> str:
    """What an error says, on one line of at most that many characters; its class where it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def duration(seconds: float) -> str:
    """In two units at most: 0.4 s, 12 s, 5 min, 2 h 10 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def clock(seconds: float) -> str:
    """A duration to the second, for tables: 0:01:05, 30:00:00; 0:00:00 for one below 0."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def counted(n: int, what: str, plural: str = "s") -> str:
    """A number with its noun: "1 mask", "2 masks"."""
    return f"{n} {what}{'' if n == 1 else plural}"


def part_of(n: int, total: int, what: str, plural: str = "s") -> str:
    """Some of all, with the verb: "1 of 3 masks is", "2 of 3 masks are"."""
    return f"{n} of {counted(total, what, plural)} {'is' if n == 1 else 'are'}"


def few_of(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are: "a, b, c, d, e and 3 more"."""
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")


def by_reason(counts: Mapping[str, int]) -> str:
    """Numbers of what they count, by reason: "2 no_agreement, 1 too_small"; "" for none."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
