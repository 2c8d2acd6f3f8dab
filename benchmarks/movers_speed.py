"""What it costs to find moving objects in a KITTI pair, beside a plain transcription of the method; and memory.

One pair of 375×1242 pixels, time 10 of the clip: OpenCV's flow and disparity with two threads, then eight runs of
SF2SE3 and their ensemble on one thread. The transcription (tests/support/reference_movers.py: as released, whole maps,
one proposal after the other) gets the same maps. Memory is the peak of a process with one pair of 640×1280, a rendered
street with exact maps, above what its imports take, the maps included.

    python benchmarks/movers_speed.py CLIP --out benchmarks/results/movers_speed.csv

CLIP: the folder kitti_mv_testing_000043 of the shared assets. Each step counts by the quickest of `--tries`, the
transcription by one. Seconds of the clock, and of the CPU, which other processes on the machine do not disturb. The
targets: 2 s by the clock on two cores without other work, ten times quicker than the transcription, 500 MB.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import reference_movers
from support.stereo_scenes import render, street

from stages.motion.camera import Camera
from stages.motion.clip_motion import MAPS, ClipMotion, ClipPictures
from stages.motion.movers import find_movers
from stages.motion.movers_config import SWITCHES, MoversConfig
from stages.motion.opencv_motion import OpencvMotion

RESULTS = Path(__file__).parent / "results" / "movers_speed.csv"
KITTI = Camera(721.5, 721.5, 609.6, 172.9, 0.54)
CITYSCAPES = Camera(744, 744, 639.5, 180, 0.54)


def seconds(work: Callable[[], object], tries: int) -> tuple[float, float]:
    """The quickest try: seconds of the clock, and the least seconds of the CPU."""
    clock_s, cpu_s = [], []
    for _ in range(tries):
        clock, cpu = time.perf_counter(), time.process_time()
        work()
        clock_s.append(time.perf_counter() - clock)
        cpu_s.append(time.process_time() - cpu)
    return min(clock_s), min(cpu_s)


def pair(clip: Path, at: int) -> ClipPictures:
    """Of the clip, from this time on."""
    names = [clip / f"image_{side}" / f"000043_{time_:02}.png" for time_ in (at, at + 1) for side in (2, 3)]
    return ClipPictures(*(np.asarray(Image.open(name).convert("RGB")) for name in names))


def peak_megabytes(motion: ClipMotion, camera: Camera) -> float:
    """Of this process, when it finds movers, above what it has before. The first call warms up on a corner of them."""
    corner = ClipMotion(*(np.ascontiguousarray(getattr(motion, name)[:64, :128]) for name in MAPS))
    find_movers(corner, camera, replace(MoversConfig(), top=0, bottom=0, fewest=1), 0)
    before = _peak()
    copies = ClipMotion(*(getattr(motion, name).copy() for name in MAPS))
    find_movers(copies, camera, MoversConfig(), 0)
    return _peak() - before


def _peak() -> float:
    """Of this process, MB. (getrusage has that of the process that it was forked from, if that is larger.)"""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def measure_memory(maps: Path) -> None:
    """In a process of its own: reads the maps, prints megabytes."""
    with np.load(maps, mmap_mode="r") as stored:
        motion = ClipMotion(*(stored[name] for name in MAPS))
    print(peak_megabytes(motion, CITYSCAPES))


def memory() -> float:
    """See above."""
    scene = render(*street(1), CITYSCAPES, (640, 1280))
    with tempfile.TemporaryDirectory() as folder:
        maps = Path(folder) / "maps.npz"
        np.savez(maps, **{name: getattr(scene.motion, name) for name in MAPS})
        command = [sys.executable, __file__, "--memory-of", str(maps)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments.memory_of)
        return
    model, pictures = OpencvMotion(threads=2), pair(arguments.clip, 10)
    motion = model([pictures], ["10"])[0]
    released = MoversConfig(**dict.fromkeys(SWITCHES, "released"))
    works: dict[str, tuple[Callable[[], object], int]] = {
        "maps": (lambda: model([pictures], ["10"]), arguments.tries),
        "movers": (lambda: find_movers(motion, KITTI, MoversConfig(), 0), arguments.tries),
        "maps and movers": (
            lambda: find_movers(model([pictures], ["10"])[0], KITTI, MoversConfig(), 0),
            arguments.tries,
        ),
        "transcription": (lambda: reference_movers.movers(motion, KITTI, released, 0, released=True), 1),
    }
    load = os.getloadavg()[0]
    lines = []
    for name, (work, tries) in works.items():
        clock_s, cpu_s = seconds(work, tries)
        lines.append({"step": name, "clock_s": f"{clock_s:.2f}", "cpu_s": f"{cpu_s:.2f}", "peak_mb": ""})
    lines.append({"step": "movers, 640x1280", "clock_s": "", "cpu_s": "", "peak_mb": f"{memory():.0f}"})
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*lines[0], "load"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**line, "load": f"{load:.1f}"} for line in lines)


if __name__ == "__main__":
    main()
