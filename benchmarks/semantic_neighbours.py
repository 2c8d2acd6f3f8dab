"""What it costs to find the neighbours of many crops exactly (`pipeline.methods.depthg.neighbours`), and its memory.

    .venv/bin/python benchmarks/semantic_neighbours.py > benchmarks/results/semantic_neighbours.csv

Means of features are made up, 384 numbers each as of a ViT-S: 200 scenes, photos scattered about them and five crops
about each photo, all of one large common part, so that cosines lie between 0.4 and 1 as those of real photos do. One
photo in a hundred is a copy of an earlier one, whose cosines are equal to the last bit. Each size is a process of its
own on two threads. Afterwards rows taken at random are compared with brute force in float64.

    clock_s, cpu_s   seconds until the file is there, and of the processor
    anon_mb          most memory of the process's own, less what it had before (what the libraries take)
    mapped_mb        most pages of mapped files at one time, which the system takes back when it needs them
    file_mb          the file of neighbours
    checked, equal   rows compared with brute force, and how many of them are the same
    same_photo       share of the first seven neighbours that are crops of the same photo
    load             of the machine, this benchmark among it
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

SIZES, WIDTH, SCENES, PER_PHOTO, BLOCK = (25_000, 50_000, 100_000), 384, 200, 5, 160
CHECKED, DRAWN = 100, 7  # rows that are compared; neighbours that training draws from
COLUMNS = (
    *("crops", "width", "clock_s", "cpu_s", "anon_mb", "mapped_mb", "file_mb"),
    *("checked", "equal", "same_photo", "load"),
)


def simulated(crops: int) -> Iterator[np.ndarray]:
    """Means, float32 (some, WIDTH), block after block; the same ones every time."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=WIDTH) * 1.5
    scenes = rng.normal(size=(SCENES, WIDTH))
    before = None
    for start in range(0, crops, BLOCK):
        photos = -(-min(BLOCK, crops - start) // PER_PHOTO)
        of_photos = scenes[rng.integers(SCENES, size=photos)] + 0.8 * rng.normal(size=(photos, WIDTH))
        block = common + of_photos.repeat(PER_PHOTO, axis=0) + 0.6 * rng.normal(size=(photos * PER_PHOTO, WIDTH))
        block = block.astype(np.float32)
        if before is not None:
            copies = np.flatnonzero(rng.random(photos) < 0.01)
            for photo in copies:
                rows = slice(photo * PER_PHOTO, (photo + 1) * PER_PHOTO)
                block[rows] = before[:PER_PHOTO]
        before = block
        yield block[: crops - start]


class Memory:
    """The most that this process holds from now on, in MB: its own, and mapped files."""

    def __init__(self) -> None:
        self._first, _ = _memory()
        self.anon = self.mapped = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            anon, mapped = _memory()
            self.anon, self.mapped = max(self.anon, anon - self._first), max(self.mapped, mapped)


def _memory() -> tuple[float, float]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def brute_force(units: np.ndarray, row: int, kept: int) -> np.ndarray:
    """The neighbours of one crop, from all cosines in float64."""
    own = units[row].astype(np.float64)
    cosines = np.concatenate([(own * units[i : i + 4096]).sum(axis=1) for i in range(0, len(units), 4096)])
    cosines[row] = np.inf
    return np.lexsort((np.arange(len(units)), -cosines))[:kept]


def measure(crops: int) -> list[object]:
    """One line of the results."""
    import torch

    from pipeline.methods.depthg import neighbours

    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(prefix="neighbours-") as folder:
        torch.ones(64, 64) @ torch.ones(64, 64)
        memory, clock, cpu = Memory(), time.perf_counter(), time.process_time()
        found = neighbours.find_neighbours(Path(folder), "simulated", crops, partial(simulated, crops))
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        memory.end()
        units = neighbours._units(Path(folder, "units.npy"), crops, partial(simulated, crops))
        rows = np.random.default_rng(1).choice(crops, CHECKED, replace=False)
        equal = sum(np.array_equal(found[row], brute_force(units, row, neighbours.KEPT)) for row in rows)
        same = np.mean(found[:, 1 : DRAWN + 1] // PER_PHOTO == np.arange(crops)[:, None] // PER_PHOTO)
        size = Path(folder, "simulated.npy").stat().st_size / 2**20
    figures = (clock, cpu, memory.anon, memory.mapped, size)
    return [crops, WIDTH, *(f"{x:.1f}" for x in figures), CHECKED, equal, f"{same:.3f}", f"{os.getloadavg()[0]:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    writer = csv.writer(sys.stdout)
    if arguments.measure:
        writer.writerow(measure(arguments.measure))
        return
    writer.writerow(COLUMNS)
    sys.stdout.flush()
    for crops in arguments.sizes:
        subprocess.run([sys.executable, __file__, "--measure", str(crops)], check=True)


if __name__ == "__main__":
    main()
