"""Counters of a run for Ray's metrics endpoint, from where Prometheus and Grafana have them.

Ray puts "ray_" before every name. Counts are of this driver's launch: what a run has in all, `cuts3d status` says.
"""

from ray.util.metrics import Counter, Gauge, Histogram

from cluster.driver import Observer
from cluster.fleet import Done

METRICS = {
    "cuts3d_images_total": "Images of committed shards.",
    "cuts3d_masks_total": "Pseudo-masks of committed shards.",
    "cuts3d_dropped_masks_total": "Proposals that were dropped, by reason.",
    "cuts3d_instances_total": "Instances in panoptic labels of committed shards.",
    "cuts3d_empty_images_total": "Images with panoptic labels and no instance, by reason.",
    "cuts3d_quarantined_images_total": "Images that were set aside, by reason.",
    "cuts3d_shards_committed_total": "Shards committed.",
    "cuts3d_shard_failures_total": "Times that a shard was not done, by reason: crashed, hung, error, node_lost.",
    "cuts3d_gpu_out_of_memory_total": "Times that a batch did not fit the GPU's memory and was halved.",
    "cuts3d_stage_seconds_total": "Seconds that workers spent, by stage.",
    "cuts3d_shards_pending": "Shards that wait for a worker.",
    "cuts3d_shards_running": "Shards that workers work on.",
    "cuts3d_workers": "Workers that are ready.",
    "cuts3d_shard_duration_seconds": "Seconds from a shard's first image to its commit.",
}
TAGS = {
    "cuts3d_quarantined_images_total": ("reason",),
    "cuts3d_dropped_masks_total": ("reason",),
    "cuts3d_empty_images_total": ("reason",),
    "cuts3d_shard_failures_total": ("reason",),
    "cuts3d_stage_seconds_total": ("stage",),
}
DURATIONS = [1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0]  # seconds


DURATION = "cuts3d_shard_duration_seconds"


class Metrics(Observer):
    """Counts what a driver reports. run: the value of the tag of that name, on every metric."""

    def __init__(self, run: str) -> None:
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        for name, description in METRICS.items():
            keys = (*TAGS.get(name, ()), "run")
            if name == DURATION:
                self._durations = Histogram(name, description, boundaries=DURATIONS, tag_keys=keys)
            elif name.endswith("_total"):
                self._counters[name] = Counter(name, description, tag_keys=keys)
            else:
                self._gauges[name] = Gauge(name, description, tag_keys=keys)
        for metric in (*self._counters.values(), *self._gauges.values(), self._durations):
            metric.set_default_tags({"run": run})

    def committed(self, done: Done) -> None:
        counts = done.counts
        self._add("shards_committed", 1)
        self._add("images", counts["images"])
        self._add("masks", counts.get("masks", 0))
        self._add("instances", counts.get("instances", 0))
        for reason, count in counts.get("empty", {}).items():
            self._add("empty_images", count, reason=reason)
        for reason, count in done.reasons.items():
            self._add("quarantined_images", count, reason=reason)
        self._add("gpu_out_of_memory", counts.get("gpu_out_of_memory", 0))
        for reason, count in counts.get("drops", {}).items():
            self._add("dropped_masks", count, reason=reason)
        for stage, seconds in done.seconds.items():
            self._add("stage_seconds", seconds, stage=stage)
        self._durations.observe(max(done.wall, 1e-3))  # Ray takes none at 0

    def failure(self, key: str, reason: str, detail: str) -> None:
        self._add("shard_failures", 1, reason=reason)

    def state(self, pending: int, running: int, workers: int) -> None:
        for name, value in (("shards_pending", pending), ("shards_running", running), ("workers", workers)):
            self._gauges[f"cuts3d_{name}"].set(value)

    def _add(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray refuses to add 0
            self._counters[f"cuts3d_{name}_total"].inc(value, tags)
