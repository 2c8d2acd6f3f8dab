"""Bytes that maps of instances take per image, stored in several ways, beside those of the labels.

Maps are the true ones of Cityscapes (instanceIds): 2 to 50 instances of 1024 x 2048 pixels, more and finer than motion
finds. `half` is every second row and column, as labels of CUPS are made. Row by row: what is stored and how, bytes per
image.

    python benchmarks/panoptic_bytes.py FOLDER [--out results/panoptic_bytes.csv]     # below it *_instanceIds.png
"""

import argparse
import csv
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numcodecs import Zstd
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_file import write_shard
from pipeline.results.semantic import NONE, Classes
from pipeline.results.semantic_codes import encoded
from pipeline.results.semantic_file import write_shard as write_labels

FIRST, CLASSES, PER_CLASS = 7, 27, 1000  # Cityscapes' ids of classes that are labelled, and of instances

Map = tuple[np.ndarray, np.ndarray]
"""Labels uint8 (H, W) and ids of instances int64 (H, W)."""


def read(file: Path, step: int) -> Map:
    """The map of a file, every `step`th row and column."""
    values = np.asarray(Image.open(file)).astype(np.int64)[::step, ::step]
    classes = np.where(values >= PER_CLASS, values // PER_CLASS, values)
    has_class = (classes >= FIRST) & (classes < FIRST + CLASSES)
    instances = np.where(has_class & (values >= PER_CLASS), values, 0)
    ids = np.searchsorted(np.unique([0, *np.unique(instances)]), instances)
    return np.where(has_class, classes - FIRST, NONE).astype(np.uint8), ids


def rles(ids: np.ndarray) -> bytes:
    masks = np.asfortranarray(ids[..., None] == np.arange(1, ids.max() + 1), np.uint8)
    return b"".join(one["counts"] for one in coco_mask.encode(masks))


def png(ids: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(ids.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


CODES: dict[str, Callable[[np.ndarray], bytes]] = {
    "ours, 8 bits": lambda ids: encoded(ids.astype(np.uint8)),
    "ours, 16 bits": lambda ids: encoded(ids.astype(np.uint16)),
    "png, 16 bits": png,
    "zlib, 8 bits": lambda ids: zlib.compress(ids.astype(np.uint8)),
    "zstd, 8 bits": lambda ids: Zstd(level=5).encode(ids.astype(np.uint8)),
    "COCO run lengths, an instance each": rles,
    "the same, and zstd": lambda ids: Zstd(level=5).encode(rles(ids)),
}


def lines(maps: list[Map]) -> Iterator[tuple[str, str, float]]:
    """Rows of the table for one size of map."""
    yield "labels", "ours, 8 bits", float(np.mean([len(encoded(labels)) for labels, _ in maps]))
    for how, pack in CODES.items():
        yield "instances", how, float(np.mean([len(pack(ids)) for _, ids in maps]))
    classes = Classes.clusters(CLASSES)
    sure = np.ones((1, 1), np.float32)
    records = [
        PanopticRecord.of(str(i), labels, sure, ids, [1.0] * int(ids.max()), classes)
        for i, (labels, ids) in enumerate(maps)
    ]
    yield "a shard's file", f"of {len(maps)} images", len(write_shard(records, classes, None, {})) / len(maps)
    alone = write_labels([record.semantic for record in records], classes, {})
    yield "a shard's file", "of their labels alone", len(alone) / len(maps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "panoptic_bytes.csv")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.rglob("*_instanceIds.png"))
    with arguments.out.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["images", "instances", "height", "width", "what", "how", "bytes"])
        for step in (1, 2):
            maps = [read(path, step) for path in files]
            instances = float(np.mean([ids.max() for _, ids in maps]))
            for what, how, size in lines(maps):
                row = [len(files), f"{instances:.1f}", *maps[0][0].shape, what, how, round(size)]
                out.writerow(row)
                print(*row, sep="\t")


if __name__ == "__main__":
    main()
