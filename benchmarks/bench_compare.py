"""Images per second beside another commit, networks included, and whether the masks are the same: `make bench-compare`.

    make bench-compare BASE=COMMIT [RECIPE=cuts3d,maskcut] [IMAGES=photos/] [COUNT=8] [TURNS=3] [OUT=file.csv]
    python benchmarks/bench_compare.py --base COMMIT [--turns 3] [--features NAME] [--depth NAME] [--set OPTION=VALUE]

A worktree of the other commit is checked out into a temporary folder. Then `cuts3d run`, from JPEG to committed store,
takes the same photos with the code of either tree in turn, on the same cores: base, ours, base, ours, and so on; before
each run, one of a single photo by the same code, whose time is taken off: what is left is that of COUNT - 1 photos
without the start of a process and the loading of networks. The first turn is one photo each that counts for nothing.

Both run with the packages of this environment, told apart by PYTHONPATH: a commit that needs other packages cannot be
compared. After each run the modules that it loaded are looked at, and any from elsewhere than its tree is an error.

Printed and written, a line a recipe and turn and one for all: seconds of wall clock and processor of either, the ratio
of images per second, ours over base, by both, with its 95 % interval over turns (Student's t of their logarithms), how
many masks either has, their mean IoU, matched one to one in each photo, a mask without partner counting as 0, and how
many of them are not equal to the pixel. Ours has "+" after its commit when it has changes that are in none. Of the two
ratios, the processor's hardly depends on what else the machine does.
"""

import argparse
import csv
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from bench import keep_to, photos_of
from gpu_record import commit, cpu_name
from pycocotools import mask as coco_mask

from pipeline.errors import CutsError
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
PACKAGES = ("stages", "pipeline", "cluster", "detector", "cuts3d")
CONFIDENCE = 0.95
SECONDS = ("wall_s", "cpu_s")
COLUMNS = (
    *("recipe", "turn", "photos", "base_wall_s", "ours_wall_s", "base_cpu_s", "ours_cpu_s"),
    *(f"{kind}_ratio{end}" for kind in ("wall", "cpu") for end in ("", "_low", "_high")),
    *("base_masks", "ours_masks", "mean_iou", "masks_that_differ", "base", "ours", "machine"),
)

# `cuts3d`, which leaves behind where its modules came from. argv: that file, then the words of the command.
COMMAND = f"""
import json, sys
place = sys.argv.pop(1)
try:
    from pipeline.cli import main
    main()
finally:
    with open(place, "w") as file:
        own = {{name: module for name, module in sys.modules.items() if name.split(".")[0] in {PACKAGES}}}
        json.dump({{name: getattr(module, "__file__", None) for name, module in own.items()}}, file)
"""


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of the processor, of a process and those that it waited for."""

    wall: float
    cpu: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


@dataclass(frozen=True)
class Agreement:
    """Masks of either run; mean IoU, matched one to one, a mask without partner counting as 0; masks, of all of both,
    that have no equal partner."""

    base: int
    ours: int
    mean_iou: float
    differ: int


class ForeignModuleError(Exception):
    """A run loaded modules from elsewhere than its tree."""


@contextmanager
def worktree(base: str) -> Iterator[tuple[Path, str]]:
    """A checkout of a commit, which is gone afterwards, and the commit's short name."""
    name = git("rev-parse", "--short", "--verify", f"{base}^{{commit}}")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "base"
        git("worktree", "add", "--detach", str(tree), name)
        try:
            yield tree, name
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench-compare: git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def spent_by(tree: Path, words: Sequence[str], folder: Path) -> Spent:
    """`cuts3d` of a tree, in a process of its own."""
    place, log = folder / "modules.json", folder / "log.txt"
    place.unlink(missing_ok=True)
    command = [sys.executable, "-c", COMMAND, str(place), *words]
    # Without safe_path the folder that this is called from, mostly our tree, would come before either.
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    with log.open("w") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # already waited for
    if process.returncode not in (0, 1):  # 1: photos were set aside
        sys.exit(
            f"bench-compare: `cuts3d {' '.join(words)}` of {tree} ended with {process.returncode}:\n{log.read_text()}"
        )
    need_own(json.loads(place.read_text()), tree)
    return Spent(wall, usage.ru_utime + usage.ru_stime)


def located(uri: str) -> str:
    """Paths as they are from anywhere, as a list of photos has them."""
    return uri if "://" in uri else str(Path(uri).absolute())


def need_own(modules: Mapping[str, str | None], tree: Path) -> None:
    """ForeignModuleError unless all modules that have a file lie in the tree, and `pipeline.cli` is one of them."""
    files = {name: Path(file).resolve() for name, file in modules.items() if file is not None}
    foreign = {name: file for name, file in files.items() if not file.is_relative_to(tree.resolve())}
    if foreign or "pipeline.cli" not in files:
        which = (
            ", ".join(f"{name} from {file}" for name, file in sorted(foreign.items())[:3]) or "pipeline.cli: not there"
        )
        raise ForeignModuleError(f"a run of {tree} loaded modules from elsewhere: {which}")


def agreement(base: Sequence[Sequence[dict[str, Any]]], ours: Sequence[Sequence[dict[str, Any]]]) -> Agreement:
    """Of the run-length coded masks of each photo."""
    shared, differ = 0.0, 0
    for own, others in zip(base, ours, strict=True):
        if own and others:
            iou = np.asarray(coco_mask.iou(list(own), list(others), [0] * len(others)))
            pairs = scipy.optimize.linear_sum_assignment(iou, maximize=True)
            shared += iou[pairs].sum()
            differ += len(own) + len(others) - 2 * int((iou[pairs] == 1).sum())
        else:
            differ += len(own) + len(others)
    n_base, n_ours = (sum(map(len, masks)) for masks in (base, ours))
    mean = 2 * shared / (n_base + n_ours) if n_base + n_ours else math.nan
    return Agreement(n_base, n_ours, float(mean), differ)


def masks_of(base: Path, ours: Path) -> Agreement:
    """Of two finished runs."""
    by_run: list[dict[str, list[dict[str, Any]]]] = []
    for folder in (base, ours):
        found: dict[str, list[dict[str, Any]]] = {}
        for record in InstanceReader(RunFolder.open(str(folder))):
            size = None if isinstance(record, Failed) else list(record.size)
            masks = () if isinstance(record, Failed) else record.instances
            found[record.id] = [{"size": size, "counts": mask.rle} for mask in masks]
        by_run.append(found)
    ids = sorted(set(by_run[0]) | set(by_run[1]))
    return agreement(*([found.get(id_, []) for id_ in ids] for found in by_run))


def ratio_of(base: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """How many times the images per second, and its interval: of seconds of the same work in each turn. The interval of
    a single turn is nan.
    """
    logs = np.log(np.divide(base, ours))
    mean = logs.mean()
    if len(logs) < 2:
        return float(np.exp(mean)), math.nan, math.nan
    reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return float(np.exp(mean)), float(np.exp(mean - reach)), float(np.exp(mean + reach))


def compared(
    trees: Mapping[str, Path], recipe: str, photos: Sequence[str], turns: int, options: Sequence[str], folder: Path
) -> tuple[list[dict[str, Spent]], Agreement]:
    """Of each turn what both trees spent on all photos but one; and how far the masks of the first turn agree."""
    lists = {"one": photos[:1], "all": photos}
    for name, listed in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{photo}\n" for photo in listed))

    def run(tree: str, name: str, turn: int) -> Spent:
        out = folder / f"{tree}-{name}-{turn}"
        words = ["run", "--recipe", recipe, "--images", str(folder / f"{name}.txt"), "--out", str(out), *options]
        spent = spent_by(trees[tree], words, folder)
        if (name, turn) != ("all", 0):
            shutil.rmtree(out)
        return spent

    for tree in trees:
        run(tree, "one", -1)
    spent: list[dict[str, Spent]] = []
    for turn in range(turns):
        spent.append({})
        for tree in trees:
            start = run(tree, "one", turn)
            spent[-1][tree] = run(tree, "all", turn) - start
            print(f"{recipe}: turn {turn + 1}, {tree}: {spent[-1][tree].cpu:.1f} s of processor", file=sys.stderr)
    return spent, masks_of(folder / "base-all-0", folder / "ours-all-0")


def rows_of(recipe: str, photos: int, spent: Sequence[Mapping[str, Spent]], masks: Agreement) -> list[dict[str, Any]]:
    """A row a turn, and one of all."""
    rows = []
    for turn, own in [*enumerate([[one] for one in spent], start=1), ("all", spent)]:
        row: dict[str, Any] = {"recipe": recipe, "turn": turn, "photos": photos - 1}
        for kind in ("wall", "cpu"):
            base, ours = ([getattr(one[tree], kind) for one in own] for tree in ("base", "ours"))
            row |= {
                f"base_{kind}_s": round(statistics.mean(base), 2),
                f"ours_{kind}_s": round(statistics.mean(ours), 2),
            }
            ends = zip(("", "_low", "_high"), ratio_of(base, ours), strict=True)
            row |= {f"{kind}_ratio{end}": "" if math.isnan(value) else round(value, 3) for end, value in ends}
        rows.append(row)
    rows[-1] |= {"base_masks": masks.base, "ours_masks": masks.ours}
    rows[-1] |= {"mean_iou": round(masks.mean_iou, 4), "masks_that_differ": masks.differ}
    return rows


def said(row: Mapping[str, Any]) -> str:
    """The row of all turns, for people."""

    def ratio(kind: str) -> str:
        value, low, high = (row[f"{kind}_ratio{end}"] for end in ("", "_low", "_high"))
        return f"{value:.2f}" if low == "" else f"{value:.2f} [{low:.2f}, {high:.2f}]"

    return (
        f"{row['recipe']}: images per second, ours over base: {ratio('cpu')} by the processor, {ratio('wall')} by the "
        f"clock; masks: {row['base_masks']} and {row['ours_masks']}, mean IoU {row['mean_iou']}, "
        f"{row['masks_that_differ']} not equal to the pixel"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="commit to compare with")
    parser.add_argument("--recipe", default="cuts3d", help="one or more, with commas [cuts3d]")
    parser.add_argument("--images", help="folder, list, tar or COCO JSON; default: the photos of `cuts3d demo`")
    parser.add_argument("--count", type=int, default=8, help="photos at most [8]")
    parser.add_argument("--turns", type=int, default=3, help="[3]")
    parser.add_argument("--threads", type=int, help="CPU cores to keep to [all]")
    for option in ("features", "depth", "device", "batch-size", "set"):
        parser.add_argument(f"--{option}", action="append", default=[], help="as for `cuts3d run`")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/bench_compare.csv")
    arguments = parser.parse_args()
    if arguments.turns < 1 or arguments.count < 2:
        parser.error("--turns must be at least 1 and --count at least 2")
    options = [
        word
        for option in ("features", "depth", "device", "batch_size", "set")
        for value in getattr(arguments, option)
        for word in (f"--{option.replace('_', '-')}", value)
    ]
    keep_to(arguments.threads)
    try:
        with tempfile.TemporaryDirectory() as folder, worktree(arguments.base) as (tree, base):
            photos = [located(ref.uri) for ref in photos_of(arguments.images, arguments.count, Path(folder))]
            trees = {"base": tree, "ours": ROOT}
            print(f"base {base}, ours {commit()}, both with the packages of {sys.prefix}", file=sys.stderr)
            rows = []
            for recipe in arguments.recipe.split(","):
                work = Path(folder, f"runs-{recipe}")
                work.mkdir()
                own = rows_of(recipe, len(photos), *compared(trees, recipe, photos, arguments.turns, options, work))
                rows += [row | {"base": base, "ours": commit(), "machine": cpu_name()} for row in own]
                print(said(own[-1]), flush=True)
    except (CutsError, ForeignModuleError) as error:
        sys.exit(f"bench-compare: {error}")
    with arguments.out.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
