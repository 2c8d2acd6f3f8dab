"""Which recipe to take: the table of docs/recipes.md, measured and written into it.

    python benchmarks/compare_recipes.py PHOTOS TRUTH OUT --depth MODEL

`cuts3d compare` on the photos for reporting (`photo_halves.py`). Runs, tables and page are in OUT, where what was begun
resumes and a recipe that is new is added; the table goes into docs/recipes.md, all metrics with their intervals into
benchmarks/results/compare_recipes.csv.

    python benchmarks/compare_recipes.py PHOTOS TRUTH OUT --depth MODEL --speed 3 \
        --recipes maskcut,cuts3d,promerge,hassod,votecut

Instead: how long the recipes take together, and each of them alone, on so many photos, each in a process of its own
that loads its models and writes its runs into OUT, which must be new. Into benchmarks/results/compare_speed.csv.
"""

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from photo_halves import half_of

from pipeline.evaluation.truth.coco import Truth
from pipeline.methods.cuts.recipes import RECIPES as RECIPES_OF_CUTS

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "recipes.md"
RESULTS = ROOT / "benchmarks" / "results"
RECIPES = "maskcut,localcut,cuts3d_rounds,cuts3d,promerge,promerge3d,hassod,votecut"  # in the order of the table
BEGIN, END = "<!-- measured -->\n", "<!-- end of what was measured -->"

# Of the document's table: heading, metric, and whether it is a share.
COLUMNS = (
    ("AP", "mask_AP", True),
    ("AP50", "mask_AP50", True),
    ("AR1", "mask_AR1", True),
    ("AR10", "mask_AR10", True),
    ("AR100", "mask_AR100", True),
    ("AR1000", "mask_AR1000", True),
    ("AR small / medium / large", ("mask_AR_small", "mask_AR_medium", "mask_AR_large"), True),
    ("found small / medium / large", ("mask_recall50_small", "mask_recall50_medium", "mask_recall50_large"), True),
    ("masks", "masks_per_image", False),
)


def compared(arguments: argparse.Namespace, photos: Sequence[str]) -> dict[str, Any]:
    """What `cuts3d compare` says of these photos."""
    listed = arguments.out / "photos.txt"
    listed.write_text("".join(f"{photo}\n" for photo in photos))
    words = ["compare", "--recipes", arguments.recipes, "--images", str(listed), "--truth", arguments.truth]
    cuts3d(*words, "--out", str(arguments.out), *models(arguments, depth=True))
    found: dict[str, Any] = json.loads((arguments.out / "comparison.json").read_text())
    return found


def cuts3d(*words: str) -> None:
    status = subprocess.run([sys.executable, "-m", "pipeline.cli", *words], cwd=ROOT, check=False).returncode
    if status not in (0, 1):
        sys.exit(status)


def models(arguments: argparse.Namespace, depth: bool) -> list[str]:
    given = ["--features", arguments.features] if arguments.features else []
    return given + (["--depth", arguments.depth] if arguments.depth and depth else [])


def table(found: dict[str, Any]) -> str:
    """Of the document: how many photos there are, and a row for each recipe."""
    first = found["runs"][0]["name"]
    lines = [f"{found['scored']} photos, {found['bootstrap']} resamples of them.", ""]
    lines += [f"| | {' | '.join(heading for heading, _, _ in COLUMNS)} | seconds |"]
    lines += ["|---|" + "---|" * (len(COLUMNS) + 1)]
    for run in found["runs"]:
        cells = [cell(run, metric, share, run["name"] == first) for _, metric, share in COLUMNS]
        lines.append(f"| `{run['name']}` | {' | '.join(cells)} | {sum(run['seconds'].values()):.2f} |")
    return "\n".join(lines) + "\n"


def cell(run: dict[str, Any], metric: str | tuple[str, ...], share: bool, is_first: bool) -> str:
    if isinstance(metric, tuple):
        return " / ".join(number(run["metrics"][name], share) for name in metric)
    value, difference = run["metrics"][metric], run["difference"][metric]
    if is_first or difference["low"] is None:
        return number(value, share)
    scale = 100 if share else 1
    ends = " to ".join(f"{scale * difference[end]:+.1f}" for end in ("low", "high"))
    return f"{number(value, share)} ({ends})"


def number(estimate: dict[str, Any], share: bool) -> str:
    return "–" if estimate["value"] is None else f"{(100 if share else 1) * estimate['value']:.{2 if share else 1}f}"


def fill_document(found: dict[str, Any]) -> None:
    text = DOCUMENT.read_text("utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    DOCUMENT.write_text(f"{head}{BEGIN}{table(found)}{END}{tail}", "utf-8")


def measure_speed(arguments: argparse.Namespace, photos: Sequence[str]) -> list[dict[str, Any]]:
    """Seconds of each recipe alone by `cuts3d run`, and of all together."""
    listed = arguments.out / "photos.txt"
    listed.write_text("".join(f"{photo}\n" for photo in photos))
    names = arguments.recipes.split(",")
    rows = []
    for what in [*names, "together"]:
        before, start = spent(), time.perf_counter()
        if what == "together":
            words = ["compare", "--recipes", arguments.recipes, *models(arguments, depth=True)]
        else:
            words = [
                "run",
                "--recipe",
                what,
                *models(arguments, depth=what in RECIPES_OF_CUTS and RECIPES_OF_CUTS[what].needs_depth),
            ]
        cuts3d(*words, "--images", str(listed), "--out", str(arguments.out / f"speed-{what}"))
        rows.append({"what": what, "wall": time.perf_counter() - start, "cpu": spent() - before})
    slowest = {kind: max(row[kind] for row in rows[:-1]) for kind in ("wall", "cpu")}
    return [
        {
            **{name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()},
            "of_slowest_wall": round(row["wall"] / slowest["wall"], 3),
            "of_slowest_cpu": round(row["cpu"] / slowest["cpu"], 3),
            "photos": len(photos),
            "cores": len(os.sched_getaffinity(0)),
            "load": round(os.getloadavg()[0], 1),
            "machine": platform.processor() or platform.machine(),
            "commit": commit(),
        }
        for row in rows
    ]


def spent() -> float:
    """Processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("truth")
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--features")
    parser.add_argument("--depth")
    parser.add_argument("--speed", type=int, metavar="PHOTOS")
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    refs, _ = half_of(arguments.photos, Truth.read(arguments.truth), "reporting")
    photos = [ref.uri for ref in refs]
    if arguments.speed:
        rows = measure_speed(arguments, photos[: arguments.speed])
        with (RESULTS / "compare_speed.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return
    found = compared(arguments, photos)
    shutil.copyfile(arguments.out / "comparison.csv", RESULTS / "compare_recipes.csv")
    fill_document(found)


if __name__ == "__main__":
    main()
