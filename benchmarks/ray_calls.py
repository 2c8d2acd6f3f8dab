"""What a call to a Ray actor costs the driver, by the images in its task and by the calls that it waits for.

A driver on Ray submits a task, waits for whichever of its workers answers first, and fetches the answer, as
cluster/ray_fleet.py does. Workers that compute are here calls that never end, all to one actor, so that two cores
suffice for a thousand of them; the seconds are those of the driver's process alone.

    python benchmarks/ray_calls.py --out benchmarks/results/ray_calls.csv

A CSV line for each size of a task and number of waiting workers: bytes of the pickled task, milliseconds of processor
time and of the clock, a call with its answer.
"""

import argparse
import asyncio
import csv
import os
import pickle
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a Ray of this process alone, on loopback
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray
from simulate_cluster import manifest_of

from cluster.fleet import Task
from cluster.worker import Answer

RESULTS = Path(__file__).parent / "results" / "ray_calls.csv"
ANSWER = Answer({"won": True, "counts": {"images": 100, "masks": 990}, "seconds": {"refine": 1.0}, "wall": 1.0})


class Anybody:
    """Answers at once, or never."""

    async def compute(self, task: Task) -> Answer:
        return ANSWER

    async def hang(self) -> None:
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=(100, 256, 1000), help="in a task")
    parser.add_argument("--waiting", type=int, nargs="+", default=(8, 128, 512), help="workers that are at work")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    most = max(arguments.waiting) + 1
    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    remote: Any = ray.remote(num_cpus=0, max_concurrency=most)(Anybody)
    actor = remote.remote()
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["images", "waiting", "task_bytes", "cpu_ms", "clock_ms"])
        hanging: list[Any] = []
        for waiting in sorted(arguments.waiting):
            hanging += [actor.hang.remote() for _ in range(waiting - len(hanging))]
            for images in arguments.images:
                task = Task(manifest_of(images, 1).shards()[0], 1)
                measure(actor, task, hanging, 20)  # the first calls of a kind are slower
                cpu, clock = measure(actor, task, hanging, arguments.calls)
                row = [images, waiting, len(pickle.dumps(task)), round(cpu * 1e3, 2), round(clock * 1e3, 2)]
                writer.writerow(row)
                print(*row, flush=True)
    ray.kill(actor)
    ray.shutdown()


def measure(actor: Any, task: Task, hanging: list[Any], calls: int) -> tuple[float, float]:
    """Seconds of processor time and of the clock, of a call and its answer."""
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(calls):
        waits = [*hanging, actor.compute.remote(task)]
        (answered,), others = ray.wait(waits, num_returns=1)
        ray.get(answered)
        ray.wait(others, num_returns=len(others), timeout=0)
    return (time.process_time() - cpu) / calls, (time.perf_counter() - clock) / calls


if __name__ == "__main__":
    main()
