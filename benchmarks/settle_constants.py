"""Which constants give the best pseudo-masks, on photos with instance masks.

Every variant is a recipe with overrides. Images are halved by id, even ranks for choosing, odd ones for reporting, so
that a choice is never reported on the photos that it was made on. Features and depth are computed once and kept in
CACHE. A CSV line a variant: class-agnostic mask AP, AP50, AR100 with the recipe's own score and with constant scores,
masks an image, share of objects found and of touching same-class pairs told apart (see `cuts3d evaluate`).

    python benchmarks/settle_constants.py PHOTOS TRUTH CACHE --depth MODEL --half choosing VARIANT ...

VARIANT: "recipe option=value option=value", for instance "cuts3d sharpen.direction=suppressing local_cut.pieces=all".
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.batch_work import BatchWork, Method
from pipeline.coco_truth import Truth
from pipeline.evaluation import score_detections
from pipeline.images import load_photo
from pipeline.manifest import ImageRef
from pipeline.models import feature_preset, load_depth, load_features
from pipeline.recipes import get_recipe
from pipeline.sources import list_images

COLUMNS = ("mask_AP", "mask_AP50", "mask_AR100", "objects_found", "pairs_separated", "pairs_apart", "masks_per_image")


class Kept:
    """One image's features and depth in the place of a stage's kept output."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def covers(self, positions: list[int]) -> bool:
        return True

    def maps(self, positions: list[int]) -> np.ndarray:
        return self.values[None]


def cached(ref: ImageRef, folder: Path, method: Method) -> dict[str, Kept]:
    """Features and depth of a photo, from the cache or into it."""
    file = folder / f"{method.features.fingerprint[:12]}-{method.depth.fingerprint[:12]}" / f"{ref.id}.npz"
    if not file.is_file():
        work: Any = BatchWork(method, [load_photo(ref)], [0], {}, defaultdict(float))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, features=work.outputs("features")[0], depth=work.outputs("depth")[0])
    arrays = np.load(file)
    return {stage: Kept(arrays[stage]) for stage in ("features", "depth")}


def detections(ref: ImageRef, coco_id: int, folder: Path, method: Method) -> list[dict[str, Any]]:
    """The pseudo-masks of an image as COCO results."""
    work = BatchWork(method, [load_photo(ref)], [0], cached(ref, folder, method), defaultdict(float))  # type: ignore[arg-type]
    with torch.inference_mode():
        record = work.records[0]
    return [
        {
            "image_id": coco_id,
            "category_id": 1,
            "segmentation": {"size": list(record.size), "counts": instance.rle},
            "score": instance.score,
        }
        for instance in record.instances
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("truth")
    parser.add_argument("cache", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--features", default="dinov2_vits14")
    parser.add_argument("--depth", default="fastdepth")
    parser.add_argument("--half", choices=["choosing", "reporting"], default="choosing")
    arguments = parser.parse_args()

    truth = Truth.read(arguments.truth)
    ids = {Path(image["file_name"]).name: image["id"] for image in truth.images.values()}
    refs = [ref for ref in list_images(arguments.photos).refs if Path(ref.id).name in ids]
    refs = refs[0::2] if arguments.half == "choosing" else refs[1::2]
    image_ids = [ids[Path(ref.id).name] for ref in refs]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor, depth = load_features(arguments.features, device), load_depth(arguments.depth, device)
    tau = feature_preset(arguments.features)[0].tau

    writer = csv.writer(sys.stdout)
    writer.writerow(["half", "images", "variant", *(f"{s}_{c}" for s in ("own", "constant") for c in COLUMNS)])
    for variant in arguments.variants:
        name, *overrides = variant.split()
        recipe = get_recipe(name, [f"affinity.tau={tau}", *overrides])
        method = Method(recipe, extractor, depth, device)
        found = [
            detection
            for ref, coco_id in zip(refs, image_ids, strict=True)
            for detection in detections(ref, coco_id, arguments.cache, method)
        ]
        values = []
        for scores in ("own", "constant"):
            measured = score_detections(truth, found, image_ids, scores=scores)
            values += [f"{measured[column]:.4f}" for column in COLUMNS]
        writer.writerow([arguments.half, len(refs), variant, *values])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
