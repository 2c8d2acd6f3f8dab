"""SIGTERM, which `kill`, Slurm and Kubernetes send, ends a command as Ctrl-C does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """While inside, SIGTERM raises KeyboardInterrupt in this process; it ends those that this one forks, as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can say what becomes of a signal
        return
    own = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
