"""How good the masks are that score so much, on photos with instance masks, at two sizes of the features' input.

Photos are halved by id as in settle_constants.py, even ranks for choosing constants, odd ones for reporting; this
reports. The `cuts3d` recipe makes a run of them at each size below WORK (one that is there is taken, or resumed), and a
CSV line per size and threshold says what `cuts3d scores` says, with bootstrap intervals over images of 95 %. `cpu_s` is
processor time per image, all stages, of PHOTOS_TIMED photos by `cuts3d.load`, after one that is not counted.

    python benchmarks/score_precision.py PHOTOS TRUTH WORK --features MODEL --depth MODEL > results/score_precision.csv
"""

import argparse
import csv
import io
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from photo_halves import half_of

import cuts3d
from pipeline.engine.run import run
from pipeline.evaluation.by_score import score_table
from pipeline.evaluation.truth.coco import Truth
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

SIZES = (840, 420)
THRESHOLDS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12, 0.15)
PHOTOS_TIMED = 8
BOOTSTRAP, SEED = 1000, 0


def seconds_per_image(photos: list[str], settings: dict[str, Any]) -> float:
    """Processor seconds of this process, all its threads."""
    model = cuts3d.load(**settings, device="cpu")
    model.predict(photos[0])
    started = time.process_time()
    for photo in photos[1 : PHOTOS_TIMED + 1]:
        model.predict(photo)
    return (time.process_time() - started) / min(PHOTOS_TIMED, len(photos) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("truth")
    parser.add_argument("work", type=Path)
    parser.add_argument("--features", default="dinov2_vits14")
    parser.add_argument("--depth", default="fastdepth")
    arguments = parser.parse_args()

    truth = Truth.read(arguments.truth)
    reporting, _ = half_of(arguments.photos, truth, "reporting")
    arguments.work.mkdir(parents=True, exist_ok=True)
    listed = arguments.work / "reporting.txt"
    listed.write_text("".join(f"{ref.id}\n" for ref in reporting))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shares = [f"{name}{end}" for name in ("precision", "objects_found") for end in ("", "_low", "_high")]
    facts = ["half", "images", "features", "depth", "size", "cpu_s", "bootstrap", "seed"]
    writer.writerow([*facts, "score", "masks", "per_image", *shares])
    for size in SIZES:
        settings: dict[str, Any] = {"features": arguments.features, "depth": arguments.depth}
        options = (f"features.size={size}",)
        depth = Path(arguments.depth).stem
        folder = arguments.work / f"{depth}-{size}"
        run(folder, Launch(str(listed), root=arguments.photos, settings=settings, overrides=options), device="cpu")
        table = score_table(truth, RunFolder.open(folder), THRESHOLDS, bootstrap=BOOTSTRAP, seed=SEED)
        seconds = seconds_per_image([ref.uri for ref in reporting], {**settings, "overrides": options})
        features = Path(arguments.features.rpartition("=")[2]).stem
        known = ["reporting", table.images, features, depth, size, f"{seconds:.2f}", BOOTSTRAP, SEED]
        for row in table.rows:
            ends = [f"{value:.4f}" for one in (row.precision, row.objects_found) for value in asdict(one).values()]
            writer.writerow([*known, row.score, row.masks, f"{row.per_image:.2f}", *ends])
    sys.stdout.write(out.getvalue())


if __name__ == "__main__":
    main()
