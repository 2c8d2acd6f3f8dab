"""How fast a large COCO file becomes a run, and what memory that takes.

A file in CutLER's form is made up: images "wnid/name.JPEG" with width and height swapped, 2.3 masks each on average, of
discs that lie on random rectangles, as compressed run-length codes. The photos are links to those of a folder.

    python benchmarks/import_coco.py --photos FOLDER --images 1000 10000 100000

A CSV line a size. wall_s and cpu_s are of `pipeline.commands.import_coco.import_coco` in a process of its own;
of these, index_cpu_s is the walk over the file before the first shard. peak_mb: resident memory of that process at its
highest, less what it has when everything is imported and nothing done (base_mb). load: processes that wanted a core
meanwhile.
"""

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.commands import import_coco
from pipeline.images.coco import CocoIndex
from pipeline.runs.run_folder import RunFolder
from pipeline.storage import json_lists

RESULTS = Path(__file__).parent / "results" / "import_coco.csv"
SHAPES = 200  # made-up masks that a photo's annotations are drawn from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for n in options.images:
        with tempfile.TemporaryDirectory() as folder:
            masks = make_up(Path(folder), options.photos, n)
            rows.append({"images": n, "masks": masks, **measured(Path(folder))})
        print(rows[-1], flush=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make_up(folder: Path, photos: Path, n: int) -> int:
    """A data set of n images; returns its number of masks."""
    rng = np.random.default_rng(0)
    found = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    sizes = [Image.open(path).size for path in found]
    shapes = [[shape(rng, height, width) for _ in range(max(3, SHAPES // len(found)))] for width, height in sizes]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(n):
        which = int(rng.integers(len(found)))
        name = f"n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG"
        link = folder / "photos" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(found[which].resolve())
        width, height = sizes[which]
        images.append({"id": i + 1, "file_name": name, "height": width, "width": height})
        chosen = rng.choice(len(shapes[which]), int(rng.choice([1, 2, 3], p=[0.2, 0.3, 0.5])), replace=False)
        for rle in (shapes[which][k] for k in chosen):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0, "segmentation": rle}
            )
    document = {"info": {}, "licenses": [], "categories": [{"id": 1, "name": "fg"}]}
    (folder / "pseudo.json").write_text(json.dumps({**document, "images": images, "annotations": annotations}))
    return len(annotations)


def shape(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    rows, columns = np.ogrid[:height, :width]
    y, x = rng.uniform(0.2, 0.8, 2) * (height, width)
    radius = rng.uniform(0.1, 0.4) * min(height, width)
    mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    top, left = (rng.uniform(0, 0.6, 2) * (height, width)).astype(int)
    mask[top : top + height // 4, left : left + width // 3] = True
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def measured(folder: Path) -> dict[str, Any]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=import_and_tell, args=(folder, sender))
    process.start()
    found: dict[str, Any] = receiver.recv()
    process.join()
    run = RunFolder.open(folder / "run")
    assert run.is_complete()
    stored = sum(file.stat().st_size for file in (folder / "run" / "shards").iterdir())
    shutil.rmtree(folder / "run")
    return {
        **found,
        "json_mb": round((folder / "pseudo.json").stat().st_size / 1e6, 1),
        "store_mb": round(stored / 1e6, 1),
    }


def import_and_tell(folder: Path, sender: Any) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    base = highest_mb()
    started, cpu = time.perf_counter(), time.process_time()
    with json_lists.open_lists(str(folder / "pseudo.json")) as lists:
        CocoIndex(lists)
    index_cpu = time.process_time() - cpu
    started, cpu = time.perf_counter(), time.process_time()
    import_coco.import_coco(str(folder / "pseudo.json"), folder / "run", str(folder / "photos"))
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = highest_mb()
    n = RunFolder.open(folder / "run").n_images
    sender.send(
        {
            "wall_s": round(wall, 1),
            "cpu_s": round(cpu, 1),
            "index_cpu_s": round(index_cpu, 2),
            "images_per_cpu_s": round(n / cpu),
            "base_mb": round(base),
            "peak_mb": round(peak - base),
            "load": round(os.getloadavg()[0], 1),
        }
    )


def highest_mb() -> float:
    """Resident memory of this process at its highest."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    main()
