"""What DropLoss does to a panoptic detector that starts from nothing, on drawn streets whose labels are complete, or
lack half of the objects.

.venv/bin/python benchmarks/panoptic_drop_loss.py [--steps 120] [--seeds 0] [--out results/panoptic_drop_loss.csv]

`cups_tiny`, made smaller, learns 32 pictures of 64 x 128 pixels in steps of 4 at learning rate 0.002; 24 others are
scored. Clusters are classes, so nothing is assigned. Columns:

    labels            complete; half: each object is left out of the instances with probability 0.5, its class stays
    drop_threshold    of all three stages; none: no DropLoss
    PQ …              per cent, of a class, and its 95 % interval by 1000 resamples of the pictures
    false_…           instances of a thing class that match none, in all pictures
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.drawn_streets import CAR, CLASSES, PERSON, ROAD, SKY, predicted, street, street_training, write_streets

from detector.training.train import train
from pipeline.results.panoptic import PanopticRecord

RESULTS = Path(__file__).parent / "results" / "panoptic_drop_loss.csv"
LEARNT, TESTED = range(32), range(100, 124)
TP, FP, FN, IOU = range(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = []
    for seed in options.seeds:
        for missing, threshold in ((0.0, None), (0.0, 0.4), (0.5, None), (0.5, 0.4), (0.5, 0.1)):
            counts_NC4 = trained(missing, threshold, options.steps, seed)
            facts = {"labels": "half" if missing else "complete", "drop_threshold": threshold or "none", "seed": seed}
            rows.append({**facts, "steps": options.steps, **figures(counts_NC4), "commit": commit})
            with options.out.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
            print(rows[-1], flush=True)


def trained(missing: float, threshold: float | None, steps: int, seed: int) -> np.ndarray:
    """Counts (N, C, 4) of the pictures that are tested on."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUTS3D_CACHE"] = f"{folder}/cache"
        run = write_streets(Path(folder) / "streets", LEARNT, missing)
        drop = [f"model.roi_head.bbox_head.{stage}.drop_threshold={threshold}" for stage in range(3)]
        how = ("optim_wrapper.optimizer.lr=0.002", "default_hooks.logger.interval=20", *drop)
        work = Path(folder) / "work"
        path = train(street_training(run.url, work, *how, iterations=steps, batch_size=4, seed=seed))
        return np.array([counts(*pair) for pair in zip(predicted(path, TESTED), TESTED, strict=True)])


def counts(record: PanopticRecord, number: int) -> np.ndarray:
    """(C, 4): true positives, false positives, false negatives, summed IoU, by panopticapi's rule without void."""
    _, labels, ids = street(number)
    table = np.zeros((len(CLASSES), 4))
    for c in range(len(CLASSES)):
        if c in (SKY, ROAD):
            wanted, found = ([part == c] if (part == c).any() else [] for part in (labels, record.labels))
        else:
            wanted = [ids == k for k in range(1, int(ids.max()) + 1) if labels[ids == k][0] == c]
            found = [record.instance_ids == k + 1 for k, one in enumerate(record.instances) if one.class_ == c]
        ious = [iou for a in wanted for b in found if (iou := (a & b).sum() / (a | b).sum()) > 0.5]
        table[c] = len(ious), len(found) - len(ious), len(wanted) - len(ious), sum(ious)
    return table


def figures(counts_NC4: np.ndarray) -> dict[str, float]:
    rng = np.random.default_rng(0)
    resamples = [quality(counts_NC4[rng.integers(0, len(counts_NC4), len(counts_NC4))]) for _ in range(1000)]
    low_C, high_C = np.percentile(resamples, [2.5, 97.5], axis=0)
    found: dict[str, float] = {}
    for c, name in enumerate(CLASSES.names):
        ends = (("", quality(counts_NC4)[c]), ("_low", low_C[c]), ("_high", high_C[c]))
        found |= {f"PQ_{name}{suffix}": round(100 * float(value), 1) for suffix, value in ends}
    return {**found, **{f"false_{CLASSES.names[c]}": int(counts_NC4[:, c, FP].sum()) for c in (CAR, PERSON)}}


def quality(counts_NC4: np.ndarray) -> Sequence[float]:
    total_C4 = counts_NC4.sum(axis=0)
    return total_C4[:, IOU] / np.maximum(total_C4[:, TP] + (total_C4[:, FP] + total_C4[:, FN]) / 2, 1e-9)


if __name__ == "__main__":
    main()
