"""The unit of work: one shard of images through the stages. A bad image is a record, not an exception."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.whole_shards import refuse_whole_shard
from pipeline.errors import ImageError, WorkerBrokenError
from pipeline.faults import image_fault
from pipeline.images.manifest import ImageRef, Shard
from pipeline.images.oddities import REASON as ODD_ENTRY
from pipeline.images.stereo_clips import load_inputs
from pipeline.methods.protocol import Batch, Method, SharedOutputs
from pipeline.results.kinds import Counts, Failed, quarantine_of
from pipeline.runs.ledger import is_retry
from pipeline.wording import counted, few_of
from stages.late import torch

log = logging.getLogger(__name__)

AGAIN = "The same command resumes at this shard; with --ray it finds an image that does this, and sets it aside"


@dataclass(frozen=True)
class ShardResult:
    """A processed shard, ready to be committed.

    data: bytes of its file.
    quarantine: id, reason and detail of the images set aside.
    counts: as the kind of result counts them, and gpu_out_of_memory and stretched where that happened.
    seconds: by stage; where batches overlap, their sum is more than the time that passed.
    log: one dict an image, for the shard's structured log.
    started: by `time.monotonic`.
    """

    data: bytes
    quarantine: list[dict[str, str]]
    counts: dict[str, Any]
    seconds: dict[str, float]
    log: list[dict[str, Any]]
    started: float


@dataclass
class ShardPass:
    """What is known of a shard while its images go through a method; by position in the shard.

    wanted: images that are looked at.
    remarks: on pictures that had to be stretched, see `Photo`.
    results: of the images that are finished, or `Failed`.
    starved: images that did not fit the GPU's memory even as a batch of one, while other batches were there; they are
    tried once more when is_alone says that none is.
    """

    method: Method
    shard: Shard
    until: str | None
    kept: Mapping[str, Any]
    on_image: Callable[[Any], None]
    wanted: list[int] = field(default_factory=list)
    remarks: dict[int, str] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    faults: list[Exception] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    out_of_memory: int = 0
    starved: list[int] = field(default_factory=list)
    is_alone: bool = False
    started: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def set_aside(self, position: int, error: Exception) -> None:
        failed = _failed(self.shard.refs[position], error)
        with self.lock:
            self.results[position] = failed
            if not isinstance(error, ImageError):
                self.faults.append(error)
                trace = error if log.isEnabledFor(logging.DEBUG) else None  # with --verbose
                log.warning("image %s set aside: %s", failed.id, failed.detail, exc_info=trace)
                traceback.clear_frames(error.__traceback__)  # which hold the image's tensors
            self.on_image(failed)

    def finish(self, positions: Sequence[int], results: Sequence[Any]) -> None:
        with self.lock:
            for position, result in zip(positions, results, strict=True):
                self.results[position] = result
                self.on_image(result)


class ShardWorker:
    """Takes shards through a method, `batch_size` images at a time.

    A batch that fails is halved and tried again, down to the single image that is at fault, which is set aside with the
    reason; so is a batch that does not fit the GPU's memory, and later batches are smaller then.

    decode_threads: that decode images ahead.
    lanes: batches that are under way together, so that the GPU works on one while the CPU cuts another; not for models
        on the CPU, whose networks turn a switch of the whole process (`stages.cpu_products`), so that results would
        depend on what ran beside them.
    pool: processes for what is the CPU's alone; None does it in the lane.
    """

    def __init__(
        self, method: Method, batch_size: int, decode_threads: int = 2, lanes: int = 1, pool: Executor | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {lanes}")
        self.method = method
        self.batch_size = batch_size
        self._decode_threads = decode_threads
        self._lanes = lanes
        self._pool = pool

    def close(self) -> None:
        """End the processes of the pool."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def process(
        self,
        shard: Shard,
        until: str | None,
        kept: Mapping[str, Any],
        attributes: Mapping[str, Any],
        on_image: Callable[[Counts], None] = lambda counts: None,
        given_up: Mapping[str, ImageError] | None = None,
        accept_set_aside: bool = False,
    ) -> ShardResult:
        """Take one shard through the method, up to a stage; None: to the whole result. Arguments and errors: as of
        `begin`, `work` and `end`, which are its three parts.
        """
        state = self.begin(shard, until, kept, on_image, given_up)
        self.work([state])
        return self.end(state, attributes, accept_set_aside)

    def begin(
        self,
        shard: Shard,
        until: str | None,
        kept: Mapping[str, Any],
        on_image: Callable[[Counts], None] = lambda counts: None,
        given_up: Mapping[str, ImageError] | None = None,
    ) -> ShardPass:
        """A pass of a shard through the method, of which nothing is done yet.

        kept: outputs of earlier launches for this very shard, by stage.
        on_image: called for each image done, with its counts.
        given_up: by id, why an image is set aside without being looked at.
        """
        kind = self.method.kind(until)
        state = ShardPass(self.method, shard, until, kept, lambda result: on_image(kind.counts([result])))
        for position, ref in enumerate(shard.refs):
            if ref.trouble is not None:
                state.set_aside(position, ImageError(ODD_ENTRY, ref.trouble))
            elif given_up and ref.id in given_up:
                state.set_aside(position, given_up[ref.id])
            else:
                state.wanted.append(position)
        return state

    def work(self, states: Sequence[ShardPass]) -> None:
        """Do the work of these passes, all of one shard and of methods that look at the same inputs: each image is read
        once, each batch goes through one method after the other, and what they share (`Batch.shared`) is computed once.

        Raises WorkerBrokenError when a process of the pool dies, or the GPU reports anything but full memory: this
        process can do no more then.
        """
        self._run(states, states[0].wanted)

    def end(self, state: ShardPass, attributes: Mapping[str, Any], accept_set_aside: bool = False) -> ShardResult:
        """What a pass came to.

        attributes: written into the shard's file.
        accept_set_aside: even when that is every image of the shard.
        Raises WholeShardError when every image is set aside, see `whole_shards`.
        """
        is_new = not is_retry(state.shard.key)  # which holds nothing but images that were set aside before
        if is_new and not accept_set_aside:
            refuse_whole_shard(state.shard.key, [state.results[position] for position in state.wanted], state.faults)
        return self._result(state, attributes)

    def probe(self, shard: Shard, positions: Sequence[int], until: str | None, kept: Mapping[str, Any]) -> None:
        """Take these images of a shard through the stages and keep nothing: to see whether this process survives."""
        self._run([ShardPass(self.method, shard, until, kept, lambda result: None)], positions)

    def _run(self, states: Sequence[ShardPass], positions: Iterable[int]) -> None:
        if self._lanes > 1:
            self._run_lanes(states, positions)
        for state in states:
            state.is_alone = True
        if self._lanes == 1:
            for batch in self._batches(states, list(positions)):
                self._work_all(states, *batch)
            return
        for state in states:
            for batch in self._batches([state], state.starved):
                self._work_all([state], *batch)

    def _run_lanes(self, states: Sequence[ShardPass], positions: Iterable[int]) -> None:
        flying: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self._lanes, thread_name_prefix="lane") as lanes:
            for batch in self._batches(states, list(positions)):
                if len(flying) == self._lanes:
                    flying.popleft().result()
                flying.append(lanes.submit(self._work_all, states, *batch))
            for future in flying:
                future.result()

    def _work_all(self, states: Sequence[ShardPass], positions: Sequence[int], inputs: Sequence[Any]) -> None:
        shared = SharedOutputs()
        for state in states:
            self._work(state, positions, inputs, shared)

    def _work(self, state: ShardPass, positions: Sequence[int], inputs: Sequence[Any], shared: SharedOutputs) -> None:
        seconds: defaultdict[str, float] = defaultdict(float)
        try:
            for position in positions:
                image_fault(state.shard.refs[position].id)
            with torch.inference_mode():
                # given no name, as what it holds must be gone when the halves are tried
                done = state.method.outputs(
                    Batch(state.shard, positions, inputs, state.until, state.kept, seconds, self._pool, shared)
                )
        # Nothing can be computed here any more, whichever image comes next: the cause is looked for from outside.
        except BrokenExecutor as error:
            raise WorkerBrokenError(
                f"shard {state.shard.key}: a process that works for this one died. {AGAIN}"
            ) from error
        except torch.AcceleratorError as error:
            raise WorkerBrokenError(f"shard {state.shard.key}: the GPU failed: {error}. {AGAIN}") from error
        # Whatever one image provokes must not cost the shard its other images; signals pass.
        except Exception as error:  # noqa: BLE001
            shared.forget()  # it may be what leaves no memory for the halves
            is_full = isinstance(error, torch.OutOfMemoryError)
            if is_full:
                self._shrink(state, len(positions))
            if len(positions) == 1:
                if is_full and not state.is_alone:
                    with state.lock:
                        state.starved += positions
                else:
                    state.set_aside(positions[0], error)
                return
        else:
            state.finish(positions, done)
            return
        finally:
            with state.lock:
                state.seconds.update(seconds)
        half = len(positions) // 2
        self._work(state, positions[:half], inputs[:half], SharedOutputs())
        self._work(state, positions[half:], inputs[half:], SharedOutputs())

    def _shrink(self, state: ShardPass, size: int) -> None:
        """After a batch of this size did not fit. One that was cut before the last halving asks for no other."""
        with state.lock:
            state.out_of_memory += 1
            if size <= self.batch_size:
                self.batch_size = max(1, self.batch_size // 2)
        torch.cuda.empty_cache()
        log.warning("GPU memory is full: continuing with %s per batch", counted(self.batch_size, "image"))

    def _batches(self, states: Sequence[ShardPass], positions: list[int]) -> Iterator[tuple[list[int], list[Any]]]:
        """Positions and inputs of batch after batch, decoded ahead; unreadable images are set aside on the way."""
        if not any(state.method.needs_inputs(state.until, state.kept) for state in states):
            while positions:
                size = self.batch_size
                yield positions[:size], []
                positions = positions[size:]
            return
        batch: list[int] = []
        inputs: list[Any] = []
        refs = [states[0].shard.refs[position] for position in positions]
        loading = load_inputs(refs, states[0].method.takes, self._decode_threads)
        for position, loaded in zip(positions, loading, strict=True):
            if isinstance(loaded, ImageError):
                for state in states:
                    state.set_aside(position, loaded)
            else:
                for state in states if loaded.remark else ():
                    state.remarks[position] = loaded.remark
                batch.append(position)
                inputs.append(loaded)
            if len(batch) >= self.batch_size:
                yield batch, inputs
                batch, inputs = [], []
        if batch:
            yield batch, inputs

    def _result(self, state: ShardPass, attributes: Mapping[str, Any]) -> ShardResult:
        kind = state.method.kind(state.until)
        results = [state.results[position] for position in range(len(state.shard.refs))]
        counts = kind.counts(results)
        if state.out_of_memory:
            counts["gpu_out_of_memory"] = state.out_of_memory
        if state.remarks:
            counts["stretched"] = len(state.remarks)
            _tell_of_stretched(state)
        lines = [
            {"image": ref.id, **(_why(result) if isinstance(result, Failed) else kind.log(result))}
            for ref, result in zip(state.shard.refs, results, strict=True)
        ]
        for position, remark in state.remarks.items():
            lines[position]["remark"] = remark
        data = kind.write(results, attributes)
        return ShardResult(data, quarantine_of(results), counts, dict(state.seconds), lines, state.started)


def _tell_of_stretched(state: ShardPass) -> None:
    """Once a shard: all pictures of a data set may be such."""
    positions = sorted(state.remarks)
    log.warning(
        "shard %s: the grey levels of %s were stretched: %s (the first: %s)",
        *(state.shard.key, counted(len(positions), "picture")),
        *(few_of([state.shard.refs[position].id for position in positions]), state.remarks[positions[0]]),
    )


def _failed(ref: ImageRef, error: Exception) -> Failed:
    size = ref.height or 0, ref.width or 0
    if isinstance(error, ImageError):
        return Failed(ref.id, error.reason, error.detail, size)
    where = traceback.extract_tb(error.__traceback__)[-1]
    detail = f"{type(error).__name__}: {error} (in {where.name}, line {where.lineno})"
    return Failed(ref.id, "failed", detail, size)


def _why(failed: Failed) -> dict[str, str]:
    return {"status": failed.status, "reason": failed.reason, "detail": failed.detail}
