"""What every recipe costs, beside a plain transcription of the published MaskCut: `make bench`.

The transcription (tests/support/reference_maskcut.py) does a dense double-precision `scipy.linalg.eigh` a round and a
dense CRF (pydensecrf) a mask. Depth and features are computed once a photo and given to every method; then the methods
take turns, photo by photo, in one process, on the same cores, up to masks at the size of the photo. Which one begins
changes with the photo; the first photo is gone through once before anything counts. Peak memory is that of a process of
its own for each method. Run it on a machine with nothing else to do: the threads of `eigh` wait for each other, and one
busy neighbour on two cores makes the transcription several times slower, us not.

    python benchmarks/bench.py --images PHOTOS --threads 2 --device cpu

Printed: seconds by stage, how many times its floor each takes (on a CPU, see roofline.py), the ratio to the
transcription, how far its masks and ours agree (and where they do not, at which step they parted), peak memory.
Written: a CSV line a photo and method, and all of the summary as JSON beside it.
Rows mean the same in all columns: "affinity" and "ncut" are those of the first round, "localcut" is all other rounds
and every cut. The transcription does not encode its masks.
"""

import argparse
import importlib.util
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from gpu_usage import own_memory
from pycocotools import mask as coco_mask

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import roofline
from bench_report import (
    NETWORKS,
    QUIET,
    SAME_IOU,
    TRANSCRIPTION,
    Memory,
    Pair,
    Row,
    circumstances,
    csv_lines,
    summarise,
    table,
    write,
)
from support import reference_crf, reference_maskcut

from pipeline.errors import ConfigError, CutsError, ImageError, SourceError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import Photo, load_photo
from pipeline.images.samples import copy_samples
from pipeline.images.sources import list_images
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from pipeline.methods.cuts.recipes import DEFAULT_DEPTH, DEFAULT_FEATURES, MODELS, RECIPES, Recipe, get_recipe
from pipeline.methods.cuts.settings import with_thresholds
from pipeline.methods.registry import load_method
from pipeline.runs.launch import Launch
from stages import refine
from stages.feature_presets import PRESETS, FeaturePreset
from stages.filters import mask_iou
from stages.patch_merging import MergeThresholds

TIMED = tuple(name for name in RECIPES if name not in MODELS)  # the others are these with networks of their own
RESULTS = Path(__file__).parent / "results" / "bench.csv"
# A photo during which other processes took more than QUIET of the cores is measured again, up to so often in all.
ATTEMPTS = 2
# How far the stages of these are from their floors is printed; of photos so many, since they differ little.
FLOORS, FLOOR_PHOTOS = ("maskcut", "cuts3d"), 2
# Peak memory does not grow with the number of photos, and the transcription takes seconds for each.
MEMORY_PHOTOS = 3

# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """What all methods start from. refs: the photos; files: for each, .npz with its features and depth; seconds: for
    each, of the networks. recipes: by name, with τ settled. models: names and fingerprints of the networks. skipped:
    photos that cannot be read, with the reason."""

    refs: tuple[ImageRef, ...]
    files: tuple[Path, ...]
    seconds: tuple[dict[str, float], ...]
    grid: tuple[int, int]
    device: torch.device
    recipes: dict[str, Recipe]
    models: dict[str, Any]
    skipped: tuple[str, ...] = ()

    def inputs(self, index: int) -> "Inputs":
        """Of the photo at this position."""
        arrays = np.load(self.files[index])
        return Inputs(load_photo(self.refs[index]), arrays["features"], arrays["depth"], self.grid, self.device)


@dataclass(frozen=True)
class Inputs:
    """One photo after the networks. features_ND: float16; depth: (Gh, Gw) float32, relative."""

    photo: Photo
    features_ND: np.ndarray
    depth: np.ndarray
    grid: tuple[int, int]
    device: torch.device


@dataclass(frozen=True)
class Result:
    """What a method made of a photo. seconds: by stage; total: wall clock of everything after the networks, in seconds.
    n_masks: that it kept. masks: they by round, (H, W) bool; cuts: the same on the patch grid, before refinement.
    gaps: eigengap by round."""

    seconds: dict[str, float]
    total: float
    n_masks: int
    masks: dict[int, np.ndarray]
    cuts: dict[int, np.ndarray]
    gaps: dict[int, float]


class _Computed:
    """A network's output in the place of what an earlier launch kept."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def covers(self, positions: Sequence[int]) -> bool:
        return True

    def maps(self, positions: Sequence[int]) -> np.ndarray:
        return self._values[None]

    def depth_filled(self, positions: Sequence[int]) -> list[float]:
        return [0.0]


def prepare(method: CutsMethod, refs: Sequence[ImageRef], folder: Path, overrides: Sequence[str] = ()) -> Prepared:
    """Depth and features of each photo, timed, into `folder`. method: of recipe cuts3d. overrides: for all recipes."""
    kept: list[ImageRef] = []
    files: list[Path] = []
    seconds, skipped = [], []
    for ref in refs:
        try:
            photo = load_photo(ref)
        except ImageError as error:
            skipped.append(f"{ref.id}: {error.reason}")
            continue
        if not kept:
            _networks(method, photo)  # kernels are loaded and memory is claimed with the first image
        features_ND, depth, took = _networks(method, photo)
        files.append(folder / f"{len(files)}.npz")
        np.savez(files[-1], features=features_ND, depth=depth)
        kept.append(ref)
        seconds.append(took)
    if not kept:
        raise SourceError(f"no photo can be read; the first: {skipped[0]}" if skipped else "there are no photos")
    preset = FeaturePreset(
        method.features.config, method.recipe.affinity.tau, levels=_levels(method), merge=_merge_thresholds(method)
    )
    return Prepared(
        tuple(kept),
        tuple(files),
        tuple(seconds),
        method.grid,
        method.device,
        {name: with_thresholds(get_recipe(name, overrides), preset, preset.config.model) for name in TIMED},
        {key: value for key, value in method.config().items() if key != "recipe"},
        tuple(skipped),
    )


def _levels(method: CutsMethod) -> tuple[float, ...]:
    """Thresholds of merging of the features; where none are known those published for others: only time counts."""
    return next((preset.levels for preset in _presets(method)), None) or (0.4, 0.2, 0.1)


def _merge_thresholds(method: CutsMethod) -> MergeThresholds:
    """The same of prompts."""
    return next((preset.merge for preset in _presets(method)), None) or MergeThresholds(0.2, 0.1, 0.1)


def _presets(method: CutsMethod) -> list[FeaturePreset]:
    """Those of the features."""
    config = method.features.config
    return [p for p in PRESETS.values() if (p.config.model, p.config.kind) == (config.model, config.kind)]


def _networks(method: CutsMethod, photo: Photo) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    seconds: defaultdict[str, float] = defaultdict(float)
    with torch.inference_mode():
        work: Any = BatchWork(method, [photo], [0], {}, seconds)
        return work.outputs("features")[0], work.outputs("depth")[0], dict(seconds)


def run_recipe(recipe: Recipe, inputs: Inputs) -> Result:
    """A recipe on one photo, by the code that a run uses."""
    kept: Any = {"features": _Computed(inputs.features_ND), "depth": _Computed(inputs.depth)}
    models: Any = SimpleNamespace(grid=inputs.grid)
    method = CutsMethod(recipe, models, models, inputs.device)
    seconds: defaultdict[str, float] = defaultdict(float)
    with torch.inference_mode():
        start = time.perf_counter()
        work = BatchWork(method, [inputs.photo], [0], kept, seconds)
        record = work.records[0]
        total = time.perf_counter() - start
    proposals = [p for p in work.cut_images[0].found.proposals if p.dropped is None]
    masks: dict[int, np.ndarray] = {}
    for instance in record.instances:
        mask = coco_mask.decode({"size": list(record.size), "counts": instance.rle}).astype(bool)
        masks[instance.round] = masks.get(instance.round, False) | mask
    cuts, gaps = {p.round: p.mask for p in proposals}, {p.round: p.gap for p in proposals}
    return Result(dict(seconds), total, len(record.instances), masks, cuts, gaps)


def run_transcription(recipe: Recipe, inputs: Inputs) -> Result:
    """The published MaskCut written out plainly, with the constants of `recipe`, one mask at a time."""
    seconds: dict[str, float] = {}
    masks: dict[int, np.ndarray] = {}
    clocked = {
        "affinity": _first_call(reference_maskcut.affinity, "affinity", seconds),
        "second_smallest": _first_call(reference_maskcut.second_smallest, "ncut", seconds),
    }
    start = time.perf_counter()
    with mock.patch.multiple(reference_maskcut, **clocked):
        features_ND, tau = inputs.features_ND.astype(np.float64), recipe.affinity.tau
        rounds = reference_maskcut.maskcut(features_ND, inputs.grid, tau, recipe.search.n, peak_positive=True)
    middle = time.perf_counter()
    with mock.patch.object(refine, "dense_crf", reference_crf.dense_crf):
        for index, found in enumerate(rounds):
            if found.output.any():
                refined = refine.refine_masks([inputs.photo.rgb], [found.output[None]], recipe.refine)[0]
                if refined.keep[0]:
                    masks[index] = refined.masks[0]
    end = time.perf_counter()
    seconds |= {"localcut": middle - start - sum(seconds.values()), "refine": end - middle}
    cuts = {index: found.output for index, found in enumerate(rounds) if found.output.any()}
    gaps = {index: found.eigengap for index, found in enumerate(rounds)}
    return Result(seconds, end - start, len(masks), masks, cuts, gaps)


def _first_call(function: Callable[..., Any], stage: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """The function, noting what its first call takes."""

    def clocked(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        seconds.setdefault(stage, time.perf_counter() - start)
        return result

    return clocked


def run(name: str, prepared: Prepared, inputs: Inputs) -> Result:
    """A recipe by its name, or the transcription, on one photo."""
    if name == TRANSCRIPTION:
        return run_transcription(prepared.recipes["maskcut"], inputs)
    return run_recipe(prepared.recipes[name], inputs)


def time_methods(prepared: Prepared, names: Sequence[str]) -> tuple[list[Row], list[Pair]]:
    """Every method on every photo, in turn; and maskcut's masks beside the transcription's, where both are run."""
    rows, pairs = [], []
    warm_up(prepared, names)
    for index in range(len(prepared.refs)):
        inputs = prepared.inputs(index)
        first = index % len(names)
        results, others = _quietest([*names[first:], *names[:first]], prepared, inputs)
        for name in names:
            needed = NETWORKS if name != TRANSCRIPTION and prepared.recipes[name].needs_depth else ("features",)
            networks = {stage: prepared.seconds[index][stage] for stage in needed}
            result = results[name]
            rows.append(Row(inputs.photo.id, name, networks | result.seconds, result.total, result.n_masks, others))
        if {"maskcut", TRANSCRIPTION} <= results.keys():
            pairs += compare(inputs.photo.id, results["maskcut"], results[TRANSCRIPTION])
        line = ", ".join(f"{name} {results[name].total:.2f} s" for name in names)
        place = f"{index + 1}/{len(prepared.refs)} {inputs.photo.id}"
        print(f"{place}: {line}; other processes {others:.0%}", file=sys.stderr, flush=True)
    return rows, pairs


def _quietest(names: Sequence[str], prepared: Prepared, inputs: Inputs) -> tuple[dict[str, Result], float]:
    """Results of all methods on one photo, and the share of the cores that others took meanwhile, of the attempt at
    which that was smallest."""
    attempts: list[tuple[dict[str, Result], float]] = []
    while not attempts or (attempts[-1][1] > QUIET and len(attempts) < ATTEMPTS):
        cores = Cores()
        results = {name: run(name, prepared, inputs) for name in names}
        attempts.append((results, cores.taken_by_others()))
    return min(attempts, key=lambda attempt: attempt[1])


def warm_up(prepared: Prepared, names: Sequence[str]) -> None:
    """Everything once, so that no method's first photo pays for loading kernels and libraries."""
    inputs = prepared.inputs(0)
    for name in names:
        # The transcription loads two libraries, whatever the size of the grid, on which its time depends very much.
        small = replace(inputs, features_ND=inputs.features_ND[:16], grid=(4, 4))
        run(name, prepared, small if name == TRANSCRIPTION else inputs)


class Cores:
    """The cores of this process, watched from here on."""

    def __init__(self) -> None:
        self._start = self._now()

    def taken_by_others(self) -> float:
        """Share of their time, 0..1, that went to other processes (or to other guests of the same machine)."""
        wall, busy, own = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return min(1.0, max(0.0, busy - own) / (wall * len(os.sched_getaffinity(0))))

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, that these cores were busy, that this process was on any core."""
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        busy = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name in names:  # user, nice, system, idle, waiting for disks, two of interrupts, stolen by the host
                busy += sum(int(ticks[i]) for i in (0, 1, 2, 5, 6, 7))
        return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()


def compare(image: str, ours: Result, theirs: Result) -> list[Pair]:
    """The masks of two methods round by round; a round that gives nothing on either side says nothing."""
    pairs = []
    for round_ in sorted(ours.masks.keys() | theirs.masks.keys()):
        iou = _iou(ours.masks, theirs.masks, round_)
        cut_iou = _iou(ours.cuts, theirs.cuts, round_)
        gap = theirs.gaps.get(round_, math.nan)
        pairs.append(Pair(image, round_, iou, cut_iou, gap, "" if iou >= SAME_IOU else _why(cut_iou, gap)))
    return pairs


def _iou(ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray], round_: int) -> float:
    return mask_iou(ours[round_], theirs[round_]) if round_ in ours and round_ in theirs else 0.0


def _why(cut_iou: float, gap: float) -> str:
    """Where masks that differ have parted: cut_iou says whether it was before the refinement."""
    if cut_iou == 1:
        return "same cut, refined differently"
    return f"cuts differ (IoU {cut_iou:.4f} on the patch grid; eigengap {gap:.1e})"


def prepare_here(launch: Launch, device: str, refs: Sequence[ImageRef], folder: Path) -> tuple[Prepared, Memory]:
    """`prepare` with the networks of a launch, and what this process, which should be a fresh one, needs for it."""
    before = own_memory("VmRSS")
    prepared = prepare(load_method(launch, device), refs, folder)
    return prepared, _memory(before, prepared.device)


def floors_here(prepared: Prepared, launch: Launch) -> dict[str, Any]:
    """Ceilings of this process, and of FLOORS the seconds that each stage takes at least, see `roofline`."""
    method = load_method(launch, "cpu")
    limits = roofline.ceilings()
    photos = [load_photo(ref) for ref in prepared.refs[:FLOOR_PHOTOS]]
    methods = {name: replace(method, recipe=prepared.recipes[name]) for name in FLOORS}
    seconds = {name: roofline.mean_floors(own, photos, limits) for name, own in methods.items()}
    return {"operations_s": limits.operations, "bytes_s": limits.bytes, "seconds": seconds}


def peak_memory(prepared: Prepared, name: str) -> Memory:
    """What this process, which should be a fresh one, needs to take a few photos through a method."""
    before = own_memory("VmRSS")
    for index in range(min(MEMORY_PHOTOS, len(prepared.refs))):
        run(name, prepared, prepared.inputs(index))
    return _memory(before, prepared.device)


def _memory(before: int, device: torch.device) -> Memory:
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Memory(before, own_memory("VmHWM"), gpu)


# --- the command ------------------------------------------------------------------------------------------------------


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def keep_to(threads: int | None) -> int:
    """Bind this process and those that it starts to so many cores; None takes all that it may use. Their number."""
    cores = sorted(os.sched_getaffinity(0))
    if threads is not None and not 1 <= threads <= len(cores):
        raise ConfigError(f"--threads is {threads}: this process may use 1 to {len(cores)} cores")
    chosen = cores[:threads]
    os.sched_setaffinity(0, chosen)
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(len(chosen))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it
    return len(chosen)


def bench(refs: Sequence[ImageRef], launch: Launch, device: str, transcription: bool, threads: int, out: Path) -> None:
    """Measure in fresh processes, write the files, print the table."""
    methods = [*TIMED, *([TRANSCRIPTION] if transcription else [])]
    with tempfile.TemporaryDirectory() as folder:
        prepared, of_networks = in_child(prepare_here, launch, device, refs, Path(folder))
        rows, pairs = in_child(time_methods, prepared, methods)
        floors = in_child(floors_here, prepared, launch) if prepared.device.type == "cpu" else None
        memory = {"networks": of_networks} | {name: in_child(peak_memory, prepared, name) for name in methods}
    about = circumstances(threads) | {
        "device": prepared.device.type,
        "grid": list(prepared.grid),
        "models": prepared.models,
        "skipped": list(prepared.skipped),
        "floors": floors,
    }
    summary = summarise(rows, pairs, memory, about)
    write(out, csv_lines(rows, pairs, prepared.recipes["maskcut"].search.n), summary)
    print("\n".join(["", *table(summary), "", f"{out}, {out.with_suffix('.json')}"]))


def photos_of(images: str | None, count: int, folder: Path) -> tuple[ImageRef, ...]:
    """The first photos of a source; those of the demo, into `folder`, where there is none."""
    if images is None:
        copy_samples(folder)
    return list_images(images or str(folder)).refs[:count]


def input_arguments(parser: argparse.ArgumentParser, count: int) -> None:
    """Photos, networks and cores, as options of a benchmark. count: of photos, by default."""
    parser.add_argument("--images", help="folder, list, tar or COCO JSON; default: the photos of `cuts3d demo`")
    parser.add_argument("--count", type=int, default=count, help=f"photos at most [{count}]")
    parser.add_argument("--features", default=DEFAULT_FEATURES, help=f"preset, NAME=FILE or file [{DEFAULT_FEATURES}]")
    parser.add_argument("--depth", default=DEFAULT_DEPTH, help=f"depth model, as for `cuts3d run` [{DEFAULT_DEPTH}]")
    parser.add_argument("--threads", type=int, help="CPU cores to keep to [all]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    input_arguments(parser, count=50)
    parser.add_argument(
        "--device", default="auto", help="of the networks and recipes: auto, cpu, cuda or cuda:N [auto]"
    )
    parser.add_argument("--no-transcription", action="store_true", help="recipes only")
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV; JSON beside it")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error(f"--count must be at least 1, got {arguments.count}")
    transcription = not arguments.no_transcription
    if transcription and importlib.util.find_spec("pydensecrf") is None:
        print(f"no transcription to compare with: {reference_crf.REMEDY}", file=sys.stderr)
        transcription = False
    try:
        threads = keep_to(arguments.threads)
        launch = Launch(settings={"features": arguments.features, "depth": arguments.depth})
        with tempfile.TemporaryDirectory() as folder:
            refs = photos_of(arguments.images, arguments.count, Path(folder))
            bench(refs, launch, arguments.device, transcription, threads, arguments.out)
    except CutsError as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
