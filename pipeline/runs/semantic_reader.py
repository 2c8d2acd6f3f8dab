"""Reading a run of semantic labels, for callers that can use no other kind."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from pipeline.results.kinds import Counts, Failed
from pipeline.results.semantic import Classes, SemanticRecord, relabelled
from pipeline.results.semantic_assignment import Assignment
from pipeline.results.semantic_kind import NAME
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder


class SemanticReader(RunReader):
    """A `RunReader` that gives a `SemanticRecord` or a `Failed` an image.

    assignment: iterating gives the classes that it has for the run's clusters; the rest of the reader shows what is
        stored.

    Raises ConfigError when the run holds results of another kind, or other clusters than the assignment is of, and what
    `RunReader` raises.
    """

    def __init__(self, run: RunFolder, assignment: Assignment | None = None) -> None:
        need_kind(run, NAME)
        super().__init__(run)
        self.assignment = assignment
        if assignment is not None:
            assignment.refuse_others(self.clusters.names, self.model, run.url)

    def __iter__(self) -> Iterator[SemanticRecord | Failed]:
        return super().__iter__()

    def results(self, key: str) -> Iterator[SemanticRecord | Failed]:
        """See `RunReader.results`."""
        for result in super().results(key):
            if isinstance(result, Failed) or self.assignment is None:
                yield result
            else:
                yield relabelled(result, self.assignment.table, self.classes)

    def named_counts(self, counts: Counts) -> Counts:
        """Counts of commits, which are of clusters, as counts of `classes`."""
        if self.assignment is None:
            return counts
        pixels, unlabelled = Counter[str](), counts["unlabelled"]
        class_of = dict(zip(self.assignment.clusters, self.assignment.class_of, strict=True))
        for cluster, count in counts["pixels"].items():
            index = class_of[cluster]
            if index is None:
                unlabelled += count
            else:
                pixels[self.assignment.classes[index]] += count
        return {**counts, "pixels": dict(pixels), "unlabelled": unlabelled}

    @cached_property
    def clusters(self) -> Classes:
        """What the labels stand for that the run holds. StoreError while no shard of it is done."""
        self.need_any()
        clusters: Classes = self.open_shard(next(iter(self.commits))).classes
        return clusters

    @cached_property
    def classes(self) -> Classes:
        """What the labels stand for that iterating gives: the assignment's classes, or the clusters."""
        return self.clusters if self.assignment is None else Classes.named(self.assignment.classes)

    @property
    def model(self) -> str:
        """Digest of what gave the clusters their numbers: of the trained model, else of all settings of the run."""
        model = self.run.config.get("model")
        found = model.get("fingerprint") if isinstance(model, dict) else None
        return str(found or self.run.fingerprint)
