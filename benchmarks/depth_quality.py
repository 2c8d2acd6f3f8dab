"""What depth quality buys: the rows of the paper's ablation table on rendered scenes whose depth is known exactly.

Scenes (tests/support/rendered_scenes.py): boxes, spheres, cylinders, cones and tori in two groups on a floor, each
group of one class, its objects overlapping in the image and GAPS apart in depth. Depth is exact or made worse: blurred,
as a network's soft edges, or with noise, half of it smooth over the image, half from patch to patch. No network runs:
features are one unit vector for each class and one for floor and wall, plus noise. So objects of one class look the
same and depth alone can tell them apart.

Every row sees the same scenes, features and draws of noise. Two things are set for all recipes: τ = 0.3, since cosines
are 0.50 ± 0.12 within a class and 0 ± 0.15 between classes; and no CRF, since flat colours would only test the CRF.
Rounds give three masks at most and cuts3d gives ten, so each is also run with as many as the other; and cuts3d looks at
lower thresholds in 3D too, so rounds are also run with τ_knn halved.

    python benchmarks/depth_quality.py --scenes 36 --out benchmarks/results/depth_quality.csv

A CSV line a depth condition and recipe: figures of `cuts3d evaluate` with their 95 % bootstrap intervals over the
scenes, and what it gains over another line (VARIANTS). 17 minutes on one core.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from pycocotools import mask as coco_mask

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from settle_constants import Kept
from support.rendered_scenes import Scene, features_ND, place_groups, render_objects

from pipeline.evaluation.scores import Estimate, compare, evaluate
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.photos import Photo
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from pipeline.methods.cuts.recipes import Recipe, get_recipe
from stages.depth import to_grid

RESULTS = Path(__file__).parent / "results" / "depth_quality.csv"
GRID = (60, 60)
SIZE = 480
GAPS = (0.02, 0.05, 0.1)
FEATURE_NOISE = 0.177  # of each of 32 dimensions: as long as the class's vector, so cosines within a class are 0.5
SETTINGS = ("affinity.tau=0.3", "refine.crf=none", f"refine.size={SIZE}")
# Each with the variant that its gains are over.
VARIANTS = {
    "maskcut": "maskcut",
    "localcut": "maskcut",
    "localcut_importance": "localcut",
    "cuts3d_rounds": "localcut_importance",
    "cuts3d select.masks=3": "cuts3d_rounds",
    "cuts3d_rounds rounds.n=10": "cuts3d_rounds",
    "cuts3d_rounds rounds.n=10 local_cut.tau_knn=0.03": "cuts3d_rounds rounds.n=10",
    "cuts3d": "cuts3d_rounds rounds.n=10",
}
Found = list[dict[str, Any]]


@dataclass(frozen=True)
class Condition:
    """blur: sigma of a Gaussian, in patches. noise: standard deviation of its smooth part and of its fine part, each,
    as a share of the depth range.
    """

    blur: float = 0.0
    noise: float = 0.0

    def __str__(self) -> str:
        parts = [f"blur {self.blur:g}"] * (self.blur > 0) + [f"noise {self.noise:g}"] * (self.noise > 0)
        return " + ".join(parts) or "exact"


CONDITIONS = (
    Condition(), Condition(blur=1.0), Condition(blur=2.0),
    Condition(noise=0.01), Condition(noise=0.02), Condition(blur=1.0, noise=0.01),
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A scene with its features, (N, D) float32. gap: in depth, between neighbours in a group."""

    id: int
    gap: float
    scene: Scene
    features: np.ndarray


def examples(n: int, seed: int) -> Iterator[Example]:
    """n scenes, the gaps in turn."""
    for i in range(n):
        gap = GAPS[i % len(GAPS)]
        scene = render_objects(place_groups(gap, seed + i), SIZE, floor=True)
        yield Example(i, gap, scene, features_ND(scene, GRID, FEATURE_NOISE, seed=seed + i))


def worsened(depth_HW: np.ndarray, condition: Condition, seed: int) -> np.ndarray:
    """Depth as a monocular network might give it, (Gh, Gw) float32 in 0..1. Noise of one seed is the same but for its
    strength.
    """
    rng = np.random.default_rng(seed)
    patch = SIZE / GRID[0]
    fields = []
    for sigma in (SIZE / 8, patch / 2):
        field_HW = scipy.ndimage.gaussian_filter(rng.standard_normal(depth_HW.shape), sigma, mode="wrap")
        fields.append(field_HW / field_HW.std())
    blurred_HW = scipy.ndimage.gaussian_filter(depth_HW, condition.blur * patch, mode="nearest")
    return to_grid([(blurred_HW + condition.noise * sum(fields)).astype(np.float32)], *GRID)[0].numpy()


def truth_of(scenes: Sequence[Example]) -> Truth:
    """Every object that is visible, as COCO has it; categories are the classes."""
    annotations = []
    for example in scenes:
        for number, placed in enumerate(example.scene.objects, start=1):
            mask_HW = np.asfortranarray(example.scene.instances == number)
            if mask_HW.any():
                rle = coco_mask.encode(mask_HW)
                annotations.append({
                    "image_id": example.id, "category_id": placed.class_id + 1, "segmentation": rle,
                    "bbox": coco_mask.toBbox(rle).tolist(), "area": float(coco_mask.area(rle)),
                })  # fmt: skip
    images = [{"id": example.id, "file_name": str(example.id), "height": SIZE, "width": SIZE} for example in scenes]
    return Truth({"images": images, "annotations": annotations}, "the rendered scenes")


def detections(example: Example, depth: np.ndarray, recipe: Recipe) -> Found:
    """The recipe's masks as COCO results, best first, by the code that a run uses."""
    kept: Any = {"features": Kept(example.features), "depth": Kept(depth)}
    models: Any = SimpleNamespace(grid=GRID)
    method = CutsMethod(recipe, models, models, torch.device("cpu"))
    with torch.inference_mode():
        work = BatchWork(method, [Photo(str(example.id), example.scene.rgb)], [0], kept, defaultdict(float))
        record = work.records[0]
    masks = [(own.score, {"size": list(record.size), "counts": own.rle}) for own in record.instances]
    return [{"image_id": example.id, "score": score, "segmentation": mask} for score, mask in masks]


def all_detections(scenes: Sequence[Example], variant: str, condition: Condition, seed: int) -> Found:
    """Of a recipe with options, "recipe option=value ...", in all scenes."""
    name, *overrides = variant.split()
    recipe = get_recipe(name, [*SETTINGS, *overrides])
    depths = [worsened(example.scene.depth, condition, seed + example.id) for example in scenes]
    return [mask for pair in zip(scenes, depths, strict=True) for mask in detections(*pair, recipe)]


def estimates(scenes: Sequence[Example], truth: Truth, found: Found, other: Found, n: int) -> dict[str, Estimate]:
    """The figures of a line by their column. other: what the line found that the gains are over. n: resamples."""
    ids = [example.id for example in scenes]
    both = compare(truth, found, other, ids, iou_types=("segm",), bootstrap=n)
    columns = {"AP_own": both.first.metrics["mask_AP"]}
    constant = evaluate(truth, found, ids, scores="constant", iou_types=("segm",), bootstrap=n)
    columns["AP_constant"] = constant.metrics["mask_AP"]
    for name in ("mask_AR100", "object_best_iou", "masks_per_image", "pairs_separated"):
        columns[name] = both.first.metrics[name]
    for gap in GAPS:
        with_gap = [example.id for example in scenes if example.gap == gap]
        of_gap = evaluate(truth, found, with_gap, iou_types=("segm",), bootstrap=n)
        columns[f"pairs_separated_{gap:g}"] = of_gap.metrics["pairs_separated"]
    for name, metric in (("AP_own", "mask_AP"), ("AR100", "mask_AR100"), ("pairs_separated", "pairs_separated")):
        columns[f"{name}_gain"] = both.difference[metric]
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    scenes = list(examples(arguments.scenes, arguments.seed))
    truth = truth_of(scenes)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for condition in CONDITIONS:
            found: dict[str, Found] = {}
            for variant, other in VARIANTS.items():
                found[variant] = all_detections(scenes, variant, condition, arguments.seed)
                columns = estimates(scenes, truth, found[variant], found[other], arguments.bootstrap)
                if file.tell() == 0:
                    ends = [column + end for column in columns for end in ("", "_low", "_high")]
                    writer.writerow(["depth", "variant", "scenes", "seed", *ends, "gain_over"])
                values = [f"{value:.4f}" for e in columns.values() for value in (e.value, e.low, e.high)]
                writer.writerow([condition, variant, len(scenes), arguments.seed, *values, other])
                print(condition, variant, {column: round(e.value, 3) for column, e in columns.items()}, flush=True)


if __name__ == "__main__":
    main()
