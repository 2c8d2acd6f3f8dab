"""What ProMerge costs after the network, beside its plain transcription and our MaskCut.

The transcription (tests/support/reference_promerge.py) goes through prompts and masks one by one and runs a dense CRF
(pydensecrf) for each mask. Features are computed once per photo and given to all, which take turns in one process on
one thread, up to masks at the size of the photo. `promerge` also goes without the CRF and with one of its ten
iterations: what a faster CRF could bring at most. The first photo is gone through once before anything counts. Seconds
of the clock, and of the CPU, which other processes on the machine do not disturb.

    python benchmarks/merge_speed.py PHOTOS CACHE --count 20 > benchmarks/results/merge_speed.csv

CACHE: as for settle_constants.py. Also counted: on how many photos the transcription's masks change when masks of one
size, or clusters, come in another order.
"""

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from settle_constants import Kept, cached, method_of
from support import reference_crf
from support.reference_promerge import of_prompts, promerge, prompts

from pipeline.images.photos import Photo, load_photo
from pipeline.images.sources import list_images
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from stages import refine
from stages.patch_merging import OF_FEATURES, MergeConfig, MergeThresholds

OURS = ("promerge", "promerge refine.crf=none", "promerge refine.crf.iterations=1", "maskcut")
DRAWS = 5  # orders in which ties and clusters are gone through


def ours(method: CutsMethod, photo: Photo, kept: dict[str, Kept]) -> int:
    """Masks of a recipe, from the features on."""
    with torch.inference_mode():
        records = BatchWork(method, [photo], [0], {"features": kept["features"]}, defaultdict(float)).records
    return len(records[0].instances)


def transcribed(method: CutsMethod, photo: Photo, kept: dict[str, Kept], taus: MergeThresholds) -> int:
    """The same by the transcription, a CRF for each mask."""
    found = promerge(kept["features"].values, method.grid, *vars(taus).values())
    masks = 0
    fast, refine.dense_crf = refine.dense_crf, reference_crf.dense_crf  # type: ignore[assignment]
    try:
        for mask in found.masks:
            (refined,) = refine.refine_masks([photo.rgb], [mask[None]], method.recipe.refine)
            masks += int(refined.keep[0])
    finally:
        refine.dense_crf = fast
    return masks


def order_matters(features_ND: np.ndarray, grid: tuple[int, int], taus: MergeThresholds) -> tuple[bool, bool]:
    """Whether masks change with the order of masks of one size and of clusters."""

    found = prompts(features_ND, grid, taus.bipartition_tau)

    def masks(**order: np.random.Generator) -> set[bytes]:
        merged = of_prompts(found, taus.foreground_include_tau, taus.dino_merge_tau, **order).masks
        return {mask.tobytes() for mask in merged}

    expected = masks()
    draws = [np.random.default_rng(seed) for seed in range(DRAWS)]
    return any(masks(shuffle_ties=draw) != expected for draw in draws), any(
        masks(shuffle_clusters=draw) != expected for draw in draws
    )


def timed(function: Callable[[], int]) -> tuple[float, float, int]:
    """Seconds of the clock and of the CPU, and what it gives."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = function()
    return time.perf_counter() - clock, time.process_time() - cpu, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--features", default="dinov2_vits14")
    parser.add_argument("--depth", default="fastdepth")
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods = {name: method_of(name, arguments.features, arguments.depth) for name in OURS}
    search = methods["promerge"].recipe.search
    assert isinstance(search, MergeConfig)
    taus = MergeThresholds(*map(search.settled_tau, OF_FEATURES))
    runs: dict[str, Callable[[Photo, dict[str, Kept]], int]] = {
        **{name: lambda photo, kept, m=method: ours(m, photo, kept) for name, method in methods.items()},  # type: ignore[misc]
        "transcription": lambda photo, kept: transcribed(methods["promerge"], photo, kept, taus),
    }
    writer = csv.writer(sys.stdout)
    writer.writerow(["photo", "method", "clock_s", "cpu_s", "masks", "ties_matter", "clusters_matter"])
    refs = list_images(arguments.photos).refs[: arguments.count]
    totals: dict[str, np.ndarray] = {name: np.zeros(2) for name in runs}
    for number, ref in enumerate([refs[0], *refs]):
        photo, kept = load_photo(ref), cached(ref, arguments.cache, methods["promerge"])
        matters = order_matters(kept["features"].values, methods["promerge"].grid, taus)
        for name, run in runs.items():
            clock, cpu, masks = timed(lambda run=run, photo=photo, kept=kept: run(photo, kept))  # type: ignore[misc]
            if number:
                writer.writerow([ref.id, name, f"{clock:.4f}", f"{cpu:.4f}", masks, *map(int, matters)])
                totals[name] += clock, cpu
        sys.stdout.flush()
    for name, (clock, cpu) in totals.items():
        ratios = totals["transcription"] / totals[name]
        line = f"{name}: {clock / len(refs):.3f} s per photo, CPU {cpu / len(refs):.3f} s; the transcription takes"
        print(f"{line} {ratios[0]:.1f} times as long, CPU {ratios[1]:.1f} times", file=sys.stderr)


if __name__ == "__main__":
    main()
