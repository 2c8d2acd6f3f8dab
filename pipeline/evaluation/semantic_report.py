"""The scores of one run of semantic labels, or of two compared, for people and for programs.

K clusters · C classes
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from pipeline.errors import SourceError
from pipeline.evaluation.beside_truth import common_images, images_line
from pipeline.evaluation.class_report import ClassReport, metric_table, plain_table, report_json, titled, units_line
from pipeline.evaluation.class_scores import ClassScores
from pipeline.evaluation.estimate_cells import cell, report_console
from pipeline.evaluation.semantic_published import not_alike, published
from pipeline.evaluation.semantic_runs import RunLabels, run_labels
from pipeline.evaluation.semantic_scores import METRICS, find_assignment, scored
from pipeline.evaluation.semantic_truth.truth import SemanticTruth
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.run_folder import RunFolder
from pipeline.wording import counted


@dataclass(frozen=True)
class ScoredRun:
    """A run, its assignment, and its scores on the images that count.

    confusion: int64 (K + 1, C), pixels by cluster and class; the last row is of those without a prediction.
    """

    labels: RunLabels
    assignment: Assignment
    scores: ClassScores
    confusion: np.ndarray

    def of_classes(self) -> np.ndarray:
        """int64 (C + 1, C): pixels by predicted and true class; the last row is of those without a prediction."""
        table = np.zeros((len(self.assignment.classes) + 1, self.confusion.shape[1]), np.int64)
        for cluster, index in enumerate((*self.assignment.class_of, None)):
            table[-1 if index is None else index] += self.confusion[cluster]
        return table


@dataclass(frozen=True, kw_only=True)
class SemanticReport(ClassReport):
    """The result, and of what. numbering: of the classes in the truth, see `SemanticTruth`."""

    numbering: str
    runs: tuple[ScoredRun, ...]


def evaluate_semantic_runs(
    truth: SemanticTruth,
    run: RunFolder,
    other: RunFolder | None = None,
    *,
    assignment: Assignment | None = None,
    given: str = "",
    void: str = "wrong",
    crop: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> SemanticReport:
    """Score a run, or compare it with another, on the images that the truth and every run have.

    assignment: of the clusters of all runs; None finds one for each run on these images.
    given: where it is from, for people.
    void: "wrong" counts a pixel without a prediction as wrong; "skipped" leaves it out, as released code does.
    crop: see `run_labels`.
    bootstrap, seed: see `scored`.

    Raises:
        ConfigError: a setting is out of range, or the assignment is of other clusters or classes.
        SourceError: there is no image or pixel to score, or the truth does not fit.
        StoreError: a run is damaged.
    """
    told: set[int] = set()
    found = [run_labels(folder, truth, crop, told) for folder in (run, other) if folder is not None]
    common = common_images([(labels.url, labels.images) for labels in found], truth.name)
    classes = _classes(truth, found, assignment)
    if not classes:
        raise SourceError(f"{truth.name}: no pixel of {counted(len(common), 'image')} has a class that counts")
    confusions = [labels.confusions.of(labels.images.places(common)) for labels in found]
    totals = [own.total(len(classes)) for own in confusions]
    if not all(total.any() for total in totals):
        raise SourceError(f"{truth.name}: no pixel of {counted(len(common), 'image')} has a class that counts")
    assignments = [
        Assignment(labels.clusters, classes, find_assignment(total), truth.name, len(common), labels.model)
        for labels, total in zip(found, totals, strict=True)
    ]
    if assignment is not None:
        for labels in found:
            assignment.refuse_others(labels.clusters, labels.model, labels.url)
        assignment.refuse_other_classes(classes, truth.name)
        assignments = [assignment] * len(found)
    by_class = [own.by_class(a.class_of, len(classes)) for own, a in zip(confusions, assignments, strict=True)]
    scores, differences = scored(by_class, void=void, bootstrap=bootstrap, seed=seed)
    runs = tuple(map(ScoredRun, found, assignments, scores, totals))
    return SemanticReport(
        truth=truth.name,
        benchmark=truth.benchmark,
        numbering=truth.numbering,
        classes=classes,
        runs=runs,
        difference=differences[0] if differences else None,
        images=len(common),
        missing=len(truth.paths) - len(common),
        given=given,
        void=void,
        crop=crop,
        bootstrap=bootstrap,
        seed=seed,
    )


def print_semantic_report(report: SemanticReport) -> None:
    """On stdout: what was scored, values with their intervals, a line per class, and what has been published."""
    console = report_console()
    numbering = f", numbered {report.numbering}" if report.numbering else ""
    console.print(f"truth   {report.truth} ({len(report.classes)} classes{numbering})", markup=False)
    for title, run in titled(report.runs).items():
        labels = run.labels
        clusters = f", {len(labels.clusters)} clusters" if labels.clusters != report.classes else ""
        console.print(f"{title:<7} {labels.url} ({labels.recipe}{clusters})", markup=False)
    images = images_line([(run.labels.url, run.labels.images) for run in report.runs], report.images, report.missing)
    console.print(f"images  {images}", markup=False)
    console.print(f"pixels  {_pixels(report)}", markup=False)
    console.print(f"classes {_assigned(report)}", markup=False)
    console.print(metric_table(report.columns, METRICS))
    console.print(_by_class(report))
    console.print(units_line(report.bootstrap), markup=False)
    figures = published(report.benchmark)
    if figures:
        console.print(_published(report))
        reasons = not_alike(report.benchmark, report.crop, report.void, bool(report.given))
        console.print(f"Not alike: {'; '.join(reasons)}", markup=False)


def semantic_report_json(report: SemanticReport) -> str:
    """Everything as JSON; null where a value is undefined."""
    return report_json(report, {"numbering": report.numbering, "classes": list(report.classes)}, _run_json)


def _run_json(run: ScoredRun) -> dict[str, Any]:
    labels = run.labels
    return {
        "url": labels.url,
        "recipe": labels.recipe,
        "model": labels.model,
        "clusters": list(labels.clusters),
        "class_of_cluster": list(run.assignment.class_of),
        "confusion": run.confusion.tolist(),
        **labels.images.to_json(),
    }


def _classes(truth: SemanticTruth, found: Sequence[RunLabels], given: Assignment | None) -> tuple[str, ...]:
    """Those of the truth; where it is open-ended, those up to the largest that occurs."""
    if not truth.open_ended:
        return truth.classes
    most = max(labels.confusions.most_class for labels in found) + 1
    return truth.classes[: max(most, len(given.classes) if given else 0)]


def _pixels(report: SemanticReport) -> str:
    total = int(report.runs[0].confusion.sum())
    where = f", of the middle square at {report.crop} pixels" if report.crop else ""
    shares = [run.of_classes()[-1].sum() / total for run in report.runs]
    if not any(shares):
        return f"{total} with a true class{where}; all have a prediction"
    rule = "counted as wrong" if report.void == "wrong" else "left out"
    without = " and ".join(f"{share:.1%}" for share in shares)
    return f"{total} with a true class{where}; {without} have no prediction, {rule}"


def _assigned(report: SemanticReport) -> str:
    if report.given:
        how = f"as {report.given} has it"
    else:
        how = "found on these images: one to one, clusters that are left over to the class they share most with"
    without = [sum(i is None for i in run.assignment.class_of) for run in report.runs]
    return f"{how}{f'; {without[0]} clusters have none' if without[0] else ''}"


def _by_class(report: SemanticReport) -> Table:
    """A line for each class that occurs: its share of the truth, IoU, accuracy, and what it is taken for most."""
    table = plain_table("class", "share", *(f"{title} IoU" for title in report.columns), "accuracy")
    table.add_column("clusters")
    table.add_column("else mostly")
    run = report.runs[0]
    confusion, true = run.of_classes(), run.confusion.sum(axis=0)
    for index, name in enumerate(report.classes):
        if math.isnan(run.scores.by_class["iou"][index].value):
            continue
        others = confusion[:, index].copy()
        others[index] = 0
        most = int(others.argmax())
        taken_for = (*report.classes, "none")[most] if others[most] else ""
        clusters = [str(k) for k, i in enumerate(run.assignment.class_of) if i == index]
        table.add_row(
            Text(name),
            f"{100 * true[index] / true.sum():.2f}",
            *(cell(scores.by_class["iou"][index], column) for column, scores in report.columns.items()),
            cell(run.scores.by_class["accuracy"][index], "run"),
            " ".join(clusters),
            Text(taken_for),
        )
    return table


def _published(report: SemanticReport) -> Table:
    table = Table(title=Text(f"Published on {report.benchmark}"), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("method", "accuracy", "mIoU", "source"):
        table.add_column(name, justify="left" if name in ("method", "source") else "right")
    for figure in published(report.benchmark):
        values = ("–" if value is None else f"{value:.1f}" for value in (figure.accuracy, figure.miou))
        table.add_row(Text(figure.method), *values, figure.source)
    for run in report.runs:
        cells = (cell(run.scores.overall[name], "run") for name in ("accuracy", "miou"))
        ours = f"{PurePosixPath(run.labels.url).name}, {run.labels.recipe} ({counted(report.images, 'image')})"
        table.add_row(Text(ours), *cells, "measured", style="bold")
    return table
