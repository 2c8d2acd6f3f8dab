"""Restart of a large run: what a launch and `cuts3d status` take before the first image, on disk and in a bucket.

.venv/bin/python benchmarks/restart.py [--out results/restart.csv] [--images 1300000] [--no-s3]

A ledger of 10,000 or 13,000 commit records and the manifest of a run over 1.3 million images are made up, with 0, 50
and 100 % of the shards done; there is not one shard file, so that nothing can read any. Each figure is of a process of
its own, as a restart is:

    open       RunFolder.open: run.json
    manifest   the manifest, read and checked
    pending    RunFolder.pending: which shards are to be done, every record checked
    launch     the three together, and the CPU seconds among them, which hardly depend on what else the machine does
    status     `cuts3d status`
    requests   of a launch, to the bucket
    load       average of the machine's run queue over the last minute, this benchmark among it

The bucket is moto's server on this machine: its share of the time is that of a Python process which answers one request
at a time. "index lost" is a launch after somebody deleted the copies of the records (pipeline/runs/commit_index.py).
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.storage.files_at import files_at

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.s3_server import S3Server  # noqa: E402

from pipeline.images.manifest import ImageRef, Manifest, shard_key  # noqa: E402
from pipeline.runs.ledger import Outcome  # noqa: E402
from pipeline.runs.run_folder import RunFolder  # noqa: E402

CONFIG = {"recipe": {"name": "made up"}}
FIELDS = (
    "where",
    "shards",
    "done",
    "case",
    "open_s",
    "manifest_s",
    "pending_s",
    "launch_s",
    "launch_cpu_s",
    "status_s",
    "requests",
    "load",
)

# A restart, in a process of its own: times of its steps as JSON.
STEPS = """
import json, sys, time
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
loaded, cpu = time.perf_counter(), time.process_time()
run = RunFolder.open(sys.argv[1])
opened = time.perf_counter()
run.manifest
known = time.perf_counter()
pending = len(run.pending())
done = time.perf_counter()
print(json.dumps({"open_s": opened - loaded, "manifest_s": known - opened, "pending_s": done - known,
                  "launch_s": done - loaded, "launch_cpu_s": time.process_time() - cpu, "pending": pending}))
"""
STATUS = "import sys; from pipeline.runs.status import status_of; print(status_of(sys.argv[1]).done_shards)"


def make_manifest(images: int, shards: int) -> Manifest:
    """Ids and paths as long as those of ImageNet."""
    refs = (
        ImageRef(
            f"n{i // 1300:08d}/n{i // 1300:08d}_{i % 1300}.JPEG", f"/data/imagenet/train/n{i // 1300:08d}/{i}.JPEG"
        )
        for i in range(images)
    )
    return Manifest(refs, -(-images // shards))


def records_of(run: RunFolder, shards: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of the first `count` commit records."""
    with tempfile.TemporaryDirectory() as folder:
        sample = RunFolder.create_or_open(folder, CONFIG, make_manifest(1, 1))
        drops = {"too_small": 120, "crf_changed_much": 45, "low_score": 230}
        counts = {"images": 100, "masks": 640, "drops": drops, "quarantined": 0}
        stages = ("decode", "depth", "features", "ncut", "local_cut", "confidence", "refine")
        sample.ledger.commit("00000", "0" * 12, Outcome(b"x", counts, seconds=dict.fromkeys(stages, 4.2), wall=31.5))
        record = json.loads(sample.files.read_bytes("commits/00000.json"))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for i in range(count):
        key = shard_key(i, shards)
        record |= {"key": key, "fingerprint": run.fingerprint, "digest": run.digest}
        record["shard"] = {"name": f"shards/{key}-{'0' * 12}.zarr.zip", "bytes": 1, "sha256": "0" * 64}
        record |= {"host": f"node{i % 64}", "worker": f"node{i % 64}:{i % 7}"}
        record["finished"] = (start + timedelta(seconds=i)).isoformat(timespec="milliseconds")
        yield f"commits/{key}.json", json.dumps(record, ensure_ascii=False, indent=1).encode()


def write_records(url: str, records: list[tuple[str, bytes]]) -> None:
    if "://" not in url:
        for name, data in records:  # without fsync: these need not outlive a crash
            path = Path(url, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        return
    files = files_at(url)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda record: files.write_atomic(*record), records))


def process(code: str, url: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code, url], env=environment, check=True, capture_output=True).stdout


def measure(url: str, server: S3Server | None) -> dict[str, object]:
    if server is not None:
        server.requests()
    steps = json.loads(process(STEPS, url))
    requests = len(server.requests()) if server is not None else ""
    start = time.perf_counter()
    process("from pipeline.runs.status import status_of", url)
    loading = time.perf_counter() - start
    start = time.perf_counter()
    process(STATUS, url)
    return steps | {"status_s": max(0.0, time.perf_counter() - start - loading), "requests": requests}


def cases(url: str, shards: int, images: int, server: S3Server | None) -> Iterator[dict[str, object]]:
    """A run at `url` at 0, 50 and 100 %; in a bucket also without the copies of records that launches leave there."""
    run = RunFolder.create_or_open(url, CONFIG, make_manifest(images, shards))
    records = list(records_of(run, shards, shards))
    written = 0
    for count in (0, shards // 2, shards):
        write_records(url, records[written:count])
        written = count
        for case in ("index lost", "restart") if server is not None and count else ("restart",):
            if case == "index lost":
                for name in run.files.list_files("index"):
                    run.files.delete(name)
            row = {"where": "bucket" if server else "disk", "shards": shards, "done": count, "case": case}
            found = measure(url, server)
            assert found.pop("pending") == shards - count
            yield row | found | {"load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/restart.csv")
    parser.add_argument("--images", type=int, default=1_300_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[10_000, 13_000])
    parser.add_argument("--no-s3", action="store_true", help="on disk only")
    arguments = parser.parse_args()
    with arguments.out.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()

        def write(rows: Iterator[dict[str, object]]) -> None:
            for row in rows:
                text = {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}
                print(*text.values(), sep="\t", flush=True)
                table.writerow(text)

        for shards in arguments.shards:
            with tempfile.TemporaryDirectory() as folder:
                write(cases(folder, shards, arguments.images, None))
        if not arguments.no_s3:
            with S3Server() as server:
                os.environ.update(server.environment)
                bucket = server.make_bucket("runs")
                for shards in arguments.shards:
                    write(cases(f"{bucket}/{shards}", shards, arguments.images, server))


if __name__ == "__main__":
    main()
