"""What the driver costs and how well it schedules: the real `cluster.driver.Driver` with simulated workers.

1.3 million images in 1,300 to 26,000 shards on 8 to 512 workers, in scenarios from "even", where every shard
takes the same time and nothing fails, to "everything". Workers and faults: simulated_fleet.py. Nothing of Ray runs
here; what a call to a worker and its answer cost the driver is a stated time, World.call.

    python benchmarks/simulate_cluster.py
    python benchmarks/simulate_cluster.py --shards 13000 26000 --workers 512 --scenarios even uneven mixed faults \
        --seeds 0 1 2 3 4 --out benchmarks/results/simulate_cluster_512.csv

A CSV line a scenario, number of shards, number of workers and seed of what goes wrong. Efficiency is the ideal time
over the time taken, both from the first worker's start on: ideal is when all shards could be done if no worker that is
there ever waited and nothing were done twice. The ledger is checked in every one: each image in one commit or set
aside, none of both. Ends with status 1 when the driver took more than MOST_US_A_SHARD of processor time a shard.
"""

import argparse
import csv
import gc
import logging
import math
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path

from simulated_fleet import SimulatedFleet, World, ideal_end

from cluster.driver import Driver, Observer, Rules
from cluster.fleet import Done
from pipeline.images.manifest import ImageRef, Manifest, Shard

RESULTS = Path(__file__).parent / "results" / "simulate_cluster.csv"
IMAGES = 1_300_000
SHARDS = (1_300, 5_200, 13_000, 26_000)
WORKERS = (8, 32, 128, 512)
MOST_US_A_SHARD = 5_000  # of processor time: 8,000 shards with 512 workers take 40 s of it
PEAK_SECONDS = 10  # over which commits are counted to find when there are most

_UNEVEN = World(spread=0.2, slow_workers=0.05, stalls=0.001)
_FAULTS = replace(_UNEVEN, late=0.1, deaths=1.0, node_losses=1.0, errors=0.002)
SCENARIOS = {
    "even": World(),
    "uneven": _UNEVEN,
    "heavy": replace(_UNEVEN, heavy=0.001),
    "mixed": replace(_UNEVEN, cpu_workers=0.25),
    "faults": _FAULTS,
    "everything": replace(_FAULTS, heavy=0.001, stuck_commits=0.0005, killers=5, hangers=3),
}


@dataclass(frozen=True)
class Row:
    """Of the CSV. Times in simulated seconds from the first worker's start on, but driver_s, which is real.

    efficiency: ideal_s / took_s. efficiency_99: the same for 99 % of the shards. whole_shards: the efficiency that
    equal shards on equal workers allow, since a worker does a whole number of them. driver_s: processor time of the
    driver alone. driver_mb: by how much the process grew while it drove, beyond memory that it had and did not use;
    process_mb: all of it at its peak, with the manifest.
    peak_commits_s: commits a second, over the 10 seconds with most. redone: attempts and probes beyond one a shard.
    """

    scenario: str
    shards: int
    workers: int
    seed: int
    took_s: float
    ideal_s: float
    efficiency: float
    efficiency_99: float
    whole_shards: float
    driver_s: float
    driver_us_a_shard: float
    driver_mb: float
    process_mb: float
    peak_commits_s: float
    redone: int
    deaths: int
    node_losses: int
    errors: int
    set_aside: int


class _Heard(Observer):
    """Counts what the driver reports as committed."""

    def __init__(self) -> None:
        self.commits = 0

    def committed(self, done: Done) -> None:
        self.commits += 1


def manifest_of(images: int, shards: int) -> Manifest:
    """As of ImageNet, in names as long as its own."""
    refs = (
        ImageRef(name, f"s3://bucket/{name}")
        for name in (f"train/n{i // 1300:08d}/n{i // 1300:08d}_{i % 1300:05d}.JPEG" for i in range(images))
    )
    return Manifest(refs, math.ceil(images / shards))


def simulate(
    scenario: str, world: World, shards: Sequence[Shard], workers: int, seed: int = 0, rules: Rules | None = None
) -> Row:
    """One line. RuntimeError when an image is not exactly once in the ledger, or the driver reports something else."""
    fleet = SimulatedFleet(world, shards, workers, seed)
    before = _resident_mb()
    began = time.process_time()
    heard = _Heard()
    driver = Driver(fleet, shards, rules, heard, clock=fleet.clock, elsewhere=fleet.keys)
    failed = driver.run()
    driver_s = time.process_time() - began - fleet.cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fleet.close()
    check(fleet, shards, failed, heard.commits)
    start = fleet.tally.capacity[0][0]
    times = sorted(fleet.ledger.times.values())
    most = math.ceil(0.99 * len(times))
    took, took_99 = times[-1] - start, times[most - 1] - start
    ideal = ideal_end(fleet.tally.capacity, fleet.work) - start
    ideal_99 = ideal_end(fleet.tally.capacity, fleet.work * most / len(times)) - start
    each = len(shards) / workers
    tally = fleet.tally
    return Row(
        scenario=scenario,
        shards=len(shards),
        workers=workers,
        seed=seed,
        took_s=round(took, 1),
        ideal_s=round(ideal, 1),
        efficiency=round(ideal / took, 4),
        efficiency_99=round(ideal_99 / took_99, 4),
        whole_shards=round(each / math.ceil(each), 4),
        driver_s=round(driver_s, 2),
        driver_us_a_shard=round(driver_s / len(shards) * 1e6, 1),
        driver_mb=round(peak - before, 1),
        process_mb=round(peak, 1),
        peak_commits_s=max(Counter(int(when // PEAK_SECONDS) for when in times).values()) / PEAK_SECONDS,
        redone=tally.attempts + tally.probes - len(shards),
        deaths=tally.deaths,
        node_losses=tally.node_losses,
        errors=tally.errors,
        set_aside=int(fleet.ledger.aside.sum()),
    )


def check(fleet: SimulatedFleet, shards: Sequence[Shard], failed: Mapping[str, str], heard: int) -> None:
    """RuntimeError unless every image is in one commit or set aside, these are the right ones, and all was reported."""
    ledger = fleet.ledger
    wrong = int((ledger.done + ledger.aside != 1).sum())
    innocent = int((ledger.aside.astype(bool) != fleet.lethal_images()).sum())
    missing = len(shards) - len(ledger.times)
    if wrong or innocent or missing or failed or heard != len(shards):
        raise RuntimeError(
            f"{wrong} images are not exactly once in the ledger, {innocent} are set aside or not, wrongly, {missing} "
            f"of {len(shards)} shards are not committed, {len(failed)} given up, {heard} commits were reported"
        )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _in_a_process(*arguments: object) -> Row:
    """A line, simulated in a process of its own, so that its memory is its own; the manifest comes with the fork."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: theirs.send(simulate(*arguments)))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"no line for {arguments[0]}: the error is above") from None
    finally:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--shards", type=int, nargs="+", default=SHARDS)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--slow", type=float, default=Rules.slow, help="see cluster.driver.Rules")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    logging.getLogger("cluster").setLevel(logging.CRITICAL)
    slowest = 0.0
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for n_shards in arguments.shards:
            shards = manifest_of(arguments.images, n_shards).shards()
            gc.collect()
            gc.freeze()
            for scenario, workers, seed in product(arguments.scenarios, arguments.workers, arguments.seeds):
                row = _in_a_process(scenario, SCENARIOS[scenario], shards, workers, seed, Rules(slow=arguments.slow))
                writer.writerow(asdict(row))
                file.flush()
                print(row, flush=True)
                slowest = max(slowest, row.driver_us_a_shard)
    if slowest > MOST_US_A_SHARD:
        sys.exit(f"the driver took {slowest:.0f} µs of processor time a shard: at most {MOST_US_A_SHARD}")


if __name__ == "__main__":
    main()
