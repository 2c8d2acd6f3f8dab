"""Steps of `benchmarks/gpu.py`: what they share, and those that hold a GPU against the CPU, on photos and by the tests.

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from gpu_networks import real_launch, tiny_launch
from gpu_record import ROOT, Records
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from pipeline.engine import run as engine
from pipeline.images.sources import list_images
from pipeline.methods.cuts.recipes import get_recipe
from pipeline.results.instances import ImageRecord
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder

# What both devices have to agree on: mean IoU of the masks, and the share of photos with equally many.
SAME_IOU, SAME_COUNT = 0.98, 0.8
RECIPES = ("cuts3d", "maskcut")
GPU_TESTS = ("tests/test_cuda.py", "tests/stages/test_crf.py")
DETECTOR_GPU_TESTS = "tests/detector/prediction/test_detector_method.py"


@dataclass(frozen=True)
class Settings:
    """device: cpu or cuda; tiny: random small networks on four drawn photos. assets: weights/ and coco/images/.
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


def fresh(folder: Path) -> Path:
    """The folder, without what an earlier call left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


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


def of_recipe(launch: Launch, recipe: str) -> Launch:
    """The launch with another recipe, and without the depth that it may not look at."""
    unread = () if get_recipe(recipe).needs_depth else ("depth", "depth_kind")
    own = {name: value for name, value in launch.settings.items() if name not in unread}
    return replace(launch, recipe=recipe, settings=own)


def parity(settings: Settings, records: Records) -> None:
    """The same photos through both recipes on the CPU and on the device. StepError when the masks differ."""
    photos = settings.photos(4 if settings.tiny else 16)
    different = []
    for recipe in RECIPES:
        launch = replace(of_recipe(settings.networks, recipe), images=str(photos))
        found: list[list[ImageRecord]] = []
        for side, device in (("reference", "cpu"), ("device", settings.device)):
            out = fresh(settings.work / f"parity-{recipe}-{side}")
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
    # MMDetection, compiled here for the first time by Python 3.12, which warns of a docstring.
    words += ["-W", "ignore:invalid escape sequence:SyntaxWarning"]
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
