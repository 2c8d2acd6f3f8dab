"""The step of `benchmarks/gpu.py` that trains the detector: how fast, with what memory, in mixed precision, and whether
a training that was killed resumes where it was.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from gpu_record import ROOT, Records
from gpu_speed import run_for_training
from gpu_steps import Settings, StepError, detector_missing
from gpu_usage import Busy, Usage, family, resident

from detector.training.folder import training_at
from pipeline.runs.training_folder import iterations

CHECKPOINT, LOG, WINDOW = (
    "default_hooks.checkpoint.interval",
    "default_hooks.logger.interval",
    "log_processor.window_size",
)
# The first loss that is logged after going on, beside that of the same iterations before the kill: only the order in
# which a GPU adds up is different.
SAME_LOSS = 0.05
PATIENCE = 60.0  # seconds more that a training has to get past its first checkpoint


@dataclass(frozen=True)
class Plan:
    """config, options: what is trained, as `cuts3d train` takes it. killed, resumed, amp: seconds, from the first
    iteration logged on, of the training that is killed, the one that resumes, and the one in mixed precision."""

    config: str
    options: tuple[str, ...]
    killed: float
    resumed: float
    amp: float


def plan(settings: Settings) -> Plan:
    """R50 with the 4 images per step of one GPU; or the smallest there is."""
    if settings.tiny:
        from support.small_training import SMALL

        return Plan(
            "tiny",
            (*_set(*SMALL, f"{CHECKPOINT}=5", f"{WINDOW}=1"), "--iterations", "15", "--batch-size", "2"),
            killed=0,
            resumed=60 * settings.scale,
            amp=0,
        )
    # A checkpoint of R50 is 600 MB, so few; a log line is of its own ten iterations, not of the last fifty.
    options = _set(f"{CHECKPOINT}=100", f"{LOG}=10", f"{WINDOW}=10")
    return Plan("cuts3d_r50_fpn_1gpu", options, *(seconds * settings.scale for seconds in (60, 35, 45)))


def _set(*options: str) -> tuple[str, ...]:
    return tuple(word for option in options for word in ("--set", option))


def train(settings: Settings, records: Records) -> str | None:
    """Train, kill, resume; and in mixed precision. StepError when a training fails, or does not resume where it was."""
    if missing := detector_missing():
        return missing
    wanted = plan(settings)
    runs = run_for_training(settings)
    command = [sys.executable, "-m", "detector.training", "--config", wanted.config, "--device", settings.device]
    command += [*wanted.options, "--backbone", "random", *(word for run in runs for word in ("--run", run))]
    work, work_amp = settings.work / "training", settings.work / "training-amp"
    for folder in (work, work_amp):
        shutil.rmtree(folder, ignore_errors=True)
    killed = watched(command, work, wanted.killed, past_checkpoint=True)
    describe(records, "float32", killed, work)
    checkpoint = training_at(work).latest_checkpoint()
    if killed.finished or checkpoint is None:
        raise StepError("the training ended before it could be killed, or left no checkpoint to resume from")
    resumed = watched([*command, "--resume"], work, wanted.resumed)
    compare(records, killed, resumed, iterations(checkpoint))
    if settings.device != "cuda":
        records.add("amp", "skipped", 1, "", "mixed precision is for GPUs")
    else:
        describe(records, "amp", watched([*command, "--amp"], work_amp, wanted.amp), work_amp)
    return None


@dataclass(frozen=True)
class Course:
    """A training as it was seen. logged: reports of MMEngine by iteration. start: seconds until the first of them. rss:
    the most memory that its processes had, in bytes. finished: it came to its end before it was killed."""

    logged: dict[int, dict[str, Any]]
    start: float
    rss: int
    busy: Busy
    finished: bool

    @property
    def seconds(self) -> float:
        """An iteration's: the median, without the first tenth, in which kernels are chosen."""
        times = [report["time"] for _, report in sorted(self.logged.items())]
        return statistics.median(times[len(times) // 10 :])


def watched(command: Sequence[str], work: Path, seconds: float, past_checkpoint: bool = False) -> Course:
    """Train in `work`, and kill it as a machine that fails would, `seconds` after the first report; with
    past_checkpoint not before iterations are reported that the first checkpoint lacks, and that are lost with it.
    StepError when the training fails, or reports nothing."""
    earlier = set(_reports(work))
    logged: dict[int, dict[str, Any]] = {}
    rss, first = 0, 0.0
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--work-dir", str(work)], cwd=ROOT)
    with Usage() as usage:
        while process.poll() is None:
            rss = max(rss, resident(process.pid))
            logged, now = _read(set(_reports(work)) - earlier), time.perf_counter()
            first = first or (now if logged else 0.0)
            waits = past_checkpoint and not _is_past_checkpoint(work, logged)
            if first and now - first > seconds + (PATIENCE if waits else 0.0):
                break
            time.sleep(0.05)
        end = time.perf_counter()
        finished = process.poll() is not None
        _kill(process)
    logged = _read(set(_reports(work)) - earlier)
    if (finished and process.returncode) or not logged:
        raise StepError(f"the training ended with {process.returncode}: what it said is in the log of this step")
    return Course(logged, (first or end) - began, rss, usage.between(first or began, end), finished)


def describe(records: Records, case: str, course: Course, work: Path) -> None:
    """Speed, memory and loss."""
    trained_on = json.loads((work / "detector.json").read_text(encoding="utf-8"))["trained_on"]
    last = max(course.logged)
    records.add(case, "throughput", trained_on["batch"] / course.seconds, "images/s", "median, first tenth left out")
    records.add(
        case, "iteration", course.seconds, "s", f"{trained_on['batch']} images, {trained_on['masks']} masks in all"
    )
    records.add(case, "iterations", last, "", "when it was killed" if not course.finished else "to the end")
    records.add(
        case, "loss", course.logged[last]["loss"], "", f"{course.logged[min(course.logged)]['loss']:.4g} at first"
    )
    memory = max(report.get("memory", 0) for report in course.logged.values())
    if memory:
        records.add(case, "peak memory", memory * 2**20 / 1e9, "GB", "allocated by torch")
    for what, share in (("GPU busy", course.busy.gpu), ("cores busy", course.busy.cpu)):
        if share is not None:
            records.add(case, what, share, "share", "all of the machine's")
    records.add(case, "memory of its processes", course.rss / 1e9, "GB", "pages that they share count for each")
    records.add(case, "first report after", course.start, "s")


def compare(records: Records, killed: Course, resumed: Course, kept: int) -> None:
    """The training that went on beside the one that was killed. kept: iterations of the checkpoint in between."""
    case, begins = "resumed", min(resumed.logged)
    records.add(case, "goes on after", kept, "iterations", f"killed after {max(killed.logged)}, first report {begins}")
    records.add(case, "iterations", max(resumed.logged), "", "to the end" if resumed.finished else "when it was killed")
    if begins <= kept:
        raise StepError(f"resumed after {kept} iterations, the training reports iteration {begins}: it started over")
    both = sorted(killed.logged.keys() & resumed.logged.keys())
    if not both:
        records.add(case, "iterations done twice", 0, "", "killed before any was reported after the checkpoint")
        return
    differences = [_apart(killed.logged[step]["loss"], resumed.logged[step]["loss"]) for step in both]
    records.add(case, "iterations done twice", len(both), "reports", f"{both[0]} to {both[-1]}")
    records.add(case, "loss apart at first", differences[0], "share", f"at most {SAME_LOSS}")
    records.add(case, "loss apart at most", max(differences), "share", "a GPU adds up in another order each time")
    if differences[0] > SAME_LOSS:
        raise StepError(f"after {both[0]} iterations the loss of the resumed training is {differences[0]:.1%} another")


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other), 1e-12)


def _is_past_checkpoint(work: Path, logged: Collection[int]) -> bool:
    kept = [iterations(file) for file in work.glob("iter_*.pth")]
    return bool(kept) and max(logged, default=0) > min(kept)


def _reports(work: Path) -> list[Path]:
    return list(work.glob("*/vis_data/scalars.json"))


def _read(files: Collection[Path]) -> dict[int, dict[str, Any]]:
    """Reports with a loss by iteration; a last line may still be under way."""
    texts = [file.read_text(encoding="utf-8") for file in files]
    reports = [json.loads(line) for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]
    return {report["step"]: report for report in reports if "loss" in report}


def _kill(process: subprocess.Popen) -> None:
    """It and its loading processes, by SIGKILL: nothing is tidied up."""
    for member in family(process.pid):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
