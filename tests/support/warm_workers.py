"""Ray's workers as forks: what takes a worker seconds, to import torch and the like, one process has done for all.

Everything else is as always: a worker has a pid, its node's environment, dies of a signal, and with its node. What one
imports, and how long a start takes, is not seen here: runs that start a Ray of their own show it.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path

from support.warm import WarmProcess
from support.warm_worker import VARIABLE

WORKER = str(Path(__file__).with_name("warm_worker.py"))  # a node's `worker_path`


@contextmanager
def warm_workers() -> Iterator[None]:
    """Nodes that are started in here, with WORKER, have such workers."""
    with tempfile.TemporaryDirectory(prefix="c3d", dir="/tmp") as folder:  # a socket's path has room for 107 characters
        listener = Listener(f"{folder}/workers", "AF_UNIX", backlog=64)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        os.environ[VARIABLE] = str(listener.address)
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            listener.close()


def _accept(listener: Listener) -> None:
    with suppress(OSError):  # it was closed
        while True:
            threading.Thread(target=_work, args=(listener.accept(),), daemon=True).start()


def _work(asked: Connection) -> None:
    """One worker, from its start to its end; where the process that asked for it ends before, it ends, too."""
    import ray._private.workers.default_worker as worker

    with asked, suppress(EOFError):
        words, env, cwd = asked.recv()
        process = WarmProcess([worker.__file__, *words], env, Path(cwd))
        threading.Thread(target=process.communicate, daemon=True).start()  # what it says is in Ray's files
        if process.sentinel not in wait([asked, process.sentinel]):
            process.kill()
