"""A comparison of runs as text for people, as CSV and as JSON."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.evaluation.bootstrap import CONFIDENCE
from pipeline.evaluation.comparison import MASKS, ComparedRun, RunComparison
from pipeline.evaluation.estimate_cells import csv_cells
from pipeline.evaluation.scores import Estimate, Metric

# Of the metrics of masks or boxes those that a table shows; files have all.
_SHOWN = (
    *("AP", "AP50", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR300", "AR1000"),
    *("AR_small", "AR_medium", "AR_large", "recall50_small", "recall50_medium", "recall50_large"),
)


def comparison_lines(comparison: RunComparison) -> list[str]:
    """For people: what was compared, the table, and how far the recipes agree."""
    first = comparison.runs[0].name
    lines = [f"truth   {comparison.truth or 'none: nothing is said of how good the masks are'}"]
    lines.append(f"images  {_images(comparison)}")
    lines += ["", *_columns(_table(comparison)), "", "agreement, %: IoU of masks matched one to one", ""]
    names = [run.name for run in comparison.runs]
    rows = [[run.name, *(_number(estimate, 100) for estimate in run.agreement)] for run in comparison.runs]
    lines += [*_columns([["", *names], *rows]), ""]
    of_first = f"in brackets, of {first} its interval, of the others the difference from {first} with its own"
    intervals = (
        f"; {of_first}: {CONFIDENCE:.0%} of {comparison.bootstrap} resamples of the images"
        if comparison.bootstrap
        else f"; in brackets the difference from {first}"
    )
    return [*lines, f"Shares in %{intervals}"]


def comparison_json(comparison: RunComparison) -> str:
    """Everything as JSON; null where a value is undefined or infinite."""
    facts = asdict(comparison) | {"confidence": CONFIDENCE}
    for run in facts["runs"]:
        run["agreement"] = dict(zip((one.name for one in comparison.runs), run["agreement"], strict=True))
    return json.dumps(_finite(facts), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def comparison_csv(comparison: RunComparison) -> str:
    """A row for each recipe and metric; shares as fractions of 1, empty where they are undefined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("", "_low", "_high")
    head = [f"{what}{end}" for what in ("value", "difference") for end in ends]
    writer.writerow(["recipe", "metric", *head, "compared_with", "n_images", "scores", "bootstrap", "seed"])
    images = comparison.scored or comparison.images
    settings = [comparison.runs[0].name, images, comparison.scores, comparison.bootstrap, comparison.seed]
    nothing = Estimate(math.nan)
    for run in comparison.runs:
        for name, estimate in run.metrics.items():
            difference = run.difference.get(name, nothing)
            writer.writerow([run.name, name, *csv_cells(estimate), *csv_cells(difference), *settings])
        for other, estimate in zip(comparison.runs, run.agreement, strict=True):
            own = [run.name, f"agreement_with_{other.name}", *csv_cells(estimate)]
            writer.writerow([*own, *[""] * 3, *settings])
        writer.writerow([run.name, "seconds_per_image", repr(run.total_seconds), *[""] * 5, *settings])
    return out.getvalue()


def _table(comparison: RunComparison) -> list[list[str]]:
    kind = "mask" if "mask_AP" in comparison.runs[0].metrics else "box"
    wanted = {f"{kind}_{name}" for name in _SHOWN} | {MASKS}
    rows = [["", *(run.name for run in comparison.runs)]]
    for metric in comparison.metrics:
        if metric.name in wanted:
            rows.append([metric.name, *(_cell(metric, run, run is comparison.runs[0]) for run in comparison.runs)])
    rows.append(["seconds per image", *(f"{run.total_seconds:.2f}" for run in comparison.runs)])
    return rows


def _cell(metric: Metric, run: ComparedRun, is_first: bool) -> str:
    scale = 100 if metric.share else 1
    estimate, difference = run.metrics[metric.name], run.difference[metric.name]
    if math.isnan(estimate.value):
        return "–"
    value = _number(estimate, scale)
    if is_first:
        return f"{value} {_interval(estimate, scale)}".rstrip()
    if math.isnan(difference.value):
        return value
    return f"{value} ({_number(difference, scale, '+')} {_interval(difference, scale, '+')}".rstrip() + ")"


def _number(estimate: Estimate, scale: int, sign: str = "") -> str:
    # Adding 0 to what was rounded to -0 takes its sign away.
    return "–" if math.isnan(estimate.value) else f"{round(scale * estimate.value, 2) + 0:{sign}.2f}"


def _interval(estimate: Estimate, scale: int, sign: str = "") -> str:
    if math.isnan(estimate.low):
        return ""
    low, high = (f"{round(scale * end, 2) + 0:{sign}.2f}" for end in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _images(comparison: RunComparison) -> str:
    parts = [f"{comparison.images} compared"]
    if comparison.truth:
        parts.append(f"{comparison.scored} of them scored")
    if comparison.missing:
        parts.append(f"{comparison.missing} of the truth not scored")
    if comparison.left_out:
        by = ", ".join(f"{len(run.set_aside)} by {run.name}" for run in comparison.runs if run.set_aside)
        parts.append(f"{len(comparison.left_out)} set aside and left out for all ({by})")
    if comparison.other_size:
        parts.append(f"{comparison.other_size} of another size than in the truth")
    if comparison.unlabelled:
        parts.append(f"{comparison.unlabelled} not in the truth")
    return ", ".join(parts)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
