"""Steps of `benchmarks/gpu.py` that say how fast pseudo-masks are made, whole way from JPEG to committed shards."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from gpu_networks import large_launches
from gpu_record import Records
from gpu_steps import RECIPES, Settings, StepError, fresh, of_recipe
from gpu_usage import Usage

from pipeline.engine import run as engine
from pipeline.engine.shard_worker import ShardWorker
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.summary import Silent


@dataclass(frozen=True)
class Plan:
    """How long a throughput is measured. images: that there are at most; shard: images per shard; seconds: from the
    first image on, after which it ends, once there are two shards; half as long again without."""

    images: int
    shard: int
    seconds: float


class TimeIsUpError(Exception):
    """Ends a run that has shown enough; its committed shards stay."""


class Clock(Silent):
    """Notes when each image was done, and ends the run when its time is up."""

    def __init__(self, plan: Plan, now: Callable[[], float] = time.perf_counter) -> None:
        self._plan = plan
        self._now = now
        self.began = self.started = now()  # to load networks; to work on images
        self.times: list[float] = []

    def start(self, images_total: int, images_done: int, result: str) -> None:
        self.started = self._now()

    def add(self, counts: Mapping[str, Any]) -> None:
        now = self._now()
        self.times.append(now)
        limit = self._plan.seconds * (1 if len(self.times) >= 2 * self._plan.shard else 1.5)
        if now - self.times[0] > limit:
            raise TimeIsUpError

    @property
    def steady(self) -> tuple[int, float, float]:
        """Images, and from when to when: without the first shard, or, of less than two shards, the first half. In these
        processes start, kernels load, and nothing overlaps yet. StepError when fewer than two images were done."""
        done = len(self.times)
        if done < 2:
            raise StepError(f"{done} images were done: nothing to measure")
        skipped = self._plan.shard if done >= 2 * self._plan.shard else done // 2
        return done - skipped, self.times[skipped - 1], self.times[-1]


def throughput(settings: Settings, records: Records, case: str, launch: Launch, plan: Plan) -> None:
    """A run from JPEG to committed shards, watched."""
    launch = replace(launch, images=str(settings.photos(plan.images)), shard_size=plan.shard)
    out = fresh(settings.work / f"run-{case}")
    workers: list[ShardWorker] = []
    on_gpu = settings.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    clock, ended = Clock(plan), "all images done"
    with mock.patch.object(engine, "local_worker", _noting(engine.local_worker, workers)), Usage() as usage:
        try:
            engine.run(out, launch, device=settings.device, reporter=clock)
        except TimeIsUpError:
            ended = "ended by the clock"
    images, start, end = clock.steady
    left_out = f"the first {len(clock.times) - images} of {len(clock.times)} images left out, {ended}"
    records.add(case, "throughput", images / (end - start), "images/s", left_out)
    records.add(case, "batch", workers[0].batch_size, "images", "picked for the free memory" if on_gpu else "")
    records.add(case, "cores", len(os.sched_getaffinity(0)))
    busy = usage.between(start, end)
    for what, share in (("GPU busy", busy.gpu), ("cores busy", busy.cpu)):
        if share is not None:
            records.add(case, what, share, "share", "all of the machine's")
    if on_gpu:
        records.add(case, "peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB", "allocated by torch")
        records.add(case, "peak memory of the card", (busy.gpu_bytes or 0) / 1e9, "GB", "in use by anybody")
    records.add(case, "networks loaded", clock.started - clock.began, "s")
    records.add(case, "first image after", clock.times[0] - clock.began, "s")
    _of_commits(RunFolder.open(out), records, case, "batches overlap: the sum is more than the time" if on_gpu else "")


def _noting(make: Any, workers: list[ShardWorker]) -> Any:
    """`make`, and what it gives in `workers`."""

    def made(*arguments: Any) -> ShardWorker:
        workers.append(make(*arguments))
        return workers[-1]

    return made


def _of_commits(run: RunFolder, records: Records, case: str, note: str) -> None:
    """What the committed shards say: masks, and seconds by stage; the first is left out where there are more."""
    commits = [commit for _, commit in sorted(run.ledger.committed().items())]
    if not commits:
        records.add(case, "committed shards", 0, "", "not one was done in time: no seconds by stage")
        return
    counted = commits[1:] or commits
    images = sum(commit.counts["images"] for commit in counted)
    records.add(case, "committed shards", len(commits), "", f"of {commits[0].counts['images']} images")
    records.add(case, "set aside", sum(commit.counts["quarantined"] for commit in commits), "images")
    records.add(case, "masks", sum(commit.counts["masks"] for commit in counted) / images, "an image")
    seconds: Counter[str] = Counter()
    for commit in counted:
        seconds.update(commit.seconds)
    for stage, value in seconds.items():
        records.add(case, stage, value / images, "s/image", note)


def speed(settings: Settings, records: Records) -> None:
    """Both recipes with DINOv2-S at 840 and FastDepth."""
    for recipe in RECIPES:
        throughput(settings, records, recipe, of_recipe(settings.networks, recipe), _plan(settings, 35))


def big(settings: Settings, records: Records) -> None:
    """The recipe cuts3d with the networks that papers use, at random weights."""
    launches: Mapping[str, Launch] = large_launches(settings.work) if not settings.tiny else {"tiny": settings.networks}
    for name, launch in launches.items():
        throughput(settings, records, name, launch, _plan(settings, 25))


def _plan(settings: Settings, seconds: float) -> Plan:
    if settings.tiny:
        return Plan(4, 2, 60 * settings.scale)
    # As a large run has it: 256 images per shard. No GPU does 100 images per second.
    return Plan(int(100 * seconds * settings.scale), 256, seconds * settings.scale)


def run_for_training(settings: Settings) -> Sequence[str]:
    """Folders of runs whose masks can be trained on: the one that `speed` made, or else one made here."""
    made = settings.work / "run-cuts3d"
    if made.is_dir() and RunFolder.open(made).ledger.committed():
        return [str(made)]
    out = settings.work / "run-for-training"
    engine.run(out, replace(settings.networks, images=str(settings.photos(40))), device=settings.device)
    return [str(out)]
