"""What `--set features.precision=` changes and saves on this CPU or GPU: processor time of the network, affinities that
flip, and how far masks are the same.

    python benchmarks/network_precision.py --images PHOTOS --count 6 --threads 1

Precisions take turns, photo by photo, in one process. A mask's IoU is that with the nearest of the other side; a photo
without masks on one side counts 0 for each of the other.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bench
import numpy as np
import torch
from bench_report import circumstances
from pycocotools import mask as coco_mask

from pipeline.errors import CutsError
from pipeline.images.photos import Photo, load_photo
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from pipeline.methods.registry import load_method
from pipeline.runs.launch import Launch
from pipeline.storage.atomic import written_whole
from stages.affinity import affinity_edges

RESULTS = Path(__file__).parent / "results" / "network_precision.csv"
PRECISIONS = ("float32", "bfloat16", "float16")  # the first is what the others are held against


@dataclass(frozen=True)
class Seen:
    """Of a photo.

    seconds: of the network, processor time of all threads on a CPU, of the clock on a GPU.
    masks: RLE.
    """

    seconds: float
    features_ND: torch.Tensor
    edges_NN: torch.Tensor
    masks: list[dict[str, object]]


def see(method: CutsMethod, photo: Photo) -> Seen:
    on_gpu = method.device.type == "cuda"
    seconds: defaultdict[str, float] = defaultdict(float)
    with torch.inference_mode():
        work = BatchWork(method, [photo], [0], {}, seconds)
        start = time.process_time()
        features_BND = work.features_BND
        took = seconds["features"] if on_gpu else time.process_time() - start
        (record,) = work.outputs(None)
        edges_NN = affinity_edges(features_BND, method.recipe.affinity)[0]
    masks = [{"size": list(record.size), "counts": instance.rle} for instance in record.instances]
    return Seen(took, features_BND[0].float(), edges_NN, masks)


def nearest_ious(ours: Sequence[object], theirs: Sequence[object]) -> list[float]:
    """Of each of our masks the IoU with the nearest of theirs."""
    if not ours or not theirs:
        return [0.0] * len(ours)
    found: list[float] = coco_mask.iou(list(ours), list(theirs), [0] * len(theirs)).max(axis=1).tolist()
    return found


def row_of(precision: str, seen: Sequence[Seen], exact: Sequence[Seen]) -> dict[str, str]:
    ious = [iou for a, b in zip(exact, seen, strict=True) for iou in nearest_ious(a.masks, b.masks)]
    cosines = torch.cat(
        [torch.nn.functional.cosine_similarity(a.features_ND, b.features_ND) for a, b in zip(exact, seen, strict=True)]
    )
    flips = np.mean([(a.edges_NN != b.edges_NN).float().mean().item() for a, b in zip(exact, seen, strict=True)])
    took, before = (sum(photo.seconds for photo in some) / len(some) for some in (seen, exact))
    return {
        "precision": precision,
        "s_an_image": f"{took:.3f}",
        "times_as_fast": f"{before / took:.2f}",
        "least_cosine": f"{cosines.min():.5f}",
        "flipped": f"{flips:.2e}",
        "masks": str(sum(len(photo.masks) for photo in seen)),
        "mean_iou": f"{np.mean(ious) if ious else np.nan:.4f}",
        "equal": f"{np.mean(np.array(ious) == 1) if ious else np.nan:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.input_arguments(parser, count=6)
    parser.add_argument("--device", default="cpu", help="[cpu]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV")
    arguments = parser.parse_args()
    settings = {"features": arguments.features, "depth": arguments.depth}
    try:
        threads = bench.keep_to(arguments.threads)
        torch.set_num_threads(threads)
        launches = [Launch(settings=settings, overrides=(f"features.precision={name}",)) for name in PRECISIONS]
        methods = [load_method(launch, arguments.device) for launch in launches]
        with tempfile.TemporaryDirectory() as folder:
            photos = [load_photo(ref) for ref in bench.photos_of(arguments.images, arguments.count, Path(folder))]
    except CutsError as error:
        sys.exit(f"network_precision: {error}")
    about = circumstances(threads)
    own = {"photos": str(len(photos)), "threads": str(threads), "commit": about["commit"] or ""}
    own |= {"machine": about["machine"]["gpu"] if arguments.device.startswith("cuda") else about["machine"]["cpu"]}
    for method in methods:
        see(method, photos[0])  # kernels are loaded with the first
    seen = [[see(method, photo) for method in methods] for photo in photos]
    exact = [of_photo[0] for of_photo in seen]
    rows = [row_of(name, [of_photo[i] for of_photo in seen], exact) | own for i, name in enumerate(PRECISIONS)]
    with written_whole(arguments.out) as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items() if name not in own))


if __name__ == "__main__":
    main()
