"""The panoptic scores of one set of predictions, or of two compared, for people and for programs."""

from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.beside_truth import images_line
from pipeline.evaluation.class_report import metric_table, plain_table, report_json, titled, units_line
from pipeline.evaluation.estimate_cells import cell, report_console
from pipeline.evaluation.panoptic_evaluation import ALL_METRICS, PanopticReport, ScoredPredictions
from pipeline.evaluation.panoptic_published import COLUMNS, not_alike, published
from pipeline.evaluation.panoptic_runs import Predictions
from pipeline.wording import counted

_ABOUT_VOID = {"panopticapi": "missed, as in COCO and Cityscapes", "forgiven": "forgiven, as in the figures of CUPS"}


def print_panoptic_report(report: PanopticReport) -> None:
    """On stdout: what was scored, values with their intervals, a line per class, and what has been published."""
    console = report_console()
    things = sum(report.things)
    of_classes = f"{counted(len(report.classes), 'class', 'es')}, {things} of them things"
    console.print(f"truth   {report.truth} ({of_classes})", markup=False)
    for title, run in titled(report.runs).items():
        by = run.predictions
        console.print(f"{title:<7} {by.url} ({by.recipe}, {_clusters(by)})", markup=False)
    found = [(run.predictions.url, run.segments.images) for run in report.runs]
    console.print(f"images  {images_line(found, report.images, report.missing)}", markup=False)
    console.print(f"pixels  {_pixels(report)}", markup=False)
    console.print(f"classes {_assigned(report)}", markup=False)
    console.print(metric_table(report.columns, ALL_METRICS))
    console.print(_by_class(report))
    console.print(units_line(report.bootstrap), markup=False)
    if published(report.benchmark):
        console.print(_published(report))
        reasons = not_alike(report.benchmark, report.void, bool(report.given))
        console.print(f"Not alike: {'; '.join(reasons)}", markup=False)


def panoptic_report_json(report: PanopticReport) -> str:
    """Everything as JSON; null where a value is undefined."""
    about_classes = {"classes": list(report.classes), "things": list(report.things)}
    return report_json(report, about_classes, partial(_run_json, classes=report.classes))


def _run_json(run: ScoredPredictions, classes: Sequence[str]) -> dict[str, Any]:
    by, counts = run.predictions, run.counts
    totals = (counts.matched, counts.false, counts.missed)
    segments = np.stack([one.sum(axis=0) for one in totals], axis=1).astype(int).tolist()
    return {
        "url": by.url,
        "recipe": by.recipe,
        "model": by.model,
        "clusters": list(by.clusters),
        "things": list(by.things),
        "class_of_cluster": list(run.assignment.class_of),
        "class_of_cluster_jointly": run.assignment.jointly and list(run.assignment.jointly),
        "confusion": run.confusion.tolist(),
        "segments": {
            name: dict(zip(("matched", "false", "missed"), own, strict=True))
            for name, own in zip(classes, segments, strict=True)
        },
        "unassigned_segments": int(counts.unassigned.sum()),
        "by_void": {
            rule: {name: None if np.isnan(value) else value for name, value in values.items()}
            for rule, values in run.by_rule.items()
        },
        **run.segments.images.to_json(),
    }


def _clusters(by: Predictions) -> str:
    things = sum(by.things)
    return f"{counted(len(by.clusters), 'cluster')}, {things or 'none'} of them thing{'s' if things != 1 else ''}"


def _pixels(report: PanopticReport) -> str:
    total = int(report.runs[0].confusion.sum())
    shares = [run.confusion[-1].sum() / total for run in report.runs]
    if not any(shares):
        return f"{total} with a true class; all have a prediction"
    without = " and ".join(f"{share:.1%}" for share in shares)
    return f"{total} with a true class; {without} have no prediction: {_ABOUT_VOID[report.void]}"


def _assigned(report: PanopticReport) -> str:
    if report.given:
        how = f"as {report.given} has it"
    else:
        how = "found on these images, things and stuff apart: one to one, others to the class they share most with"
    lost = [int(run.counts.unassigned.sum()) for run in report.runs]
    if not any(lost):
        return how
    segments = " and ".join(counted(number, "segment") for number in lost)
    return f"{how}; {segments} of clusters without a class match nothing"


def _by_class(report: PanopticReport) -> Table:
    """A line for each class that occurs: kind, share of the truth, PQ, and of one run alone all that makes it up."""
    run, alone = report.runs[0], len(report.runs) == 1
    table = plain_table("class", "kind", "share", *(f"{title} PQ" for title in report.columns))
    for name in ("SQ", "RQ", "TP", "FP", "FN", "void") if alone else ():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("clusters")
    true, counts = run.confusion.sum(axis=0), run.counts
    for index, name in enumerate(report.classes):
        pq = [cell(scores.by_class["pq"][index], column) for column, scores in report.columns.items()]
        if not true[index] and np.isnan([run.scores.by_class["pq"][index].value for run in report.runs]).all():
            continue
        parts = [_value(run.scores.by_class[metric][index].value) for metric in ("sq", "rq", "void")]
        parts[2:2] = [str(int(own[:, index].sum())) for own in (counts.matched, counts.false, counts.missed)]
        clusters = [str(k) for k, i in enumerate(run.assignment.class_of) if i == index]
        kind, share = "thing" if report.things[index] else "stuff", f"{100 * true[index] / true.sum():.2f}"
        table.add_row(Text(name), kind, share, *pq, *(parts if alone else []), " ".join(clusters))
    return table


def _value(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.2f}"


def _published(report: PanopticReport) -> Table:
    data = report.benchmark.partition("-")[0]
    table = plain_table("method", *COLUMNS.values(), title=Text(f"Published on {data}"), title_justify="left")
    table.add_column("source")
    for figure in published(report.benchmark):
        theirs = [getattr(figure, name) for name in COLUMNS]
        shown = ["–" if value is None else f"{value:.1f}" for value in theirs]
        table.add_row(Text(figure.method), *shown, figure.source)
    for run in report.runs:
        by = run.predictions
        ours = f"{PurePosixPath(by.url).name}, {by.recipe} ({counted(report.images, 'image')})"
        for rule, measured in run.by_rule.items():
            values = [_value(measured[name]) for name in COLUMNS]
            table.add_row(Text(f"{ours}, {rule}"), *values, "measured", style="bold")
    return table
