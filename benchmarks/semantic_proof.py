"""What training without labels, and with depth, is worth here: `kmeans` of raw features against `depthg`, with the
shifts of the recipe and with the published ones, and against `depthg_base`, the same without depth.

    nice python benchmarks/semantic_proof.py ../shared/assets WORK --features DINOV2 --depth PYDNET

Trained on the photos with instance masks that are for choosing (`photo_halves.py`) and on the ImageNet photos, whole,
without a label, by recipes as they are, but for the size of a batch. Of each training the heads after several numbers
of batches are looked at, which are what `--iterations N` gives, each with clusters found in three ways
(`semantic_heads.py`). The photos for choosing and their 12 thing classes decide which number and way `depthg` takes;
this pair is then compared with `kmeans` on the photos for reporting: [decision
37](../docs/decisions/0037-clusters-of-a-trained-head.md). The rest is recorded beside it, and so are the frames of
Cityscapes and KITTI (27 classes).

Scored as papers do, on the square in the middle at 320 pixels, each model with its own assignment of clusters to
classes, found on these images. Without mirror images and CRF, which would cost hours here. Intervals are over images
alone: beside them read the seeds. All variants see the same batches: a seed draws crops, their neighbours, points and
the first head.

Inputs, heads, features of the images to score and their confusions are kept in WORK: what was begun resumes, and a
variant or seed that is new is added. A row per data, variant, number of batches, way to clusters and metric: the mean
over seeds, its 95 % interval over resamples of the images (1000, seed 0), each seed, their standard deviation, and what
it is above `kmeans`, above the same head's `probe`, and above `depthg_base` after as many batches with clusters found
in the same way, paired by image and seed.
"""

import argparse
import csv
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from photo_halves import HALVES, half_of
from semantic_heads import CPU, WAYS, HeadAt, read_head, train_heads

from pipeline.engine.run import run
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.semantic_scores import ByClass, Confusions, find_assignment
from pipeline.evaluation.semantic_sizes import cropped
from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.methods.depthg.criterion import judge
from pipeline.methods.depthg.crops import CropConfig, cut_photo
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.inputs_load import load_inputs_method
from pipeline.methods.depthg.inputs_settings import NAME as INPUTS
from pipeline.methods.depthg.training_recipes import SemanticRecipe, get_recipe
from pipeline.runs.launch import Launch
from stages.semantics.clusters import ClusterProbe
from stages.semantics.correlation import unit
from stages.semantics.head import IdentityHead, SemanticHead

BASELINE = "kmeans"
VARIANTS = {
    "depthg": "depthg",
    "depthg_published": "depthg_coco_vits8",
    "depthg_base": "depthg_base",
    "stego": "stego",
    "depthg_released": "depthg_released",
}  # and their recipes
DEPTHG = ("depthg", "depthg_published")  # of which one is chosen
DATA = ("coco-things", "cityscapes", "kitti")
METRICS = ("miou", "accuracy")
SIDE = 320  # pixels of the squares that are scored, as in papers
BOOTSTRAP, SEED = 1000, 0
OTHERS = ("kmeans", "probe", "depthg_base")  # that a model is compared with
COLUMNS = (
    *("half", "data", "images", "variant", "batches", "clusters", "metric", "mean", "low", "high", "seeds", "seeds_sd"),
    *(f"above_{other}{bound}" for other in OTHERS for bound in ("", "_low", "_high")),
)


class Model(NamedTuple):
    """A variant after so many batches, with clusters found in one of `WAYS`; the baseline after 0 batches."""

    variant: str
    batches: int
    way: str

    def other(self, name: str) -> "Model":
        """What it is compared with under this name; itself where there is no such thing."""
        if name == "kmeans":
            return Model(BASELINE, 0, "kmeans")
        if self.variant == BASELINE:
            return self
        return self._replace(way="probe") if name == "probe" else self._replace(variant=name)


@dataclass(frozen=True)
class Proof:
    """assets, work: folders. Others: as the command line names them."""

    assets: Path
    work: Path
    features: str
    depth: str
    clusters: int
    batches: tuple[int, ...]
    batch_size: int

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
        launch = replace(self._launch, images=str(listed))
        manifest = Manifest(list_images(str(listed)).refs, 10)
        run(self.work / "inputs", launch, method=load_inputs_method(launch, "cpu"), manifest=manifest)
        return TrainingInputs.open(self.work / "inputs")

    @property
    def _launch(self) -> Launch:
        settings = {"features": self.features, "depth": self.depth}
        return Launch(recipe=INPUTS, settings=settings, overrides=("crops.layout=whole",), shard_size=10)

    def recipe(self, variant: str) -> SemanticRecipe:
        if variant == BASELINE:
            return get_recipe(variant, clusters=self.clusters)
        batch = f"training.batch_size={self.batch_size}"
        return get_recipe(VARIANTS[variant], (batch,), clusters=self.clusters, iterations=max(self.batches))

    def folder(self, variant: str, seed: int) -> Path:
        return self.work / "heads" / f"{variant}-{seed}"

    def train(self, variant: str, seed: int) -> None:
        """Unless the heads are there."""
        train_heads(self.recipe(variant), self.inputs, seed, self.batches, self.folder(variant, seed))

    @cache  # noqa: B019
    def model(self, model: Model, seed: int) -> HeadAt:
        recipe = self.recipe(model.variant)
        return read_head(recipe, self.inputs, seed, model.batches, model.way, self.folder(model.variant, seed))

    def images(self, data: str, half: str) -> tuple[list[ImageRef], str]:
        """Whose labels are scored, and the truth."""
        street = self.assets / "street"
        if data == "coco-things":
            return self.coco(half), f"coco-things:{self.assets / 'coco' / 'instances.json'}"
        if data == "cityscapes":
            found = list_images(str(street / "cityscapes" / "train_img")).refs
            return found, f"cityscapes:{street / 'cityscapes' / 'train_label'}"
        found = list_images(str(street / "kitti_semantics" / "image_2")).refs
        return found, f"kitti-semantics:{street / 'kitti_semantics' / 'semantic'}"

    @cache  # noqa: B019
    def squares(self, data: str, half: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Of the images of some data: features of the square in the middle, float16 (I, D, h, w); its true classes,
        uint8 (I, S, S); and how many classes there are.
        """
        kept = self.work / f"squares-{data}-{half}.npz"
        refs, name = self.images(data, half)
        truth = read_semantic_truth(name, None)
        if not kept.exists():
            extractor = load_inputs_method(self._launch, "cpu").features
            numbers, features, true = truth.matched(refs), [], []
            for ref in refs:
                number, photo = numbers[ref.id], load_photo(ref)
                assert number is not None
                size = photo.rgb.shape[0], photo.rgb.shape[1]
                (square,) = cut_photo(photo.rgb, CropConfig("whole"), extractor.config.size)
                found_ND = extractor([square])[0]
                features.append(found_ND.T.unflatten(1, extractor.grid).half().numpy())
                true.append(cropped(truth.labels(number, ref, size).labels, SIDE, size))
            np.savez(kept, features=features, true=true)
        with np.load(kept) as arrays:
            return arrays["features"], arrays["true"], len(truth.classes)

    def scores(self, data: str, half: str, model: Model, seed: int) -> ByClass:
        """Of a model, image by image."""
        name = f"confusions-{data}-{half}-{model.batches}-{model.way}.pickle"
        kept = self.folder(model.variant, seed) / name
        features, true, classes = self.squares(data, half)
        if not kept.exists():
            learnt = self.model(model, seed)
            found = Confusions(self.clusters)
            for own, true_SS in zip(features, true, strict=True):
                found.add(labels_of(torch.from_numpy(own)[None].float(), learnt.head, learnt.clusters), true_SS)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(pickle.dumps(found))
        confusions: Confusions = pickle.loads(kept.read_bytes())
        return confusions.by_class(find_assignment(confusions.total(classes)), classes)


@torch.inference_mode()
def labels_of(features_1Dhw: torch.Tensor, head: SemanticHead | IdentityHead, probe: ClusterProbe) -> np.ndarray:
    """What `label_photo` gives of one square window without the CRF, uint8 (S, S): the largest cosine of interpolated
    codes is the largest of interpolated products with the centroids' directions, whose length is one.
    """
    products_1Chw = torch.einsum("ck,bkhw->bchw", unit(probe.centroids), head(features_1Dhw))
    at_pixels = torch.nn.functional.interpolate(products_1Chw, (SIDE, SIDE), mode="bilinear", align_corners=False)
    labels: np.ndarray = at_pixels[0].argmax(dim=0).to(torch.uint8).numpy()
    return labels


@dataclass(frozen=True)
class Found:
    """values: of each model, metric by metric, (seeds, 1 + resamples), the images as they are first."""

    half: str
    data: str
    images: int
    values: dict[Model, dict[str, np.ndarray]]

    @classmethod
    def of(cls, proof: Proof, half: str, data: str, models: Sequence[Model], seeds: Sequence[int]) -> "Found":
        values: dict[Model, dict[str, np.ndarray]] = {}
        images = len(proof.squares(data, half)[0])
        weights = [np.ones((images, 1)), *resamples(images, BOOTSTRAP, SEED)]
        for model in models:
            by_seed = []
            for seed in seeds:
                scores = proof.scores(data, half, model, seed)
                by_seed.append([scores.measured(some).overall for some in weights])
            values[model] = {m: np.array([np.concatenate([w[m] for w in seed]) for seed in by_seed]) for m in METRICS}
        return cls(half, data, images, values)

    def mean(self, model: Model) -> float:
        """mIoU over the seeds."""
        return float(self.values[model]["miou"][:, 0].mean())

    def above(self, model: Model, other: Model, metric: str = "miou") -> list[str]:
        return estimate((self.values[model][metric] - self.values[other][metric]).mean(axis=0))

    def rows(self) -> Iterator[list[str]]:
        for metric in METRICS:
            for model, of_metrics in self.values.items():
                own_SB = of_metrics[metric]
                spread = f"{own_SB[:, 0].std(ddof=1):.4f}" if len(own_SB) > 1 else ""
                row = [self.half, self.data, str(self.images), model.variant, str(model.batches), model.way, metric]
                row += [*estimate(own_SB.mean(axis=0)), " ".join(f"{value:.4f}" for value in own_SB[:, 0]), spread]
                for name in OTHERS:
                    other = model.other(name)
                    is_there = other in self.values and other != model
                    row += self.above(model, other, metric) if is_there else [""] * 3
                yield row


def estimate(values_B: np.ndarray) -> list[str]:
    """The value of the images as they are, which comes first, and the interval."""
    return [f"{value:.4f}" for value in (values_B[0], *interval(values_B[1:]))]


def criterion_rows(proof: Proof, models: Sequence[Model], seeds: Sequence[int]) -> Iterator[list[str]]:
    """What the models say of themselves, without labels."""
    for model in models:
        judged = [judge(proof.model(model, seed), proof.inputs, CPU) for seed in seeds]
        values = {"criterion": [one.value for one in judged], "likeness": [one.likeness for one in judged]}
        values |= {"consistency": [one.consistency for one in judged], "dead": [len(one.dead) for one in judged]}
        for name, of_seeds in values.items():
            each = " ".join(f"{value:.4f}" for value in of_seeds)
            row = ["", "training photos", str(len(proof.inputs)), model.variant, str(model.batches), model.way, name]
            row += [f"{np.mean(of_seeds):.4f}", "", "", each]
            yield row + [""] * (len(COLUMNS) - len(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--features", required=True)
    parser.add_argument("--depth", required=True)
    parser.add_argument("--clusters", type=int, default=27)
    parser.add_argument("--batches", nargs="+", type=int, default=[200, 1000])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "semantic_proof.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.batches = tuple(arguments.batches)
    proof, seeds = Proof(**{name: getattr(arguments, name) for name in Proof.__dataclass_fields__}), arguments.seeds
    for variant in arguments.variants:
        for seed in seeds:
            proof.train(variant, seed)
    if arguments.only_train:
        return
    baseline = Model(BASELINE, 0, "kmeans")
    models = [Model(v, at, way) for v in arguments.variants for at in arguments.batches for way in WAYS]
    choosing, reporting = HALVES
    choice = Found.of(proof, choosing, "coco-things", [baseline, *models], seeds)
    lines = list(choice.rows())
    best = max((model for model in models if model.variant in DEPTHG), key=choice.mean)
    print(f"chosen: {best}, above its probe by {choice.above(best, best.other('probe'))}", flush=True)
    for data in arguments.data:
        found = Found.of(proof, reporting, data, [baseline, *models], seeds)
        lines += found.rows()
        print(f"{data}: above kmeans by {found.above(best, baseline)}", flush=True)
    lines += criterion_rows(proof, [baseline, *(model for model in models if model.way == "kmeans")], seeds)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)


if __name__ == "__main__":
    main()
