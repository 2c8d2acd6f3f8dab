"""What reports with a value for each class share: columns, tables, CSV and JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
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


def score_columns(runs: Sequence[ClassScores], difference: ClassScores | None) -> dict[str, ClassScores]:
    """run, or run, other and difference (run minus other)."""
    return titled(runs) if difference is None else {**titled(runs), "difference": difference}


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


def columns_json(columns: Mapping[str, ClassScores], classes: Sequence[str]) -> dict[str, Any]:
    """All values, overall and by class; null where a value is undefined."""
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


def columns_csv(columns: Mapping[str, ClassScores], classes: Sequence[str], settings: Mapping[str, Any]) -> str:
    """One row a value; empty where it is undefined. settings: in each row, after the values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["what", "class", "metric", "value", "low", "high", *settings])
    for what, scores in columns.items():
        rows = [("", name, estimate) for name, estimate in scores.overall.items()]
        for metric, estimates in scores.by_class.items():
            rows += [(name, metric, estimate) for name, estimate in zip(classes, estimates, strict=True)]
        for name, metric, estimate in rows:
            writer.writerow([what, name, metric, *csv_cells(estimate), *settings.values()])
    return out.getvalue()
