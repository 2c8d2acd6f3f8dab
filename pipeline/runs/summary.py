"""What a launch did, and whoever wants to see how far it is."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.images.manifest import Shard
from pipeline.results.instances import ImageRecord
from pipeline.runs.ledger import Ledger
from pipeline.runs.run_folder import RunFolder


@dataclass
class RunSummary:
    """What a launch did and what the run is now.

    done, missing: shards of the run committed and not. images, masks, quarantined: of the shards of this launch.
    seconds: by stage; wall: of the whole launch, in seconds.
    """

    out: str
    until: str
    done: int = 0
    missing: int = 0
    images: int = 0
    masks: int = 0
    quarantined: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0

    def add(self, counts: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Take in a shard of this launch."""
        self.images += counts["images"]
        self.masks += counts.get("masks", 0)
        self.quarantined += counts["quarantined"]
        self.drops.update(counts.get("drops", {}))
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    def settle(self, folder: RunFolder, ledger: Ledger, started: float) -> None:
        """What the run is at the end of a launch that began at `started` by `time.perf_counter`."""
        self.missing = len(folder.pending(ledger))
        self.done = folder.n_shards - self.missing
        self.wall = time.perf_counter() - started

    @property
    def complete(self) -> bool:
        """Whether every shard of the run is committed."""
        return self.missing == 0


class Reporter(Protocol):
    """Whoever wants to see the progress, image by image or shard by shard: a bar on a terminal, or nobody."""

    def start(self, images_total: int, images_done: int) -> None: ...

    def image(self, record: ImageRecord | None) -> None: ...

    def shard(self, counts: Mapping[str, Any]) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """A reporter that reports nothing."""

    def start(self, images_total: int, images_done: int) -> None:
        pass

    def image(self, record: ImageRecord | None) -> None:
        pass

    def shard(self, counts: Mapping[str, Any]) -> None:
        pass

    def stop(self) -> None:
        pass


def start_reporting(reporter: Reporter, folder: RunFolder, pending: Sequence[Shard]) -> None:
    """Tell how many images there are, and how many are done."""
    waiting = sum(len(shard.refs) for shard in pending)
    reporter.start(folder.n_images, max(0, folder.n_images - waiting))
