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
from support.waiting import PATIENCE

from pipeline.engine.cpu_pool import cpu_pool

pytestmark = pytest.mark.slow


# A parent with two processes, one at work until there is a file and one without any; it says who they are and waits.
PARENT = """
import os, signal, sys, time
from concurrent.futures import wait
from pathlib import Path
from pipeline.engine.cpu_pool import cpu_pool

def meet(folder, count):
    Path(folder, str(os.getpid())).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.01)

def work_until(file):
    while not Path(file).exists():
        time.sleep(0.01)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = cpu_pool(2)
    wait([pool.submit(meet, sys.argv[1], 2) for _ in range(2)])  # each process takes one
    busy = pool.submit(work_until, sys.argv[2])
    wait([pool.submit(os.getpid) for _ in range(8)])
    try:
        print(*pool._processes, flush=True)  # who reads it may interrupt at once
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        busy.result()
        print("interrupted, and what was under way is done", flush=True)
        pool.shutdown()
"""


def parent(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """The parent, in a process group of its own, and everything that it has started; `done` ends the work."""
    script, meeting = tmp_path / "parent.py", tmp_path / "meeting"
    script.write_text(PARENT)
    meeting.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(meeting), str(tmp_path / "done")],
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


@pytest.mark.slow
def test_the_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process, family = parent(tmp_path)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    for child in alive:
        child.kill()
    assert alive == []


@pytest.mark.slow
def test_an_interruption_is_answered_by_the_parent_alone(tmp_path: Path) -> None:
    """Ctrl-C on a terminal is a signal to all of its processes."""
    process, family = parent(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    (tmp_path / "done").touch()
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "interrupted, and what was under way is done\n", "")
    assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []


def test_a_killed_process_breaks_the_pool_at_once() -> None:
    with cpu_pool(1) as pool:
        (pid,) = {pool.submit(os.getpid).result()}
        assert pool.submit(threads).result() == 1
        long = pool.submit(time.sleep, 2 * PATIENCE)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            long.result(PATIENCE)
        with pytest.raises(BrokenProcessPool):
            pool.submit(abs, -1)


def threads() -> int:
    import torch

    return torch.get_num_threads()
