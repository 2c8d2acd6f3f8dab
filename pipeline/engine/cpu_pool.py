"""Processes for the work on single images that is the CPU's alone, while this process keeps a GPU busy."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def cpu_pool(processes: int) -> ProcessPoolExecutor:
    """A pool whose processes use one core each and end when this process does, however it ends."""
    # spawned, not forked: CUDA, and the threads of torch and zarr, do not survive a fork
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start)


def _start() -> None:
    # Ctrl-C reaches every process of a terminal. The parent answers it; these here end when it closes the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # for when OpenCV is imported
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes no pool: its processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
