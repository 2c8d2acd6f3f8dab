"""What the detector takes to install, and what compiling mmcv's operators takes, in one run on one machine.

    .venv/bin/python benchmarks/install_detector.py --out benchmarks/results/install_detector.csv

In a copy of the last commit, with compilers that put every call on record: `make install`; `make install-detector` as
it is now; `make install-mmcv`, the step that came on top of it before, no wheel kept from earlier. pip's cache is the
user's, as it is after any installation. Takes about a quarter of an hour on two cores, and 6 GB.

Columns: wall_s, cpu_s of all processes (read this where others work on the machine); compilers, how often one was
called; load, processes that wanted a core before; cores.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "install_detector.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(Path(temporary))
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    now, compiling = rows[1], rows[2]
    ratio = (now["wall_s"] + compiling["wall_s"]) / now["wall_s"]
    print(
        f"install-detector: {now['wall_s']} s; with compiling {ratio:.0f} times as long; {now['compilers']} compilers"
    )


def measure(temporary: Path) -> list[dict[str, Any]]:
    """A row for each of the three."""
    checkout, record = temporary / "cuts3d", temporary / "compilers.txt"
    checkout.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "--extract"], cwd=checkout, input=archive, check=True)
    path = f"{watched(temporary / 'bin', record)}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CUTS3D_WHEELS": str(temporary / "wheels")}
    rows = []
    for target in ("install", "install-detector", "install-mmcv"):
        load, before = os.getloadavg()[0], calls(record)
        started, cpu = time.monotonic(), cpu_seconds()
        subprocess.run(["make", target], cwd=checkout, env=environment, check=True)
        rows.append(
            {
                "target": target,
                "wall_s": round(time.monotonic() - started, 1),
                "cpu_s": round(cpu_seconds() - cpu, 1),
                "compilers": calls(record) - before,
                "load": round(load, 2),
                "cores": len(os.sched_getaffinity(0)),
            }
        )
    return rows


def watched(folder: Path, record: Path) -> Path:
    """A folder for the front of PATH: compilers that note that they were called, and then act as those behind them."""
    folder.mkdir()
    for name in COMPILERS:
        real = shutil.which(name)
        if real is not None:
            (folder / name).write_text(f'#!/bin/sh\necho {name} >> {record}\nexec {real} "$@"\n')
            (folder / name).chmod(0o755)
    return folder


def calls(record: Path) -> int:
    return len(record.read_text().splitlines()) if record.exists() else 0


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
