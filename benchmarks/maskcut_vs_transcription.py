"""The `maskcut` recipe against a plain transcription of the published MaskCut, on the same photos, features and cores.

The transcription (tests/reference_maskcut.py) does a dense double-precision `scipy.linalg.eigh` a round and a dense CRF
(pydensecrf) a mask. Both sides are timed after the networks, up to masks at the size of the photo, in turn within one
process. Prints a CSV line a photo; the summary, with a bootstrap confidence interval of the mean IoU, goes to stderr.

    python benchmarks/maskcut_vs_transcription.py PHOTOS --count 50 > benchmarks/results/maskcut_vs_transcription.csv
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference_maskcut import maskcut

from pipeline.images import load_photo
from pipeline.models import feature_preset, load_features
from pipeline.proposals import first_ncut, propose
from pipeline.recipes import get_recipe
from pipeline.sources import list_images
from stages.affinity import affinity_edges
from stages.crf import CrfConfig
from stages.filters import mask_iou
from stages.refine import RefineConfig, refine_masks


def ours(features_ND: torch.Tensor, rgb: np.ndarray, grid: tuple[int, int], tau: float) -> list[np.ndarray]:
    """Refined mask of each round, (H, W) bool, empty where dropped."""
    recipe = get_recipe("maskcut", [f"affinity.tau={tau}"])
    edges_BNN = affinity_edges(features_ND[None], recipe.affinity)
    found = propose(edges_BNN, features_ND[None], None, grid, recipe, first_ncut(edges_BNN, recipe))[0]
    kept = [k for k, proposal in enumerate(found.proposals) if proposal.dropped is None]
    masks = np.array([found.proposals[k].mask for k in kept], bool).reshape(-1, *grid)
    refined = refine_masks([rgb], [masks], recipe.refine)[0]
    rounds = [np.zeros(rgb.shape[:2], bool) for _ in found.proposals]
    for k, mask, keep in zip(kept, refined.masks, refined.keep, strict=True):
        if keep:
            rounds[k] = mask
    return rounds


def theirs(features_ND: torch.Tensor, rgb: np.ndarray, grid: tuple[int, int], tau: float) -> list[np.ndarray]:
    """The same by the transcription, one mask at a time."""
    config = RefineConfig(crf=CrfConfig(backend="pydensecrf"))
    rounds = []
    for found in maskcut(features_ND.double().numpy(), grid, tau, 3, peak_positive=True):
        mask = np.zeros(rgb.shape[:2], bool)
        if found.output.any():
            refined = refine_masks([rgb], [found.output[None]], config)[0]
            if refined.keep[0]:
                mask = refined.masks[0]
        rounds.append(mask)
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--size", type=int, default=840, help="side of the features' input in pixels")
    parser.add_argument("--features", default="dinov2_vits14")
    arguments = parser.parse_args()

    extractor = load_features(arguments.features, "cpu", {"size": arguments.size})
    tau = feature_preset(arguments.features)[0].tau
    writer = csv.writer(sys.stdout)
    writer.writerow(
        ["image", "seconds_cuts3d", "seconds_transcription", "masks", "iou_round_1", "iou_round_2", "iou_round_3"]
    )
    ious: list[float] = []
    ratios: list[float] = []
    for ref in list_images(arguments.photos).refs[: arguments.count]:
        photo = load_photo(ref)
        features_ND = extractor([photo.rgb])[0]
        start = time.perf_counter()
        mine = ours(features_ND, photo.rgb, extractor.grid, tau)
        middle = time.perf_counter()
        reference = theirs(features_ND, photo.rgb, extractor.grid, tau)
        end = time.perf_counter()
        # a round that gives nothing on either side says nothing about agreement
        pairs = [mask_iou(a, b) if a.any() or b.any() else float("nan") for a, b in zip(mine, reference, strict=True)]
        ious += [iou for iou in pairs if not np.isnan(iou)]
        ratios.append((end - middle) / (middle - start))
        row = [f"{middle - start:.3f}", f"{end - middle:.3f}", sum(m.any() for m in mine), *(f"{p:.4f}" for p in pairs)]
        writer.writerow([ref.id, *row])
        sys.stdout.flush()
    draws = np.random.default_rng(0).choice(ious, (2000, len(ious))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    print(
        f"{len(ratios)} photos, {len(ious)} masks, grid {extractor.grid}, {torch.get_num_threads()} threads: mean IoU "
        f"{np.mean(ious):.4f} [{low:.4f}, {high:.4f}], {sum(iou < 0.98 for iou in ious)} masks below 0.98; "
        f"transcription / cuts3d seconds: median {np.median(ratios):.1f}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
