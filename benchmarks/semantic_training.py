"""A step of semantic training from stored inputs, beside one that computes features again, as DepthG's release does.

Both are the very same step (`HeadLearner`, recipe `depthg`: batch 32, five negatives, S = 11) on the same crops, in one
process on one thread, in turn. Stored: features and depth are read from a finished run of inputs, memory-mapped.
Recomputed: the frozen backbone runs on the 32 crops and their 32 neighbours; depth is read all the same, and photos are
decoded and cut beforehand, which the release does in loading processes. Random pairs are crops of the batch, and cost
the backbone nothing in either.

    python benchmarks/semantic_training.py PHOTOS WORK --features MODEL --depth MODEL > results/semantic_training.csv

The run of inputs below WORK (whole photos at 392 pixels) resumes. After one step that is not counted, a row for each
step: `clock_s` and `cpu_s`, of reading or the backbone (`inputs_…`) and of all. The last row has ratios of medians,
and how far apart the losses of both were: features are kept as float16.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from pipeline.engine.run import run
from pipeline.images.manifest import Manifest
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.methods.depthg.crops import cut_photo
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.inputs_load import load_inputs_method
from pipeline.methods.depthg.inputs_method import InputsMethod
from pipeline.methods.depthg.inputs_settings import NAME
from pipeline.methods.depthg.learner import HeadLearner
from pipeline.methods.depthg.training_recipes import get_recipe
from pipeline.models.device import pick_device
from pipeline.runs.launch import Launch

COLUMNS = ("step", "variant", "inputs_clock_s", "inputs_cpu_s", "clock_s", "cpu_s", "loss", "load")


class Timed:
    """Inputs that know how long they took: those of a run, or, with a method, features from its network."""

    def __init__(self, stored: TrainingInputs, method: InputsMethod | None = None, crops: Any = None) -> None:
        self._stored, self._method, self._crops = stored, method, crops
        self.shape, self.neighbours = stored.shape, stored.neighbours
        self.clock = self.cpu = 0.0

    def __len__(self) -> int:
        return len(self._stored)

    def features(self, crops: np.ndarray) -> np.ndarray:
        clock, cpu = time.perf_counter(), time.process_time()
        if self._method is None:
            found = self._stored.features(crops)
        else:
            found_BND = self._method.features([self._crops[crop] for crop in crops]).numpy()
            found = found_BND.transpose(0, 2, 1).reshape(len(crops), *self.shape)
        self.clock += time.perf_counter() - clock
        self.cpu += time.process_time() - cpu
        return found

    def depth(self, crops: np.ndarray) -> np.ndarray:
        return self._stored.depth(crops)


def stepped(inputs: Timed, learner: HeadLearner, number: int) -> list[float]:
    """Seconds of inputs and of all, clock and processor, and the loss."""
    inputs.clock = inputs.cpu = 0.0
    clock, cpu = time.perf_counter(), time.process_time()
    loss = learner.step(number)["loss"]
    return [inputs.clock, inputs.cpu, time.perf_counter() - clock, time.process_time() - cpu, loss]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("work", type=Path)
    parser.add_argument("--features", default="dinov2_vits14")
    parser.add_argument("--depth", default="fastdepth")
    parser.add_argument("--count", type=int, default=40, help="photos")
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()

    refs = list_images(arguments.photos).refs[: arguments.count]
    settings = {"features": arguments.features, "depth": arguments.depth}
    launch = Launch(arguments.photos, recipe=NAME, settings=settings, overrides=("crops.layout=whole",), shard_size=4)
    method = load_inputs_method(launch, "cpu")
    run(arguments.work / "inputs", launch, method=method, manifest=Manifest(refs, 4))
    inputs = TrainingInputs.open(arguments.work / "inputs")
    crops = [cut_photo(load_photo(ref).rgb, method.crops, method.features.config.size)[0] for ref in refs]
    recipe = get_recipe("depthg")
    variants = {"stored": Timed(inputs), "recomputed": Timed(inputs, method, crops)}
    cpu = pick_device("cpu")
    HeadLearner(recipe, variants["stored"], 0, cpu).step(0)  # type: ignore[arg-type]  # a process's first costs more
    learners = {name: HeadLearner(recipe, own, 0, cpu) for name, own in variants.items()}  # type: ignore[arg-type]

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows: dict[str, list[list[float]]] = {name: [] for name in variants}
    for number in range(arguments.steps):
        for name, learner in learners.items():
            row = stepped(variants[name], learner, number)
            rows[name].append(row)
            load = f"{os.getloadavg()[0]:.1f}"
            writer.writerow([number + 1, name, *(f"{x:.3f}" for x in row[:4]), f"{row[4]:.5f}", load])
            sys.stdout.flush()
    medians = {name: [statistics.median(column) for column in zip(*own, strict=True)] for name, own in rows.items()}
    ratios = [medians["recomputed"][column] / medians["stored"][column] for column in range(4)]
    worst = max(abs(a[4] - b[4]) for a, b in zip(*rows.values(), strict=True))
    writer.writerow(["ratio", "recomputed / stored", *(f"{x:.1f}" for x in ratios), f"{worst:.1e} apart", ""])


if __name__ == "__main__":
    main()
