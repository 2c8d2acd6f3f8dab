"""How photos are best looked at, and at which size the CRF works, when a trained model labels them: recipe depthg with
one setting changed after the other.

    python benchmarks/label_settings.py --model MODEL --photos ../shared/assets/coco/images \\
        --truth coco-things:../shared/assets/coco/instances.json --skip 48 --count 24

Photos must be others than those that the model was trained on: the first `--skip` by name are left out. A CSV line per
setting: accuracy and mIoU with 95 % bootstrap intervals over the photos, each with its own assignment, found on these
photos; the difference in mIoU to the default, paired (default minus setting); and processor seconds per photo, on one
core. The file is written again after every photo.
"""

import argparse
import csv
import time
from collections import defaultdict
from dataclasses import astuple
from math import nan
from pathlib import Path
from types import SimpleNamespace

import torch

from pipeline.evaluation.semantic_scores import ByClass, Confusions, find_assignment, scored
from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.methods.depthg.load import load_labels
from pipeline.methods.depthg.method import LabelMethod
from pipeline.methods.protocol import Batch, SharedOutputs
from pipeline.methods.shared import batch_inputs
from pipeline.models.load import loaded_once
from pipeline.runs.launch import Launch

SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "mirror=false": ("depthg.mirror=false",),
    "view=squeezed": ("depthg.view=squeezed",),
    "refine.crf=none": ("depthg.refine.crf=none",),
    "refine.side=480": ("depthg.refine.side=480",),
    "features.size=560": ("features.size=560",),
    "windows.whole_share=0.5": ("depthg.windows.whole_share=0.5",),
}
COLUMNS = ("setting", "photos", "accuracy", "miou", "low", "high", "less", "less_low", "less_high", "seconds")


class Trial:
    """One setting: its method, what it found, and how long it took."""

    def __init__(self, model: str, overrides: tuple[str, ...]) -> None:
        launch = Launch(recipe="depthg", overrides=(f"depthg.checkpoint={model}", *overrides))
        self.method: LabelMethod = load_labels(launch, "cpu")
        self.confusions = Confusions(len(self.method.labeller.classes))
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def scores(self, classes: int) -> ByClass:
        return self.confusions.by_class(find_assignment(self.confusions.total(classes)), classes)


def write(out: Path, trials: dict[str, Trial], classes: int, seed: int) -> None:
    own, differences = scored([trial.scores(classes) for trial in trials.values()], seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for place, (name, trial) in enumerate(trials.items()):
            overall, photos = own[place].overall, len(trial.confusions)
            figures = [overall["accuracy"].value, *astuple(overall["miou"])]
            figures += astuple(differences[place - 1].overall["miou"]) if place else [nan] * 3
            lines.writerow(
                [name, photos, *(f"{figure:.4f}" for figure in figures), f"{sum(trial.seconds.values()) / photos:.2f}"]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="the first is the default"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "label_settings.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch_inputs.time = SimpleNamespace(perf_counter=time.process_time)  # the machine may be busy
    truth = read_semantic_truth(arguments.truth)
    refs = list_images(arguments.photos).refs[arguments.skip :]
    numbers = truth.matched(refs)
    known = [ref for ref in refs if numbers[ref.id] is not None][: arguments.count]
    with loaded_once():
        trials = {name: Trial(arguments.model, SETTINGS[name]) for name in arguments.settings}
    for ref in known:
        photo = load_photo(ref)
        number = numbers[ref.id]
        assert number is not None
        true_HW = truth.labels(number, ref, photo.rgb.shape[:2]).labels
        shared = SharedOutputs()  # features that several settings have
        for trial in trials.values():
            with torch.inference_mode():
                (record,) = trial.method.outputs(Batch(None, [0], [photo], seconds=trial.seconds, shared=shared))
            trial.confusions.add(record.labels, true_HW)
        write(arguments.out, trials, len(truth.classes), arguments.seed)


if __name__ == "__main__":
    main()
