"""Progress of a run on a terminal; on anything else a line now and then in the log."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.results.instances import ImageRecord

log = logging.getLogger(__name__)

LOG_EVERY = 60.0  # seconds between lines when nobody watches


class ProgressReporter:
    """Images done, images/s, time left, masks an image and drops, while a run goes on.

    A bar when stderr is a terminal; otherwise one log line a minute.
    """

    def __init__(self, interactive: bool | None = None) -> None:
        self._interactive = sys.stderr.isatty() if interactive is None else interactive
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = self._done = self._images = self._masks = 0
        self._drops: Counter[str] = Counter()
        self._quarantined = 0
        self._started = self._logged = 0.0

    def start(self, images_total: int, images_done: int) -> None:
        """Called once, before the first image."""
        self._total, self._done = images_total, images_done
        self._started = self._logged = time.monotonic()
        if self._interactive:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
            )
            self._progress.start()
            self._task = self._progress.add_task(
                "pseudo-masks", total=images_total, completed=images_done, rate="", facts=""
            )

    def image(self, record: ImageRecord | None) -> None:
        """Called for every image; record: None where a stage before the last was the goal."""
        if record is None:
            self._add(1, 0, {}, 0)
        else:
            self._add(1, len(record.instances), record.drops, int(record.status == "quarantined"))

    def shard(self, counts: Mapping[str, Any]) -> None:
        """Called for every shard, where images are not seen one by one. counts: of its commit."""
        self._add(counts["images"], counts.get("masks", 0), counts.get("drops", {}), counts["quarantined"])

    def _add(self, images: int, masks: int, drops: Mapping[str, int], quarantined: int) -> None:
        self._done += images
        self._images += images
        self._masks += masks
        self._drops.update(drops)
        self._quarantined += quarantined
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, rate=self._rate(), facts=self._facts())
        elif time.monotonic() - self._logged >= LOG_EVERY:
            self._logged = time.monotonic()
            log.info("%d/%d images, %s %s", self._done, self._total, self._rate(), self._facts())

    def stop(self) -> None:
        """Called once, after the last image or when the run is interrupted."""
        if self._progress is not None:
            self._progress.stop()

    def _rate(self) -> str:
        return f"{self._images / max(time.monotonic() - self._started, 1e-9):.2f} images/s"

    def _facts(self) -> str:
        facts = [f"{self._masks / self._images:.1f} masks/image"] if self._masks else []
        facts += [f"{count} {reason}" for reason, count in sorted(self._drops.items())]
        return ", ".join([*facts, *([f"{self._quarantined} quarantined"] if self._quarantined else [])])
