"""SIGTERM, which `kill`, Slurm and Kubernetes send, ends a command as Ctrl-C does."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_AGAIN = 0.05  # seconds until an interruption that Python passed over is raised once more


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """While inside, SIGTERM raises KeyboardInterrupt in this process; it ends those that this one forks, as ever.

    Python passes over what is raised in some places, such as callbacks around a fork, destructors and weak references.
    An interruption that falls there, Ctrl-C's included, comes once more a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can say what becomes of a signal
        return
    own = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # `kill` of a process group ends loading processes, too: torch would raise an error for each on our way out.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with _raised_again(own):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _raised_again(process: int) -> Iterator[None]:
    """SIGTERM for a KeyboardInterrupt that Python tells of as one it could not raise."""
    timers: list[threading.Timer] = []

    def tell(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt) or os.getpid() != process:
            before(unraisable)
            return
        timers.append(threading.Timer(_AGAIN, os.kill, (process, signal.SIGTERM)))
        timers[-1].daemon = True
        timers[-1].start()

    before, sys.unraisablehook = sys.unraisablehook, tell
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = before
