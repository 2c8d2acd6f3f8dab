"""Progress of a run on a terminal; on anything else a line now and then in the log."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.results.kinds import Counts, ResultKind, added
from pipeline.results.registry import kind_named

log = logging.getLogger(__name__)

LOG_EVERY = 60.0  # seconds between lines when nobody watches


class ProgressReporter:
    """Images done, images/s, time left, and what the kind of result counts, while a run is at work.

    A bar when stderr is a terminal; otherwise one log line a minute.
    """

    def __init__(self, interactive: bool | None = None) -> None:
        self._interactive = sys.stderr.isatty() if interactive is None else interactive
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = self._done = 0
        self._counts: Counts = {"images": 0, "quarantined": 0}
        self._kind: ResultKind
        self._started = self._logged = 0.0

    def start(self, images_total: int, images_done: int, result: str) -> None:
        """Called once, before the first image."""
        self._total, self._done, self._kind = images_total, images_done, kind_named(result)
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
            self._task = self._progress.add_task(result, total=images_total, completed=images_done, rate="", facts="")

    def add(self, counts: Mapping[str, Any]) -> None:
        """Called for every image, or for every shard where images are not seen one by one. counts: of it."""
        self._done += counts["images"]
        self._counts = added(self._counts, counts)
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
        return f"{self._counts['images'] / max(time.monotonic() - self._started, 1e-9):.2f} images/s"

    def _facts(self) -> str:
        facts = [brief] if (brief := self._kind.brief(self._counts)) else []
        failed = self._counts["quarantined"]
        return ", ".join([*facts, *([f"{failed} quarantined"] if failed else [])])
