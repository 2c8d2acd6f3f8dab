"""What is counted for Ray's metrics endpoint of a shard, whatever its kind."""

from typing import Any

import pytest
from support.panoptic_runs import empty, random_panoptic

from cluster import metrics
from cluster.fleet import Done, Task
from pipeline.images.manifest import Shard
from pipeline.results.panoptic import counts_of


class Counted:
    """In place of Ray's metrics, which need a Ray: how much was added, by tags."""

    def __init__(self, name: str, *_: Any, **__: Any) -> None:
        self.added: dict[tuple[str, ...], float] = {}

    def set_default_tags(self, tags: dict[str, str]) -> None:
        assert tags == {"run": "first"}

    def inc(self, value: float, tags: dict[str, str]) -> None:
        key = tuple(tags.values())
        self.added[key] = self.added.get(key, 0) + value

    def observe(self, value: float) -> None:
        self.added[()] = value


def test_instances_and_empty_images_of_panoptic_runs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, name, Counted)
    records = [random_panoptic("a.png", (30, 40), 1), *(empty(f"{i}.png", (9, 9), "too_small") for i in range(2))]
    counts = counts_of(records)
    observed = metrics.Metrics("first")
    observed.committed(Done("worker", Task(Shard("00000", ()), 1), counts=counts, seconds={"motion": 2.0}, wall=3.0))
    added = {name: counter.added for name, counter in observed._counters.items() if counter.added}
    assert added == {
        "cuts3d_shards_committed_total": {(): 1},
        "cuts3d_images_total": {(): 3},
        "cuts3d_instances_total": {(): counts["instances"]},
        "cuts3d_empty_images_total": {("too_small",): 2},
        "cuts3d_stage_seconds_total": {("motion",): 2.0},
    }
