"""Reading a run of panoptic labels, for callers that can use no other kind."""

from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.results.kinds import Counts, added
from pipeline.results.panoptic import PanopticRecord, relabelled
from pipeline.results.panoptic_kind import NAME
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import LabelReader


class PanopticReader(LabelReader[PanopticRecord]):
    """A `LabelReader` of panoptic labels, in the manifest's order or by number.

    threshold: ψ of the split into things and stuff, see `ThingSplit`; None for the published one, or for what the maker
        of the labels knows.

    Raises ConfigError, too, for a threshold out of range, or where the maker knows.
    """

    needs = NAME
    by_class = ("pixels", "inside")

    def __init__(self, run: RunFolder, threshold: float | None = None, assignment: Assignment | None = None) -> None:
        super().__init__(run, assignment)
        self.threshold = threshold
        if threshold is not None and not (isinstance(threshold, (int, float)) and 0 <= threshold < 1):
            raise ConfigError(f"the threshold of things is {threshold!r}: it must be a number from 0 to below 1")
        if threshold is not None and self.things is not None:
            raise ConfigError(f"{run.url} says itself which classes are things: leave the threshold out")

    @cached_property
    def things(self) -> tuple[bool, ...] | None:
        """Of each cluster whether it is a thing, where the maker of the labels knows. StoreError while no shard of the
        run is done.
        """
        self.need_any()
        things: tuple[bool, ...] | None = self.open_shard(next(iter(self.commits))).things
        return things

    @cached_property
    def counts(self) -> Counts:
        """Of all commits, by cluster: see `panoptic.counts_of`. StoreError while no shard of the run is done."""
        self.need_any()
        return reduce(added, (commit.counts for commit in self.commits.values()))

    @cached_property
    def cluster_split(self) -> ThingSplit:
        """Which clusters are things, see `split`."""
        return ThingSplit.made(self.clusters, self.things, self.counts, self.threshold)

    @cached_property
    def split(self) -> ThingSplit:
        """Which classes are things, by the counts of all commits: the same however often the run was resumed. With an
        assignment a class is a thing if one of its clusters is. StoreError while no shard of the run is done.
        """
        if self.assignment is None:
            return self.cluster_split
        found = {self.assignment.class_of[cluster] for cluster in self.cluster_split.thing_classes}
        return ThingSplit.given(
            self.classes, [c in found for c in range(len(self.classes))], self.named_counts(self.counts)
        )

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Of the images that have a record, in the manifest's order."""
        missing = {image.id for image in self.quarantined()}
        return tuple(id_ for id_, (key, _) in self.places.items() if key in self.commits and id_ not in missing)

    def record(self, number: int) -> PanopticRecord:
        """Of image `ids[number]`. Neighbouring numbers are read from the same shard, of which two stay open."""
        record = self.shown(self.result_of(self.ids[number]))
        assert isinstance(record, PanopticRecord)
        return record

    def draw(self, rgb_HW3: np.ndarray, result: PanopticRecord) -> Any:
        """See `RunReader.draw`; the legend says which classes are things."""
        from pipeline.results.panoptic_overlay import draw_overlay  # fonts, for drawing alone

        return draw_overlay(rgb_HW3, result, self.split.things)

    def _relabelled(self, record: PanopticRecord, assignment: Assignment) -> PanopticRecord:
        return relabelled(record, assignment.table, self.classes)


def open_panoptic(
    place: str | Path, threshold: float | None = None, assignment: Assignment | None = None
) -> PanopticReader:
    """The run of panoptic labels at a path or URL. Raises what `PanopticReader` and `RunFolder.open` raise."""
    return PanopticReader(RunFolder.open(place), threshold, assignment)
