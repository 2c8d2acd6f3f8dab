"""A detector scored on benchmarks as the papers do: all classes as one, no score threshold, the best 100 detections of
an image (300 for LVIS), average precision and recall of masks and of the detector's own boxes.

What it finds goes through a run beside the metrics, OUT-runs/BENCHMARK-IMAGES-DETECTOR (the last two are digests), so
that what was killed resumes, a cluster can share the work, and two detectors are compared without predicting again.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detector.evaluation.published import Row, our_row
from detector.model.checkpoints import DetectorCheckpoint
from detector.prediction.options import NAME, DetectorOptions, overrides_of
from pipeline.commands.executing import RunExecutor
from pipeline.errors import ConfigError, CutsError
from pipeline.evaluation.report import Report, evaluate_runs, report_json
from pipeline.evaluation.truth.formats import TruthSet
from pipeline.images.manifest import Manifest, default_shard_size
from pipeline.images.sources import listing_of
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.files_at import files_at
from pipeline.wording import counted, part_of

logger = logging.getLogger(__name__)

IMAGES_REMEDY = "say with --truth-images what folder its names are relative to"
SCHEMA = "cuts3d-detector-metrics/1"
_DIGITS = 8  # of a digest in the name of a folder


@dataclass(frozen=True)
class Speed:
    """How long the predictions took, over all launches that made them.

    images.

    seconds: by stage, summed over workers.
    wall: of shards, from first image to commit, summed over workers.
    """

    images: int
    seconds: dict[str, float]
    wall: float

    @property
    def images_per_second(self) -> float:
        """Of one worker, reading, decoding and committing included."""
        return self.images / self.wall if self.wall > 0 else 0.0


@dataclass(frozen=True)
class Scored:
    """One benchmark.

    drops: detections that could not be scored, by reason.
    speed: of the first detector.
    """

    benchmark: str
    report: Report
    drops: dict[str, int]
    speed: Speed


def evaluate_detector(
    checkpoint: DetectorCheckpoint,
    truths: Sequence[TruthSet],
    out: Path,
    execute: RunExecutor,
    *,
    other: DetectorCheckpoint | None = None,
    amp: bool = False,
    max_per_image: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    **execution: Any,
) -> list[Scored]:
    """Predict on the photos of each truth what is not predicted yet, and score it.

    out: the file that the metrics will be in; the runs lie beside it.
    other: a detector to compare with, on the same images and resamples.
    amp: predict in half precision.
    max_per_image: detections that are kept, if more than the benchmark counts; AR1000 alone looks at them.
    bootstrap, seed: see `pipeline.evaluation.scores.evaluate`.
    execute, execution: see `self_training.self_train`.

    Raises SourceError when photos or truth do not fit together, ConfigError for a panoptic detector, and whatever the
    runs raise.
    """
    for detector in (checkpoint, other):
        if detector is not None and detector.panoptic is not None:
            raise ConfigError(
                f"{detector.path} is a panoptic detector, and detections of one class are scored here: "
                "`cuts3d predict` makes a run of it, which `cuts3d evaluate-panoptic` scores"
            )
    scored = []
    for truth in truths:
        runs = [
            _predictions(detector, truth, out, amp, max_per_image, execute, execution)
            for detector in (checkpoint, other)
            if detector is not None
        ]
        report = evaluate_runs(truth.truth, *runs, max_detections=truth.max_detections, bootstrap=bootstrap, seed=seed)
        if report.missing:
            logger.warning(
                "%s: %s not scored, so results do not compare with the papers'",
                *(truth.truth.name, part_of(report.missing, len(truth.truth.images), "image")),
            )
        scored.append(Scored(truth.benchmark, report, RunReader(runs[0]).summary().survey["drops"], _speed(runs[0])))
    return scored


def _predictions(
    checkpoint: DetectorCheckpoint,
    truth: TruthSet,
    out: Path,
    amp: bool,
    max_per_image: int | None,
    execute: RunExecutor,
    execution: dict[str, Any],
) -> RunFolder:
    """The complete run of a detector over a truth's photos."""
    name = truth.truth.name
    refs = listing_of(*truth.refs(IMAGES_REMEDY), name).refs
    manifest = Manifest(refs, default_shard_size(len(refs)))
    title = re.sub(r"\W+", "-", truth.benchmark or PurePosixPath(truth.truth.name).stem).strip("-").lower()
    name = f"{title}-{manifest.digest[:_DIGITS]}"
    runs = out.absolute().with_name(f"{out.stem}-runs")
    files_at(runs).write_atomic(f"{name}.parquet", manifest.to_parquet_bytes())
    kept = max(max_per_image or 0, truth.max_detections)
    more = f"-{kept}" if kept > truth.max_detections else ""
    folder = runs / f"{name}-{checkpoint.sha256[:_DIGITS]}{more}"
    options = DetectorOptions(str(checkpoint.path.absolute()), max_per_image=kept, grid=1, boxes="detector", amp=amp)
    launch = Launch(str(runs / f"{name}.parquet"), recipe=NAME, overrides=overrides_of(options))
    summary = execute(str(folder), launch, **execution)
    if not summary.complete:
        raise CutsError(f"{folder} lacks {counted(summary.missing, 'shard')}: the same command goes on")
    return RunFolder.open(folder)


def rows_of(checkpoint: DetectorCheckpoint, other: DetectorCheckpoint | None, scored: Sequence[Scored]) -> list[Row]:
    """The detectors' lines of the papers' tables."""
    names = [f"ours, {one.config['name']} {one.sha256[:_DIGITS]}" for one in (checkpoint, other) if one is not None]
    return [
        our_row(name, one.benchmark, evaluation)
        for one in scored
        for name, evaluation in zip(names, one.report.evaluations, strict=True)
    ]


def _speed(run: RunFolder) -> Speed:
    seconds: Counter[str] = Counter()
    images, wall = 0, 0.0
    for commit in run.ledger.committed().values():
        images += int(commit.counts["images"])
        wall += commit.wall
        seconds.update(commit.seconds)
    return Speed(images, {stage: round(value, 3) for stage, value in seconds.items()}, round(wall, 3))


def metrics_json(checkpoint: DetectorCheckpoint, other: DetectorCheckpoint | None, scored: Sequence[Scored]) -> str:
    """Everything as JSON; of each benchmark what `pipeline.evaluation.report.report_json` gives, and more."""
    described = {
        title: {"name": one.config["name"], "sha256": one.sha256, "trained_on": one.trained_on}
        for title, one in (("detector", checkpoint), ("other", other))
        if one is not None
    }
    benchmarks = [
        {
            "benchmark": one.benchmark,
            **json.loads(report_json(one.report)),
            "drops": one.drops,
            "images_per_second": round(one.speed.images_per_second, 3),
            "seconds": {"wall": one.speed.wall, **one.speed.seconds},
        }
        for one in scored
    ]
    content = {"schema": SCHEMA, **described, "benchmarks": benchmarks}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
