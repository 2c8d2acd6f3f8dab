"""Drivers that race for the lease of a dead one, as processes or threads, in step with events and no clock."""

import os
import threading
import time
from pathlib import Path

from pipeline.runs.lease import SETTLE, read_lease
from pipeline.storage.files import RunFiles
from support.waiting import wait_for


class Race:
    """What the drivers sleep by. notes: a folder that they share. drivers: how many they are.

    Whoever has replaced the dead lease goes on when no other can replace it any more: all of them have done so, or have
    seen that another did. Whoever waits for a living owner goes on when that one has renewed its lease.
    """

    def __init__(self, files: RunFiles, notes: Path, drivers: int) -> None:
        self._files, self._notes, self._drivers = files, notes, drivers
        notes.mkdir(exist_ok=True)

    def sleep(self, seconds: float) -> None:
        before = read_lease(self._files)
        if seconds != SETTLE and before is not None and before.host == "elsewhere":
            time.sleep(seconds)  # what nobody renews: the dead one's
            return
        (self._notes / f"{os.getpid()}-{threading.get_ident()}").touch()
        if seconds == SETTLE:
            wait_for(lambda: len(list(self._notes.iterdir())) == self._drivers, "all drivers to have seen a new lease")
        else:
            wait_for(lambda: read_lease(self._files) != before, "a renewal")
