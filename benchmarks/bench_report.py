"""What `benchmarks/bench.py` has measured: as a table for the terminal, as CSV, and as JSON.

I photos · B resamples
"""

import csv
import json
import math
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from pipeline.evaluation.bootstrap import Ratio, interval, resamples
from pipeline.storage.atomic import written_whole

TRANSCRIPTION = "transcription"
NETWORKS = ("depth", "features")
STAGES = ("affinity", "ncut", "localcut", "confidence", "refine", "encode")
TOTAL = "after_networks"
SAME_IOU = 0.98
RESAMPLES = 2000
# Of the cores' time, taken by other processes: above it the figures are not to be trusted.
QUIET = 0.05
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """A method's time for a photo: seconds by stage, those of the networks that it needs among them; n_masks: kept.
    others: share of the cores' time, 0..1, that other processes took while all methods had their turn."""

    image: str
    method: str
    seconds: dict[str, float]
    total: float
    n_masks: int
    others: float


@dataclass(frozen=True)
class Pair:
    """The masks of one round, of our `maskcut` and of the transcription. iou: of the finished masks; cut_iou: before
    refinement; either is 0 where one side has none. gap: the transcription's eigengap. why: where they parted."""

    image: str
    round: int
    iou: float
    cut_iou: float
    gap: float
    why: str


@dataclass(frozen=True)
class Memory:
    """Of a process, in bytes: resident before the first photo (libraries, no networks), the most it ever was, and the
    most that torch had allocated on the GPU (None without one)."""

    before: int
    peak: int
    gpu: int | None


@dataclass(frozen=True)
class Estimate:
    """A value and its bootstrap interval over photos."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def estimate(measure: Callable[[np.ndarray], np.ndarray], n_photos: int) -> Estimate:
    """measure: of weights of the photos, float (I, B), the value of each of the B resamples."""
    samples = [measure(weights_IB) for weights_IB in resamples(n_photos, RESAMPLES, seed=0)]
    return Estimate(float(measure(np.ones((n_photos, 1)))[0]), *interval(np.concatenate(samples)))


def median_of(values_I: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The median, as a measure of a resample."""
    return lambda weights_IB: np.array([np.median(np.repeat(values_I, w_I.astype(int))) for w_I in weights_IB.T])


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """What is kept of the seconds of all photos."""
    return {
        "median": float(np.median(seconds)),
        "mean": float(np.mean(seconds)),
        "p90": float(np.quantile(seconds, 0.9)),
    }


def timing(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds an image by method and stage."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for stage, value in (row.seconds | {TOTAL: row.total}).items():
            found.setdefault(row.method, {}).setdefault(stage, []).append(value)
    return {method: {stage: spread(values) for stage, values in by.items()} for method, by in found.items()}


def ratios(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """How many times faster than the transcription each method is after the networks: median over photos."""
    totals: dict[str, list[float]] = {}
    for row in rows:
        totals.setdefault(row.method, []).append(row.total)
    reference = totals.pop(TRANSCRIPTION, None)
    if reference is None:
        return {}
    return {
        method: asdict(estimate(median_of(np.divide(reference, values)), len(values)))
        for method, values in totals.items()
    }


def agreement(pairs: Sequence[Pair], images: Sequence[str]) -> dict[str, Any]:
    """How far the masks are the same: mean IoU over masks, and every pair below SAME_IOU."""
    by_image = [[pair.iou for pair in pairs if pair.image == image] for image in images]
    mean = Ratio(np.array([sum(ious) for ious in by_image]), np.array([len(ious) for ious in by_image]))
    below = [asdict(pair) for pair in pairs if pair.iou < SAME_IOU]
    return {"masks": len(pairs), "mean_iou": asdict(estimate(mean, len(images))), "below": below}


def bars(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the project asks of itself, and whether it holds; nothing where the conditions are others."""
    on_two_cores = summary["device"] == "cpu" and summary["machine"]["threads"] == 2
    if not on_two_cores or summary["grid"] != [60, 60] or summary["cores_taken_by_others"] > QUIET:
        return []
    found: list[tuple[str, float, float, bool]] = []
    if "maskcut" in summary["ratio"]:
        ratio, iou = summary["ratio"]["maskcut"]["value"], summary["agreement"]["mean_iou"]["value"]
        found += [("maskcut: times faster than the transcription, at least", 20, ratio, ratio >= 20)]
        found += [("maskcut: mean IoU with the transcription's masks, at least", SAME_IOU, iou, iou >= SAME_IOU)]
    seconds = summary["seconds"]["cuts3d"][TOTAL]["mean"]
    found += [("cuts3d: mean seconds per image after the networks, below", 0.5, seconds, seconds < 0.5)]
    return [dict(zip(("what", "bar", "measured", "holds"), line, strict=True)) for line in found]


def table(summary: Mapping[str, Any]) -> list[str]:
    """The summary as lines for the terminal."""
    parts = [
        _time_lines(summary),
        _floor_lines(summary),
        _memory_lines(summary["memory"]),
        _agreement_lines(summary),
        _bar_lines(summary),
    ]
    skipped = [f"not read: {photo}" for photo in summary["skipped"]]
    return [line for part in (*parts, skipped) if part for line in (*part, "")][:-1]


def _time_lines(summary: Mapping[str, Any]) -> list[str]:
    seconds, ratio = summary["seconds"], summary["ratio"]
    lines = [f"seconds per image, {summary['photos']} photos: median (90th percentile)", _line("", seconds)]
    for stage in (*NETWORKS, *STAGES, TOTAL):
        found = [of.get(stage) for of in seconds.values()]
        cells = [f"{of['median']:.3f} ({of['p90']:.3f})" if of else "-" for of in found]
        lines.append(_line(stage.replace("_", " the "), cells))
    if ratio:
        found = [ratio.get(method) for method in seconds]
        cells = [f"{of['value']:.1f} [{of['low']:.1f}, {of['high']:.1f}]" if of else "-" for of in found]
        lines.append(_line("times faster", cells))
    return lines


def _floor_lines(summary: Mapping[str, Any]) -> list[str]:
    floors = summary["floors"]
    if floors is None:
        return []
    ceilings = f"{floors['operations_s'] / 1e9:.0f} Gop/s, {floors['bytes_s'] / 1e9:.1f} GB/s"
    lines = [f"times its floor, mean seconds by what the cores can do: {ceilings}", _line("", floors["seconds"])]
    for stage in (*NETWORKS, *STAGES):
        cells = []
        for name, of_stage in floors["seconds"].items():
            took, floor = summary["seconds"][name].get(stage), of_stage.get(stage, 0.0)
            cells.append(f"{took['mean'] / floor:.1f}" if took and floor else "-")
        lines.append(_line(stage, cells))
    return lines


def _memory_lines(memory: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["peak memory of a process, MB (of it before the first photo)", _line("", memory)]
    lines.append(_line("RAM", [f"{of['peak'] / 1e6:.0f} ({of['before'] / 1e6:.0f})" for of in memory.values()]))
    if any(of["gpu"] is not None for of in memory.values()):
        lines.append(_line("GPU", ["-" if of["gpu"] is None else f"{of['gpu'] / 1e6:.0f}" for of in memory.values()]))
    return lines


def _agreement_lines(summary: Mapping[str, Any]) -> list[str]:
    found = summary["agreement"]
    if not found:
        return []
    mean, below = Estimate(**found["mean_iou"]), found["below"]
    head = f"masks of maskcut and the transcription: {found['masks']}, mean IoU {mean}, {len(below)} below {SAME_IOU}"
    return [head, *(f"  {b['image']}, round {b['round'] + 1}: IoU {b['iou']:.4f}: {b['why']}" for b in below)]


def _bar_lines(summary: Mapping[str, Any]) -> list[str]:
    others = summary["cores_taken_by_others"]
    if others > QUIET:
        return [
            f"other processes took {others:.0%} of the cores, which slows the transcription down far more than "
            "the recipes: believe no ratio, and no time, of this run"
        ]
    if not summary["bars"]:
        return ["the bars are for two CPU cores and a 60×60 grid (--device cpu --threads 2): not judged here"]
    return [
        f"{bar['what']} {bar['bar']}: {bar['measured']:.4g}, {'holds' if bar['holds'] else 'MISSED'}"
        for bar in summary["bars"]
    ]


def _line(name: str, cells: Iterable[str]) -> str:
    return f"{name:<20}" + "".join(f"{cell:>21}" for cell in cells)


def csv_lines(rows: Sequence[Row], pairs: Sequence[Pair], n_rounds: int) -> list[list[str]]:
    """The header, and a line a photo and method; those of maskcut have the IoUs with the transcription's masks."""
    stages = (*NETWORKS, *STAGES)
    ious = {(pair.image, pair.round): f"{pair.iou:.4f}" for pair in pairs}
    reference = {row.image: row.total for row in rows if row.method == TRANSCRIPTION}
    lines = [
        [
            "image",
            "method",
            *stages,
            TOTAL,
            "times_faster",
            "masks",
            "others",
            *(f"iou_{i + 1}" for i in range(n_rounds)),
        ]
    ]
    for row in rows:
        faster = f"{reference[row.image] / row.total:.2f}" if row.image in reference else ""
        of_stages = [f"{row.seconds[stage]:.4f}" if stage in row.seconds else "" for stage in stages]
        of_rounds = [ious.get((row.image, i), "") if row.method == "maskcut" else "" for i in range(n_rounds)]
        lines.append(
            [
                row.image,
                row.method,
                *of_stages,
                f"{row.total:.4f}",
                faster,
                str(row.n_masks),
                f"{row.others:.3f}",
                *of_rounds,
            ]
        )
    return lines


def write(out: Path, lines: Sequence[Sequence[str]], summary: Mapping[str, Any]) -> None:
    """The CSV, and the summary as JSON of the same name."""
    with written_whole(out) as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    with written_whole(out.with_suffix(".json")) as file:
        file.write(json.dumps(_without_nan(summary), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    """JSON has no nan: null says that there is nothing to measure."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def circumstances(threads: int) -> dict[str, Any]:
    """When, of which code, on what machine. The command has only the names of files, which mean more elsewhere."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": shlex.join(["benchmarks/bench.py", *(re.sub(r"[^=]*/(?=.)", "", word) for word in sys.argv[1:])]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "machine": {"cpu": cpu[0] if cpu else platform.processor(), "threads": threads, "gpu": gpu},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        | {"scipy": scipy.__version__},
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def summarise(
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    memory: Mapping[str, Memory],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """All that is printed, as plain values. about: what else there is to say, device and grid among it."""
    ratio, images = ratios(rows), list(dict.fromkeys(row.image for row in rows))
    summary = {
        **about,
        "photos": len(images),
        "cores_taken_by_others": float(np.mean([row.others for row in rows])),
        "seconds": timing(rows),
        "ratio": ratio,
        "agreement": agreement(pairs, images) if ratio else None,
        "memory": {name: asdict(of) for name, of in memory.items()},
    }
    return summary | {"bars": bars(summary)}
