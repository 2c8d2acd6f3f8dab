"""Reading a run of semantic labels, for callers that can use no other kind."""

from collections.abc import Iterator
from functools import cached_property

from pipeline.errors import ConfigError
from pipeline.results.kinds import Failed
from pipeline.results.semantic import Classes, SemanticRecord
from pipeline.results.semantic_kind import NAME
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder


class SemanticReader(RunReader):
    """A `RunReader` that gives a `SemanticRecord` or a `Failed` an image.

    Raises ConfigError when the run holds results of another kind, and what `RunReader` raises.
    """

    def __init__(self, run: RunFolder) -> None:
        if run.result != NAME:
            raise ConfigError(f"{run.url} holds results of kind {run.result!r}: semantic labels are needed here")
        super().__init__(run)

    def __iter__(self) -> Iterator[SemanticRecord | Failed]:
        return super().__iter__()

    @cached_property
    def classes(self) -> Classes:
        """What the labels of the run mean. StoreError while no shard of it is done."""
        self.need_any()
        classes: Classes = self.open_shard(next(iter(self.commits))).classes
        return classes

    @property
    def model(self) -> str:
        """Digest of what gave the clusters their numbers: of the trained model, else of all settings of the run."""
        model = self.run.config.get("model")
        found = model.get("fingerprint") if isinstance(model, dict) else None
        return str(found or self.run.fingerprint)
