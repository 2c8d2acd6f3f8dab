"""CUPS from stereo video to a self-trained panoptic detector, on real clips: what each stage's labels score; and with
--kill, that every stage ends in the same bytes when it is killed.

    .venv/bin/python benchmarks/cups_chain.py ASSETS WORK [--seed 0] [--iterations 240]
    .venv/bin/python benchmarks/cups_chain.py ASSETS WORK --kill [--iterations 40]

ASSETS: the shared ones. Twelve clips: nine in a row of KITTI's multi-view scene 43, where the camera stands still and
three cars pass, and three of KITTI 2012 (grey), where the camera drives past what stands. The semantic model (DepthG,
27 clusters, 280 pixels, 300 batches of 8) learns from the left pictures of these clips and 70 COCO photos, without
labels. Frames with truth are seen by no stage: three of KITTI's semantic benchmark and five of Cityscapes. They are
single photos, of which there are no pseudo-labels; so there stand semantic labels alone, without PQ. Of scene 43, which
was trained on, three cars at time 10 are known. All is done by commands as users give them; what is done is not done
again.

Columns of results/cups_chain.csv: stage (pseudo-labels, detector, self-trained), truth, images, classes, void, metric,
value with 95 % interval from 1000 resamples of the images (of one image none), segments matched, false and missed.
Of results/cups_chain_kills.csv: stage, what was seen before each SIGKILL, files compared, files that differ.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_record import commit
from PIL import Image

ROUNDS = 2
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
COLUMNS = ("left", "right", "left_next", "right_next", "fx", "fy", "cx", "cy", "baseline")
SCENE_43 = (721.5, 721.5, 609.6, 172.9, 0.54)  # of custom_stereo.yaml beside it
CAR = 26
DETECTOR = "detector/detector.safetensors"
# A third of the processor time: squares without windows, not mirrored, and a CRF of half the size.
QUICK = ("--set", "cups.windows=none", "--set", "cups.mirror=false", "--set", "cups.refine.side=320")
# What says when, where and how often something was launched.
OF_LAUNCHES = (
    "commits/*",
    "logs/*",
    "launch.json",
    "lease*",
    "*.lock",
    "log.jsonl",
    "events/*",
    "vis_data/*",
    "*.log",
    "cups_*.py",
)
TOLD_OF_LAUNCH = {"run.json": "created", "self-training.json": "detector"}  # the latter's file names its labels' folder
METRICS = ("pq", "sq", "rq", "pq_things", "pq_stuff", "accuracy", "miou")


# As `cups_tiny`, at three fifths of its size.
SMALL = ("--set", "model.data_preprocessor.scales=[(192,96)]", "--set", "test_pipeline.1.scale=(192,96)")


@dataclass(frozen=True)
class Stage:
    """A command of the chain.

    words: of the launch. again: further words of a launch that resumes.
    made: folder that it fills. done: file that says it is done, below it.
    signs: patterns below `made`, one for each kill: the first file that fits means that the stage is in its middle.
    """

    name: str
    words: tuple[str, ...]
    made: str
    done: str
    signs: tuple[str, ...]
    again: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """In the folder WORK.

    iterations: of the detector. self_iterations: of a round.
    """

    assets: Path
    work: Path
    seed: int
    iterations: int
    self_iterations: int
    every: int

    @property
    def street(self) -> Path:
        return self.assets / "street"

    def stages(self) -> list[Stage]:
        seed, last = ("--seed", str(self.seed)), f"rounds/round-{ROUNDS}/training"
        checkpoints = ("--set", f"default_hooks.checkpoint.interval={self.every}")
        clips = ("--images", "clips:clips.csv", "--shard-size", "2")
        model = (
            "--recipe",
            "depthg",
            "--set",
            "crops.layout=whole",
            "--set",
            "features.size=280",
            "--iterations",
            "300",
        )
        model += ("--set", "training.batch_size=8", "--set", "training.checkpoint_every=100", *seed)
        train = ("--run", "labels", "--config", "cups_tiny", "--iterations", str(self.iterations))
        own = ("--run", "labels", "--checkpoint", "detector/detector.safetensors", "--config", "cups_self_tiny")
        own += ("--rounds", str(ROUNDS), "--iterations", str(self.self_iterations))
        cropped = ("--set", "model.data_preprocessor.crop=(48,96)")
        checkpoint = f"{last}/detector.safetensors"
        return [
            Stage(
                "train-semantic",
                ("train-semantic", "--images", "photos.txt", "--out", "model", *model),
                "model",
                "model.safetensors",
                ("inputs/commits/*", "iter_*.pth"),
                ("--resume",),
            ),
            Stage(
                "labels",
                (
                    "run",
                    "--recipe",
                    "depthg",
                    "--images",
                    "frames.txt",
                    "--set",
                    "depthg.checkpoint=model",
                    "--out",
                    "seen",
                ),
                "seen",
                "",
                (),
            ),
            Stage("motion", ("run", "--recipe", "motion", *clips, "--out", "motion"), "motion", "", ("commits/*",)),
            Stage(
                "cups",
                ("run", "--recipe", "cups", *clips, "--set", "cups.checkpoint=model", *QUICK, "--out", "labels"),
                "labels",
                "",
                ("commits/*",),
            ),
            Stage(
                "train",
                ("train", *train, "--work-dir", "detector", *checkpoints, *SMALL, *resized(2), *seed),
                "detector",
                "detector.safetensors",
                ("iter_*.pth",),
                ("--resume",),
            ),
            Stage(
                "self-train",
                ("self-train", *own, "--work-dir", "rounds", *checkpoints, *SMALL, *cropped, *resized(1), *seed),
                "rounds",
                f"round-{ROUNDS}/training/detector.safetensors",
                ("round-1/training/iter_*.pth", "round-2/training/iter_*.pth"),
            ),
            Stage(
                "predict",
                ("predict", "frames.txt", "--checkpoint", "detector/detector.safetensors", "--out", "found"),
                "found",
                "panoptic.json",
                ("run/commits/*",),
            ),
            Stage(
                "predict self-trained",
                ("predict", "frames.txt", "--checkpoint", checkpoint, "--out", "found-self"),
                "found-self",
                "panoptic.json",
                (),
            ),
        ]

    def write_inputs(self) -> None:
        """Lists of photos, of clips and of frames with truth, and the truth of scene 43, as KITTI has its own."""
        self.work.mkdir(parents=True, exist_ok=True)
        scene, grey = self.street / "kitti_mv_testing_000043", self.street / "kitti2012"
        lefts = [scene / "image_2" / f"000043_{time_:02}.png" for time_ in range(6, 16)]
        coco = sorted((self.assets / "coco" / "images").glob("*.jpg"))[::3]
        self._list("photos.txt", [*coco, *lefts, *sorted((grey / "image_0").glob("*.png"))])
        cityscapes = sorted((self.street / "cityscapes" / "train_img").glob("*.png"))
        kitti = sorted((self.street / "kitti_semantics" / "image_2").glob("*.png"))
        self._list("frames.txt", [*cityscapes, *kitti, lefts[10 - 6]])
        rows = [
            [str(scene / f"image_{side}" / f"000043_{at:02}.png") for at in (time_, time_ + 1) for side in (2, 3)]
            + [str(value) for value in SCENE_43]
            for time_ in range(6, 15)
        ]
        for number in ("000027", "000074", "000138"):
            lines = (grey / "calib" / f"{number}.txt").read_text().splitlines()
            left, right = ([float(word) for word in line.split()[1:]] for line in lines[:2])
            pictures = [str(grey / f"image_{side}" / f"{number}_{at}.png") for at in (10, 11) for side in (0, 1)]
            numbers = (left[0], left[5], left[2], left[6], -right[3] / right[0])
            rows.append([*pictures, *(str(value) for value in numbers)])
        with (self.work / "clips.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        with Image.open(scene / "movers_10.png") as image:
            cars_HW = np.array(image).astype(np.uint16)
        folder = self.work / "cars" / "instance"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(cars_HW > 0, CAR * 256 + cars_HW, 0).astype(np.uint16)).save(folder / lefts[4].name)

    def _list(self, name: str, paths: Sequence[Path]) -> None:
        (self.work / name).write_text("".join(f"{path}\n" for path in paths))

    def truths(self) -> dict[str, tuple[str, str]]:
        """What is said of a truth, and as options have it."""
        return {
            "KITTI": (f"kitti-semantics:{self.street / 'kitti_semantics'}", "19"),
            "Cityscapes": (f"cityscapes:{self.street / 'cityscapes' / 'train_inst'}", "19"),
            "three cars": ("kitti-semantics:cars", "19"),
        }

    def is_done(self, stage: Stage) -> bool:
        if stage.done:
            return (self.work / stage.made / stage.done).is_file()
        return self.cuts3d("status", stage.made, check=False).returncode == 0

    def launch(self, stage: Stage) -> None:
        """Do what is missing of a stage."""
        if not self.is_done(stage):
            begun = (self.work / stage.made).exists()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            self.cuts3d(*stage.words, *(stage.again if begun else ()))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{stage.name}: {took:.0f} s of processor time", flush=True)

    def cuts3d(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command(*words), cwd=self.work, env=environment(), text=True, capture_output=True)
        (self.work / "log.txt").open("a").write(f"{shlex.join(words)}\n{done.stdout}{done.stderr}\n")
        if check and done.returncode:
            raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stderr}")
        return done


def resized(step: int) -> tuple[str, str]:
    """The step of a pipeline that makes photos smaller."""
    return "--set", f"train_dataloader.dataset.pipeline.{step}.scale=(192,96)"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# --- scores ----------------------------------------------------------------------------------------------------------


def scores(chain: Chain) -> Iterator[dict[str, object]]:
    """A line for each value."""
    for truth, (option, classes) in chain.truths().items():
        of_stages = {"detector": "found", "self-trained": "found-self"}
        if truth == "three cars":
            of_stages = {"pseudo-labels": "labels", **of_stages}
        else:
            yield from scored(chain, "labels alone", truth, ("evaluate-semantic", "seen", "--truth", option), classes)
        for stage, folder in of_stages.items():
            words = ("evaluate-panoptic", folder, "--truth", option)
            yield from scored(chain, stage, truth, words, classes)


def scored(chain: Chain, stage: str, truth: str, words: Sequence[str], classes: str) -> Iterator[dict[str, object]]:
    out = chain.work / "scores.json"
    chain.cuts3d(*words, "--classes", classes, "--json", out.name)
    report = json.loads(out.read_text())
    segments = report["runs"]["run"].get("segments", {}).values()
    about = {"stage": stage, "truth": truth, "images": report["n_images"], "classes": classes, "void": report["void"]}
    counts = {name: sum(one[name] for one in segments) if segments else "" for name in ("matched", "false", "missed")}
    for metric in METRICS if report["n_images"] > 1 else METRICS[:3]:  # all else is void around the three cars
        found = report["run"]["overall"].get(metric)
        if found is not None and found["value"] is not None:
            low, high = found["low"], found["high"]
            if report["n_images"] == 1:
                low = high = None
            yield {**about, "metric": metric, "value": found["value"], "low": low, "high": high, **counts}


# --- kills -----------------------------------------------------------------------------------------------------------


def kills(chain: Chain, disturbed: Chain) -> Iterator[dict[str, object]]:
    """Each stage in a second folder, killed at each of its signs, and resumed: which files differ."""
    for stage in (stage for stage in chain.stages() if stage.signs):
        chain.launch(stage)
        if not disturbed.is_done(stage):
            if stage.name == "predict":  # a run knows its detector by the file, which names the labels' folder
                shutil.copy(chain.work / DETECTOR, disturbed.work / DETECTOR)
            for place, sign in enumerate(stage.signs):
                killed(disturbed, stage, sign, resumes=place > 0)
            disturbed.launch(stage)
        ours, theirs = (contents(one, stage) for one in (chain, disturbed))
        differ = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        yield {
            "stage": stage.name,
            "killed_after": "; ".join(stage.signs),
            "files": len(ours),
            "differ": len(differ),
            "names": " ".join(differ),
        }


def killed(chain: Chain, stage: Stage, sign: str, resumes: bool) -> None:
    """SIGKILL once there is a file by this sign, which there was not before."""
    folder = chain.work / stage.made
    with (chain.work / "killed.txt").open("a") as log:
        process = subprocess.Popen(
            command(*stage.words, *(stage.again if resumes else ())),
            cwd=chain.work,
            env=environment(),
            stdout=log,
            stderr=log,
        )
        while not any(folder.glob(sign)):
            if process.poll() is not None:
                raise SystemExit(f"{stage.name} ended with {process.returncode} before there was {sign}")
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit(f"{stage.name} ended before it could be killed")


def contents(chain: Chain, stage: Stage) -> dict[str, str]:
    """SHA-256 of what a stage leaves, by name: all but what tells of launches. The names of shards hold the attempt."""
    found = {}
    folder = chain.work / stage.made
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(path.match(pattern) for pattern in OF_LAUNCHES):
            if path.match("shards/*"):
                name = name[: name.rindex("-")]
            found[name] = digest(path, chain.work)
    return found


def digest(path: Path, work: Path) -> str:
    """Of a file, without times, and without the folder, which is another one. Of a checkpoint: weights, optimiser,
    teacher.
    """
    data = path.read_bytes()
    if path.suffix == ".pth":
        return of_tensors(torch.load(path, weights_only=True))
    if path.name in TOLD_OF_LAUNCH:
        content = json.loads(data)
        data = json.dumps({name: content[name] for name in content if name != TOLD_OF_LAUNCH[path.name]}).encode()
    if path.suffix == ".safetensors":  # its head is as long as what it says, and padded
        end = 8 + int.from_bytes(data[:8], "little")
        data = data[8:end].rstrip() + data[end:]
    return hashlib.sha256(data.replace(str(work.resolve()).encode(), b"")).hexdigest()


def of_tensors(checkpoint: dict[str, Any]) -> str:
    """Of all in it but times and paths."""
    sums = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            sums.update(name.encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, dict | list | tuple):
            for key, one in value.items() if isinstance(value, dict) else enumerate(value):
                add(f"{name}/{key}", one)
        else:
            sums.update(f"{name}={value}".encode())

    add("", {name: value for name, value in checkpoint.items() if name not in ("meta", "message_hub")})
    return sums.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=240)
    parser.add_argument("--self-iterations", type=int, default=20)
    parser.add_argument("--every", type=int, default=20, help="iterations from checkpoint to checkpoint")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sizes = (options.seed, options.iterations, options.self_iterations, options.every)
    chain, disturbed = (Chain(options.assets.resolve(), options.work / name, *sizes) for name in ("whole", "killed"))
    chain.write_inputs()
    if options.kill:
        disturbed.write_inputs()
        lines = kills(chain, disturbed)
    else:
        for stage in chain.stages():
            chain.launch(stage)
        lines = scores(chain)
    out = options.out or RESULTS / ("cups_chain_kills.csv" if options.kill else "cups_chain.csv")
    write(out, lines, facts(options))


def facts(options: argparse.Namespace) -> dict[str, object]:
    how = f"--iterations {options.iterations} --self-iterations {options.self_iterations}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {"seed": options.seed, "how": how, "machine": machine, "commit": commit()}


def write(out: Path, lines: Iterator[dict[str, object]], about: dict[str, object]) -> None:
    with out.open("w", newline="", encoding="utf-8") as file:
        table: csv.DictWriter[str] | None = None
        for line in lines:
            rounded = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in line.items()}
            if table is None:
                table = csv.DictWriter(file, [*rounded, *about], lineterminator="\n")
                table.writeheader()
            table.writerow(rounded | about)
            file.flush()
            print(rounded, flush=True)


if __name__ == "__main__":
    main()
