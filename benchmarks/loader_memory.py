"""What training data costs in memory: a million images, two ranks of four loader workers, each of which reads all.

.venv/bin/python benchmarks/loader_memory.py [--images 1000000] [--out results/loader_memory.csv]

A run of that many images with about three masks each is made up: real shards and commits, of ellipses with ragged
outlines, whose codes and confidences are about as long as those of real photos. It is opened as any run is. Ranks are
processes of their own, workers are forked by torch's DataLoader; each worker reads every page of every array, then all
of them together make samples of every image once (codes and confidences of all masks, one image in 64 decoded).

Lines "open" are of `FlatStore.open` in a process of its own: the first time, which consolidates, and the second. Lines
"flat" are StoreDataset, at 1,000 images (what the interpreters and libraries take) and in full. Lines "stock" are a
BaseDetDataset with the same content as dictionaries, serialised as MMDetection does by default, at 1,000 and at --stock
images, and what that comes to in full if it grows in proportion.

    arrays_mb     one copy of what the masks take: the flat arrays, or the serialised dictionaries
    pss_mb        memory of all ranks and workers, pages that several share divided among them (Pss of smaps_rollup)
    anon_mb       of that: memory of processes' own, no file behind it
    above_mb      pss_mb less one copy
    grown_mb      above_mb less above_mb at 1,000 images: what the data adds beyond one copy. The bar of 1 GB is for
                  this: the rest is Python, torch and MMDetection, the same with any data
    open_s        until a process, or the slower rank, had its data set
    peak_mb       most that it held until then, pages of mapped files among it
    images_s      images per second: consolidated, or through the workers of one rank
    load          of the machine, this benchmark among it
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from gpu_usage import peak_memory  # noqa: E402
from mmdet.datasets import BaseDetDataset  # noqa: E402
from restart import make_manifest  # noqa: E402
from support.stored_run import instance  # noqa: E402
from torch.utils.data import DataLoader, get_worker_info  # noqa: E402

from detector.data.dataset import RunDataset, StoreDataset  # noqa: E402
from detector.data.flat_build import grid_window  # noqa: E402
from detector.data.flat_store import FlatStore  # noqa: E402
from detector.data.loading import confidence_masks  # noqa: E402
from detector.data.sampling import Draw, SeededSampler  # noqa: E402
from pipeline.results.instance_file import write_shard  # noqa: E402
from pipeline.results.instances import ImageRecord, Instance, counts_of  # noqa: E402
from pipeline.runs.ledger import Outcome  # noqa: E402
from pipeline.runs.provenance import new_attempt  # noqa: E402
from pipeline.runs.run_folder import RunFolder  # noqa: E402

FIELDS = (
    *("what", "images", "masks", "ranks", "workers", "arrays_mb", "pss_mb", "anon_mb", "above_mb", "grown_mb"),
    *("open_s", "peak_mb", "images_s", "load"),
)
GRID, SIZE = (60, 60), (375, 500)
FEW, BATCH, SHARD = 1000, 256, 256
MB = 1e6


def ragged_instances(count: int) -> list[Instance]:
    """Ellipses at SIZE whose outline frays, with a confidence that falls off; codes about as long as real ones."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    made = []
    for _ in range(count):
        centre, radii = rng.uniform(0.2, 0.8, 2) * SIZE, rng.uniform(0.08, 0.4, 2) * SIZE
        fringe = rng.normal(0, 0.06, SIZE[1])[columns]
        mask = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1 + fringe
        made.append(instance(mask, (rng.integers(3, 7, GRID) * 42).astype(np.uint8), float(rng.random())))
    return made


def crop_of(stored: Instance) -> bytes:
    top, bottom, left, right = grid_window(stored.box, SIZE, GRID)
    return stored.confidence[top:bottom, left:right].tobytes()


def make_up_run(images: int, folder: Path, pool: list[Instance]) -> str:
    """A complete run of so many images, each with one to five masks of the pool; returns its URL."""
    rng = np.random.default_rng(1)
    manifest = make_manifest(images, -(-images // SHARD))
    run = RunFolder.create_or_open(str(folder / "run"), {"recipe": "made up"}, manifest)
    for shard in manifest.shards():
        picked = [rng.integers(0, len(pool), rng.integers(1, 6)).tolist() for _ in shard.refs]
        records = [
            ImageRecord(ref.id, SIZE, "ok", tuple(pool[k] for k in masks), {}, None)
            for ref, masks in zip(shard.refs, picked, strict=True)
        ]
        run.ledger.commit(shard.key, new_attempt(), Outcome(write_shard(records, GRID, {}), counts_of(records)))
    return run.url


class Visit:
    """A pipeline that looks at all that is stored of an image; gives the number of bytes seen."""

    def __call__(self, info: dict[str, Any]) -> int:
        if "instances" in info:
            return sum(len(i["mask"]["counts"]) + len(i["confidence"]) for i in info["instances"])
        store, image = info["store"], info["store_index"]
        rows = store.masks_of(image)
        if image % 64 == 0:
            confidence_masks(store, image, rows)
        return sum(
            len(store.coco_rle(image, row)["counts"]) + store.confidence(image, row).size for row in rows.tolist()
        )


class StockDataset(BaseDetDataset):
    """The same content as a dictionary for each image, in the layout of MMDetection, with the crops of confidence."""

    def load_data_list(self) -> list[dict[str, Any]]:
        images, pool = self.ann_file
        rng = np.random.default_rng(1)
        crops = [crop_of(stored) for stored in pool]
        return [
            {
                "img_path": f"/data/imagenet/train/n{i // 1300:08d}/{i}.JPEG",
                **{"img_id": i, "height": SIZE[0], "width": SIZE[1]},
                "instances": [
                    {
                        **{"bbox": list(pool[k].box), "bbox_label": 0, "ignore_flag": 0, "score": pool[k].score},
                        "mask": {"size": list(SIZE), "counts": bytes(bytearray(pool[k].rle))},
                        "confidence": bytes(bytearray(crops[k])),
                    }
                    for k in rng.integers(0, len(pool), rng.integers(1, 6)).tolist()
                ],
            }
            for i in range(images)
        ]

    def __getitem__(self, draw: Draw) -> int:
        seen: int = super().__getitem__(draw.index)
        return seen

    def _join_prefix(self) -> None:
        """Nothing: the place of the annotation file is taken by a number of images and a pool of instances."""


def read_all(_: int) -> None:
    """Touch every page of the worker's data set."""
    dataset: Any = get_worker_info().dataset  # type: ignore[union-attr]
    if isinstance(dataset, RunDataset):
        store = dataset.store
        arrays = [*store._store.values(), store._images, *([store._masks] if isinstance(store, FlatStore) else [])]
    else:
        arrays = [dataset.data_bytes, dataset.data_address]
    for array in arrays:
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, len(flat), 1 << 24):
            np.add.reduce(flat[start : start + (1 << 24)], dtype=np.int64)


def rank(build: "partial[BaseDetDataset]", number: int, ranks: int, workers: int, talk: Connection) -> None:
    """One rank: opens its data, lets its workers read it, and stays as it is until told to go."""
    begun = time.perf_counter()
    dataset = build()
    opened = time.perf_counter() - begun
    peak = peak_memory()
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=SeededSampler(dataset, seed=number),
        num_workers=workers,
        collate_fn=sum,
        worker_init_fn=read_all,
        multiprocessing_context="fork",  # as MMEngine has it; spawned workers would import everything again
    )
    batches = iter(loader)
    seen = next(batches)  # the workers have read everything
    begun, count = time.perf_counter(), -(-len(dataset) // (ranks * BATCH))
    for _ in range(count):
        seen += next(batches)
    size = dataset.data_bytes.nbytes if not isinstance(dataset, RunDataset) else 0
    talk.send((opened, peak, count * BATCH / (time.perf_counter() - begun), size, seen))
    talk.recv()


def memory(processes: list[psutil.Process]) -> tuple[float, float]:
    """Proportional set size of the processes and their children in bytes: all of it, and what no file is behind."""
    pss = anon = 0
    for process in processes:
        for one in (process, *process.children(recursive=True)):
            for line in Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                pss += 1024 * int(rest.split()[0]) if name == "Pss" else 0
                anon += 1024 * int(rest.split()[0]) if name == "Pss_Anon" else 0
    return pss, anon


def measure(build: "partial[BaseDetDataset]", arrays: int, ranks: int, workers: int) -> dict[str, Any]:
    """Ranks over one data set: what they hold once all of them have read all of it."""
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in range(ranks)]
    started = [
        context.Process(target=rank, args=(build, i, ranks, workers, there)) for i, (_, there) in enumerate(pipes)
    ]
    for process in started:
        process.start()
    try:
        said = []
        for here, there in pipes:
            there.close()  # so that a rank that dies ends the wait for it
            said.append(here.recv())
        pss, anon = memory([psutil.Process(process.pid) for process in started])
        for here, _ in pipes:
            here.send("go")
        for process in started:
            process.join(60)
    finally:
        for process in started:
            process.kill()
    opened, peaks, rates, sizes, _ = zip(*said, strict=True)
    copy = arrays or sizes[0]
    figures = {"arrays_mb": copy, "pss_mb": pss, "anon_mb": anon, "above_mb": pss - copy, "peak_mb": max(peaks)}
    return {
        **{"ranks": ranks, "workers": workers, "open_s": max(opened), "images_s": sum(rates) / ranks},
        **{name: value / MB for name, value in figures.items()},
        "load": os.getloadavg()[0],
    }


def opening(url: str, cache: str, kind: Any, masks: str, talk: Connection) -> None:
    """Opens a run and says how long that took, what it found and the most memory it had."""
    begun = time.perf_counter()
    store = kind.open(url, cache=cache)
    seconds, peak = time.perf_counter() - begun, peak_memory()
    talk.send((seconds, len(store), getattr(store, masks), str(store.folder), peak))


def flat(images: int, pool: list[Instance], ranks: int, workers: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        url, cache = make_up_run(images, Path(folder), pool), f"{folder}/cache"
        build = partial(StoreDataset, runs=url, cache=cache, pipeline=[Visit()])
        yield from rows_of("flat", url, cache, (FlatStore, "n_masks"), build, ranks, workers)


def rows_of(
    name: str, url: str, cache: str, store: tuple[Any, str], build: Callable[[], Any], ranks: int, workers: int
) -> Iterator[dict[str, Any]]:
    """Of a run that is opened for the first time, for the second, and of its data set, which `build` makes. store: its
    class, and the name there of the number of masks.
    """
    context = get_context("spawn")
    for what in ("open, first time", "open, second time"):
        here, there = context.Pipe()
        process = context.Process(target=opening, args=(url, cache, *store, there))
        process.start()
        there.close()
        seconds, count, masks, place, peak = here.recv()
        process.join()
        row = {"what": what, "images": count, "masks": masks, "open_s": seconds, "peak_mb": peak / MB}
        yield row | {"images_s": count / seconds if "first" in what else "", "load": os.getloadavg()[0]}
    arrays = sum(path.stat().st_size for path in Path(place).rglob("*.npy"))
    yield {"what": name, "images": count, "masks": masks} | measure(build, arrays, ranks, workers)


def stock(images: int, pool: list[Instance], ranks: int, workers: int) -> Iterator[dict[str, Any]]:
    build = partial(StockDataset, ann_file=(images, pool), pipeline=[Visit()])
    yield {"what": "stock", "images": images} | measure(build, 0, ranks, workers)


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    pool = ragged_instances(512)
    length = np.mean([len(i.rle) for i in pool]), np.mean([len(crop_of(i)) for i in pool])
    print(f"bytes a mask: code {length[0]:.0f}, confidence {length[1]:.0f}", flush=True)
    team = arguments.ranks, arguments.workers
    for make, images in ((flat, arguments.images), (stock, arguments.stock)):
        *_, few = make(FEW, pool, *team)
        yield few | {"grown_mb": 0.0, "images_s": ""}  # a few batches, made before anybody looked at the clock
        for many in make(images, pool, *team):
            if "above_mb" in many:
                many["grown_mb"] = many["above_mb"] - few["above_mb"]
            yield many
    times = arguments.images / arguments.stock
    growing = ("arrays_mb", "pss_mb", "anon_mb", "above_mb", "peak_mb", "open_s")
    full = {name: few[name] + (many[name] - few[name]) * times for name in growing}
    yield (
        few
        | full
        | {
            **{"what": f"stock, in proportion from {arguments.stock}", "images": arguments.images, "images_s": ""},
            **{"grown_mb": full["above_mb"] - few["above_mb"], "load": ""},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/loader_memory.csv")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--stock", type=int, default=100_000, help="images of the larger stock data set")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    with arguments.out.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        for row in rows(arguments):
            text = {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}
            print({name: text[name] for name in FIELDS if name in text}, flush=True)
            table.writerow(text)
            file.flush()


if __name__ == "__main__":
    main()
