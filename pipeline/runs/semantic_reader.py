"""Reading a run of semantic labels, for callers that can use no other kind; and what readers of labels share."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

from pipeline.results.kinds import Counts, Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import NAME as PANOPTIC
from pipeline.results.semantic import Classes, SemanticRecord, relabelled
from pipeline.results.semantic_assignment import Assignment
from pipeline.results.semantic_kind import NAME
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder

Record = TypeVar("Record")


class LabelReader(RunReader, ABC, Generic[Record]):
    """A `RunReader` that gives a record with labels or a `Failed` an image.

    assignment: iterating gives the classes that it has for the run's clusters; the rest of the reader shows what is
        stored.

    Raises ConfigError when the run holds results of another kind, or other clusters than the assignment is of, and what
    `RunReader` raises.
    """

    needs: ClassVar[str]
    """Name of the kind."""
    also: ClassVar[tuple[str, ...]] = ()
    """Names of kinds whose results hold such results."""
    by_class: ClassVar[tuple[str, ...]] = ("pixels",)
    """Counts that are by name of the class."""

    def __init__(self, run: RunFolder, assignment: Assignment | None = None) -> None:
        need_kind(run, self.needs, also=self.also)
        super().__init__(run)
        self.assignment = assignment
        if assignment is not None:
            assignment.refuse_others(self.clusters.names, self.model, run.url)

    def __iter__(self) -> Iterator[Record | Failed]:
        return super().__iter__()

    def results(self, key: str) -> Iterator[Record | Failed]:
        """See `RunReader.results`."""
        return (self.shown(result) for result in super().results(key))

    def shown(self, result: Record | Failed) -> Record | Failed:
        """A result that is stored, as iterating gives it."""
        if isinstance(result, Failed) or self.assignment is None:
            return result
        return self._relabelled(result, self.assignment)

    @abstractmethod
    def _relabelled(self, record: Record, assignment: Assignment) -> Record:
        """The record with the assignment's classes."""

    def named_counts(self, counts: Counts) -> Counts:
        """Counts of commits, which are of clusters, as counts of `classes`."""
        if self.assignment is None:
            return counts
        found: dict[str, dict[str, int]] = {}
        without = 0
        for name in self.by_class:
            found[name], lost = _by_class(counts[name], self.assignment)
            without += lost if name == "pixels" else 0
        return {**counts, **found, "unlabelled": counts["unlabelled"] + without}

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
        """Digest of what gave the clusters their numbers: of the trained model, be it that of a run whose labels were
        taken over, else of all settings of the run.
        """
        for name, field in (("model", "fingerprint"), ("semantic", "model")):
            found = self.run.config.get(name)
            if isinstance(found, dict) and found.get(field):
                return str(found[field])
        return self.run.fingerprint


class SemanticReader(LabelReader[SemanticRecord]):
    """A `LabelReader` of semantic labels, or of those that panoptic labels hold."""

    needs, also = NAME, (PANOPTIC,)

    def shown(self, result: SemanticRecord | PanopticRecord | Failed) -> SemanticRecord | Failed:
        """See `LabelReader.shown`."""
        return super().shown(result.semantic if isinstance(result, PanopticRecord) else result)

    def _relabelled(self, record: SemanticRecord, assignment: Assignment) -> SemanticRecord:
        return relabelled(record, assignment.table, self.classes)


def _by_class(counts: Mapping[str, int], assignment: Assignment) -> tuple[dict[str, int], int]:
    """Counts by name of the cluster as such by name of the class, and what is of clusters without one."""
    class_of = dict(zip(assignment.clusters, assignment.class_of, strict=True))
    found, without = Counter[str](), 0
    for cluster, count in counts.items():
        index = class_of[cluster]
        if index is None:
            without += count
        else:
            found[assignment.classes[index]] += count
    return dict(found), without
