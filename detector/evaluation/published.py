"""What has been published of class-agnostic detectors trained without labels, and tables of it with ours beside.

All figures are percent, at 100 detections an image (LVIS 300), all categories as one. The source says how far each is
to be trusted (docs/method.md):

    CODE  the README of the method's own repository
    NOTE  summaries of the paper by others; two that agree
    INF   as CODE or NOTE, but the table does not name the metric or the data set: that is inferred
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.scores import Estimate, Evaluation
from pipeline.wording import counted

COCO, COCO20K, LVIS, UVO = "COCO val2017", "COCO20K", "LVIS", "UVO"
KITTI, OBJECTS365, SA1B = "KITTI", "Objects365", "SA-1B"

# Metrics as of `pipeline.evaluation.scores`, but AR is that of all detections that count.
BOX_METRICS, MASK_METRICS = ("box_AP50", "box_AR"), ("mask_AP", "mask_AP50")

# One round of training scores 8.7 on COCO val2017, those after it bring 9.7: only like is to be compared with like.
_CUTLER = "CutLER, self-trained"


@dataclass(frozen=True)
class Figure:
    """One published value, in percent."""

    method: str
    dataset: str
    metric: str
    value: float
    source: str


def _figures(method: str, source: str, metrics: Sequence[str], values: Mapping[str, Sequence[float]]) -> list[Figure]:
    return [
        Figure(method, dataset, metric, value, source)
        for dataset, of_dataset in values.items()
        for metric, value in zip(metrics, of_dataset, strict=False)
    ]


def _promerge_table(method: str, *values: float) -> list[Figure]:
    """A line of the table in ProMerge's README: AP, of masks where the data set has them; which, it does not say."""
    datasets = (COCO, COCO20K, LVIS, KITTI, OBJECTS365, SA1B)
    boxes = (KITTI, OBJECTS365)
    return [
        Figure(method, dataset, "box_AP", value, "INF")
        if dataset in boxes
        else Figure(method, dataset, "mask_AP", value, "CODE")
        for dataset, value in zip(datasets, values, strict=True)
    ]


# In the order in which tables show the methods.
PUBLISHED: tuple[Figure, ...] = (
    *_promerge_table("MaskCut, no training", 2.2, 3.0, 0.9, 0.2, 1.7, 0.8),
    *_promerge_table("ProMerge, no training", 2.4, 3.0, 1.3, 0.3, 2.2, 1.2),
    *_figures("FreeSOLO", "NOTE", MASK_METRICS, {COCO: (4.3, 9.4), COCO20K: (4.3, 9.7)}),
    *_promerge_table("CutLER, 1 round", 8.7, 8.9, 3.4, 3.9, 11.5, 5.5),
    *_promerge_table("ProMerge+, 1 round", 8.9, 9.0, 4.0, 5.4, 12.2, 7.8),
    *_figures("CuVLER", "NOTE", MASK_METRICS, {COCO: (9.8, 19.3), COCO20K: (10.0, 20.0)}),
    *_figures(
        _CUTLER,
        "CODE",
        BOX_METRICS,
        {
            COCO: (21.9, 32.7),
            COCO20K: (22.4, 33.1),
            "VOC": (36.9, 44.3),
            LVIS: (8.4, 21.8),
            UVO: (31.7, 42.8),
            "Clipart": (21.1, 41.3),
            "Comic": (30.4, 38.6),
            "Watercolor": (37.5, 44.6),
            KITTI: (18.4, 27.5),
            OBJECTS365: (21.6, 34.2),
            "OpenImages": (17.3, 29.6),
        },
    ),
    *_figures(_CUTLER, "NOTE", MASK_METRICS, {COCO: (9.7, 18.9), COCO20K: (10.0, 19.6)}),
    *_figures("CutS3D", "NOTE", MASK_METRICS, {COCO: (10.7, 20.8), COCO20K: (10.9, 21.3)}),
    *_figures("CutS3D", "INF", ("box_AP50", "box_AP"), {COCO: (24.3, 13.3)}),
)

# CutS3D's tables of its own parts, whose data set is inferred: the last line is its result on COCO val2017. The second
# one is of another protocol (8.5 to 9.1 beside 9.4 to 10.2), perhaps without self-training.
ABLATION: tuple[Figure, ...] = tuple(
    figure
    for method, values in {
        "CutLER + DiffNCuts": (22.1, 12.3, 18.7, 9.4),
        "+ LocalCut": (22.9, 12.5, 18.9, 9.5),
        "+ Spatial Importance": (23.3, 12.6, 19.2, 9.8),
        "+ Spatial Confidence": (23.9, 13.0, 20.1, 10.2),
        "+ self-training": (24.3, 13.3, 20.8, 10.7),
    }.items()
    for figure in _figures(method, "INF", ("box_AP50", "box_AP", "mask_AP50", "mask_AP"), {COCO: values})
)
CONFIDENCE_ABLATION: tuple[Figure, ...] = tuple(
    Figure(method, COCO, "mask_AP", value, "INF")
    for method, value in {
        "no Spatial Confidence": 8.5,
        "+ confident copy-paste": 8.8,
        "+ alpha-blending": 9.0,
        "+ soft-target loss": 9.1,
    }.items()
)


@dataclass(frozen=True)
class Row:
    """What a method of ours reaches on a data set: estimates, fractions of 1, by the names of metrics above."""

    method: str
    dataset: str
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class PaperTable:
    """Text to be laid out. header, and lines of cells: method, a cell a data set, source. ours: lines that are."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    ours: frozenset[int]


def our_row(method: str, dataset: str, evaluation: Evaluation) -> Row:
    """An evaluation as a row. dataset: `TruthSet.benchmark`, or the name of one's own data, for which nothing is
    published. How many images were scored is said with the method: the published figures are of all of a data set.
    """
    names = {"box_AR": f"box_AR{evaluation.max_detections}", "mask_AR": f"mask_AR{evaluation.max_detections}"}
    estimates = {
        metric: evaluation.metrics[name]
        for metric in ("box_AP50", "box_AP", "box_AR", "mask_AP50", "mask_AP", "mask_AR")
        if (name := names.get(metric, metric)) in evaluation.metrics
    }
    return Row(f"{method} ({counted(evaluation.n_images, 'image')})", dataset, estimates)


def tables(rows: Sequence[Row]) -> list[PaperTable]:
    """Boxes, AP50 and AR, and masks, AP and AP50, as the papers have them: a line a method, a column a data set. Of the
    published methods those with a figure in such a column, then ours, with their intervals.
    """
    made = []
    for title, metrics in (("Boxes: AP50 / AR", BOX_METRICS), ("Masks: AP / AP50", MASK_METRICS)):
        datasets = list(dict.fromkeys(row.dataset for row in rows if any(name in row.estimates for name in metrics)))
        if datasets:
            made.append(_table(title, metrics, datasets, rows))
    return made


def markdown(made: Iterable[PaperTable]) -> str:
    """Tables for a file."""
    parts = []
    for table in made:
        lines = [table.header, ("---",) * len(table.header), *table.lines]
        parts.append(
            "\n".join([f"{table.title}\n", *("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)])
        )
    return "\n\n".join(parts) + "\n"


def print_tables(made: Iterable[PaperTable], console: Console) -> None:
    """Tables on a terminal; ours in bold."""
    for table in made:
        grid = Table(title=Text(table.title), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column, name in enumerate(table.header):
            grid.add_column(Text(name), justify="left" if column in (0, len(table.header) - 1) else "right")
        for number, line in enumerate(table.lines):
            grid.add_row(*map(Text, line), style="bold" if number in table.ours else "")
        console.print(grid)


def _table(title: str, metrics: Sequence[str], datasets: Sequence[str], rows: Sequence[Row]) -> PaperTable:
    published: dict[str, dict[tuple[str, str], Figure]] = {}
    for figure in PUBLISHED:
        if figure.dataset in datasets and figure.metric in metrics:
            published.setdefault(figure.method, {})[figure.dataset, figure.metric] = figure
    lines = []
    for method, figures in published.items():
        cells = [_cell(_percent(figures.get((dataset, metric))) for metric in metrics) for dataset in datasets]
        lines.append((method, *cells, ", ".join(sorted({figure.source for figure in figures.values()}))))
    first = len(lines)
    for method in dict.fromkeys(row.method for row in rows):
        own = {row.dataset: row.estimates for row in rows if row.method == method}
        cells = [_cell(_interval(own.get(dataset, {}).get(metric)) for metric in metrics) for dataset in datasets]
        lines.append((method, *cells, "measured"))
    header = ("method", *(dataset or "own data" for dataset in datasets), "source")
    return PaperTable(title, header, tuple(lines), frozenset(range(first, len(lines))))


def _cell(values: Iterable[str]) -> str:
    texts = list(values)
    return " / ".join(texts) if set(texts) != {"–"} else "–"


def _percent(figure: Figure | None) -> str:
    return f"{figure.value:.1f}" if figure else "–"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "–"
    value = f"{100 * estimate.value:.1f}"
    return value if math.isnan(estimate.low) else f"{value} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
