"""What the panoptic detector's training data cost: memory of many images, and the time that samples and batches take.

.venv/bin/python benchmarks/panoptic_loader.py memory [--images 86000] [--out results/panoptic_loader_memory.csv]
.venv/bin/python benchmarks/panoptic_loader.py speed RUN [--batches 10] [--out results/panoptic_loader_speed.csv]

memory: a run of that many images (CUPS learns from about 86,000) is made up, of 64 maps at SIZE with ragged borders and
one to five instances each: 48 kB per image, twice as much as Cityscapes' true maps of 1024×2048. Everything else, and
every column, is as in loader_memory.py.

speed: a run over real photos, through the pipeline of `cups_r50_fpn`, in processor time of one thread, photos in the
page cache. A line for each step of a sample; then what the training process does with a batch of 16 before it goes
through the network: copy-paste, and the data preprocessor on a CPU (on a GPU all but masks and targets is done there).

    step          of the pipeline; "handed over": pickled and read again between worker and trainer
    ms            per image, mean
    low, high     95 % interval of it by bootstrap over batches
    load          of the machine
"""

import argparse
import csv
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import cv2  # noqa: E402
import loader_memory  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmdet.registry import HOOKS, MODELS, TRANSFORMS  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from restart import make_manifest  # noqa: E402

import detector.components  # noqa: E402, F401 - registers the transforms
from detector.data.panoptic_paste import PasteOptions, paste_batch  # noqa: E402
from detector.data.panoptic_store import PanopticStore, PanopticStoreDataset  # noqa: E402
from detector.data.sampling import SeededSampler, begin  # noqa: E402
from detector.training.config import CONFIGS  # noqa: E402
from detector.training.self_enhanced import labelled, put_batch_back, samples_of  # noqa: E402
from pipeline.results.panoptic import PanopticRecord, counts_of  # noqa: E402
from pipeline.results.panoptic_file import write_shard  # noqa: E402
from pipeline.results.semantic import Classes  # noqa: E402
from pipeline.runs.ledger import Outcome  # noqa: E402
from pipeline.runs.provenance import new_attempt  # noqa: E402
from pipeline.runs.run_folder import RunFolder  # noqa: E402

SIZE, CLASSES, POOL, FEW = (640, 1280), Classes.clusters(27), 64, 1000
SPEED_FIELDS = ("run", "step", "images", "ms", "low", "high", "load", "commit")
MEAN = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "bgr_to_rgb": True}
PREPROCESSOR = {"type": "PanopticPreprocessor", **MEAN, "pad_mask": True, "pad_seg": True, "pad_size_divisor": 32}


def ragged_records() -> list[PanopticRecord]:
    """Maps of smooth noise, the largest of which gives the class, and one to five boxes with instances."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(POOL):
        coarse = rng.normal(size=(8, 20, 40)).astype(np.float32)
        fields = [cv2.resize(one, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for one in coarse]
        fields = [one + rng.normal(0, 0.005, SIZE) for one in fields]
        labels = rng.permutation(27)[:8].astype(np.uint8)[np.argmax(fields, axis=0)]
        ids = np.zeros(SIZE, int)
        for k in range(int(rng.integers(1, 6))):
            top, left = (int(rng.integers(side * 3 // 4)) for side in SIZE)
            part = slice(top, top + 120), slice(left, left + 200)
            inside = (fields[k][part] > -0.5) & (ids[part] == 0)
            if inside.any():
                ids[part][inside], labels[part][inside] = ids.max() + 1, 24 + k % 3
        sure = np.full(int(ids.max()), 0.9)
        made.append(PanopticRecord.of(str(number), labels, np.full(SIZE, 0.8, np.float32), ids, sure, CLASSES))
    return made


def make_up_run(images: int, folder: Path, pool: list[PanopticRecord]) -> str:
    """A complete run of so many images; returns its URL."""
    from dataclasses import replace

    manifest = make_manifest(images, -(-images // loader_memory.SHARD))
    run = RunFolder.create_or_open(
        str(folder / "run"), {"recipe": "made up"}, manifest, method="made up", result="panoptic"
    )
    rng = np.random.default_rng(1)
    for shard in manifest.shards():
        own = []
        for ref, k in zip(shard.refs, rng.integers(0, len(pool), len(shard.refs)).tolist(), strict=True):
            own.append(replace(pool[k], semantic=replace(pool[k].semantic, id=ref.id)))
        data = write_shard(own, CLASSES, None, {})
        run.ledger.commit(shard.key, new_attempt(), Outcome(data, counts_of(own)))
    return run.url


class Visit:
    """A pipeline that reads the codes of an image, and decodes one image in 64; gives the number of bytes seen."""

    def __call__(self, info: dict[str, Any]) -> int:
        store, image = info["store"], info["store_index"]
        seen = sum(len(store._bytes(name, image)) for name in ("labels", "instance_map"))
        if image % 64 == 0:
            seen += store.labels(image).size + store.instance_ids(image).size
        return seen + len(store.classes_of(image)) + len(store.ref(image).uri)


def memory(images: int, pool: list[PanopticRecord], ranks: int, workers: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        url, cache = make_up_run(images, Path(folder), pool), f"{folder}/cache"
        build = partial(PanopticStoreDataset, runs=url, cache=cache, pipeline=[Visit()])
        yield from loader_memory.rows_of("panoptic", url, cache, (PanopticStore, "n_instances"), build, ranks, workers)


def memory_rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    pool = ragged_records()
    codes = [np.mean([len(one.semantic.code) for one in pool]), np.mean([len(one.code) for one in pool])]
    print(f"bytes an image: labels {codes[0]:.0f}, instances {codes[1]:.0f}", flush=True)
    *_, few = memory(FEW, pool, arguments.ranks, arguments.workers)
    yield few | {"grown_mb": 0.0, "images_s": ""}  # a few batches, made before anybody looked at the clock
    for many in memory(arguments.images, pool, arguments.ranks, arguments.workers):
        if "above_mb" in many:
            many["grown_mb"] = many["above_mb"] - few["above_mb"]
        yield many


class Clock:
    """Processor time of steps, per image of each batch, in ms."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {}
        self._own: dict[str, float] = {}

    def time(self, name: str, work: Callable[..., Any], *given: Any) -> Any:
        begun = time.process_time()
        done = work(*given)
        self._own[name] = self._own.get(name, 0.0) + time.process_time() - begun
        return done

    def end_batch(self, images: int) -> None:
        for name, seconds in self._own.items():
            self.steps.setdefault(name, []).append(1000 * seconds / images)
        self._own = {}


def speed_rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each step."""
    from mmengine.config import Config

    config = Config.fromfile(str(CONFIGS / "_base_/panoptic_store.py"), lazy_import=False)
    loader, clock = config.train_dataloader, Clock()
    with DefaultScope.overwrite_default_scope("mmdet"):
        options = HOOKS.build(config.copy_paste).options
        steps = [(step.type, TRANSFORMS.build(step)) for step in loader.dataset.pipeline]
        preprocessor = MODELS.build({**PREPROCESSOR, "scales": config.scales, "photometric": config.photometric})
    dataset = PanopticStoreDataset(arguments.run, pipeline=[])
    draws = iter(SeededSampler(dataset, seed=0))
    for number in range(arguments.batches + 1):
        packed = []
        for draw in islice(draws, loader.batch_size):
            begin(draw)
            sample = dataset.get_data_info(draw)
            for name, step in steps:
                sample = clock.time(name, step, sample)
            data = clock.time("handed over", pickle.dumps, sample)
            packed.append(clock.time("handed over", pickle.loads, data))
        batch = pseudo_collate(packed)
        clock.time("copy-paste", paste, batch, options, np.random.default_rng(number))
        np.random.seed(number)  # noqa: NPY002
        clock.time("preprocessor", preprocessor, batch, True)
        clock.end_batch(loader.batch_size)
    load = round(os.getloadavg()[0], 1)
    for name, values in clock.steps.items():
        kept = np.array(values[1:])  # the first batch warms up
        drawn = np.random.default_rng(0).integers(0, len(kept), (10_000, len(kept)))
        low, high = np.quantile(kept[drawn].mean(axis=1), [0.025, 0.975])
        images = len(kept) * loader.batch_size
        yield {
            **{"run": Path(arguments.run).name, "step": name, "images": images, "load": load},
            **{"ms": round(float(kept.mean()), 2), "low": round(float(low), 2), "high": round(float(high), 2)},
        }


def paste(batch: dict[str, Any], options: PasteOptions, rng: np.random.Generator) -> None:
    """What the hook does while the labels are the source."""
    samples = samples_of(batch)
    put_batch_back(paste_batch(samples, labelled(samples, options.min_side), options, rng), batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    of_memory, of_speed = kinds.add_parser("memory"), kinds.add_parser("speed")
    results = ROOT / "benchmarks/results"
    of_memory.add_argument("--images", type=int, default=86_000)
    of_memory.add_argument("--ranks", type=int, default=2)
    of_memory.add_argument("--workers", type=int, default=4)
    of_memory.add_argument("--out", type=Path, default=results / "panoptic_loader_memory.csv")
    of_speed.add_argument("run")
    of_speed.add_argument("--batches", type=int, default=10)
    of_speed.add_argument("--out", type=Path, default=results / "panoptic_loader_speed.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    is_memory = arguments.kind == "memory"
    fields = loader_memory.FIELDS if is_memory else SPEED_FIELDS
    with arguments.out.open("w", newline="") as file:
        table = csv.DictWriter(file, fields)
        table.writeheader()
        for row in memory_rows(arguments) if is_memory else speed_rows(arguments):
            text = {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}
            table.writerow(text if is_memory else text | {"commit": commit.strip()})
            file.flush()
            print(text, flush=True)


if __name__ == "__main__":
    main()
