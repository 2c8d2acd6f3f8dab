"""Shards of one run in one process: computed, and then committed. What a run on one machine does one after the other,
and a worker of a cluster at the same time.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engine.presence import Presence
from pipeline.engine.shard_worker import ShardResult, ShardWorker
from pipeline.errors import ImageError
from pipeline.images.manifest import Shard
from pipeline.results.kinds import Counts
from pipeline.runs.ledger import Ledger, Outcome, log_name
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder


def ledger_of(folder: RunFolder, until: str | None) -> Ledger:
    """Where shards done up to a stage are committed; None: whole."""
    return folder.ledger if until is None else folder.stage_ledger(until)


@dataclass(frozen=True)
class ShardJob:
    """The run, the last stage, and who does the work.

    presence: looks for the photos of each shard first; None: nobody does.
    accept_set_aside: see `ShardWorker.process`.
    """

    folder: RunFolder
    until: str | None
    worker: ShardWorker
    presence: Presence | None = None
    accept_set_aside: bool = False

    def compute(
        self,
        shard: Shard,
        on_image: Callable[[Counts], None] = lambda counts: None,
        given_up: Mapping[str, ImageError] | None = None,
    ) -> ShardResult:
        """The shard up to the last stage, not yet committed; arguments and errors as of `ShardWorker.process`, and
        SourceError when its photos are not where the run looks for them.
        """
        attributes = self.folder.shard_attributes(self.until)
        with self.opened(shard) as kept:
            return self.worker.process(shard, self.until, kept, attributes, on_image, given_up, self.accept_set_aside)

    @contextlib.contextmanager
    def opened(self, shard: Shard) -> Iterator[Mapping[str, Any]]:
        """What earlier launches kept of the shard, by stage, for the time of its work. SourceError as of `compute`."""
        with self._kept(shard.key) as kept:
            if self.presence and (not kept or self.worker.method.needs_inputs(self.until, kept)):
                self.presence.need(shard)
            yield kept

    def probe(self, shard: Shard, positions: Sequence[int]) -> None:
        """See `ShardWorker.probe`."""
        with self._kept(shard.key) as kept:
            self.worker.probe(shard, positions, self.until, kept)

    def commit(self, shard: Shard, result: ShardResult) -> bool:
        """Write log and files, then commit. False when another attempt was first; StoreError when that fails."""
        ledger, attempt = ledger_of(self.folder, self.until), new_attempt()
        if ledger.is_committed(shard.key):
            return False
        self._write_log(shard, attempt, result)
        wall = time.monotonic() - result.started
        return ledger.commit(
            shard.key, attempt, Outcome(result.data, result.counts, result.quarantine, result.seconds, wall)
        )

    @contextlib.contextmanager
    def _kept(self, key: str) -> Iterator[Mapping[str, Any]]:
        """What earlier launches kept of this shard, of the stages before the last one."""
        kept = {}
        method = self.worker.method
        stages = list(method.stages)
        earlier = stages if self.until is None else stages[: stages.index(self.until)]
        with contextlib.ExitStack() as stack:
            for stage in self.folder.kept_stages():
                ledger = self.folder.stage_ledger(stage)
                if stage in earlier and ledger.is_committed(key):
                    name = ledger.read(key).shard.name
                    path = stack.enter_context(self.folder.files.open_local_or_download(name))
                    kept[stage] = method.kind(stage).open(path, name)
            yield kept

    def _write_log(self, shard: Shard, attempt: str, result: ShardResult) -> None:
        """The shard's structured log: JSON lines, the shard's own first, then one per image."""
        head = {"shard": shard.key, "attempt": attempt, "counts": result.counts, "seconds": result.seconds}
        lines: Iterable[Mapping[str, Any]] = [head, *result.log]
        below = "" if self.until is None else f"stages/{self.until}/"
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self.folder.files.write_atomic(below + log_name(shard.key, attempt), text.encode())
