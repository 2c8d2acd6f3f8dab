"""The scores of one run, or of two compared, for people and for programs."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.errors import SourceError
from pipeline.evaluation.average_precision import MAX_DETECTIONS
from pipeline.evaluation.bootstrap import CONFIDENCE
from pipeline.evaluation.class_report import titled
from pipeline.evaluation.estimate_cells import cell, csv_cells, json_values, report_console
from pipeline.evaluation.run_detections import RunDetections, run_detections
from pipeline.evaluation.scores import (
    IOU_TYPES,
    Comparison,
    Estimate,
    Evaluation,
    Metric,
    compare,
    evaluate,
    metrics_at,
)
from pipeline.evaluation.truth.coco import Truth
from pipeline.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Report:
    """The result, and of what.

    runs: one, or the two that were compared.
    missing: images of the truth that were not scored, because a run has not (yet) processed them.
    min_score: masks with lower scores were left out.
    """

    truth: str
    missing: int
    runs: tuple[RunDetections, ...]
    result: Evaluation | Comparison
    min_score: float = 0.0

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Of each run."""
        return (self.result.first, self.result.second) if isinstance(self.result, Comparison) else (self.result,)

    @property
    def metrics(self) -> list[Metric]:
        """Those that were measured."""
        evaluation = self.evaluations[0]
        return [metric for metric in metrics_at(evaluation.max_detections) if metric.name in evaluation.metrics]

    @property
    def columns(self) -> dict[str, dict[str, Estimate]]:
        """run, or run, other, difference (run minus other) and ratio (run over other): estimates by metric."""
        columns = {"run": self.evaluations[0].metrics}
        if isinstance(self.result, Comparison):
            columns |= {
                "other": self.result.second.metrics,
                "difference": self.result.difference,
                "ratio": self.result.ratio,
            }
        return columns


def evaluate_runs(
    truth: Truth,
    run: RunFolder,
    other: RunFolder | None = None,
    *,
    scores: str = "own",
    min_score: float = 0.0,
    max_detections: int = MAX_DETECTIONS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Report:
    """Score a run, or compare it with another, on the images that the truth and every run have.

    Against a truth without masks, boxes are scored alone. min_score: masks with lower scores are left out, of both
    runs. scores, max_detections, bootstrap and seed as for `evaluate`.

    Raises:
        ConfigError: a setting is out of range.
        SourceError: there is no image to score, or the truth does not fit.
        StoreError: a run is damaged.
    """
    runs = tuple(run_detections(folder, truth, min_score) for folder in (run, other) if folder is not None)
    image_ids = sorted(set.intersection(*(set(found.by_image) for found in runs)))
    if not image_ids:
        raise SourceError(f"{runs[0].url} and {runs[1].url} have no image of {truth.name} in common")
    first, *rest = ([d for image_id in image_ids for d in found.by_image[image_id]] for found in runs)
    settings: dict[str, Any] = {
        "scores": scores,
        "iou_types": IOU_TYPES if truth.has_masks else ("bbox",),
        "max_detections": max_detections,
        "bootstrap": bootstrap,
        "seed": seed,
    }
    result: Evaluation | Comparison
    if rest:
        result = compare(truth, first, rest[0], image_ids, **settings)
    else:
        result = evaluate(truth, first, image_ids, **settings)
    return Report(truth.name, len(truth.images) - len(image_ids), runs, result, min_score)


def print_report(report: Report) -> None:
    """On stdout: what was scored, and a table of values with their intervals."""
    console = report_console()
    evaluation = report.evaluations[0]
    console.print(f"truth   {report.truth}", markup=False)
    for title, run in titled(report.runs).items():
        console.print(f"{title:<7} {run.url} ({run.recipe})", markup=False)
    console.print(f"images  {_images(report)}", markup=False)
    left_out = f", of masks with {report.min_score:g} or more" if report.min_score > 0 else ""
    console.print(f"scores  {evaluation.scores}{left_out}")
    console.print(_table(report))
    intervals = (
        f"[low, high]: {CONFIDENCE:.0%} of {evaluation.bootstrap} resamples of the images"
        if evaluation.bootstrap
        else ""
    )
    console.print("; ".join(filter(None, ["Shares in %", intervals])), markup=False)


def report_json(report: Report) -> str:
    """Everything as JSON; null where a value is undefined or infinite."""
    evaluation = report.evaluations[0]
    facts: dict[str, Any] = {
        "truth": report.truth,
        "scores": evaluation.scores,
        "min_score": report.min_score,
        "max_detections": evaluation.max_detections,
        "n_images": evaluation.n_images,
        "missing_images": report.missing,
        "bootstrap": evaluation.bootstrap,
        "seed": evaluation.seed,
        "confidence": CONFIDENCE,
        "runs": {
            title: {
                "url": run.url,
                "recipe": run.recipe,
                "unlabelled": len(run.unlabelled),
                "set_aside": run.set_aside,
                "other_size": run.other_size,
            }
            for title, run in titled(report.runs).items()
        },
    }
    for title, estimates in report.columns.items():
        facts[title] = {name: json_values(estimate) for name, estimate in estimates.items()}
    return json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_csv(report: Report) -> str:
    """One row a value; empty where it is undefined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["what", "metric", "value", "low", "high", "n_images", "scores", "bootstrap", "seed"])
    evaluation = report.evaluations[0]
    settings = [evaluation.n_images, evaluation.scores, evaluation.bootstrap, evaluation.seed]
    for what, estimates in report.columns.items():
        for name, estimate in estimates.items():
            writer.writerow([what, name, *csv_cells(estimate), *settings])
    return out.getvalue()


def _images(report: Report) -> str:
    parts = [f"{report.evaluations[0].n_images} scored"]
    if report.missing:
        parts.append(f"{report.missing} of the truth left out: not in {'the run' if len(report.runs) == 1 else 'both'}")
    for run in report.runs:
        of = f" by {PurePosixPath(run.url).name}" if len(report.runs) > 1 else ""
        parts += [
            f"{len(names)} {what}{of}"
            for names, what in ((run.set_aside, "set aside"), (run.other_size, "of another size"))
            if names
        ]
    unlabelled = {name for run in report.runs for name in run.unlabelled}
    if unlabelled:
        parts.append(f"{len(unlabelled)} of the run not in the truth")
    return "; ".join(parts)


def _table(report: Report) -> Table:
    columns = report.columns
    compared = len(columns) > 1
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    if not compared:
        table.add_column("")
    for metric in report.metrics:
        if metric.name in ("box_AP", "object_best_iou") and table.row_count:
            table.add_row()
        cells: Iterator[Text] = (
            cell(estimates[metric.name], title, metric.better, metric.share) for title, estimates in columns.items()
        )
        table.add_row(metric.name, *cells, *([] if compared else [metric.about]))
    return table
