"""Which thresholds, sizes and scores suit merged regions (recipe `hassod`), on photos with instance masks.

Quick, so that many can be tried: regions are merged and described once per photo, for all variants, and compared on
patches, without a CRF, with true masks at 240 × 240. Images are halved as in settle_constants.py, which also leaves the
features in its CACHE. A CSV line a variant: class-agnostic AP and AR100 with the variant's score, AP with a constant
one, and ratios to the first variant, each with a paired bootstrap interval of 95 % (1000 resamples, seed 0).

    python benchmarks/settle_regions.py PHOTOS TRUTH CACHE/features-DIGEST --half choosing VARIANT ...

VARIANT: overrides of `hassod`, for instance "hierarchy.thresholds=0.7,0.5,0.3 select.same_iou=1"; "none" for its
defaults; @FILE takes a variant from each of its lines, as in @benchmarks/variants_regions.txt.
"""

import argparse
import csv
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from photo_halves import HALVES, half_of
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.evaluation.average_precision import MAX_DETECTIONS, AveragePrecision, recall
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.matching import Found, Matches, Objects, match_overlaps
from pipeline.evaluation.truth.coco import Truth
from pipeline.methods.cuts.hierarchy_search import candidates, choose
from pipeline.methods.cuts.recipes import Recipe, get_recipe
from pipeline.models.load import feature_preset
from stages.hierarchy import HierarchyConfig
from stages.mask_parts import mask_parts
from stages.region_merging import merge_regions
from stages.score import ScoreParts, score_of

GRID = (60, 60)
SIDE = 240  # of true masks, four times that of the patches
SMALLEST = 3 / 3600  # a region of three patches is a hundred pixels in no photo of COCO
METRICS = ("own_AP", "own_AR100", "constant_AP")


@dataclasses.dataclass(frozen=True)
class Photo:
    """Candidates of all thresholds, M, and true objects, G.

    tau_M: threshold. masks_MN: bool. parts: of the score. corners_M: of the image that a mask holds. iou_MG.
    """

    tau_M: np.ndarray
    masks_MN: np.ndarray
    parts: list[ScoreParts]
    corners_M: np.ndarray
    iou_MG: np.ndarray


def photos_of(arguments: argparse.Namespace, taus: list[float], tau: float) -> Iterator[Photo]:
    """tau: of the affinity, which the score's uniqueness depends on."""
    truth = Truth.read(arguments.truth)
    for ref, coco_id in zip(*half_of(arguments.photos, truth, arguments.half), strict=True):
        objects = [one for one in truth.objects(coco_id) if not one["iscrowd"]]
        decoded = [coco_mask.decode(one["segmentation"]) * np.uint8(255) for one in objects]
        small = [np.asarray(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.BOX)) > 127 for mask in decoded]
        true_GP = np.array(small, bool).reshape(len(small), SIDE * SIDE).astype(np.float32)
        features_ND = np.load(arguments.features / f"{ref.id}.npy")
        round_M, masks_MN = candidates(merge_regions(features_ND, GRID, taus), SMALLEST)
        masks_MGG = masks_MN.reshape(-1, *GRID)
        fine_MP = masks_MGG.repeat(SIDE // GRID[0], 1).repeat(SIDE // GRID[1], 2).reshape(len(masks_MN), -1)
        shared_MG = fine_MP.astype(np.float32) @ true_GP.T
        union_MG = fine_MP.sum(axis=1)[:, None] + true_GP.sum(axis=1) - shared_MG
        yield Photo(
            np.array(taus)[round_M],
            masks_MN,
            mask_parts(torch.from_numpy(features_ND), None, masks_MGG, tau),
            masks_MGG[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(axis=1),
            shared_MG / np.maximum(union_MG, 1),
        )


def chosen(photo: Photo, recipe: Recipe, rules: HierarchyConfig, constant: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the masks of a photo that are kept, best first, and their IoUs with its objects."""
    areas_M = photo.masks_MN.mean(axis=1)
    own_M = np.flatnonzero(np.isin(photo.tau_M, rules.taus) & (areas_M > rules.min_area))
    parts, dropped = choose([photo.parts[k] for k in own_M], photo.masks_MN[own_M], recipe)
    kept = [i for i, k in enumerate(own_M) if dropped[i] is None and photo.corners_M[k] <= rules.max_corners]
    scores = np.array([1.0 if constant else score_of(parts[i], recipe.score) for i in kept])
    order = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    return scores[order], photo.iou_MG[own_M[kept]][order]


def matched(photos: list[Photo], recipe: Recipe, rules: HierarchyConfig, constant: bool) -> Matches:
    """Of objects of all sizes, so that areas do not matter."""
    scores, ious = zip(*(chosen(photo, recipe, rules, constant) for photo in photos), strict=True)
    masks, objects = (np.array([iou.shape[axis] for iou in ious]) for axis in (0, 1))
    no_G = np.zeros(objects.sum(), bool)
    found = Found(masks, np.concatenate(scores), np.zeros(masks.sum()))
    return match_overlaps(found, Objects(objects, np.zeros(len(no_G)), no_G, no_G), ious)["all"]


def sampled(photos: list[Photo], recipe: Recipe) -> tuple[dict[str, np.ndarray], float]:
    """Each metric, first of the photos and then of their resamples; and masks per image."""
    rules = recipe.search
    assert isinstance(rules, HierarchyConfig)
    own, constant = (matched(photos, recipe, rules, flat) for flat in (False, True))
    by_own, by_constant = AveragePrecision(own), AveragePrecision(constant)
    measures = {
        "own_AP": lambda weights: by_own(weights).mean(axis=0),
        "own_AR100": recall(own, MAX_DETECTIONS),
        "constant_AP": lambda weights: by_constant(weights).mean(axis=0),
    }
    weights = [np.ones((len(photos), 1)), *resamples(len(photos), 1000, seed=0)]
    masks = len(own.score_D) / len(photos)
    return {name: np.concatenate([measure(part) for part in weights]) for name, measure in measures.items()}, masks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
    )
    parser.add_argument("photos")
    parser.add_argument("truth")
    parser.add_argument("features", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--preset", default="dinov2_vits14")
    parser.add_argument("--half", choices=HALVES, default="choosing")
    arguments = parser.parse_args()

    preset = feature_preset(arguments.preset)[0]
    recipes = []
    for variant in arguments.variants:
        overrides = [] if variant == "none" else variant.split()
        recipe = get_recipe("hassod", [f"affinity.tau={preset.tau}", *overrides])
        assert isinstance(recipe.search, HierarchyConfig)
        assert preset.levels is not None
        recipes.append(dataclasses.replace(recipe, search=recipe.search.settled(preset.levels)))
    taus = sorted({tau for recipe in recipes for tau in recipe.search.taus}, reverse=True)  # type: ignore[union-attr]
    photos = list(photos_of(arguments, taus, float(preset.tau or 0)))
    writer = csv.writer(sys.stdout)
    ends = ("", "_ratio", "_ratio_low", "_ratio_high")
    columns = [f"{metric}{end}" for metric in METRICS for end in ends]
    writer.writerow(["half", "images", "features", "variant", "masks_per_image", *columns, "ratio_to"])
    first: dict[str, np.ndarray] = {}
    for variant, recipe in zip(arguments.variants, recipes, strict=True):
        values, masks = sampled(photos, recipe)
        first = first or values
        row = [arguments.half, len(photos), arguments.preset, variant, f"{masks:.1f}"]
        for metric in METRICS:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = values[metric] / first[metric]
            row += [f"{value:.4f}" for value in (values[metric][0], ratio[0], *interval(ratio[1:]))]
        writer.writerow([*row, arguments.variants[0]])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
