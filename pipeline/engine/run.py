"""A run on one machine: the pending shards of a run folder, one after the other, each committed as soon as it is
done.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.engine.batch_size import fitting_batch_size
from pipeline.engine.checks import checked_manifest
from pipeline.engine.cpu_pool import cpu_pool
from pipeline.engine.shard_job import ShardJob, ledger_of
from pipeline.engine.shard_worker import ShardWorker
from pipeline.errors import ConfigError
from pipeline.images.manifest import Shard
from pipeline.methods.cuts.stage_graph import STAGES
from pipeline.methods.protocol import Method
from pipeline.methods.registry import load_method
from pipeline.runs.launch import Launch, keep_launch, last_launch
from pipeline.runs.lease import Lease
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.summary import Reporter, RunSummary, Silent, start_reporting

log = logging.getLogger(__name__)

LANES = 3  # batches under way together on a GPU: one in the networks, one in cuts, one being finished


def run(
    out: str | Path,
    launch: Launch | None = None,
    *,
    until: str = "refine",
    device: str = "auto",
    batch_size: int | None = None,
    reporter: Reporter | None = None,
) -> RunSummary:
    """Make pseudo-masks: start a run, or go on with it, until every shard is committed.

    out: run folder, path or fsspec URL. launch: the settings; None takes those of the last launch of this run.
    until: last stage; any but "refine" keeps that stage's output under `stages/` for later launches to reuse.
    device: "auto", "cpu", "cuda" or "cuda:N". batch_size: images at a time; None picks one.

    Raises ConfigError, SourceError, WeightsError for what is wrong with the settings, RunMismatchError when the folder
    holds another run, StoreError when it cannot be written.
    """
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}; known: {', '.join(STAGES)}")
    started = time.perf_counter()
    launch = launch or replace(last_launch(out), images=None)
    manifest = checked_manifest(out, launch, until, device) or RunFolder.open(out).manifest
    method = load_method(launch, device, until)
    folder = RunFolder.create_or_open(out, method.config(), manifest)
    if launch.images is not None:
        keep_launch(folder, launch)
    ledger = ledger_of(folder, until)
    summary = RunSummary(folder.url, until)
    with Lease(folder.files) as lease:
        _work(folder, folder.pending(ledger), method, until, batch_size, reporter or Silent(), summary, lease)
    summary.settle(folder, ledger, started)
    return summary


def retry_quarantined(
    out: str | Path,
    launch: Launch | None = None,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    reporter: Reporter | None = None,
) -> RunSummary:
    """Process the images set aside once more, with the run's own method; what succeeds takes its place in the run."""
    started = time.perf_counter()
    folder = RunFolder.open(out)
    summary = RunSummary(folder.url, "refine", done=folder.n_shards)
    ids = [image.id for image in RunReader(folder).quarantined()]
    if ids:
        launch = launch or last_launch(out)
        method = load_method(launch, device, "refine")
        folder = RunFolder.create_or_open(out, method.config(), folder.manifest)
        with Lease(folder.files) as lease:
            shards = folder.retry_shards(ids)
            _work(folder, shards, method, "refine", batch_size, reporter or Silent(), summary, lease)
    summary.wall = time.perf_counter() - started
    return summary


def local_worker(method: Method, batch_size: int | None, cores: int) -> ShardWorker:
    """Who takes shards through a method on this machine, with that many cores: on a GPU batches overlap and processes
    share the CPU's part; without one, torch's own threads have the cores.
    """
    if method.device.type != "cuda":
        return ShardWorker(method, batch_size or 2)
    pool = cpu_pool(cores - 1) if cores > 1 else None
    return ShardWorker(method, batch_size or fitting_batch_size(method, LANES), max(2, cores // 4), LANES, pool)


def _work(
    folder: RunFolder,
    shards: Sequence[Shard],
    method: Method,
    until: str,
    batch_size: int | None,
    reporter: Reporter,
    summary: RunSummary,
    lease: Lease,
) -> None:
    if not shards:
        return
    start_reporting(reporter, folder, shards)
    worker = local_worker(method, batch_size, len(os.sched_getaffinity(0)))
    job = ShardJob(folder, until, worker)
    try:
        for shard in shards:
            lease.check()
            result = job.compute(shard, reporter.image)
            job.commit(shard, result)
            summary.add(result.counts, result.seconds)
    finally:
        worker.close()
        reporter.stop()
