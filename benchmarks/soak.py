"""Kill something every few seconds, for as long as is asked, and look into the ledger afterwards.

A real Ray of several nodes on this machine works through run after run of a tiny method (tests/support/tiny_run.py)
while workers, nodes and drivers are killed by SIGKILL at random moments, and new nodes and drivers take their places.
Each finished run must hold every image in exactly one commit, byte for byte what a run holds that nobody disturbed, and
nobody may have been set aside.

    make soak MINUTES=20
    python benchmarks/soak.py --minutes 20 --every 6 --seed 0 --out benchmarks/results/soak.csv
"""

import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.ray_processes import WITHOUT_TOKEN, assert_equal_stores, commits, start_driver, worker_pids
from support.tiny_run import tiny_launch

from pipeline.engine.run import run
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

NODES = 3
KINDS = {"worker": 0.7, "node": 0.2, "driver": 0.1}  # shares of what is killed


class Soak:
    """The cluster, the driver of the present run, and what was killed."""

    def __init__(self, launch: Launch, seed: int) -> None:
        from ray.cluster_utils import Cluster

        self._launch = launch
        self._random = random.Random(seed)
        head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self.killed: Counter[str] = Counter()
        self._driver: subprocess.Popen[str] | None = None
        self._log = Path(tempfile.mkdtemp(prefix="cuts3d-soak-"), "driver.log")

    def tend(self, out: Path) -> bool:
        """See to it that nodes and driver are there; whether the run is complete."""
        while len(self._nodes) < NODES:
            self._nodes.append(self.cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=80 << 20))
        if self._driver is not None and self._driver.poll() is None:
            return False
        if self._driver is not None and self._driver.returncode == 0:
            self._driver = None
            return True
        if self._driver is not None:
            # Killed, or with the node that it was connected through: Ray ends a driver then.
            said = self._log.read_text()
            if "cuts3d:" in said or "given up" in said:
                raise SystemExit(f"a driver ended with {self._driver.returncode}: {said[-3000:]}")
        with self._log.open("wb") as log:
            self._driver = start_driver(out, self._launch, "--ray", str(self.cluster.address), stdout=log)
        return False

    def kill_something(self) -> None:
        kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "worker":
            pids = worker_pids(os.getpid())
            if not pids:
                return
            os.kill(self._random.choice(pids), signal.SIGKILL)
        elif kind == "node":
            node = self._nodes.pop(self._random.randrange(len(self._nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
        elif self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
            self._driver.wait()
        self.killed[kind] += 1

    def close(self) -> None:
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
            self._driver.wait()
        self.cluster.shutdown()


@click.command()
@click.option("--minutes", type=float, default=20.0, show_default=True)
@click.option("--every", type=float, default=6.0, show_default=True, help="Seconds between kills, on average.")
@click.option("--images", type=int, default=240, show_default=True, help="Of each run.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/soak.csv"), show_default=True)
def main(minutes: float, every: float, images: int, seed: int, out: Path) -> None:
    """Kill workers, nodes and drivers for some minutes; the runs must come out as if nothing had happened."""
    os.environ.update(WITHOUT_TOKEN)
    rows = []
    with tempfile.TemporaryDirectory(prefix="cuts3d-soak-") as folder:
        launch = tiny_launch(Path(folder, "data"), images, shard_size=5)
        run(Path(folder, "undisturbed"), launch)
        undisturbed = RunFolder.open(Path(folder, "undisturbed"))
        soak = Soak(launch, seed)
        moments = random.Random(seed + 1)
        end = time.monotonic() + 60 * minutes
        try:
            while time.monotonic() < end:
                target = Path(folder, f"run-{len(rows):03d}")
                started, before, next_kill = time.monotonic(), soak.killed.copy(), 0.0
                while not soak.tend(target):
                    time.sleep(0.1)
                    if time.monotonic() >= next_kill and commits(target):
                        soak.kill_something()
                        next_kill = time.monotonic() + moments.expovariate(1 / every)
                found = RunFolder.open(target)
                orphans = len(found.orphans())
                assert_equal_stores(found, undisturbed)
                killed = soak.killed - before
                rows.append(
                    {
                        "run": len(rows),
                        "seconds": round(time.monotonic() - started, 1),
                        "images": images,
                        "shards": found.n_shards,
                        **{f"{kind}s_killed": killed[kind] for kind in KINDS},
                        "orphans": orphans,
                    }
                )
                click.echo(f"run {len(rows)}: whole after {rows[-1]['seconds']} s, killed {dict(killed)}")
        finally:
            soak.close()
    _write(out, rows, soak.killed, seed)


def _write(out: Path, rows: list[dict[str, Any]], killed: Counter[str], seed: int) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about = {"seed": seed, "commit": commit.stdout.strip(), "date": datetime.now(UTC).date().isoformat()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *about])
        writer.writeheader()
        writer.writerows(row | about for row in rows)
    click.echo(
        f"{len(rows)} runs, {sum(row['images'] for row in rows)} images, killed: "
        + ", ".join(f"{count} {kind}s" for kind, count in killed.items())
        + f"; every run as if undisturbed. Figures in {out}"
    )


if __name__ == "__main__":
    main()
