"""What training without labels, and with depth, is worth here: `kmeans` of raw features, `stego` and `depthg`.

    nice python benchmarks/semantic_proof.py ../shared/assets WORK --features DINOV2 --depth PYDNET

Trained on the photos with instance masks that are for choosing (`photo_halves.py`) and on the ImageNet photos, whole,
without a label. Scored on the photos for reporting (12 thing classes, everything else ignored) and on the frames of
Cityscapes and KITTI (27 classes): as papers do, on the square in the middle at 320 pixels, each model with its own
assignment of clusters to classes, found on these images. Without mirror images and CRF, which would cost hours here.
Rows "…_kmeans" are the same heads with clusters found by k-means of the codes, as recipes `stego_kmeans` and
`depthg_kmeans` find them: they tell what codes are worth apart from the probe that learns beside the head. Intervals
are over images alone: beside them read the seeds.

All variants see the same batches: a seed draws crops, their neighbours, points and the first head. Schedules that are
published for 2333 batches are shortened with the number of iterations.

Inputs, models, features of the images to score and their confusions are kept in WORK: what was begun resumes, and a
variant or seed that is new is added. A row per data, variant and metric: the mean over seeds, its 95 % interval over
resamples of the images (1000, seed 0), each seed, their standard deviation, and what it is above `kmeans` and `stego`,
paired by image and seed.
"""

import argparse
import csv
import os
import pickle
import sys
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
from pipeline.evaluation.semantic_sizes import cropped
from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.methods.depthg.checkpoint import FILE, read_model
from pipeline.methods.depthg.crops import CropConfig, cut_photo
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.inputs_load import load_inputs_method
from pipeline.methods.depthg.inputs_settings import NAME as INPUTS
from pipeline.methods.depthg.learner import find_clusters
from pipeline.methods.depthg.load import networks
from pipeline.methods.depthg.training import SemanticTraining, train
from pipeline.methods.depthg.training_recipes import KMeansConfig, SemanticRecipe, get_recipe
from pipeline.runs.launch import Launch
from stages.semantics.clusters import ClusterProbe
from stages.semantics.head import IdentityHead, SemanticHead
from stages.semantics.labelling import LabelRefineConfig, Seen, label_photo
from stages.semantics.windows import Window

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "kmeans": ("kmeans", ()),
    "stego": ("stego", ()),
    "depthg": ("depthg", ()),
    "depthg_released": ("depthg_released", ()),
}
AGAIN = "_kmeans"  # after a variant that is trained: the same head, its codes clustered by k-means
SETTINGS = ("training.cluster_learning_rate=0.05",)  # ten times the published one, for a tenth of the batches
DATA = ("coco-things", "cityscapes", "kitti")
METRICS = ("miou", "accuracy")
SIDE = 320  # pixels of the squares that are scored, as in papers
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
    overrides: tuple[str, ...]

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

    def probe(self, head: SemanticHead | IdentityHead, seed: int) -> ClusterProbe:
        """Clusters of a head's codes as recipes `…_kmeans` find them."""
        probe = ClusterProbe(head.codes, self.clusters)
        find_clusters(head, probe, KMeansConfig(), self.inputs, seed, torch.device("cpu"))
        return probe

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
        out = self.work / "models" / f"{variant}-{seed}"
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

    def squares(self, data: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Of the images of some data: features of the square in the middle, float16 (I, D, h, w); its true classes,
        uint8 (I, S, S); and how many classes there are.
        """
        kept = self.work / f"squares-{data}-{self.half}.npz"
        refs, name = self.images(data)
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

    def scores(self, data: str, variant: str, seed: int) -> ByClass:
        """Of a model, image by image."""
        path = self.model(variant.removesuffix(AGAIN), seed)
        kept = path.parent / f"confusions-{data}-{self.half}{AGAIN if variant.endswith(AGAIN) else ''}.pickle"
        features, true, classes = self.squares(data)
        if not kept.exists():
            head, probe = networks(read_model(path), str(path))
            with torch.inference_mode():
                probe = self.probe(head, seed) if variant.endswith(AGAIN) else probe
            found = Confusions(self.clusters)
            whole, plain = [Window(0, 0, SIDE, SIDE)], LabelRefineConfig(crf=None)
            for own, true_SS in zip(features, true, strict=True):
                with torch.inference_mode():
                    codes = head(torch.from_numpy(own)[None].float())
                    nothing = np.zeros((SIDE, SIDE, 3), np.uint8)  # the CRF alone looks at the photo
                    labels, _ = label_photo(nothing, Seen(whole, codes), None, probe, plain)
                found.add(labels, true_SS)
            kept.write_bytes(pickle.dumps(found))
        confusions: Confusions = pickle.loads(kept.read_bytes())
        return confusions.by_class(find_assignment(confusions.total(classes)), classes)


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
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--set", nargs="*", dest="overrides", default=list(SETTINGS), help="of all that is trained")
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "semantic_proof.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    proof = Proof(**{name: getattr(arguments, name) for name in Proof.__dataclass_fields__})
    for seed in arguments.seeds:
        for variant in arguments.variants:
            proof.model(variant, seed)
    if arguments.only_train:
        return
    lines = list(criterion_rows(proof, arguments.variants, arguments.seeds))
    for data in arguments.data:
        again = [variant + AGAIN for variant in arguments.variants if variant != "kmeans"]
        variants = [*arguments.variants, *again]
        lines += rows(data, {v: [proof.scores(data, v, seed) for seed in arguments.seeds] for v in variants})
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)


if __name__ == "__main__":
    main()
