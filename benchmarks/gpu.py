"""What a GPU has to prove, in one command of at most twelve minutes: for when one is lent for a quarter of an hour.

Nothing is installed on the machine that has it, and nothing is fetched there. It needs Python 3.12 with torch, timm,
transformers, scipy, onnxruntime, opencv, pyarrow, matplotlib, psutil, pytest and tensorboard. What else cuts3d needs
travels with it, and so do weights and photos, in the folder .gpu:

    make gpu-bundle                      here: .gpu, which with the checkout is below 64 MiB (benchmarks/gpu_bundle.py)
    python3 benchmarks/gpu.py --out OUT  there, in a copy of the checkout with .gpu in it

`gpu_bundle.PACKAGES` names the wheels: zarr, numcodecs, pycocotools, PyMaxflow, mmdet, mmengine, mmcv-lite and their
like. They are unpacked into a temporary folder that the steps have on PYTHONPATH. Where a command may not take twelve
minutes, two share the work (the second finds the masks of the first, or makes some):

    python3 benchmarks/gpu.py --out OUT --work /tmp/gpu --steps parity tests speed big
    python3 benchmarks/gpu.py --out OUT --work /tmp/gpu --steps train

Each step is a process of its own, which is ended with all its children when its time is up; the next one follows in
any case. What is measured is in OUT at once: gpu.csv and gpu.jsonl, to which every call adds; STEP.log has what a step
printed; summary.txt, which is also printed, comes last. The exit status is 1 when a step failed.

Without a GPU, `--device cpu --tiny` goes through all of it in two minutes, on small random networks.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu_record import (
    BUNDLE,
    FAILED,
    OK,
    OUTCOME,
    ROOT,
    SKIPPED,
    Records,
    commit,
    cpu_name,
    read_lines,
    sentence,
    summary,
)

GRACE = 5.0  # seconds between asking a step to end and ending it


@dataclass(frozen=True)
class Step:
    """module, function: what is called, see `gpu_steps`. limit: seconds that it may take."""

    module: str
    function: str
    limit: float


# In this order; together twelve minutes.
STEPS = {
    "parity": Step("gpu_steps", "parity", 120),
    "tests": Step("gpu_steps", "gpu_tests", 70),
    "speed": Step("gpu_speed", "speed", 170),
    "big": Step("gpu_speed", "big", 180),
    "train": Step("gpu_training", "train", 250),
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto is the GPU [auto]")
    parser.add_argument("--tiny", action="store_true", help="small random networks and four drawn photos")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help=" ".join(STEPS))
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all limits and times [1]")
    parser.add_argument("--assets", type=Path, help="folder with weights/ and coco/images/ [.gpu/assets]")
    parser.add_argument("--out", type=Path, default=BUNDLE / "results", help="folder for results [.gpu/results]")
    parser.add_argument("--work", type=Path, help="folder for runs and trainings, kept [a temporary one]")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.scale <= 0:
        parser.error(f"--scale is {options.scale}: it must be above 0")
    options.assets = (options.assets or default_assets()).absolute()
    if not options.tiny and not (options.assets / "weights").is_dir():
        parser.error(f"no weights and photos in {options.assets}: run `make gpu-bundle` first, or give --assets")
    if options.child:
        return run_step(options.child, options)
    with tempfile.TemporaryDirectory(prefix="cuts3d-gpu-") as temporary:
        options.out, options.work = options.out.absolute(), (options.work or Path(temporary)).absolute()
        options.work.mkdir(parents=True, exist_ok=True)
        return run_all(options)


def run_all(options: argparse.Namespace) -> int:
    """Every step that is wanted; 1 when one failed."""
    began = len(read_lines(options.out))
    environment = os.environ | {"PYTHONPATH": search_path(options.work), "CUTS3D_CACHE": str(options.work / "cache")}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # of a step that is ended the log is whole
    # Before torch is loaded, as the command line has it.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = ["--device", options.device, "--scale", str(options.scale), "--assets", str(options.assets)]
    words += ["--out", str(options.out), "--work", str(options.work), *(["--tiny"] if options.tiny else [])]
    for name in (name for name in STEPS if name in options.steps):
        command = [sys.executable, str(Path(__file__).absolute()), *words, "--child", name]
        watch(name, command, STEPS[name].limit * options.scale, options.out, environment)
    lines = read_lines(options.out, began)
    text = "\n".join(["", *summary(lines)])
    (options.out / "summary.txt").write_text(text.lstrip() + "\n", encoding="utf-8")
    print(text, flush=True)
    return int(any(line["what"] == OUTCOME and line["value"] == FAILED for line in lines))


def watch(name: str, command: Sequence[str], limit: float, out: Path, environment: dict[str, str]) -> None:
    """A step from start to end, `limit` seconds at most; its lines are printed as they come. One that ends without
    saying how gets a line that does."""
    records, shown = Records(out, name, commit()), len(read_lines(out))
    out.mkdir(parents=True, exist_ok=True)
    log, began = out / f"{name}.log", shown
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline, reason = time.monotonic() + limit, ""
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                reason = f"not done after {limit:g} s"
                break
            time.sleep(0.2)
            shown += _show(out, shown)
    finally:
        _end(process)
    if not any(line["what"] == OUTCOME for line in read_lines(out, began)):
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = said[-1] if said else "it said nothing"
        records.outcome(FAILED, reason or f"ended with {process.returncode}: {last}")
    _show(out, shown)


def _show(out: Path, shown: int) -> int:
    """Print the lines after the first `shown`; how many those were."""
    news = read_lines(out, shown)
    for line in news:
        print(sentence(line), flush=True)
    return len(news)


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started. Its group is left over by a step that died, too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def run_step(name: str, options: argparse.Namespace) -> int:
    """In the process that is the step's own."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from gpu_steps import Settings

    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    on = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    records = Records(options.out, name, commit(), on, torch.__version__)
    settings = Settings(device, options.tiny, options.assets, options.work, options.scale)
    function = getattr(importlib.import_module(STEPS[name].module), STEPS[name].function)
    reason = function(settings, records)
    records.outcome(SKIPPED if reason else OK, reason or "")
    return 0


def search_path(work: Path) -> str:
    """For PYTHONPATH: this source, and the packages of the bundle, unpacked, if there are any for this Python."""
    paths = [str(ROOT)]
    packages = BUNDLE / f"site-{sys.implementation.cache_tag}.tar.xz"
    if packages.is_file():
        target = work / "site"
        with tarfile.open(packages) as archive:
            archive.extractall(target, filter="data")
        paths.insert(0, str(target))
    return os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])


def default_assets() -> Path:
    """Those of the bundle, or, without one, those of the tests."""
    bundled = BUNDLE / "assets"
    return bundled if bundled.is_dir() else Path(os.environ.get("CUTS3D_ASSETS", ROOT.parent / "shared" / "assets"))


if __name__ == "__main__":
    sys.exit(main())
