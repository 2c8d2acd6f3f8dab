"""Which constants give the best pseudo-masks, on photos with instance masks.

Every variant is a recipe with overrides. Images are halved by id, even ranks for choosing, odd ones for reporting, so
that a choice is never reported on the photos that it was made on; with --count and --skip, COUNT of a half are taken,
after the first SKIP. Features and depth are computed once and kept in CACHE. A CSV line a variant: class-agnostic mask
AP, AP50, AR100 and so on (see `cuts3d evaluate`) with the recipe's own score and with constant scores, and ratios to
the first variant, each with a paired bootstrap interval of 95 %.

    python benchmarks/settle_constants.py PHOTOS TRUTH CACHE --depth MODEL --half choosing VARIANT ...

VARIANT: "recipe option=value option=value", for instance "cuts3d tree.depth=3 affinity.tau=0.2"; @FILE takes a variant
from each of its lines, as in @benchmarks/variants.txt. Options of the features begin with "features.".
"""

import argparse
import csv
import multiprocessing
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photo_halves import HALVES, coco_results, half_of

from pipeline.evaluation.scores import compare
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from pipeline.methods.cuts.recipes import get_recipe
from pipeline.methods.cuts.settings import with_thresholds
from pipeline.methods.overrides import parse_overrides
from pipeline.models.load import feature_preset, load_depth, load_features
from stages.features import FeatureConfig

METRICS = ("mask_AP", "mask_AP50", "mask_AR100", "objects_found", "pairs_separated", "pairs_apart", "masks_per_image")
RATIOS = (("own", "mask_AP"), ("constant", "mask_AP"), ("own", "mask_AR100"))


class Kept:
    """One image's features or depth in the place of a stage's kept output."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def covers(self, positions: list[int]) -> bool:
        return True

    def maps(self, positions: list[int]) -> np.ndarray:
        return self.values[None]

    def depth_filled(self, positions: list[int]) -> list[float]:
        return [0.0]


@cache
def models(features: str, options: tuple[str, ...], depth: str) -> tuple[Any, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_features(features, device, parse_overrides(FeatureConfig, options)), load_depth(depth, device)


def method_of(variant: str, features: str, depth: str) -> CutsMethod:
    """The method of a variant; thresholds are the preset's unless the variant gives others."""
    name, *options = variant.split()
    of_features = tuple(option.removeprefix("features.") for option in options if option.startswith("features."))
    overrides = [option for option in options if not option.startswith("features.")]
    read = parse_overrides(FeatureConfig, of_features)
    extractor, estimator = models(features, of_features, depth)
    recipe = with_thresholds(get_recipe(name, overrides), feature_preset(features)[0].reading(**read), features, read)
    return CutsMethod(recipe, extractor, estimator, extractor.device)


def cached(ref: ImageRef, folder: Path, method: CutsMethod) -> dict[str, Any]:
    """Features and depth of a photo, from the cache or into it."""
    assert method.depth is not None
    parts = {"features": method.features.fingerprint, "depth": method.depth.fingerprint}
    kept = {}
    for stage, fingerprint in parts.items():
        file = folder / f"{stage}-{fingerprint[:12]}" / f"{ref.id}.npy"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            work = BatchWork(method, [load_photo(ref)], [0], {}, defaultdict(float))
            np.save(file, work.outputs(stage)[0])  # type: ignore[arg-type]
        kept[stage] = Kept(np.load(file))
    return kept


def detections(task: tuple[str, str, str, ImageRef, int, Path]) -> list[dict[str, Any]]:
    """The pseudo-masks of an image as COCO results."""
    variant, features, depth, ref, coco_id, folder = task
    torch.set_num_threads(1)
    method = method_of(variant, features, depth)
    work = BatchWork(method, [load_photo(ref)], [0], cached(ref, folder, method), defaultdict(float))
    with torch.inference_mode():
        record = work.records[0]
    return coco_results(record, coco_id)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
    )
    parser.add_argument("photos")
    parser.add_argument("truth")
    parser.add_argument("cache", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--features", default="dinov2_vits14")
    parser.add_argument("--depth", default="fastdepth")
    parser.add_argument("--half", choices=HALVES, default="choosing")
    parser.add_argument("--count", type=int)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bootstrap", type=int, default=1000)
    arguments = parser.parse_args()

    truth = Truth.read(arguments.truth)
    chosen = slice(arguments.skip, None if arguments.count is None else arguments.skip + arguments.count)
    refs, image_ids = (own[chosen] for own in half_of(arguments.photos, truth, arguments.half))

    writer = csv.writer(sys.stdout)
    columns = [f"{scores}_{metric}" for scores in ("own", "constant") for metric in METRICS]
    ratios = [f"{scores}_{metric}_ratio{end}" for scores, metric in RATIOS for end in ("", "_low", "_high")]
    writer.writerow(["half", "images", "features", "depth", "variant", *columns, *ratios, "ratio_to"])
    first: list[dict[str, Any]] | None = None
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for variant in arguments.variants:
            tasks = [
                (variant, arguments.features, arguments.depth, ref, coco_id, arguments.cache)
                for ref, coco_id in zip(refs, image_ids, strict=True)
            ]
            found = [detection for image in pool.imap(detections, tasks) for detection in image]
            first = found if first is None else first
            compared = {
                scores: compare(
                    truth, found, first, image_ids, scores=scores, iou_types=["segm"], bootstrap=arguments.bootstrap
                )
                for scores in ("own", "constant")
            }
            values = [compared[s].first.metrics[metric].value for s in ("own", "constant") for metric in METRICS]
            estimates = [compared[scores].ratio[metric] for scores, metric in RATIOS]
            values += [value for e in estimates for value in (e.value, e.low, e.high)]
            names = [Path(arguments.features.rpartition("=")[2]).stem, Path(arguments.depth).stem]
            row = [arguments.half, len(refs), *names, variant, *(f"{value:.4f}" for value in values)]
            writer.writerow([*row, arguments.variants[0]])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
