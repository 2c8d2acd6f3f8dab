"""Waiting for what other processes and threads do: until it has happened, however slow the machine is."""

import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.warm import WarmProcess

# Seconds after which a test that waits says what for. No outcome hangs on it: machines that are ten times as slow as
# usual are far below. pytest's own limit (setup.cfg) is longer.
PATIENCE = 1200.0


def wait_for(condition: Callable[[], object], what: str, *processes: "subprocess.Popen | WarmProcess") -> None:
    """Until the condition is true. AssertionError when one of the processes ends before, or after PATIENCE.

    what: is waited for, in words, for the message.
    """
    end_of_patience = time.monotonic() + PATIENCE
    while not condition():
        for process in processes:
            # looked at again, as it may have come true just before the process ended
            assert process.poll() is None or condition(), f"{process.args} ended without {what}"
        assert time.monotonic() < end_of_patience, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.02)
