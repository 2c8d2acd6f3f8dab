"""Two recipes of the detector under equal steps and seeds: what they find, how fast they train, what memory they take.

.venv/bin/python benchmarks/train_detectors.py --run RUN ... --truth instances.json --images PHOTOS --work FOLDER
    [--configs cutler_r50_fpn_1gpu cuts3d_r50_fpn_1gpu] [--iterations N] [--batch-size N] [--seeds 0 1 2] [--amp]
    [--backbone FILE|random] [--set NAME=VALUE ...] [--out results/train_detectors.csv]

Each training is a `cuts3d train` of its own in FOLDER; what was stopped resumes when the same is called again. Meant
for a GPU and an hour; on two cores `--configs cutler_tiny tiny` is done in a quarter of one, and shows little.

    what            a configuration, or "difference", of the second from the first on the same resamples of the photos
    images_s        images per second of training, median over the logged intervals, the first tenth left out
    gpu_busy        mean of what nvidia-smi says once a second, in parts of 1; empty without a GPU
    gpu_mb, rss_mb  peak memory: of the GPU, by torch; of the training's processes
    mask_AP …       per cent, each with its 95 % interval by bootstrap over the photos
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_usage import gpu_reader, resident

from detector.evaluation.evaluate import evaluate_detector
from detector.model.checkpoints import read_detector
from pipeline.engine import run as runner
from pipeline.evaluation.truth.coco import Truth
from pipeline.evaluation.truth.formats import TruthSet

RESULTS = Path(__file__).parent / "results" / "train_detectors.csv"
METRICS = ("mask_AP", "mask_AP50", "mask_AR100", "box_AP", "box_AP50", "box_AR100")
USAGE_FILE = "usage.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", dest="runs", nargs="+", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--configs", nargs=2, default=["cutler_r50_fpn_1gpu", "cuts3d_r50_fpn_1gpu"])
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--backbone")
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    truth = TruthSet(Truth.read(options.truth), "", options.images)
    rows = []
    for seed in options.seeds:
        folders = [options.work / f"{Path(config).stem}-{seed}" for config in options.configs]
        for config, folder in zip(options.configs, folders, strict=True):
            train(config, seed, folder, options)
        first, second = (read_detector(folder / "detector.safetensors") for folder in folders)
        (scored,) = evaluate_detector(second, [truth], options.work / f"metrics-{seed}.json", runner.run, other=first)
        columns = scored.report.columns
        for config, folder, column in zip(options.configs, folders, ("other", "run"), strict=True):
            rows.append({"what": config, "seed": seed, **course(folder), **figures(columns[column])})
        rows.append({"what": "difference", "seed": seed, **figures(columns["difference"])})
        write(rows, options.out)


def train(config: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """To the end, in a process of its own, which is watched."""
    if (folder / "detector.safetensors").exists():
        return
    words = ["--config", config, "--seed", str(seed), "--work-dir", str(folder)]
    words += [word for run in options.runs for word in ("--run", run)]
    words += [word for setting in options.settings for word in ("--set", setting)]
    for name in ("iterations", "batch_size", "backbone"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--amp"] if options.amp else []
    words += ["--resume"] if list(folder.glob("iter_*.pth")) else []
    folder.mkdir(parents=True, exist_ok=True)
    training = subprocess.Popen([sys.executable, "-m", "detector.training", *words])
    with (folder / USAGE_FILE).open("a", encoding="utf-8") as usage:
        for line in used_by(training):
            usage.write(line + "\n")
            usage.flush()
    if training.returncode:
        raise SystemExit(f"the training of {config} with seed {seed} ended with {training.returncode}")


def used_by(training: subprocess.Popen) -> Iterator[str]:
    """Once a second: megabytes of memory, and how busy the GPU is, 0..100."""
    gpu = gpu_reader()
    while training.poll() is None:
        busy = round(100 * gpu()[0]) if gpu else ""
        yield f"{resident(training.pid) >> 20},{busy}"
        time.sleep(1)


def course(folder: Path) -> dict[str, Any]:
    """How the training went, by its own log and by what was seen of it."""
    trained_on = read_detector(folder / "detector.safetensors").trained_on
    files = sorted(folder.glob("*/vis_data/scalars.json"))
    reports = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    steps = [report for report in reports if "loss" in report]
    settled = [report["time"] for report in steps if report["step"] > 0.1 * trained_on["iterations"]]
    usage = [line.split(",") for line in (folder / USAGE_FILE).read_text().splitlines()]
    busy = [int(b) for _, b in usage if b]
    return {
        "iterations": trained_on["iterations"],
        "batch": trained_on["batch"],
        "images": trained_on["images"],
        "masks": trained_on["masks"],
        "loss": round(steps[-1]["loss"], 4),
        "images_s": round(trained_on["batch"] / statistics.median(settled), 2),
        "gpu_busy": round(statistics.fmean(busy) / 100, 3) if busy else "",
        "gpu_mb": max((report.get("memory", 0) for report in steps), default=0) or "",
        "rss_mb": max(int(rss) for rss, _ in usage),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores",
    }


def figures(estimates: Any) -> dict[str, float]:
    """Metrics in per cent, with their intervals."""
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    return {f"{m}{suffix}": round(100 * getattr(estimates[m], end), 3) for m in METRICS for suffix, end in ends}


def write(rows: list[dict[str, Any]], out: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "commit"], lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows({**row, "commit": commit.stdout.strip()} for row in rows)


if __name__ == "__main__":
    main()
