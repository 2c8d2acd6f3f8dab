"""The steps of `benchmarks/gpu.py` that make pseudo-masks: parity with the CPU, the tests, and how fast it goes.

A step is a function of its settings and its records; it returns why it was skipped, if it was, and raises what went
wrong. Each runs in a process of its own (`gpu.py` starts it).
"""

import importlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import torch
from gpu_networks import large_launches, real_launch, tiny_launch
from gpu_record import ROOT, Records
from gpu_usage import Usage
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from pipeline.engine import run as engine
from pipeline.engine.shard_worker import ShardWorker
from pipeline.images.sources import list_images
from pipeline.results.instances import ImageRecord
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.summary import Silent

# What both devices have to agree on: mean IoU of the masks, and the share of photos with equally many.
SAME_IOU, SAME_COUNT = 0.98, 0.8
RECIPES = ("cuts3d", "maskcut")
GPU_TESTS = ("tests/test_cuda.py", "tests/stages/test_crf.py")
DETECTOR_GPU_TESTS = "tests/detector/prediction/test_detector_method.py"


@dataclass(frozen=True)
class Settings:
    """device: auto, cpu or cuda; tiny: random small networks on four drawn photos. assets: weights/ and coco/images/.
    work: folder for runs, kept between steps. scale: factor of all times."""

    device: str
    tiny: bool
    assets: Path
    work: Path
    scale: float

    @property
    def networks(self) -> Launch:
        """The launch of the real networks, or of the tiny ones."""
        return tiny_launch(self.work) if self.tiny else real_launch(self.assets)

    def photos(self, count: int) -> Path:
        """A folder with `count` photos, those there are by turns, each under a name of its own."""
        source = self._drawn() if self.tiny else self.assets / "coco" / "images"
        files = [source / ref.id for ref in list_images(str(source)).refs]
        folder = self.work / f"photos-{count}"
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            link = folder / f"{i:05d}{files[i % len(files)].suffix}"
            if not link.is_symlink():
                link.symlink_to(files[i % len(files)].absolute())
        return folder

    def _drawn(self) -> Path:
        from support.tiny_method import draw_photos

        folder = self.work / "drawn"
        if not folder.exists():
            draw_photos(folder, 4)
        return folder


class StepError(Exception):
    """What was to be proved does not hold."""


def _fresh(folder: Path) -> Path:
    """The folder, without what an earlier call left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


# --- parity -----------------------------------------------------------------------------------------------------------


@dataclass
class Agreement:
    """How far two devices' masks are the same. ious: of matched pairs; equal: pairs without a differing pixel; counts:
    for each photo, how many masks each has."""

    ious: list[float] = field(default_factory=list)
    equal: int = 0
    counts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, one: ImageRecord, other: ImageRecord) -> None:
        """Match the masks of a photo, one to one, so that the sum of IoUs is largest."""
        ours, theirs = _encoded(one), _encoded(other)
        self.counts.append((len(ours), len(theirs)))
        if not ours or not theirs:
            return
        iou = np.asarray(coco_mask.iou(ours, theirs, [0] * len(theirs)))
        for i, j in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
            self.ious.append(float(iou[i, j]))
            self.equal += ours[i]["counts"] == theirs[j]["counts"]

    @property
    def masks(self) -> int:
        """Pairs and masks without partner."""
        return sum(max(pair) for pair in self.counts)

    @property
    def same_counts(self) -> float:
        """Share of photos with equally many masks."""
        return statistics.fmean(one == other for one, other in self.counts)

    @property
    def mean_iou(self) -> float:
        """Of matched pairs; 0 where there are none."""
        return statistics.fmean(self.ious) if self.ious else 0.0


def _encoded(record: ImageRecord) -> list[dict[str, Any]]:
    return [{"size": list(record.size), "counts": instance.rle} for instance in record.instances]


def parity(settings: Settings, records: Records) -> None:
    """The same photos through both recipes on the CPU and on the device. StepError when the masks differ."""
    photos = settings.photos(4 if settings.tiny else 16)
    different = []
    for recipe in RECIPES:
        launch = replace(settings.networks, images=str(photos), recipe=recipe)
        found: list[list[ImageRecord]] = []
        for side, device in (("reference", "cpu"), ("device", settings.device)):
            out = _fresh(settings.work / f"parity-{recipe}-{side}")
            start = time.perf_counter()
            engine.run(out, launch, device=device)
            records.add(recipe, f"run, {side}", time.perf_counter() - start, "s", f"on {device}, loading included")
            found.append(list(RunReader(RunFolder.open(out))))
        agreement = Agreement()
        for one, other in zip(*found, strict=True):
            agreement.add(one, other)
        if not agreement.ious:
            raise StepError(f"{recipe} found no mask on one of the devices: there is nothing to compare")
        unlike = sum(one != other for one, other in agreement.counts)
        records.add(recipe, "masks", agreement.masks, "", f"{len(agreement.counts)} photos")
        records.add(recipe, "mean IoU of matched masks", agreement.mean_iou, "", f"at least {SAME_IOU}")
        records.add(recipe, "equal masks", agreement.equal / agreement.masks, "share", "to the pixel")
        records.add(recipe, "photos with other counts", unlike, "", f"at most {1 - SAME_COUNT:.0%}")
        if agreement.mean_iou < SAME_IOU or agreement.same_counts < SAME_COUNT:
            different.append(recipe)
    if different:
        raise StepError(f"the masks of {' and '.join(different)} differ from the CPU's")


def detector_missing() -> str:
    """Why the detector cannot be used here; empty where it can."""
    try:
        importlib.import_module("detector.components")
    except ImportError as error:
        return f"the detector does not import here: {error}"
    return ""


def gpu_tests(settings: Settings, records: Records) -> str | None:
    """The tests that need a GPU. StepError when one fails, or, on a GPU, all are skipped."""
    files = [*GPU_TESTS, *([] if detector_missing() else [DETECTOR_GPU_TESTS])]
    report = settings.work / "tests.xml"
    words = ["-q", "-p", "no:cacheprovider", "-k", "cuda or gpu", f"--junitxml={report}", *files]
    environment = os.environ | {"CUTS3D_ASSETS": str(settings.assets)}
    environment.pop("CI", None)  # which would make absent weights a failure
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment, check=False)
    if not report.is_file():
        raise StepError(f"pytest ended with {done.returncode} and no report")
    counts: Counter[str] = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        counts.update({name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")})
    failed = counts["failures"] + counts["errors"]
    for name, value in (("passed", counts["tests"] - failed - counts["skipped"]), ("failed", failed)):
        records.add("", name, value, "tests")
    records.add("", "skipped", counts["skipped"], "tests")
    if done.returncode:
        raise StepError(f"pytest ended with {done.returncode}, {failed} tests failed")
    if counts["skipped"] == counts["tests"]:
        if settings.device == "cuda":
            raise StepError("all tests were skipped, on a GPU")
        return "they need a GPU"
    return None


# --- speed ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How long a throughput is measured. images: that there are at most; shard: images a shard; seconds: after which it
    ends, once there are two shards; half as long again without."""

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

    def start(self, images_total: int, images_done: int) -> None:
        self.started = self._now()

    def image(self, record: ImageRecord | None) -> None:
        now = self._now()
        self.times.append(now)
        limit = self._plan.seconds * (1 if len(self.times) >= 2 * self._plan.shard else 1.5)
        if now - self.started > limit:
            raise TimeIsUpError

    @property
    def steady(self) -> tuple[int, float, float]:
        """Images, and from when to when: without the first shard, or, of less than two shards, the first half. In these
        processes start, kernels load, and nothing overlaps yet. StepError when fewer than two images were done."""
        done = len(self.times)
        if done < 2:
            raise StepError(f"{done} images were done in {self._plan.seconds * 1.5:g} s: nothing to measure")
        skipped = self._plan.shard if done >= 2 * self._plan.shard else done // 2
        return done - skipped, self.times[skipped - 1], self.times[-1]


def throughput(settings: Settings, records: Records, case: str, launch: Launch, plan: Plan) -> None:
    """A run from JPEG to committed shards, watched."""
    launch = replace(launch, images=str(settings.photos(plan.images)), shard_size=plan.shard)
    out = _fresh(settings.work / f"run-{case}")
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
        throughput(settings, records, recipe, replace(settings.networks, recipe=recipe), _plan(settings, 40))


def big(settings: Settings, records: Records) -> None:
    """The recipe cuts3d with the networks that papers use, at random weights."""
    launches: Mapping[str, Launch] = large_launches(settings.work) if not settings.tiny else {"tiny": settings.networks}
    for name, launch in launches.items():
        throughput(settings, records, name, launch, _plan(settings, 30))


def _plan(settings: Settings, seconds: float) -> Plan:
    if settings.tiny:
        return Plan(4, 2, 60 * settings.scale)
    # As a large run has it: 256 images a shard. No GPU does 100 images a second.
    return Plan(int(100 * seconds * settings.scale), 256, seconds * settings.scale)


def run_for_training(settings: Settings) -> Sequence[str]:
    """Folders of runs whose masks can be trained on: the one that `speed` made, or else one made here."""
    made = settings.work / "run-cuts3d"
    if made.is_dir() and RunFolder.open(made).ledger.committed():
        return [str(made)]
    out = settings.work / "run-for-training"
    engine.run(out, replace(settings.networks, images=str(settings.photos(40))), device=settings.device)
    return [str(out)]
