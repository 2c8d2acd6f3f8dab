"""How much of a depth map may be missing: masks of recipe cuts3d on rendered scenes whose depth has holes, as
`stages.stored_depth` reads them.

Scenes and figures are those of depth_quality.py; no network runs. Depth is written as a sensor does, in millimetres
from 1 m to 10 m. Holes are 0, of two forms: patches, where smooth noise is highest, as dark or shiny things give them;
and shadows, to the left of things, as wide as the step in depth, as two eyes that stand apart give them, with single
pixels as far as a share asks for more. Holes are filled (whatever their share: the limit is lifted here), or, for
comparison, left at 0, the nearest depth.

    python benchmarks/depth_holes.py --scenes 18 --out benchmarks/results/depth_holes.csv

A CSV line a form, share and reading, with 95 % bootstrap intervals over the scenes, and the difference to depth
without holes. 6 minutes on one core.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import scipy.ndimage
from depth_quality import GRID, SETTINGS, SIZE, Example, Found, detections, examples, truth_of

from pipeline.evaluation.scores import compare
from pipeline.methods.cuts.recipes import get_recipe
from stages import stored_depth
from stages.depth import relative_depth, to_grid

RESULTS = Path(__file__).parent / "results" / "depth_holes.csv"
SHARES = (0.05, 0.15, 0.25, 0.35, 0.5)
METRICS = ("mask_AP", "mask_AR100", "pairs_separated")


def millimetres(depth_HW: np.ndarray) -> np.ndarray:
    return (1000 + 9000 * depth_HW).astype(np.uint16)


def patches(depth_HW: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    noise_HW = scipy.ndimage.gaussian_filter(rng.standard_normal(depth_HW.shape), SIZE / 40, mode="wrap")
    return noise_HW > np.quantile(noise_HW, 1 - share)


def shadows(depth_HW: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Where something within 40 pixels to the right is nearer by more than its distance is wide."""
    holes_HW = np.zeros(depth_HW.shape, bool)
    for pixels in range(1, 41):
        step_HW = depth_HW[:, :-pixels] - depth_HW[:, pixels:]
        holes_HW[:, :-pixels] |= step_HW > pixels / 200
    missing = share - holes_HW.mean()
    if missing < 0:  # as many of them as asked for
        return holes_HW & (rng.random(depth_HW.shape) < share / holes_HW.mean())
    return holes_HW | (rng.random(depth_HW.shape) < missing / (1 - holes_HW.mean()))


FORMS = {"patches": patches, "shadows": shadows}


def found_with(scenes: list[Example], form: str, share: float, reading: str, seed: int) -> Found:
    recipe = get_recipe("cuts3d", SETTINGS)
    found: Found = []
    for example in scenes:
        raw = millimetres(example.scene.depth)
        if share:
            rng = np.random.default_rng(seed + example.id)
            raw[FORMS[form](example.scene.depth, share, rng)] = 0
        read = stored_depth.relative_stored_depth if reading == "filled" else relative_depth
        found += detections(example, to_grid([np.asarray(read(raw, "depth"))], *GRID)[0].numpy(), recipe)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    stored_depth.MOST_FILLED = 1.0
    scenes = list(examples(arguments.scenes, arguments.seed))
    truth, ids = truth_of(scenes), [example.id for example in scenes]
    whole = found_with(scenes, "", 0, "filled", arguments.seed)
    conditions = [(form, share, "filled") for form in FORMS for share in SHARES]
    conditions = [("none", 0, "filled"), *conditions, *((form, 0.05, "left at 0") for form in FORMS)]
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = [f"{metric}{what}" for metric in METRICS for what in ("", "_difference")]
        ends = [column + end for column in columns for end in ("", "_low", "_high")]
        writer.writerow(["holes", "share", "reading", "scenes", "seed", *ends])
        for form, share, reading in conditions:
            found = found_with(scenes, form, share, reading, arguments.seed) if share else whole
            both = compare(truth, found, whole, ids, iou_types=("segm",), bootstrap=arguments.bootstrap)
            pairs = [(both.first.metrics[metric], both.difference[metric]) for metric in METRICS]
            values = [f"{value:.4f}" for pair in pairs for e in pair for value in (e.value, e.low, e.high)]
            writer.writerow([form, share, reading, len(scenes), arguments.seed, *values])
            file.flush()
            print(
                form,
                share,
                reading,
                {m: round(own.value, 3) for m, (own, _) in zip(METRICS, pairs, strict=True)},
                flush=True,
            )


if __name__ == "__main__":
    main()
