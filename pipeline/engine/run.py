"""A run on one machine: the pending shards of a run folder, one after the other, each committed as soon as it is
done.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.engine.batch_size import fitting_batch_size
from pipeline.engine.checks import checked_manifest, need_photos
from pipeline.engine.cpu_pool import cpu_pool
from pipeline.engine.presence import Presence
from pipeline.engine.shard_job import ShardJob, ledger_of
from pipeline.engine.shard_worker import ShardWorker
from pipeline.errors import RunMismatchError
from pipeline.images.manifest import Manifest, Shard
from pipeline.methods.protocol import Method, earlier_values, mended_values, works_in_processes
from pipeline.methods.registry import load_method, manifest_of, with_absolute_paths
from pipeline.runs.launch import Launch, keep_launch, last_launch, with_own_shard_size
from pipeline.runs.lease import Lease
from pipeline.runs.ledger import is_retry
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.summary import Reporter, RunSummary, Silent, start_reporting

log = logging.getLogger(__name__)

THREADED = 2  # cores that are busy with one image that processes could work on
LANES = 3  # batches under way together on a GPU: one in the networks, one in cuts, one being finished


def run(
    out: str | Path,
    launch: Launch | None = None,
    *,
    until: str | None = None,
    method: Method | None = None,
    manifest: Manifest | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    accept_set_aside: bool = False,
    reporter: Reporter | None = None,
) -> RunSummary:
    """Make results: start a run, or resume it, until every shard is committed.

    out: run folder, path or fsspec URL.
    launch: the settings; None takes those of the last launch of this run.
    until: a stage, whose output is kept under `stages/` for later launches to reuse; None: the whole result.
    method: a loaded one, for this launch and stage; None loads the one that the launch names.
    manifest: the images of the launch, where they are listed already.
    device: "auto", "cpu", "cuda" or "cuda:N".
    batch_size: images at a time; None picks one.
    accept_set_aside: commit shards of which every image is set aside, too.

    Raises ConfigError, SourceError, WeightsError for what is wrong with the settings, RunMismatchError when the folder
    holds another run, StoreError when it cannot be written, WholeShardError see `whole_shards`.
    """
    started = time.perf_counter()
    launch = launch or replace(last_launch(out), images=None)
    if method is None:
        launch = with_absolute_paths(launch)
    is_resumed = manifest is None and launch.images is None
    if manifest is None:
        manifest = _images_of(out, launch, until, method, device)
    if is_resumed and not accept_set_aside:
        need_photos(RunFolder.open(out), until)
    method = method or load_method(launch, device, until)
    folder = made_or_mended(out, partial(folder_of, out, method, manifest), partial(mended_values, method), until)
    if launch.images is not None:
        keep_launch(folder, launch)
    ledger = ledger_of(folder, until)
    summary = RunSummary(folder.url, folder.result, until)
    with Lease(folder.files) as lease:
        presence = None if accept_set_aside else Presence(folder, is_resumed)
        job = partial(ShardJob, folder, until, presence=presence, accept_set_aside=accept_set_aside)
        _work(job, folder.pending(ledger), method, batch_size, reporter or Silent(), summary, lease)
    summary.settle(folder, started)
    return summary


def retry_quarantined(
    out: str | Path,
    launch: Launch | None = None,
    *,
    ids: Iterable[str] | None = None,
    method: Method | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    reporter: Reporter | None = None,
) -> RunSummary:
    """Process images that were set aside once more, with the run's own method; what succeeds takes its place in the
    run.

    ids: those of them to try; None: all. The other arguments, and what is raised: as of `run`.
    """
    started = time.perf_counter()
    folder = RunFolder.open(out)
    summary = RunSummary(folder.url, folder.result)
    folder.ledger.refuse_cut_files(folder.ledger.committed())
    wanted = None if ids is None else set(ids)
    chosen = [image.id for image in RunReader(folder).quarantined() if wanted is None or image.id in wanted]
    if chosen:
        shards = folder.retry_shards(chosen)
        presence = Presence(folder, is_resumed=False)
        presence.need(shards[0])
        method = method or load_method(with_absolute_paths(launch or last_launch(out)), device, None)
        folder = folder_of(out, method, folder.manifest, mended_values(method, folder.config))
        with Lease(folder.files) as lease:
            shards = folder.retry_shards(chosen)
            job = partial(ShardJob, folder, None, presence=presence)
            _work(job, shards, method, batch_size, reporter or Silent(), summary, lease)
    summary.settle(folder, started)
    return summary


def _images_of(out: str | Path, launch: Launch, until: str | None, method: Method | None, device: str) -> Manifest:
    """Listed, or the run's own; what is wrong with the launch is told first, unless its method is loaded already."""
    if method is None:
        listed = checked_manifest(out, launch, until, device)
    else:
        listed = None if launch.images is None else manifest_of(with_own_shard_size(launch, out))
    return listed or RunFolder.open(out).manifest


def made_or_mended(
    out: str | Path,
    make: Callable[[Mapping[str, Any]], RunFolder],
    mended: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    until: str | None,
) -> RunFolder:
    """A run, made or opened. Where it was started with other settings, and these are what was mended since, it is
    opened if nothing of it is left to compute and images were tried again: that may have been done with what was
    mended.

    make: as `folder_of`, from settings that may differ. mended: gives those, see `mended_values`, of a configuration.
    """
    try:
        return make({})
    except RunMismatchError:
        folder = RunFolder.open(out)
        settings = mended(folder.config)
        if not settings or not any(map(is_retry, folder.ledger.committed_keys())):
            raise
        done = sum(map(folder.is_planned, ledger_of(folder, until).committed_keys()))
        if done < folder.n_shards:
            raise
    return make(settings)


def folder_of(
    out: str | Path, method: Method, manifest: Manifest, mended: Mapping[str, Any] = MappingProxyType({})
) -> RunFolder:
    """The run of a method at `out`, made or opened; mended: see `mended_values`. Errors as of `create_or_open`."""
    names = {"method": method.name, "result": method.kind(None).name}
    return RunFolder.create_or_open(
        out, method.config(), manifest, **names, earlier={**earlier_values(method), **mended}
    )


def local_worker(method: Method, batch_size: int | None, cores: int) -> ShardWorker:
    """Who takes shards through a method on this machine, with that many cores: on a GPU batches overlap and processes
    share the CPU's part; without one, the threads of torch and of other libraries have the cores, or processes, where
    the method works in them, and there are more cores than threads of one image make use of.
    """
    decode_threads = max(2, cores // 4)
    if method.device.type != "cuda":
        if cores <= THREADED or not works_in_processes(method):
            return ShardWorker(method, batch_size or method.batch_size)
        return ShardWorker(method, batch_size or 2 * cores, decode_threads, pool=cpu_pool(cores))
    pool = cpu_pool(cores - 1) if cores > 1 else None
    return ShardWorker(method, batch_size or fitting_batch_size(method, LANES), decode_threads, LANES, pool)


def _work(
    job_with: Callable[[ShardWorker], ShardJob],
    shards: Sequence[Shard],
    method: Method,
    batch_size: int | None,
    reporter: Reporter,
    summary: RunSummary,
    lease: Lease,
) -> None:
    if not shards:
        return
    worker = local_worker(method, batch_size, len(os.sched_getaffinity(0)))
    job = job_with(worker)
    start_reporting(reporter, job.folder, shards)
    try:
        for shard in shards:
            lease.check()
            result = job.compute(shard, reporter.add)
            job.commit(shard, result)
            summary.add(result.counts, result.seconds)
    finally:
        worker.close()
        reporter.stop()
