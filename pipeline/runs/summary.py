"""What a launch did, and who is told how far it is."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.images.manifest import Shard
from pipeline.results.kinds import Counts, added
from pipeline.results.registry import kind_named
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.standing import Standing, standing_of
from pipeline.wording import counted

log = logging.getLogger(__name__)


@dataclass
class RunSummary:
    """What a launch did and what the run is now.

    out: the run.
    result: its kind.
    until: the stage whose output is kept; None: the whole result.
    standing: what there is of the run, by this launch and those before.
    counts: of the shards of this launch, as the kind of result counts them.
    seconds: of this launch, by stage.
    wall: seconds of the whole launch.
    """

    out: str
    result: str = "instances"
    until: str | None = None
    standing: Standing = Standing(0, 0)
    counts: Counts = field(default_factory=lambda: {"images": 0, "quarantined": 0})
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0

    def add(self, counts: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Take in a shard of this launch."""
        self.counts = added(self.counts, counts)
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    def settle(self, folder: RunFolder, started: float) -> None:
        """What the run is at the end of a launch that began at `started` by `time.perf_counter`."""
        self.standing = standing_of(folder, None if self.until is None else folder.stage_ledger(self.until))
        self.wall = time.perf_counter() - started

    @property
    def images(self) -> int:
        """Of the shards of this launch."""
        return int(self.counts["images"])

    @property
    def quarantined(self) -> int:
        """Images set aside by this launch."""
        return int(self.counts["quarantined"])

    @property
    def done(self) -> int:
        """Shards of the run that are committed."""
        return self.standing.done

    @property
    def missing(self) -> int:
        """Shards of the run that are not."""
        return self.standing.missing

    @property
    def complete(self) -> bool:
        """Whether every shard of the run is committed."""
        return self.missing == 0

    def lines(self) -> list[str]:
        """For people: first the run, then what this launch did."""
        run = self.standing
        aside = f", {run.set_aside} of them set aside: see `cuts3d info {self.out}`" if run.set_aside else ""
        lines = [
            f"run        {self.out}",
            f"shards     {run.done} done, {run.missing} missing",
            f"images     {run.done_images} of {run.images} done{aside}",
        ]
        if self.until is None and run.done_images:
            lines += [f"{word:<10} {value}" for word, value in kind_named(self.result).summary(run.counts)]
        if not self.images:
            return [*lines, "this time  nothing was left to do"]
        lines.append(f"this time  {counted(self.images, 'image')} in {self.wall:.1f} s")
        if stretched := self.counts.get("stretched"):
            lines.append(f"stretched  grey levels of {counted(stretched, 'image')}: see `remark` in {self.out}/logs")
        seconds = ", ".join(f"{stage} {value / self.images:.3f}" for stage, value in self.seconds.items())
        return [*lines, f"s/image    {seconds}"]


class Reporter(Protocol):
    """Is told the progress, image by image or shard by shard: a bar on a terminal, or nobody."""

    def start(self, images_total: int, images_done: int, result: str) -> None:
        """Called once, before the first image. result: the kind of what is counted."""

    def add(self, counts: Mapping[str, Any]) -> None:
        """Called for every image or every shard, with its counts."""

    def stop(self) -> None:
        """Called once, after the last image or when the run is interrupted."""


class Silent:
    """A reporter that reports nothing."""

    def start(self, images_total: int, images_done: int, result: str) -> None:
        pass

    def add(self, counts: Mapping[str, Any]) -> None:
        pass

    def stop(self) -> None:
        pass


def start_reporting(reporter: Reporter, folder: RunFolder, pending: Sequence[Shard]) -> None:
    """Tell how many images there are, and how many are done."""
    waiting = sum(len(shard.refs) for shard in pending)
    done = max(0, folder.n_images - waiting)
    if done and waiting < folder.n_images:
        log.info("%d of %s were done before, going on", done, counted(folder.n_images, "image"))
    reporter.start(folder.n_images, done, folder.result)
