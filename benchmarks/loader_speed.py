"""What copy-paste costs a loader worker: images per second of one core, without it, with CutLER's and with CutS3D's.

.venv/bin/python benchmarks/loader_speed.py RUN ... [--chunks 12] [--out results/loader_speed.csv]

Real photos with the masks of real runs, through the training pipeline of the ResNet-50 configurations, by torch's
DataLoader with one worker for each variant. The variants take turns, the same batches of two for each, with the same
sizes and flips. Counted is the processor time of the worker, so other work on the machine hardly matters: all
that it does, loading and augmenting, and handing batches over. Photos are in the page cache.

    variant       none: no copy-paste. plain, confident: CutLER's and CutS3D's. confident, apart: its partners drawn at
                  random and not from the same batch, so that their photos are read just for the pasting
    size          short sides of the images: 240-1024, or 480 for all
    masks         an image at most, as `filters` of the configuration; the best by score
    pasted        masks per image that were pasted
    worker_ms     processor time of the worker for an image
    trainer_ms    processor time of the process that gets the batches
    images_s      images per second of one core: 1000 / worker_ms
    throughput    images_s in parts of that without copy-paste, 95 % interval by bootstrap over chunks of batches.
                  The bar: 0.75
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
# As in a worker of torch's: one thread each.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmdet.registry import DATASETS  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from torch.utils.data import DataLoader, Sampler  # noqa: E402

import detector.components  # noqa: E402, F401 - registers the transforms
from detector.data.dataset import StoreDataset  # noqa: E402
from detector.data.sampling import Draw, SeededSampler  # noqa: E402
from detector.training.config import read_config  # noqa: E402

FIELDS = (
    *("run", "variant", "size", "masks", "images", "pasted", "worker_ms", "trainer_ms", "images_s"),
    *("throughput", "low", "high", "load", "commit"),
)
BATCH, BATCHES = 2, 25  # batches of a chunk
COPY_PASTE: dict[str, dict[str, Any] | None] = {
    "none": None,
    "plain": {"type": "PlainCopyPaste"},
    "confident": {"type": "ConfidentCopyPaste"},
    "confident, apart": {"type": "ConfidentCopyPaste"},
}
SIZES = {"240-1024": None, "480": [(1333, 480)]}


class Reseed:
    """Makes what follows in the pipeline draw the same whatever was drawn before, so that variants can be compared."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        np.random.seed(results["img_id"])  # noqa: NPY002
        return results


class CountPasted:
    """Notes in the sample how many masks were pasted."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        results["pasted"] = int(results.get("gt_pasted", np.zeros(1)).sum())
        return results


class Apart(Sampler[Draw]):
    """Draws without partners."""

    def __init__(self, draws: SeededSampler) -> None:
        self.draws = draws

    def __iter__(self) -> Iterator[Draw]:
        return (draw._replace(partner=None) for draw in self.draws)


class Worker:
    """A DataLoader with one worker, and what its batches take."""

    def __init__(self, dataset: StoreDataset, apart: bool) -> None:
        draws = SeededSampler(dataset, seed=0)
        sampler = Apart(draws) if apart else draws
        loader: Any = DataLoader(dataset, BATCH, sampler=sampler, num_workers=1, collate_fn=pseudo_collate)
        self._batches = iter(loader)
        self.worker_s: list[float] = []
        self.trainer_s = 0.0
        self.pasted = 0

    def chunk(self, counts: bool = True) -> None:
        """Take a chunk of batches; the worker has as many ready before as after it."""
        self._settle()
        before, begun = self._processor_s(), time.process_time()
        for _ in range(BATCHES):
            batch = next(self._batches)
            if counts:
                self.pasted += sum(sample.pasted for sample in batch["data_samples"])
        trainer_s = time.process_time() - begun
        self._settle()
        if counts:
            self.trainer_s += trainer_s
            self.worker_s.append(self._processor_s() - before)

    def _processor_s(self) -> float:
        """Time on a processor of all threads of the worker."""
        tasks = Path(f"/proc/{self._batches._workers[0].pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def _settle(self) -> None:
        """Wait until the worker has nothing more to do."""
        quiet_since, last = time.monotonic(), self._processor_s()
        while time.monotonic() - quiet_since < 0.5:
            time.sleep(0.05)
            if (now := self._processor_s()) - last > 1e-3:
                quiet_since, last = time.monotonic(), now


def make_data_set(runs: list[str], variant: str, size: str, masks: int) -> StoreDataset:
    """The data set of `cutler_r50_fpn` with another copy-paste, other sizes, more masks per image."""
    config = read_config("cutler_r50_fpn").train_dataloader.dataset
    steps = {step["type"]: step for step in config.pipeline}
    if SIZES[size] is not None:
        steps["RandomChoiceResize"]["scales"] = SIZES[size]
    steps["PackDetInputs"]["meta_keys"] = ("pasted",)
    paste = COPY_PASTE[variant]
    config.pipeline = [
        *(steps["LoadPhoto"], steps["LoadConfidenceMasks"], *([paste] if paste else []), CountPasted(), Reseed()),
        *(steps[name] for name in ("RandomChoiceResize", "RandomFlip", "FilterAnnotations", "PackDetInputs")),
    ]
    config.update(runs=runs, filters={"max_per_image": masks})
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(config)


def measure(runs: list[str], size: str, masks: int, chunks: int) -> Iterator[dict[str, Any]]:
    """A line for each variant."""
    workers = {
        variant: Worker(make_data_set(runs, variant, size, masks), apart=variant.endswith("apart"))
        for variant in COPY_PASTE
    }
    for worker in workers.values():
        worker.chunk(counts=False)
    for _ in range(chunks):
        for worker in workers.values():
            worker.chunk()
    images = chunks * BATCHES * BATCH
    base = np.array(workers["none"].worker_s)
    for variant, worker in workers.items():
        mine = np.array(worker.worker_s)
        low, high = interval(base, mine)
        yield {
            **{"variant": variant, "size": size, "masks": masks, "images": images},
            "pasted": round(worker.pasted / images, 2),
            "worker_ms": round(1000 * float(mine.sum()) / images, 2),
            "trainer_ms": round(1000 * worker.trainer_s / images, 2),
            "images_s": round(images / float(mine.sum()), 1),
            **{"throughput": round(float(base.sum() / mine.sum()), 3), "low": round(low, 3), "high": round(high, 3)},
            "load": round(os.getloadavg()[0], 1),
        }


def interval(base: np.ndarray, mine: np.ndarray) -> tuple[float, float]:
    """95 % of base.sum() / mine.sum() when chunks are drawn again."""
    picks = np.random.default_rng(0).integers(0, len(base), (10_000, len(base)))
    low, high = np.quantile(base[picks].sum(axis=1) / mine[picks].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--masks", nargs="+", type=int, default=[3, 10])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/loader_speed.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        for run in options.runs:
            for size in options.sizes:
                for masks in options.masks:
                    for line in measure([run], size, masks, options.chunks):
                        table.writerow({"run": Path(run).name, **line, "commit": commit.strip()})
                        file.flush()
                        print(line)


if __name__ == "__main__":
    main()
