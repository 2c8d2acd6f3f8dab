"""Processes for the CPU's part: one core each, gone with their parent however it ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from support import ROOT, environment

from pipeline.engine.cpu_pool import cpu_pool

pytestmark = pytest.mark.slow


# A parent with two processes, one at work and one without any; it says who they are and waits.
PARENT = """
import os, signal, sys, time
from concurrent.futures import wait
from pipeline.engine.cpu_pool import cpu_pool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = cpu_pool(2)
    first = [pool.submit(time.sleep, 0.5) for _ in range(2)]  # each process takes one
    wait(first)
    busy = pool.submit(time.sleep, float(sys.argv[1]))
    waiting = [pool.submit(os.getpid) for _ in range(8)]
    wait(waiting)
    try:
        print(*pool._processes, flush=True)  # who reads it may interrupt at once
        time.sleep(600)
    except KeyboardInterrupt:
        busy.result()
        print("interrupted, and what was under way is done", flush=True)
        pool.shutdown()
"""


def parent(tmp_path: Path, busy: float) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """The parent, in a process group of its own, and everything that it has started."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(busy)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = {int(pid) for pid in process.stdout.readline().split()}
    assert len(pids) == 2
    family = psutil.Process(process.pid).children(recursive=True)
    assert pids <= {child.pid for child in family}
    return process, family


def test_the_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process, family = parent(tmp_path, busy=600)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=30)
    for child in alive:
        child.kill()
    assert alive == []


def test_an_interruption_is_answered_by_the_parent_alone(tmp_path: Path) -> None:
    """Ctrl-C on a terminal is a signal to all of its processes."""
    process, family = parent(tmp_path, busy=2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "interrupted, and what was under way is done\n", "")
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_a_killed_process_breaks_the_pool_at_once() -> None:
    with cpu_pool(1) as pool:
        (pid,) = {pool.submit(os.getpid).result()}
        assert pool.submit(threads).result() == 1
        long = pool.submit(time.sleep, 600)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            long.result(60)
        with pytest.raises(BrokenProcessPool):
            pool.submit(abs, -1)


def threads() -> int:
    import torch

    return torch.get_num_threads()
