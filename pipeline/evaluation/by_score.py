"""Which of a run's masks are good: precision of those above each score, with bootstrap intervals over images.

I images · D masks of an image · G its objects · T thresholds
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.bootstrap import CONFIDENCE, Ratio, interval, resamples
from pipeline.evaluation.measures import FOUND, overlaps
from pipeline.evaluation.run_detections import run_detections
from pipeline.evaluation.scores import Estimate
from pipeline.evaluation.truth.coco import Truth
from pipeline.runs.run_folder import RunFolder

ROWS = 10  # of a table whose thresholds nobody gave, about


@dataclass(frozen=True)
class ScoreRow:
    """Masks that score `score` or more.

    masks: their number, and per_image.
    precision: share of them that find an object at IoU 0.5, those in crowds left out.
    objects_found: share of the objects that one of them finds.
    """

    score: float
    masks: int
    per_image: float
    precision: Estimate
    objects_found: Estimate


@dataclass(frozen=True)
class ScoreTable:
    """run, recipe, truth: what was looked at. images: that both have. rows: by rising score."""

    run: str
    recipe: str
    truth: str
    images: int
    bootstrap: int
    seed: int
    rows: tuple[ScoreRow, ...]


class _Image(NamedTuple):
    """score_D; right_D and judged_D, see `Overlaps`; best_G: highest score of a mask that finds the object, or -inf."""

    score_D: np.ndarray
    right_D: np.ndarray
    judged_D: np.ndarray
    best_G: np.ndarray


def score_table(
    truth: Truth,
    run: RunFolder,
    thresholds: Sequence[float] = (),
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ScoreTable:
    """Masks and precision at each threshold of the score; without thresholds about ten, at round steps.

    Raises ConfigError when the truth has no masks or a threshold is no number, SourceError when no image can be scored,
    StoreError when the run is damaged.
    """
    if not truth.has_masks:
        raise ConfigError(f"{truth.name} has boxes and no masks: whether a mask is right is told by masks")
    if wrong := [threshold for threshold in thresholds if not math.isfinite(threshold)]:
        raise ConfigError(f"a threshold is {wrong[0]}: it must be a number")
    if bootstrap < 0 or seed < 0:
        raise ConfigError(f"bootstrap is {bootstrap} and seed is {seed}: both must be at least 0")
    found = run_detections(run, truth)
    images = [_looked_at(truth, image_id, found.by_image[image_id]) for image_id in sorted(found.by_image)]
    scores = np.concatenate([image.score_D for image in images])
    chosen = sorted(set(thresholds)) or round_steps(scores)
    rows = tuple(_row(images, threshold, bootstrap, seed) for threshold in chosen)
    return ScoreTable(run.url, run.recipe, truth.name, len(images), bootstrap, seed, rows)


def round_steps(scores: np.ndarray, rows: int = ROWS) -> list[float]:
    """0 and multiples of 1, 2 or 5 times a power of ten, at most `rows` up to where a hundredth of the scores is left,
    such as 0, 0.02, 0.04, ...
    """
    top = float(np.quantile(scores, 0.99)) if len(scores) else 0.0
    if top <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / rows))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if top / step <= rows)
    return [round(i * step, 12) for i in range(math.floor(top / step + 1e-9) + 1)]


def table_lines(table: ScoreTable) -> list[str]:
    """For people."""
    lines = [
        f"truth   {table.truth}",
        f"run     {table.run} ({table.recipe})",
        f"images  {table.images}",
        "",
        f"{'score ≥':>8} {'masks':>8} {'per image':>10}   {'with an object, %':<22} objects found, %",
    ]
    lines += [
        f"{row.score:>8g} {row.masks:>8} {row.per_image:>10.2f}   {_percent(row.precision):<22} "
        f"{_percent(row.objects_found)}"
        for row in table.rows
    ]
    intervals = (
        f"; [low, high]: {CONFIDENCE:.0%} of {table.bootstrap} resamples of the images" if table.bootstrap else ""
    )
    return [*lines, "", f"A mask has an object when their IoU is 0.5 or more{intervals}"]


def table_csv(table: ScoreTable) -> str:
    """A line a threshold; shares as fractions of 1, empty where they are undefined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("precision", "objects_found")
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow(["score", "masks", "per_image", *ends, "n_images", "bootstrap", "seed"])
    for row in table.rows:
        shares = [value for name in names for value in asdict(getattr(row, name)).values()]
        numbers = ["" if math.isnan(value) else repr(value) for value in shares]
        writer.writerow([row.score, row.masks, row.per_image, *numbers, table.images, table.bootstrap, table.seed])
    return out.getvalue()


def table_json(table: ScoreTable) -> str:
    """The same as JSON, null where a share is undefined."""
    return json.dumps(_without_nan(asdict(table)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _looked_at(truth: Truth, image_id: int, detections: Sequence[dict[str, Any]]) -> _Image:
    found = overlaps(truth, image_id, [detection["segmentation"] for detection in detections])
    score_D = np.array([detection["score"] for detection in detections], float)
    finds_DG = found.iou_DG >= FOUND
    best_G = np.where(finds_DG, score_D[:, None], -np.inf).max(axis=0, initial=-np.inf)
    return _Image(score_D, found.right_D, found.judged_D, best_G)


def _row(images: Sequence[_Image], threshold: float, bootstrap: int, seed: int) -> ScoreRow:
    above = [image.score_D >= threshold for image in images]
    masks = sum(int(above_D.sum()) for above_D in above)
    right = [(image.right_D & above_D).sum() for image, above_D in zip(images, above, strict=True)]
    judged = [(image.judged_D & above_D).sum() for image, above_D in zip(images, above, strict=True)]
    found, objects = [(image.best_G >= threshold).sum() for image in images], [len(image.best_G) for image in images]
    precision, objects_found = (
        _estimate(Ratio(np.array(over, float), np.array(under, float)), bootstrap, seed)
        for over, under in ((right, judged), (found, objects))
    )
    return ScoreRow(threshold, masks, masks / len(images), precision, objects_found)


def _estimate(ratio: Ratio, bootstrap: int, seed: int) -> Estimate:
    n_images = len(ratio.numerator_I)
    value = float(ratio(np.ones((n_images, 1)))[0])
    samples = [ratio(weights_IB) for weights_IB in resamples(n_images, bootstrap, seed)]
    return Estimate(value, *interval(np.concatenate([np.empty(0), *samples])))


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    value, low, high = (f"{100 * number:.1f}" for number in (estimate.value, estimate.low, estimate.high))
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
