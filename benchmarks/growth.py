"""How processor time and memory grow with patches, masks, thresholds, images of a batch and images of a run.

    python benchmarks/growth.py [--only patches masks ...] [--out results/growth.csv] [--plot ../docs/images/growth.png]

Everything is drawn, seed 0, and no network runs: features of 64 numbers a patch, one direction an object and one for
the rest, with noise; depth that steps at objects; a photo of their colours, 480×640. From there a recipe goes as in a
run to encoded masks, on one thread:

    patches      maskcut and cuts3d, six objects, 30×30 to 120×120 patches
    masks        cuts3d, 48 objects, select.masks 2 to 32; the value is how many masks came out
    thresholds   cuts3d, spatial_confidence.thresholds 2 to 32
    batch        cuts3d, 1 to 8 images at a time
    images       a run of shards of 256: five are really written and read, the others' commits are made up; seconds an
                 image: of writing and reading these five, and of what looks at the whole run: its launch, the opening
                 to read

Each point is a process of its own, forked from one that has loaded everything; a smaller point goes first, so that
nothing is loaded or compiled in what counts. A line a point and stage: seconds of processor, of patches the less of two
tries, and what the process's memory grew by at most. Fits, `growth_fits.csv`: the exponent of value in the total and in
each stage that takes a tenth of it at the largest point, least squares of the logarithms, of all points and of the
upper three, in which the constant parts hide least. The bar: nothing above quadratic in patches, but for what the two
plain products that are measured beside it show to be the machine's: larger matrices do not fit its caches, and their
pages have to be found. Of images, per image: flat.
"""

import argparse
import csv
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":  # before numpy and torch see it
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gpu_record import commit, cpu_name  # noqa: E402
from gpu_usage import own_memory  # noqa: E402
from restart import make_manifest, records_of, write_records  # noqa: E402
from support.stored_run import random_instance  # noqa: E402

from pipeline.images.photos import Photo  # noqa: E402
from pipeline.methods.cuts.method import BatchWork, CutsMethod  # noqa: E402
from pipeline.methods.cuts.recipes import get_recipe  # noqa: E402
from pipeline.results.instance_file import write_shard  # noqa: E402
from pipeline.results.instances import ImageRecord, counts_of  # noqa: E402
from pipeline.runs.instance_reader import InstanceReader  # noqa: E402
from pipeline.runs.ledger import Outcome  # noqa: E402
from pipeline.runs.provenance import new_attempt  # noqa: E402
from pipeline.runs.run_folder import RunFolder  # noqa: E402

PHOTO, WIDTH, NOISE = (480, 640), 64, 0.6
SETTLED = ("affinity.tau=0.3",)
SHARD, REAL = 256, 5  # images a shard; shards of a run that are real
MANY = ((8, 6), ("tree.depth=7", "tree.min_area=0.002"))  # objects by row and column, and what finds them
POINTS: dict[str, tuple[int, ...]] = {
    "patches": (30, 42, 60, 85, 120),  # a side
    "masks": (2, 4, 8, 16, 32),
    "thresholds": (2, 4, 8, 16, 32),
    "batch": (1, 2, 4, 8),
    "images": (10_000, 100_000, 1_000_000),
}
RECIPES = {"patches": ("maskcut", "cuts3d"), "images": ("store",)}
TRIES = {"patches": 2}
SQUARE, SLACK = 2.0, 0.1  # the bar: exponent of patches
CONTROLS = ("plain similarities", "plain products")
SHARE = 0.1  # stages of less than this of the largest point's total are not fitted
COLUMNS = ("what", "recipe", "value", "stage", "cpu_s", "grown_mb", "masks", "machine", "commit")
FITS = ("what", "recipe", "stage", "exponent", "upper_three", "bar")

Point = dict[str, Any]


class Given:
    """A network's output in the place of what an earlier launch kept."""

    def __init__(self, maps: np.ndarray) -> None:
        self._maps = maps

    def covers(self, positions: Sequence[int]) -> bool:
        return True

    def maps(self, positions: Sequence[int]) -> np.ndarray:
        return self._maps

    def depth_filled(self, positions: Sequence[int]) -> list[float]:
        return [0.0] * len(positions)


def scene(side: int, objects: tuple[int, int] = (3, 2)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ellipses in a grid, columns and rows: features (N, 64) float16, depth (side, side) float32, photo (H, W, 3)."""
    rng = np.random.default_rng(0)
    numbers = labels((side, side), objects)
    directions = rng.normal(size=(objects[0] * objects[1] + 1, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    features = directions[numbers.ravel()] + rng.normal(0, NOISE / np.sqrt(WIDTH), (side * side, WIDTH))
    depth = 0.3 + 0.3 * np.linspace(0, 1, side)[:, None] + 0.05 * (numbers % 7 + (numbers > 0))
    colours = rng.integers(0, 256, (len(directions), 3))
    photo = np.clip(colours[labels(PHOTO, objects)] + rng.normal(0, 8, (*PHOTO, 3)), 0, 255).astype(np.uint8)
    return features.astype(np.float16), depth.astype(np.float32), photo


def labels(size: tuple[int, int], objects: tuple[int, int]) -> np.ndarray:
    """(H, W) int, 0 outside of all."""
    rows, columns = ((np.arange(n) + 0.5) / n * cells for n, cells in zip(size, objects[::-1], strict=True))
    inside = (rows[:, None] % 1 - 0.5) ** 2 + (columns % 1 - 0.5) ** 2 < 0.35**2
    return np.where(inside, 1 + rows.astype(int)[:, None] * objects[0] + columns.astype(int), 0)


def cut(recipe: str, side: int, batch: int = 1, objects: tuple[int, int] = (3, 2), more: Sequence[str] = ()) -> Point:
    """Seconds of processor by stage, and how many masks an image has."""
    features_ND, depth, photo = scene(side, objects)
    kept: Any = {"features": Given(np.stack([features_ND] * batch)), "depth": Given(np.stack([depth] * batch))}
    models: Any = type("Models", (), {"grid": (side, side)})
    method = CutsMethod(get_recipe(recipe, [*SETTLED, *more]), models, models, torch.device("cpu"))
    seconds: defaultdict[str, float] = defaultdict(float)
    photos = [Photo(f"{i}.png", photo) for i in range(batch)]
    # The stages' clock is asked for the processor's seconds: others use this machine, too.
    with torch.inference_mode(), mock.patch("time.perf_counter", time.process_time):
        records = BatchWork(method, photos, list(range(batch)), kept, seconds).records
    return {"stages": dict(seconds), "masks": len(records[0].instances)}


def plain(side: int) -> dict[str, float]:
    """Seconds of processor of what similarities and eigenvectors cost at the least: N×64 times its transpose, and ten
    products of that N×N matrix and N×4.
    """
    features_ND, columns_N4 = torch.randn(side * side, WIDTH), torch.ones(side * side, 4)
    times = [time.process_time()]
    matrix_NN = features_ND @ features_ND.T
    times.append(time.process_time())
    for _ in range(10):
        matrix_NN @ columns_N4
    times.append(time.process_time())
    return dict(zip(CONTROLS, np.diff(times).tolist(), strict=True))


def store(images: int) -> Point:
    """A run whose last shards are written and read, its launch and its opening: seconds an image."""
    with tempfile.TemporaryDirectory() as folder:
        return stored(images, f"{folder}/run")


def stored(images: int, url: str) -> Point:
    rng = np.random.default_rng(0)
    times = [time.process_time()]
    shards = -(-images // SHARD)
    run = RunFolder.create_or_open(url, {"recipe": {"name": "made up"}}, make_manifest(images, shards))
    write_records(url, list(records_of(run, shards, shards - REAL)))
    all_shards = run.manifest.shards()
    (Path(url) / "shards").mkdir(exist_ok=True)
    for shard in all_shards[:-REAL]:
        Path(url, f"shards/{shard.key}-{'0' * 12}.zarr.zip").write_bytes(b"x")  # as long as its record says
    real = all_shards[-REAL:]
    instances = [random_instance(rng, (375, 500), (60, 60)) for _ in range(3)]
    times.append(time.process_time())
    for shard in real:
        records = [ImageRecord(ref.id, (375, 500), "ok", tuple(instances), {}, None) for ref in shard.refs]
        outcome = Outcome(write_shard(records, (60, 60), {}), counts_of(records))
        run.ledger.commit(shard.key, new_attempt(), outcome)
    times.append(time.process_time())
    opened = RunFolder.open(url)
    if opened.pending():
        raise AssertionError("all shards are committed")
    times.append(time.process_time())
    reader = InstanceReader(opened)
    first = [len(result.instances) for result in reader.results(real[0].key)]
    times.append(time.process_time())
    read = [len(result.instances) for shard in real[1:] for result in reader.results(shard.key)]
    times.append(time.process_time())
    if set(first + read) != {3}:
        raise AssertionError("what was read is not what was written")
    _, write_s, launch_s, open_s, read_s = np.diff(times)
    per_image = {"write": write_s / sum(len(shard.refs) for shard in real), "read": read_s / len(read)}
    # These two look at all commits.
    return {"stages": per_image | {"launch": launch_s / images, "open": open_s / images}, "masks": 3}


def point(what: str, recipe: str, value: int) -> Point:
    """What is to be measured, in this process."""
    if what == "patches":
        return cut(recipe, value)
    if what == "masks":
        return cut(recipe, 60, objects=MANY[0], more=[*MANY[1], f"select.masks={value}"])
    if what == "thresholds":
        return cut(recipe, 60, more=[f"spatial_confidence.thresholds={value}"])
    if what == "batch":
        return cut(recipe, 42, batch=value)
    return store(value)


def measured(what: str, recipe: str, value: int) -> Point:
    """The same in a process that has been warmed up: and `grown`, bytes that it held more at its peak."""
    if what != "images":
        cut(recipe, 20)
    before = own_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    tries = [point(what, recipe, value) for _ in range(TRIES.get(what, 1))]
    grown = own_memory("VmHWM") - before
    stages = {stage: min(one["stages"][stage] for one in tries) for stage in tries[0]["stages"]}
    control = plain(value) if what == "patches" else {}
    return {"stages": stages, "masks": tries[0]["masks"], "grown": grown, "control": control}


def in_fork(function: Callable[..., Point], *arguments: Any) -> Point:
    """What a function gives in a fork of this process, which has not computed anything yet."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send_bytes(json.dumps(function(*arguments)).encode()))
    process.start()
    sender.close()
    try:
        found: Point = json.loads(receiver.recv_bytes())
    except EOFError:
        raise RuntimeError(f"{arguments}: the process ended without a result, see above") from None
    process.join()
    return found


def exponents(values: Sequence[float], amounts: Sequence[float]) -> tuple[float, float]:
    """Slopes of the logarithms, by least squares: over all, and over the upper three."""
    x, y = np.log(values), np.log(np.maximum(amounts, 1e-9))
    return float(np.polyfit(x, y, 1)[0]), float(np.polyfit(x[-3:], y[-3:], 1)[0])


def abscissa(what: str, value: int, found: Point) -> int:
    """What is grown with: patches, not their side; masks that came out, not those that were asked for."""
    return {"patches": value * value, "masks": found["masks"]}.get(what, value)


def fits_of(what: str, recipe: str, values: Sequence[int], found: Sequence[Point]) -> list[dict[str, Any]]:
    """Of the total, of each stage that matters, and of memory."""
    series = {"total": [sum(one["stages"].values()) for one in found]} if what != "images" else {}
    largest = sum(found[-1]["stages"].values())
    for stage in found[-1]["stages"]:
        amounts = [one["stages"].get(stage, 0.0) for one in found]
        if what == "images" or amounts[-1] >= SHARE * largest:
            series[stage] = amounts
    series["memory"] = [one["grown"] for one in found]
    series |= {name: [one["control"][name] for one in found] for name in found[-1]["control"]}
    slopes = {stage: exponents(values, amounts) for stage, amounts in series.items()}
    bar = max([SQUARE, *(slope for name in CONTROLS for slope in slopes.get(name, ()))]) + SLACK
    return [
        {
            "what": what,
            "recipe": recipe,
            "stage": stage,
            "exponent": round(fitted, 2),
            "upper_three": round(upper, 2),
            "bar": "" if what != "patches" or stage in CONTROLS else "met" if max(fitted, upper) <= bar else "missed",
        }
        for stage, (fitted, upper) in slopes.items()
    ]


def plot(rows: Sequence[dict[str, Any]], fits: Sequence[dict[str, Any]], file: Path) -> None:
    """A panel for each of what is grown with: stages and total against value, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    panels = list(dict.fromkeys((row["what"], row["recipe"]) for row in rows))
    figure = Figure(figsize=(11, 3.4 * -(-len(panels) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // 3), 3, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, (what, recipe) in zip(axes, panels, strict=False):
        own = [row for row in rows if (row["what"], row["recipe"]) == (what, recipe)]
        for fit in fits:
            if (fit["what"], fit["recipe"]) == (what, recipe) and fit["stage"] != "memory":
                line = [row for row in own if row["stage"] == fit["stage"]]
                axis.loglog(
                    *([row[name] for row in line] for name in ("value", "cpu_s")),
                    marker="o",
                    markersize=3,
                    linewidth=2 if fit["stage"] == "total" else 1,
                    label=f"{fit['stage']} {fit['exponent']:.2f}",
                )
        axis.set_title(f"{recipe}, {what}", fontsize="medium")
        axis.set_ylabel("processor seconds an image" if what == "images" else "processor seconds", fontsize="small")
        values = sorted({row["value"] for row in own})
        axis.set_xticks(values, labels=[f"{value:,}" for value in values])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(which="both", labelsize="x-small")
        axis.legend(fontsize="x-small", frameon=False)
        axis.grid(which="major", alpha=0.3)
    figure.savefig(file, dpi=80)


def main() -> None:
    results = Path(__file__).parent / "results"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--points", type=int, help="the first so many of each alone")
    parser.add_argument("--out", type=Path, default=results / "growth.csv", help="the fits are beside it, _fits.csv")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/images/growth.png")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    circumstances = {"machine": cpu_name(), "commit": commit()}
    for what in arguments.only:
        for recipe in RECIPES.get(what, ("cuts3d",)):
            points = POINTS[what][: arguments.points]
            found = []
            for value in points:
                found.append(in_fork(measured, what, recipe, value))
                print(what, recipe, value, found[-1], file=sys.stderr, flush=True)
            values = [abscissa(what, value, one) for value, one in zip(points, found, strict=True)]
            for value, one in zip(values, found, strict=True):
                total = {"total": sum(one["stages"].values())} if what != "images" else {}
                stages = one["stages"] | total | one["control"]
                common = {"what": what, "recipe": recipe, "value": value, "masks": one["masks"]}
                common |= {"grown_mb": round(one["grown"] / 1e6, 1)} | circumstances
                rows += [common | {"stage": stage, "cpu_s": float(f"{cpu:.4g}")} for stage, cpu in stages.items()]
            fits += fits_of(what, recipe, values, found)
    for file, fields, lines in (
        (arguments.out, COLUMNS, rows),
        (arguments.out.with_name(f"{arguments.out.stem}_fits.csv"), FITS, fits),
    ):
        with file.open("w", newline="") as out:
            table = csv.DictWriter(out, fields, lineterminator="\n")
            table.writeheader()
            table.writerows(lines)
    plot(rows, fits, arguments.plot)
    for fit in fits:
        print(*fit.values(), sep="\t")


if __name__ == "__main__":
    main()
