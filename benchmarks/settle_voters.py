"""Which voters give VoteCut the best pseudo-masks, on photos with instance masks.

Every variant is a recipe of VoteCut, voters as `--features` names them, and overrides. Images are halved by id as in
settle_constants.py, even ranks for choosing, odd ones for reporting; the first COUNT of a half are taken. Features are
computed once, all kinds of one size together, and kept in CACHE, where settle_constants.py looks, too. A CSV line a
variant: class-agnostic mask AP, AP50, AR100 and so on, and ratios to the first variant, each with a paired bootstrap
interval of 95 %.

    python benchmarks/settle_voters.py PHOTOS TRUTH CACHE --half choosing --count 40 VARIANT ...

VARIANT: "votecut FEATURES option=value option=value"; @FILE takes a variant from each of its lines.
"""

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photo_halves import HALVES, coco_results, half_of

from pipeline.evaluation.scores import compare
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.photos import Photo, load_photo
from pipeline.methods.protocol import Batch
from pipeline.methods.votecut.load import load_votecut
from pipeline.methods.votecut.method import LoadedVoter, VoteMethod, VoteWork
from pipeline.runs.launch import Launch
from stages.features import read_together

METRICS = ("mask_AP", "mask_AP50", "mask_AR100", "objects_found", "masks_per_image")
RATIOS = ("mask_AP", "mask_AP50", "mask_AR100")


class CachedWork(VoteWork):
    """One photo, whose features lie in a folder, and its eigenvectors by voter and τ."""

    folder: Path

    def _features_of(self, group: Sequence[LoadedVoter]) -> Sequence[torch.Tensor]:
        return [torch.from_numpy(np.load(self._file(voter)))[None] for voter in group]

    def _eigenvectors_of(self, voter: LoadedVoter, features_BND: torch.Tensor) -> np.ndarray:
        recipe = self.method.recipe
        graph = f"{voter.tau:g}-{recipe.candidates.eigenvectors}-{recipe.ncut.tolerance:g}-{recipe.affinity.weights}"
        file = self._file(voter, f"eigenvectors-{graph}")
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, super()._eigenvectors_of(voter, features_BND))
        return np.load(file)

    def _file(self, voter: LoadedVoter, what: str = "features") -> Path:
        return self.folder / f"{what}-{voter.extractor.fingerprint[:12]}" / f"{self.photos[0].id}.npy"


def method_of(variant: str) -> VoteMethod:
    recipe, features, *overrides = variant.split()
    return load_votecut(Launch(recipe=recipe, settings={"features": features}, overrides=tuple(overrides)), "cpu")


def fill(photo: Photo, voters: Sequence[LoadedVoter], folder: Path) -> None:
    """Features of a photo that the folder lacks, each size once."""
    sizes = defaultdict(list)
    for voter in voters:
        config = voter.extractor.config
        file = folder / f"features-{voter.extractor.fingerprint[:12]}" / f"{photo.id}.npy"
        if not file.is_file():
            sizes[config.model, config.size].append((voter.extractor, file))
    for missing in sizes.values():
        first = missing[0][0]
        readings = [first.reading(e.config.kind, e.config.centred) for e, _ in missing]
        for (_, file), features_1ND in zip(missing, read_together(readings, [photo.rgb]), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, features_1ND[0].numpy())


def detections(method: VoteMethod, photo: Photo, coco_id: int, folder: Path) -> list[dict[str, Any]]:
    """The pseudo-masks of an image as COCO results."""
    work = CachedWork(method, Batch(None, [0], [photo]))
    work.folder = folder
    with torch.inference_mode():
        (record,) = work.records
    return coco_results(record, coco_id)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
    )
    parser.add_argument("photos")
    parser.add_argument("truth")
    parser.add_argument("cache", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--half", choices=HALVES, default="choosing")
    parser.add_argument("--count", type=int)
    parser.add_argument("--bootstrap", type=int, default=1000)
    arguments = parser.parse_args()

    truth = Truth.read(arguments.truth)
    refs, image_ids = (own[: arguments.count] for own in half_of(arguments.photos, truth, arguments.half))

    methods = [method_of(variant) for variant in arguments.variants]
    voters = {voter.extractor.fingerprint: voter for method in methods for voter in method.voters}
    for ref in refs:
        fill(load_photo(ref), list(voters.values()), arguments.cache)
    writer = csv.writer(sys.stdout)
    ratios = [f"{metric}_ratio{end}" for metric in RATIOS for end in ("", "_low", "_high")]
    writer.writerow(["half", "images", "variant", *METRICS, "cpu_s_after_features", *ratios, "ratio_to"])
    first: list[dict[str, Any]] | None = None
    for variant, method in zip(arguments.variants, methods, strict=True):
        started = time.process_time()
        found = [
            one
            for ref, coco_id in zip(refs, image_ids, strict=True)
            for one in detections(method, load_photo(ref), coco_id, arguments.cache)
        ]
        seconds = (time.process_time() - started) / len(refs)
        first = found if first is None else first
        compared = compare(truth, found, first, image_ids, iou_types=["segm"], bootstrap=arguments.bootstrap)
        values = [compared.first.metrics[metric].value for metric in METRICS]
        estimates = [compared.ratio[metric] for metric in RATIOS]
        values += [seconds, *(value for e in estimates for value in (e.value, e.low, e.high))]
        row = [arguments.half, len(refs), variant, *(f"{value:.4f}" for value in values), arguments.variants[0]]
        writer.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
