"""Reading a run of instance masks, for callers that can use no other kind."""

import math
from collections.abc import Iterator

from pipeline.errors import ConfigError
from pipeline.results.instance_kind import NAME
from pipeline.results.instances import ImageRecord, without_low_scores
from pipeline.results.kinds import Failed
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder


class InstanceReader(RunReader):
    """A `RunReader` that gives an `ImageRecord` or a `Failed` an image.

    min_score: iterating leaves out the instances with lower scores; the rest of the reader shows what is stored.

    Raises ConfigError when the run holds results of another kind or min_score is no number, and what `RunReader`
    raises.
    """

    def __init__(self, run: RunFolder, min_score: float = 0.0) -> None:
        need_kind(run, NAME)
        if not math.isfinite(min_score):
            raise ConfigError(f"min_score is {min_score}: it must be a finite number")
        super().__init__(run)
        self.min_score = min_score

    def __iter__(self) -> Iterator[ImageRecord | Failed]:
        return super().__iter__()

    def results(self, key: str) -> Iterator[ImageRecord | Failed]:
        """See `RunReader.results`."""
        for result in super().results(key):
            yield result if isinstance(result, Failed) else without_low_scores(result, self.min_score)
