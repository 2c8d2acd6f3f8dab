"""Several runs of the same images on one machine, shard by shard: each image is read once and goes through one method
after the other, which share what they can. Every run is committed as if it had been made alone.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from pipeline.engine.batch_size import fitting_batch_size
from pipeline.engine.presence import Presence
from pipeline.engine.run import LANES, folder_of, local_worker
from pipeline.engine.shard_job import ShardJob
from pipeline.engine.shard_worker import ShardResult, ShardWorker
from pipeline.engine.whole_shards import WholeShardError
from pipeline.errors import ConfigError
from pipeline.images.manifest import Manifest, Shard
from pipeline.methods.protocol import Method
from pipeline.methods.registry import load_method, with_absolute_paths
from pipeline.models.load import loaded_once
from pipeline.results.kinds import Counts
from pipeline.runs.launch import Launch, keep_launch
from pipeline.runs.lease import Lease
from pipeline.runs.needed_kind import words_for
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.summary import Reporter, RunSummary, Silent


def run_side_by_side(
    launches: Mapping[str, Launch],
    manifest: Manifest,
    *,
    result: str,
    device: str = "auto",
    batch_size: int | None = None,
    accept_set_aside: bool = False,
    reporter: Reporter | None = None,
) -> list[RunSummary]:
    """Start or resume runs of the same images until every shard of each is committed; what is committed is not done
    again.

    launches: by run folder, path or URL, each with `images`.
    manifest: the images of all.
    result: the kind that all have to give.
    The other arguments, and what is raised: as of `pipeline.engine.run.run`; ConfigError also for a method that looks
    at something else than the others, or gives another kind of result.

    A shard that one run refuses as a whole (WholeShardError) is committed to the others first.
    """
    started = time.perf_counter()
    absolute = {out: with_absolute_paths(launch) for out, launch in launches.items()}
    with loaded_once():
        methods = [load_method(launch, device) for launch in absolute.values()]
    _refuse_others(methods, list(absolute.values()), result)
    folders = [folder_of(out, method, manifest) for out, method in zip(absolute, methods, strict=True)]
    for folder, launch in zip(folders, absolute.values(), strict=True):
        keep_launch(folder, launch)
    summaries = [RunSummary(folder.url, folder.result) for folder in folders]
    with ExitStack() as stack:
        leases = [stack.enter_context(Lease(folder.files)) for folder in folders]
        pending = [{shard.key for shard in folder.pending()} for folder in folders]
        shards = [shard for shard in manifest.shards() if any(shard.key in keys for keys in pending)]
        if not shards:
            return _settled(summaries, folders, started)
        worker = _worker(methods, batch_size)
        stack.callback(worker.close)
        jobs = [_job(*pair, worker.batch_size, accept_set_aside) for pair in zip(folders, methods, strict=True)]
        reporter = reporter or Silent()
        total = len(manifest) * len(folders)
        waiting = sum(len(shard.refs) for shard in shards for keys in pending if shard.key in keys)
        reporter.start(total, total - waiting, folders[0].result)
        stack.callback(reporter.stop)
        for shard in shards:
            for lease in leases:
                lease.check()
            chosen = [i for i, keys in enumerate(pending) if shard.key in keys]
            done = _committed(worker, [jobs[i] for i in chosen], shard, reporter.add)
            for i, own in zip(chosen, done, strict=True):
                summaries[i].add(own.counts, own.seconds)
    return _settled(summaries, folders, started)


def _settled(summaries: list[RunSummary], folders: Sequence[RunFolder], started: float) -> list[RunSummary]:
    for summary, folder in zip(summaries, folders, strict=True):
        summary.settle(folder, started)
    return summaries


def _job(folder: RunFolder, method: Method, batch_size: int, accept_set_aside: bool) -> ShardJob:
    presence = None if accept_set_aside else Presence(folder, is_resumed=False)
    return ShardJob(folder, None, ShardWorker(method, batch_size), presence, accept_set_aside)


def _refuse_others(methods: Sequence[Method], launches: Sequence[Launch], result: str) -> None:
    for method, launch in zip(methods, launches, strict=True):
        if method.takes != methods[0].takes:
            raise ConfigError(
                f"recipe {launch.recipe} looks at {method.takes}, {launches[0].recipe} at {methods[0].takes}: they "
                "cannot be run on the same images"
            )
        if (kind := method.kind(None).name) != result:
            raise ConfigError(f"recipe {launch.recipe} gives {words_for(kind)}: {words_for(result)} are needed here")


def _worker(methods: Sequence[Method], batch_size: int | None) -> ShardWorker:
    """Who drives the batches, which are as large as all methods can take them."""
    if batch_size is None and methods[0].device.type == "cuda":
        batch_size = min(fitting_batch_size(method, LANES) for method in methods)
    elif batch_size is None:
        batch_size = min(method.batch_size for method in methods)
    return local_worker(methods[0], batch_size, len(os.sched_getaffinity(0)))


def _committed(
    worker: ShardWorker, jobs: Sequence[ShardJob], shard: Shard, on_image: Callable[[Counts], None]
) -> list[ShardResult]:
    """The shard, done and committed for each job."""
    results, refused = [], []
    with ExitStack() as stack:
        kept = [stack.enter_context(job.opened(shard)) for job in jobs]
        states = [job.worker.begin(shard, None, own, on_image) for job, own in zip(jobs, kept, strict=True)]
        worker.work(states)
        for job, state in zip(jobs, states, strict=True):
            try:
                result = job.worker.end(state, job.folder.shard_attributes(None), job.accept_set_aside)
            except WholeShardError as error:
                refused.append(error)
                continue
            job.commit(shard, result)
            results.append(result)
    if refused:
        raise refused[0]
    return results
