"""The worker of a cluster: an actor that owns one GPU, or a share of a node's cores, and its loaded models.

Whatever goes wrong inside comes back as a value that says so. Only a death of the process is a loss of the worker.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from cluster.fleet import Task
from cluster.sent_errors import SentError
from pipeline.engine.run import local_worker
from pipeline.engine.shard_job import ShardJob
from pipeline.engine.shard_worker import ShardResult
from pipeline.errors import CutsError, StoreError, WorkerBrokenError
from pipeline.images.manifest import Shard
from pipeline.methods.protocol import earlier_values, mended_names
from pipeline.methods.registry import load_method
from pipeline.runs.launch import Launch
from pipeline.runs.lease import read_lease
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.locations import existing, is_url
from stages.late import torch

log = logging.getLogger(__name__)

SHARE_IT = "Use a folder that all nodes share, or an object store"


@dataclass(frozen=True)
class WorkerSpec:
    """How a worker is set up. cores: of the CPU, that Ray gave it. The others: as of `pipeline.engine.run.run`."""

    launch: Launch
    until: str | None
    device: str
    batch_size: int | None
    cores: int


@dataclass(frozen=True)
class OpenRun:
    """The run that workers work on. token: of the driver's lease, by which a worker knows that it sees the same folder.

    images: a few of its images, to see whether this machine has them.
    accept_set_aside: see `ShardWorker.process`.
    """

    url: str
    token: str
    images: tuple[str, ...]
    accept_set_aside: bool = False


@dataclass(frozen=True)
class Made:
    """What run.json says of how a run is made: configuration, and the names of the method and of its kind of result.

    earlier: see `pipeline.methods.protocol.earlier_values`.
    mended: see `pipeline.methods.protocol.mended_names`.
    """

    config: dict[str, Any]
    method: str
    result: str
    earlier: Mapping[str, Any] = field(default_factory=dict)
    mended: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a call to a worker gave: a value, or an error."""

    value: Any = None
    error: SentError | None = None


class Worker:
    """Says hello, loads its models, opens the run, then takes tasks: `compute`, and `commit` beside the next one."""

    def __init__(self, spec: WorkerSpec) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
        logging.getLogger("pipeline").setLevel(
            logging.DEBUG
        )  # into a file of Ray's, tracebacks of images set aside, too
        self._spec = spec
        self._job: ShardJob | None = None
        self._results: dict[tuple[str, int], tuple[Shard, ShardResult]] = {}

    def hello(self) -> Answer:
        """Where this worker is. The value: facts for the log, "node" among them, Ray's id of the node."""
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "cores": self._spec.cores}
        return Answer(facts | {"node": ray.get_runtime_context().get_node_id()})

    def load(self) -> Answer:
        """Load the models. The value: "made", see `Made`, and "facts" for the log."""
        return _answer(self._load)

    def _load(self) -> dict[str, Any]:
        torch.set_num_threads(self._spec.cores)
        method = load_method(self._spec.launch, self._spec.device, self._spec.until)
        self._worker = local_worker(method, self._spec.batch_size, self._spec.cores)
        facts = {"device": _device_name(method.device), "batch_size": self._worker.batch_size}
        names = method.name, method.kind(None).name
        made = Made(method.config(), *names, earlier_values(method), mended_names(method))
        return {"made": made, "facts": facts}

    def open(self, run: OpenRun) -> Answer:
        """Open the run, after `load`. An error when this machine sees another folder there, or not the images."""
        return _answer(self._open, run)

    def _open(self, run: OpenRun) -> None:
        here = f"on {socket.gethostname()}"
        try:
            folder = RunFolder.open(run.url)
        except StoreError as error:
            raise StoreError(f"{here} the run folder cannot be seen ({error}). {SHARE_IT}") from error
        lease = read_lease(folder.files)
        if lease is None or lease.token != run.token:
            raise StoreError(f"{here} {run.url} is another folder than the driver's. {SHARE_IT}")
        method = self._worker.method
        folder.refuse_other_config(method.config(), earlier_values(method))
        if run.images and not any(is_url(image) or existing(image) for image in run.images):
            raise StoreError(f"{here} the images cannot be seen, {run.images[0]} among them: mount them there, too")
        self._job = ShardJob(folder, self._spec.until, self._worker, accept_set_aside=run.accept_set_aside)

    def compute(self, task: Task) -> Answer:
        """Work on the task. What a whole shard gives is kept here until `commit`."""
        return _answer(self._compute, task)

    def _compute(self, task: Task) -> None:
        job = self._opened()
        if task.probe is not None:
            job.probe(task.shard, task.probe)
            return
        self._results[task.shard.key, task.attempt] = task.shard, job.compute(task.shard, given_up=task.given_up)

    @ray.method(concurrency_group="commit")
    def commit(self, key: str, attempt: int) -> Answer:
        """Commit what `compute` gave for this task. The value: what `fleet.Done` says of it."""
        return _answer(self._commit, key, attempt)

    def _commit(self, key: str, attempt: int) -> dict[str, Any]:
        shard, result = self._results.pop((key, attempt))
        won = self._opened().commit(shard, result)
        wall = time.monotonic() - result.started
        reasons = Counter(image["reason"] for image in result.quarantine)
        return {"won": won, "counts": result.counts, "reasons": reasons, "seconds": result.seconds, "wall": wall}

    def _opened(self) -> ShardJob:
        if self._job is None:
            raise CutsError("the worker was given a task before it had opened the run")
        return self._job


def _answer(work: Any, *arguments: Any) -> Answer:
    try:
        return Answer(work(*arguments))
    except WorkerBrokenError:
        log.exception("this process ends")  # for the driver a death like any other, whose cause it looks for
        os._exit(1)
    except Exception as error:  # noqa: BLE001  goes to the driver, which answers for it
        return Answer(error=SentError.of(error))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
