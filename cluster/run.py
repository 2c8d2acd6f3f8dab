"""A run on Ray, the driver's side: workers do the shards and commit them, this process has the queue and the lease."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cluster.driver import Driver, Observer, Rules
from cluster.fleet import Done, Joined
from pipeline.engine.checks import checked_manifest
from pipeline.engine.run import made_or_mended
from pipeline.engine.shard_job import ledger_of
from pipeline.errors import ConfigError, CutsError
from pipeline.images.manifest import Manifest, Shard
from pipeline.methods.protocol import Method
from pipeline.methods.registry import with_absolute_paths
from pipeline.models.device import check_device
from pipeline.runs.changed_settings import values_of
from pipeline.runs.launch import Launch, keep_launch, last_launch
from pipeline.runs.lease import Lease
from pipeline.runs.ledger import Ledger
from pipeline.runs.run_folder import RUN_FILE, RunFolder
from pipeline.runs.summary import Reporter, RunSummary, Silent, start_reporting
from pipeline.storage.files_at import files_at
from pipeline.wording import counted

if TYPE_CHECKING:
    from cluster.ray_fleet import Kind, RayFleet

log = logging.getLogger(__name__)

PATIENCE = 600.0  # seconds to wait for a cluster to grow a node that has room for a worker
CPUS_PER_WORKER = 2  # without a GPU; more cores to one worker are used less well
CPUS_PER_GPU = 8  # at most, unless given
ENOUGH_SHARDS = 25  # a worker, so that hardly any waits at the end: docs/scale.md
FEW_WORKERS = 8
PROBED_IMAGES = 5  # that a worker looks for, to see whether its machine has the images


@dataclass(frozen=True)
class RayOptions:
    """Where and on what a run works.

    address: of the cluster, "auto" for the one that this process belongs to, None starts a Ray on this machine.
    workers: how many; None as many as there is room for, one a GPU where there are GPUs.
    cpus_per_worker: cores of each; None picks.
    cpu_workers: workers without a GPU beside those that have one.
    deadline: seconds that a shard may take before its worker is ended; None: see `driver.Rules`.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: int | None = None
    cpu_workers: int = 0
    deadline: float | None = None


def run_on_ray(
    out: str | Path,
    launch: Launch | None = None,
    *,
    until: str | None = None,
    method: Method | None = None,
    manifest: Manifest | None = None,
    options: RayOptions | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    accept_set_aside: bool = False,
    reporter: Reporter | None = None,
) -> RunSummary:
    """What `pipeline.engine.run.run` does, on Ray: start a run or resume it, until every shard is committed.

    method: not used, as workers load their own. Other arguments, result and errors as there; in addition ConfigError
    when Ray cannot be reached or no node can ever hold a worker, LeaseError when another driver works on the run,
    CutsError when shard after shard fails.
    """
    started = time.perf_counter()
    options, reporter = options or RayOptions(), reporter or Silent()
    exists = files_at(out).exists(RUN_FILE)
    if launch is None:
        launch = replace(last_launch(out), images=None)
    elif launch.images is None and not exists:
        raise ConfigError(f"there is no run at {out} yet: give images to start one")
    if method is None:
        launch = with_absolute_paths(launch)
    if manifest is None:
        manifest = checked_manifest(out, launch, until, device, files_here=options.address is None)
    # Ray is imported from here on, when there is nothing to refuse any more.
    from cluster.connection import connected
    from cluster.ray_fleet import RayFleet
    from cluster.worker import OpenRun

    with connected(options.address):
        most = manifest.n_shards if manifest is not None else RunFolder.open(out).n_shards
        patience = 0.0 if options.address is None else PATIENCE
        with contextlib.closing(RayFleet(_kinds(launch, until, device, batch_size, options), most, patience)) as fleet:
            folder = _folder(out, launch, manifest, until, fleet)
            summary = RunSummary(folder.url, folder.result, until)
            ledger = ledger_of(folder, until)
            with Lease(folder.files) as lease:
                pending = folder.pending(ledger)
                if pending:
                    fleet.open(OpenRun(folder.url, lease.token, _some_images(pending), accept_set_aside))
                    _drive(fleet, folder, ledger, pending, lease, options, reporter, summary)
    summary.settle(folder, started)
    return summary


def _drive(
    fleet: RayFleet,
    folder: RunFolder,
    ledger: Ledger,
    pending: Sequence[Shard],
    lease: Lease,
    options: RayOptions,
    reporter: Reporter,
    summary: RunSummary,
) -> None:
    from cluster.metrics import Metrics

    start_reporting(reporter, folder, pending)
    observers = (_Report(reporter, summary, lease, folder), Metrics(PurePosixPath(folder.url).name))
    driver = Driver(fleet, pending, Rules(deadline=options.deadline), _Each(observers), elsewhere=ledger.committed_keys)
    try:
        failed = driver.run()
    finally:
        reporter.stop()
    if len(failed) == len(pending):
        key, why = next(iter(failed.items()))
        raise CutsError(f"no shard could be done; {key} {why}")
    for key, why in failed.items():
        log.error("shard %s is missing: %s", key, why)


class _Report(Observer):
    """To the terminal and into the summary; and a look at the lease, now and then."""

    def __init__(self, reporter: Reporter, summary: RunSummary, lease: Lease, folder: RunFolder) -> None:
        self._reporter, self._summary, self._lease, self._folder = reporter, summary, lease, folder
        self._few_for = FEW_WORKERS  # workers, up to which the number of shards needs no word

    def joined(self, event: Joined) -> None:
        facts = event.facts
        log.info(
            "%s is ready on %s: %s, %s, %s per batch",
            *(
                event.worker,
                facts["host"],
                facts["device"],
                counted(facts["cores"], "core"),
                counted(facts["batch_size"], "image"),
            ),
        )

    def committed(self, done: Done) -> None:
        self._summary.add(done.counts, done.seconds)
        self._reporter.add(done.counts)

    def state(self, pending: int, running: int, workers: int) -> None:
        self._lease.check()
        if workers > self._few_for and self._folder.n_shards < ENOUGH_SHARDS * workers:
            self._few_for = 2 * workers
            log.info(
                "%d shards are few for %d workers: some will wait at the end; smaller ones would not (`cuts3d run "
                "--shard-size %d`, for a new run)",
                *(self._folder.n_shards, workers, max(1, self._folder.n_images // (2 * ENOUGH_SHARDS * workers))),
            )


class _Each(Observer):
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def joined(self, event: Joined) -> None:
        for observer in self._observers:
            observer.joined(event)

    def committed(self, done: Done) -> None:
        for observer in self._observers:
            observer.committed(done)

    def failure(self, key: str, reason: str, detail: str) -> None:
        for observer in self._observers:
            observer.failure(key, reason, detail)

    def state(self, pending: int, running: int, workers: int) -> None:
        for observer in self._observers:
            observer.state(pending, running, workers)


def _folder(
    out: str | Path, launch: Launch, manifest: Manifest | None, until: str | None, fleet: RayFleet
) -> RunFolder:
    """The run, made when it is new: its configuration holds digests of the models, which only workers load."""
    if manifest is None:
        return RunFolder.open(out)
    made = fleet.first_made()
    own = {"method": made.method, "result": made.result}

    def make(mended: Mapping[str, Any]) -> RunFolder:
        return RunFolder.create_or_open(out, made.config, manifest, **own, earlier={**made.earlier, **mended})

    folder = made_or_mended(out, make, partial(values_of, names=made.mended), until)
    keep_launch(folder, launch)
    return folder


def _some_images(shards: Sequence[Shard]) -> tuple[str, ...]:
    step = max(1, len(shards) // PROBED_IMAGES)
    firsts = (next((ref.uri for ref in shard.refs if ref.trouble is None), None) for shard in shards[::step])
    return tuple(islice(filter(None, firsts), PROBED_IMAGES))


def _kinds(launch: Launch, until: str | None, device: str, batch_size: int | None, options: RayOptions) -> list[Kind]:
    """Which workers to start."""
    import ray

    from cluster.ray_fleet import Kind
    from cluster.worker import WorkerSpec

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpu = any(resources.get("GPU", 0.0) >= 1 for resources in nodes)
    kind = check_device(device).partition(":")[0]
    if kind == "cpu" or (kind == "auto" and not has_gpu):
        cores = [int(r["CPU"]) for r in nodes if r.get("CPU", 0.0) >= 1]
        cpus = options.cpus_per_worker or min([CPUS_PER_WORKER, *cores])
        count = options.cpu_workers or options.workers
        return [Kind(WorkerSpec(launch, until, "cpu", batch_size, cpus), 0, cpus, count)]
    shares = [int(r.get("CPU", 1.0) // r["GPU"]) for r in nodes if r.get("GPU", 0.0) >= 1]
    cpus = options.cpus_per_worker or max(1, min([CPUS_PER_GPU, *shares]))
    kinds = [Kind(WorkerSpec(launch, until, "cuda", batch_size, cpus), 1, cpus, options.workers)]
    if options.cpu_workers:
        cpus = options.cpus_per_worker or CPUS_PER_WORKER
        kinds.append(Kind(WorkerSpec(launch, until, "cpu", None, cpus), 0, cpus, options.cpu_workers))
    return kinds
