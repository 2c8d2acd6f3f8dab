"""What of an annotation file cannot be used: left out, counted by reason, and said, with the first of each reason."""

import logging
from collections import Counter

from pipeline.errors import SourceError

log = logging.getLogger(__name__)


class LeftOut:
    """What is left out of one file. name: of the file. what: what it is counted in, "annotations" for instance."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self._what = name, what
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, detail: str) -> None:
        """One more. reason: a word or two. detail: the sentence for people, with the place."""
        self._counts[reason] += 1
        self._first.setdefault(reason, detail)

    @property
    def total(self) -> int:
        """How many were left out."""
        return self._counts.total()

    def tell(self, of: int | None = None) -> None:
        """Say what was left out, if anything was. of: how many there were. SourceError when it was all of them."""
        if not self._counts:
            return
        reasons = "; ".join(f"{n} {reason}, such as {self._first[reason]}" for reason, n in self._counts.most_common())
        if self.total == of:
            raise SourceError(f"{self.name}: none of its {of} {self._what} can be used: {reasons}")
        share = f"{self.total} of {of}" if of else str(self.total)
        log.warning("%s: %s %s left out: %s", self.name, share, self._what, reasons)
