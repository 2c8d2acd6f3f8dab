"""What training without labels and with depth is worth here: `kmeans` of raw features, `stego` and `depthg`, equal steps.

    nice python benchmarks/semantic_proof.py ../shared/assets WORK --features DINOV2 --depth PYDNET

Trained on the photos with instance masks that are for choosing (`photo_halves.py`) and on the ImageNet photos, whole,
without a label. Scored, each with its own assignment of clusters to classes, found on the very images as the protocol
has it, on the photos for reporting (12 thing classes, everything else ignored; the square in the middle, as papers do)
and on the frames of Cityscapes and KITTI (27 classes, whole). Labels are those of `cuts3d run --recipe depthg`, without
mirror images and CRF unless --label says otherwise.

All variants see the same batches: a seed draws the crops, their neighbours and the initial head. Schedules that are
published for 2333 batches are shortened with the number of iterations.

Inputs, models and labels in WORK are kept: what was begun resumes, and a variant or seed that is new is added.
A row per data, variant and metric: the mean over seeds, its 95 % interval over resamples of the images (1000, seed 0),
each seed, their standard deviation, and what it is above `kmeans` and `stego`, paired by image and seed.
"""

import argparse
import csv
import os
import pickle
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from photo_halves import HALVES, half_of

from pipeline.engine.run import run
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.semantic_scores import ByClass, Confusions, find_assignment
from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.methods.depthg.checkpoint import FILE, read_model
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.inputs_load import load_inputs_method
from pipeline.methods.depthg.inputs_settings import NAME as INPUTS
from pipeline.methods.depthg.load import load_labels
from pipeline.methods.depthg.training import SemanticTraining, train
from pipeline.methods.depthg.training_recipes import SemanticRecipe, get_recipe
from pipeline.methods.protocol import Batch, SharedOutputs
from pipeline.models.load import loaded_once
from pipeline.runs.launch import Launch

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "kmeans": ("kmeans", ()),
    "stego": ("stego", ()),
    "depthg": ("depthg", ()),
    "depthg, distance": ("depthg", ("objective.depth_similarity=distance",)),
    "depthg_released": ("depthg_released", ()),
    "depthg_base": ("depthg_base", ()),
}
DATA = ("coco-things", "cityscapes", "kitti")
METRICS = ("miou", "accuracy")
PUBLISHED_STEPS = 2333  # for which DepthG's schedules are
BOOTSTRAP, SEED = 1000, 0
COLUMNS = (
    *("data", "images", "variant", "metric", "mean", "low", "high", "seeds", "seeds_sd"),
    *("above_kmeans", "above_kmeans_low", "above_kmeans_high", "above_stego", "above_stego_low", "above_stego_high"),
)


@dataclass(frozen=True)
class Proof:
    """assets, work: folders. Others: as the command line names them."""

    assets: Path
    work: Path
    features: str
    depth: str
    half: str
    clusters: int
    iterations: int
    batch_size: int
    label: tuple[str, ...]

    @cached_property
    def _truth(self) -> Truth:
        return Truth.read(str(self.assets / "coco" / "instances.json"))

    def coco(self, half: str) -> list[ImageRef]:
        return half_of(str(self.assets / "coco" / "images"), self._truth, half)[0]  # type: ignore[arg-type]

    @cached_property
    def inputs(self) -> TrainingInputs:
        """Of the photos to train on; made when first asked for."""
        listed = self.work / "photos.txt"
        refs = [*self.coco("choosing"), *list_images(str(self.assets / "imagenet")).refs]
        listed.write_text("".join(f"{ref.uri}\n" for ref in refs))
        settings = {"features": self.features, "depth": self.depth}
        launch = Launch(str(listed), recipe=INPUTS, settings=settings, overrides=("crops.layout=whole",), shard_size=10)
        manifest = Manifest(list_images(str(listed)).refs, 10)
        run(self.work / "inputs", launch, method=load_inputs_method(launch, "cpu"), manifest=manifest)
        return TrainingInputs.open(self.work / "inputs")

    def recipe(self, variant: str) -> SemanticRecipe:
        name, overrides = VARIANTS[variant]
        if name == "kmeans":
            return get_recipe(name, clusters=self.clusters)
        share = self.iterations / PUBLISHED_STEPS
        objective = get_recipe(name).objective
        assert objective is not None
        shortened = [
            f"objective.{option}={max(round(getattr(objective, option) * share), 1)}"
            for option in ("depth_decay_every", "samples_decay_every")
        ]
        batch = f"training.batch_size={self.batch_size}"
        return get_recipe(name, (*overrides, *shortened, batch), clusters=self.clusters, iterations=self.iterations)

    def model(self, variant: str, seed: int) -> Path:
        """Trained, unless it is there."""
        out = self.work / "models" / f"{variant.replace(', ', '_')}-{seed}"
        if not (out / FILE).exists():
            train(SemanticTraining(self.recipe(variant), out, self.features, seed, None, device="cpu"), self.inputs)
        return out / FILE

    def images(self, data: str) -> tuple[list[ImageRef], str]:
        """Whose labels are scored, and the truth."""
        street = self.assets / "street"
        if data == "coco-things":
            return self.coco(self.half), f"coco-things:{self.assets / 'coco' / 'instances.json'}"
        if data == "cityscapes":
            found = list_images(str(street / "cityscapes" / "train_img")).refs
            return found, f"cityscapes:{street / 'cityscapes' / 'train_label'}"
        found = list_images(str(street / "kitti_semantics" / "image_2")).refs
        return found, f"kitti-semantics:{street / 'kitti_semantics' / 'semantic'}"

    def scores(self, data: str, variants: Sequence[str], seed: int) -> list[ByClass]:
        """Of the variants' models of a seed, image by image."""
        kept = self.work / f"labels-{data}-{self.half}-{seed}.pickle"
        found: dict[str, Confusions] = pickle.loads(kept.read_bytes()) if kept.exists() else {}
        refs, name = self.images(data)
        truth = read_semantic_truth(name, None)
        if missing := [variant for variant in variants if variant not in found]:
            with loaded_once():
                methods = [
                    load_labels(Launch(recipe="depthg", overrides=(f"depthg.checkpoint={path}", *self.label)), "cpu")
                    for path in (self.model(variant, seed) for variant in missing)
                ]
            confusions = [Confusions(self.clusters) for _ in missing]
            numbers = truth.matched(refs)
            for ref in refs:
                number, photo = numbers[ref.id], load_photo(ref)
                assert number is not None
                true_HW = truth.labels(number, ref, photo.rgb.shape[:2]).labels
                if data == "coco-things":
                    photo, true_HW = replace(photo, rgb=middle(photo.rgb)), middle(true_HW)
                shared = SharedOutputs()  # the features of all
                for method, own in zip(methods, confusions, strict=True):
                    with torch.inference_mode():
                        batch = Batch(None, [0], [photo], seconds=defaultdict(float), shared=shared)
                        (record,) = method.outputs(batch)
                    own.add(record.labels, np.ascontiguousarray(true_HW))
            found |= dict(zip(missing, confusions, strict=True))
            kept.write_bytes(pickle.dumps(found))
        classes = len(truth.classes)
        own = [found[variant] for variant in variants]
        return [one.by_class(find_assignment(one.total(classes)), classes) for one in own]


def middle(image: np.ndarray) -> np.ndarray:
    """The square in the middle of (H, W, …)."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def rows(data: str, found: dict[str, list[ByClass]]) -> Iterator[list[str]]:
    """found: of each variant the scores of its seeds."""
    n_images = len(next(iter(found.values()))[0].true)
    weights = [np.ones((n_images, 1)), *resamples(n_images, BOOTSTRAP, SEED)]
    measured = {
        variant: [[scores.measured(some).overall for some in weights] for scores in seeds]
        for variant, seeds in found.items()
    }
    for metric in METRICS:
        values_SB = {
            variant: np.array([np.concatenate([one[metric] for one in seed]) for seed in seeds])
            for variant, seeds in measured.items()
        }
        for variant, own_SB in values_SB.items():
            seeds_S = own_SB[:, 0]
            spread = f"{seeds_S.std(ddof=1):.4f}" if len(seeds_S) > 1 else ""
            row = [data, str(n_images), variant, metric, *estimate(own_SB.mean(axis=0))]
            row += [" ".join(f"{value:.4f}" for value in seeds_S), spread]
            for other in ("kmeans", "stego"):
                is_there = other in values_SB and other != variant
                row += estimate((own_SB - values_SB[other]).mean(axis=0)) if is_there else [""] * 3
            yield row


def estimate(values_B: np.ndarray) -> list[str]:
    """The value of the images as they are, which comes first, and the interval."""
    return [f"{value:.4f}" for value in (values_B[0], *interval(values_B[1:]))]


def criterion_rows(proof: Proof, variants: Sequence[str], seeds: Sequence[int]) -> Iterator[list[str]]:
    """What the models say of themselves, without labels."""
    for variant in variants:
        judged = [read_model(proof.model(variant, seed)).info.training["judgement"] for seed in seeds]
        for name in ("criterion", "likeness", "consistency"):
            values = [one[name] for one in judged]
            each = " ".join(f"{value:.4f}" for value in values)
            start = ["training photos", str(len(proof.inputs)), variant, name, f"{np.mean(values):.4f}", "", "", each]
            yield start + [""] * (len(COLUMNS) - len(start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--features", required=True)
    parser.add_argument("--depth", required=True)
    parser.add_argument("--half", choices=HALVES, default="reporting", help="of the COCO photos, to score on")
    parser.add_argument("--clusters", type=int, default=27)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--label", nargs="*", default=["depthg.mirror=false", "depthg.refine.crf=none"])
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "semantic_proof.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in Proof.__dataclass_fields__ if name != "label"}
    proof = Proof(**settings, label=tuple(arguments.label))
    for variant in arguments.variants:
        for seed in arguments.seeds:
            proof.model(variant, seed)
    if arguments.only_train:
        return
    lines = list(criterion_rows(proof, arguments.variants, arguments.seeds))
    for data in arguments.data:
        of_seeds = [proof.scores(data, arguments.variants, seed) for seed in arguments.seeds]
        lines += rows(data, dict(zip(arguments.variants, map(list, zip(*of_seeds, strict=True)), strict=True)))
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)


if __name__ == "__main__":
    main()
