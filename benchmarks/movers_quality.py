"""How well moving objects are found: precision and recall on rendered stereo clips, against noise of the maps.

Streets (tests/support/stereo_scenes.py) with three bodies that move by 0.1 to 0.9 m, and parked ones; the cameras
drive. Truth is exact. A mover counts if what is seen of it has 0.65 square metres facing the camera, and is found by a
mask of IoU 0.5. Maps of flow and disparity are the exact ones, these with noise (normal, half of its variance smooth
over 16 pixels; deviations of flow and of disparity in pixels), and OpenCV's of the rendered pictures. Variants are the
default, each switch of the method as released, depth trusted from 5.5 m on, and the background at the noise of the clip
in place of its own; all see the same maps.

    python benchmarks/movers_quality.py --out benchmarks/results/movers_quality.csv

A CSV line per kind of maps and variant. Intervals: 95 %, bootstrap over the scenes, seed 0. Scenes 0 to 23 were for
choosing rules and constants (--first 0 --variant noise=2,noise_factor=1); what is recorded begins at 100.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.stereo_scenes import Judged, StereoScene, judge, noisy, render, street

from stages.motion.clip_motion import ClipMotion, ClipPictures
from stages.motion.movers import find_movers
from stages.motion.movers_config import SWITCHES, MoversConfig
from stages.motion.opencv_motion import OpencvMotion

RESULTS = Path(__file__).parent / "results" / "movers_quality.csv"
RESAMPLES = 2000
VARIANTS = {
    "corrected": {},
    **{f"{switch}=released": {switch: "released"} for switch in SWITCHES},
    "all released": dict.fromkeys(SWITCHES, "released"),
    "near=5.5": {"near": 5.5},
    "background_noise=10": {"background_noise": 10.0},
}


@dataclass(frozen=True)
class Maps:
    """flow, disparity: deviations of their noise in pixels. along: bodies move along the street. turn: radians by which
    cars turn at most. opencv: see above.
    """

    flow: float = 0.0
    disparity: float = 0.0
    along: bool = False
    turn: float = 0.02
    opencv: bool = False

    def __str__(self) -> str:
        if self.opencv:
            return "opencv"
        noise = f"noise {self.flow:g} {self.disparity:g}" if self.flow or self.disparity else "exact"
        return noise + ", along" * self.along + f", turning {self.turn:g}" * (self.turn != 0.02)

    def of(self, scene: StereoScene, seed: int) -> ClipMotion:
        """Those of a scene."""
        if self.opencv:
            pictures = [scene.picture(later, right) for later in (False, True) for right in (False, True)]
            return OpencvMotion()([ClipPictures(*pictures)], [str(seed)])[0]
        return noisy(scene.motion, self.flow, self.disparity, seed) if self.flow or self.disparity else scene.motion


MAPS = (Maps(), Maps(0.5, 0.25), Maps(1.0, 0.5), Maps(2.0, 1.0), Maps(along=True), Maps(turn=0.1), Maps(opencv=True))


@dataclass(frozen=True)
class Outcome:
    """Of a scene: what was judged, and CPU seconds."""

    judged: Judged
    seconds: float


def outcomes(
    scenes: Sequence[int], maps: Maps, variants: dict[str, dict[str, object]]
) -> Iterator[tuple[str, Outcome]]:
    """Of every scene and variant."""
    for seed in scenes:
        scene = render(*street(seed, turn=maps.turn, along=maps.along))
        motion = maps.of(scene, seed)
        for name, options in variants.items():
            start = time.process_time()
            found = find_movers(motion, scene.camera, MoversConfig(**options), seed=0)  # type: ignore[arg-type]
            yield name, Outcome(judge(found.masks_MHW, scene), time.process_time() - start)


def row(maps: Maps, variant: str, found: Sequence[Outcome]) -> dict[str, object]:
    """A line of the CSV."""
    counts_S3 = np.array([(len(one.judged.ious), one.judged.found(), one.judged.false) for one in found])
    movers, right, false = counts_S3.sum(axis=0)
    draws = np.random.default_rng(0).integers(len(found), size=(RESAMPLES, len(found)))
    resampled_R3 = counts_S3[draws].sum(axis=1)
    ious = [iou for one in found for iou in one.judged.ious if iou >= 0.5]
    return {
        "maps": str(maps),
        "variant": variant,
        "scenes": len(found),
        "movers": movers,
        "found": right,
        "false": false,
        **_share("recall", right, movers, resampled_R3[:, 1], resampled_R3[:, 0]),
        **_share("precision", right, right + false, resampled_R3[:, 1], resampled_R3[:, 1] + resampled_R3[:, 2]),
        "iou_of_found": f"{np.mean(ious):.3f}" if ious else "",
        "cpu_s": f"{np.mean([one.seconds for one in found]):.2f}",
    }


def _share(name: str, part: int, whole: int, part_R: np.ndarray, whole_R: np.ndarray) -> dict[str, str]:
    if not whole:
        return {name: "", f"{name}_low": "", f"{name}_high": ""}
    low, high = np.quantile(part_R[whole_R > 0] / whole_R[whole_R > 0], [0.025, 0.975])
    return {name: f"{part / whole:.3f}", f"{name}_low": f"{low:.3f}", f"{name}_high": f"{high:.3f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--first", type=int, default=100, help="seed of the first scene")
    parser.add_argument("--maps", nargs="*", choices=[str(maps) for maps in MAPS], help="only these")
    parser.add_argument("--variant", action="append", help="instead of the switches: options, as noise=1,grid=0.08")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    variants = {text: _options(text) for text in arguments.variant} if arguments.variant else VARIANTS
    with arguments.out.open("w", newline="") as file:
        writer = None
        for maps in MAPS:
            if arguments.maps and str(maps) not in arguments.maps:
                continue
            found: dict[str, list[Outcome]] = {}
            seeds = range(arguments.first, arguments.first + arguments.scenes)
            for name, outcome in outcomes(seeds, maps, variants):
                found.setdefault(name, []).append(outcome)
            for name, of_variant in found.items():
                line = row(maps, name, of_variant)
                writer = writer or csv.DictWriter(file, list(line), lineterminator="\n")
                if not file.tell():
                    writer.writeheader()
                writer.writerow(line)
                file.flush()


def _options(text: str) -> dict[str, object]:
    """Those of "name=value,name=value", numbers as such; none of "corrected"."""
    pairs = [pair.split("=") for pair in text.split(",") if "=" in pair]
    kinds = {name: type(value) for name, value in vars(MoversConfig()).items()}
    return {name: kinds[name](value) for name, value in pairs}


if __name__ == "__main__":
    main()
