"""What `cuts3d evaluate-panoptic` costs: processor time and peak memory, by number of images.

Frames are made up, of Cityscapes' size, 1024 x 2048: bands of stuff and 30 objects; the run sees them shifted by a few
pixels. Eight different frames are used over and over, each image being read and counted by itself. A row: images,
processor seconds per image of all threads, 1000 resamples of the images included, peak memory of the process.

    python benchmarks/panoptic_scoring.py [--counts 40 160 640] [--out results/panoptic_scoring.csv]
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from gpu_usage import peak_memory
from PIL import Image

from pipeline.evaluation.panoptic_evaluation import evaluate_panoptic
from pipeline.evaluation.panoptic_runs import open_predictions
from pipeline.evaluation.panoptic_truth import read_panoptic_truth
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import PanopticKind
from pipeline.results.semantic import Classes
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder

SIZE = (1024, 2048)
FRAMES, OBJECTS = 8, 30
STUFF, THINGS = (23, 11, 21, 8, 7), (24, 26, 33)
CLUSTERS = Classes.clusters(len(STUFF) + len(THINGS))
COLUMNS = ("images", "processor seconds per image", "peak memory MB")


def frame(seed: int) -> np.ndarray:
    """uint16, as Cityscapes' instanceIds."""
    rng = np.random.default_rng(seed)
    rows = np.arange(SIZE[0])[:, None] + 40 * np.sin(np.arange(SIZE[1]) / 150 + seed)
    values = np.array(STUFF, np.uint16)[np.clip(rows * len(STUFF) // SIZE[0], 0, len(STUFF) - 1).astype(int)]
    for number in range(OBJECTS):
        height, width = rng.integers(20, 200, 2)
        top, left = rng.integers(300, SIZE[0] - height), rng.integers(0, SIZE[1] - width)
        values[top : top + height, left : left + width] = rng.choice(THINGS) * 1000 + number
    return values


def seen(values: np.ndarray) -> PanopticRecord:
    """The same a few pixels to the right."""
    values = np.roll(values, 5, axis=1)
    ids = np.where(values >= 1000, values // 1000, values)
    labels = np.zeros(34, np.uint8)
    labels[[*STUFF, *THINGS]] = np.arange(len(CLUSTERS))
    objects = np.unique(values[values >= 1000])
    table = np.zeros(34_000, np.uint16)
    table[objects] = np.arange(1, len(objects) + 1)
    confidence = np.ones((1, 1), np.float32)
    return PanopticRecord.of("x", labels[ids], confidence, table[values], [0.8] * len(objects), CLUSTERS)


def write(folder: Path, count: int) -> None:
    """A run and its truth."""
    frames = [frame(seed) for seed in range(FRAMES)]
    records = [seen(values) for values in frames]
    (folder / "truth").mkdir()
    names = [f"{number:05}" for number in range(count)]
    for number, name in enumerate(names):
        file = folder / "truth" / f"{name}_gtFine_instanceIds.png"
        if number < FRAMES:
            Image.fromarray(frames[number]).save(file)
        else:
            os.link(folder / "truth" / f"{names[number % FRAMES]}_gtFine_instanceIds.png", file)
    manifest = Manifest([ImageRef(f"{name}.png", f"/photos/{name}.png") for name in names], 64)
    kind = PanopticKind(CLUSTERS, tuple(c >= len(STUFF) for c in range(len(CLUSTERS))))
    run = RunFolder.create_or_open(str(folder / "run"), {"recipe": {"name": "made up"}}, manifest, result=kind.name)
    place = 0
    for shard in manifest.shards():
        own = []
        for ref in shard.refs:
            one = records[place % FRAMES]
            own.append(replace(one, semantic=replace(one.semantic, id=ref.id)))
            place += 1
        run.ledger.commit(shard.key, new_attempt(), Outcome(kind.write(own, {}), kind.counts(own), []))


def measured(folder: Path) -> tuple[float, ...]:
    """Of one run, in this process."""
    truth = read_panoptic_truth(f"cityscapes:{folder / 'truth'}", 19)
    start = time.process_time()
    report = evaluate_panoptic(truth, open_predictions(str(folder / "run")))
    seconds, peak = time.process_time() - start, peak_memory() / (1 << 20)
    return report.images, round(seconds / report.images, 3), round(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[40, 160, 640])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "panoptic_scoring.csv")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(*measured(arguments.measure), sep=",")
        return
    with arguments.out.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for count in arguments.counts:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), count)
                command = [sys.executable, __file__, "--measure", folder]
                row = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().split(",")
            table.writerow(row)
            file.flush()
            print(*row, sep="\t")


if __name__ == "__main__":
    main()
