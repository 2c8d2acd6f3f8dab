"""What reports with a value for each class share: columns, tables, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.table import Table
from rich.text import Text

from pipeline.evaluation.bootstrap import CONFIDENCE
from pipeline.evaluation.class_scores import ClassScores
from pipeline.evaluation.estimate_cells import cell, csv_cells, json_values
from pipeline.evaluation.scores import Metric

R = TypeVar("R")


def titled(runs: Sequence[R]) -> dict[str, R]:
    """A run, or a run and the other one that it is compared with, by the title of its column."""
    return dict(zip(("run", "other"), runs, strict=False))


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """The result, and of what.

    runs: one, or the two that were compared, each with its `scores`.
    difference: the first minus the second; None for one.
    images: that were scored, of every run.
    missing: images of the truth that were not.
    given: file of the assignment, "" where it was found on these images.
    """

    truth: str
    benchmark: str
    classes: tuple[str, ...]
    runs: tuple[Any, ...]
    difference: ClassScores | None
    images: int
    missing: int
    given: str
    void: str
    crop: int | None
    bootstrap: int
    seed: int

    @property
    def columns(self) -> dict[str, ClassScores]:
        """run, or run, other and difference (run minus other)."""
        columns = titled([run.scores for run in self.runs])
        return columns if self.difference is None else {**columns, "difference": self.difference}


def plain_table(*columns: str, **options: Any) -> Table:
    """A table without lines, whose first column is of names. options: of the table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", **options)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table


def metric_table(columns: Mapping[str, ClassScores], metrics: Sequence[Metric]) -> Table:
    """A line for each metric, with what it is."""
    table = plain_table("", *columns)
    table.add_column("")
    for metric in metrics:
        cells = [
            cell(scores.overall[metric.name], column, metric.better, metric.share) for column, scores in columns.items()
        ]
        table.add_row(metric.name, *cells, Text(metric.about))
    return table


def units_line(bootstrap: int) -> str:
    """What numbers and brackets of the tables are."""
    intervals = f"[low, high]: {CONFIDENCE:.0%} of {bootstrap} resamples of the images, with the assignment as it is"
    return "; ".join(["Shares in %", *([intervals] if bootstrap else [])])


def report_json(
    report: ClassReport, about_classes: Mapping[str, Any], of_run: Callable[[Any], Mapping[str, Any]]
) -> str:
    """Everything as JSON; null where a value is undefined. about_classes: what is said of them. of_run: what is said of
    one of the runs.
    """
    facts = {
        "truth": report.truth,
        "benchmark": report.benchmark,
        **about_classes,
        "n_images": report.images,
        "missing_images": report.missing,
        "void": report.void,
        "crop": report.crop,
        "assignment": report.given or "found on these images",
        "bootstrap": report.bootstrap,
        "seed": report.seed,
        "confidence": CONFIDENCE,
        "runs": {title: of_run(run) for title, run in titled(report.runs).items()},
        **_columns_json(report.columns, report.classes),
    }
    return json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _columns_json(columns: Mapping[str, ClassScores], classes: Sequence[str]) -> dict[str, Any]:
    return {
        title: {
            "overall": {name: json_values(estimate) for name, estimate in scores.overall.items()},
            **{
                metric: {name: json_values(one) for name, one in zip(classes, estimates, strict=True)}
                for metric, estimates in scores.by_class.items()
            },
        }
        for title, scores in columns.items()
    }


def report_csv(report: ClassReport) -> str:
    """One row a value; empty where it is undefined."""
    settings = {"n_images": report.images, "void": report.void, "bootstrap": report.bootstrap, "seed": report.seed}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["what", "class", "metric", "value", "low", "high", *settings])
    for what, scores in report.columns.items():
        rows = [("", name, estimate) for name, estimate in scores.overall.items()]
        for metric, estimates in scores.by_class.items():
            rows += [(name, metric, estimate) for name, estimate in zip(report.classes, estimates, strict=True)]
        for name, metric, estimate in rows:
            writer.writerow([what, name, metric, *csv_cells(estimate), *settings.values()])
    return out.getvalue()
