"""SIGTERM ends a command as Ctrl-C does."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import environment
from support.ray_processes import CUTS3D, end, words_of
from support.tiny_run import tiny_launch
from support.waiting import wait_for

from pipeline.interruption import terminated_as_interrupted
from pipeline.runs.lease import LEASE_FILE


def test_it_raises_what_ctrl_c_raises_and_leaves_the_handler_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_was_forked_ends() -> None:
    with terminated_as_interrupted():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_processes_that_the_same_signal_ended_are_no_error() -> None:
    """`kill` of a process group ends loading processes, too, and torch has a handler that raises for them."""

    def lost(number: int, frame: object) -> None:
        raise RuntimeError("a loading process is gone")

    def be_ended_with(child: int) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    child = os.fork()
    if child == 0:
        signal.pause()
    before = signal.signal(signal.SIGCHLD, lost)
    try:
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            be_ended_with(child)
    finally:
        signal.signal(signal.SIGCHLD, before)


IN_A_FORK = """
import os, signal, sys, time
from pipeline.interruption import terminated_as_interrupted

def interrupt() -> None:
    if sent:
        os.kill(os.getpid(), sent.pop())

sent = []
os.register_at_fork(before=interrupt)
with terminated_as_interrupted():
    sent.append({sent})
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    print("lost", flush=True)
    while True:
        time.sleep(0.1)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_that_falls_in_a_fork_is_not_lost(sent: signal.Signals) -> None:
    """Python passes over what a callback around a fork raises."""
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_FORK.replace("{sent}", str(int(sent)))],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert ended.stdout == "lost\n", "it was raised where nobody notices"
    assert ended.stderr.endswith("KeyboardInterrupt\n")
    assert "Exception ignored" not in ended.stderr


def test_in_other_threads_nothing_changes() -> None:
    found = []

    def work() -> None:
        with terminated_as_interrupted():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_run_says_that_it_resumes_and_gives_its_lease_back(sent: signal.Signals, tmp_path: Path) -> None:
    launch, out, go_on = tiny_launch(tmp_path, images=6, shard_size=2), tmp_path / "run", tmp_path / "go"
    held = {"CUTS3D_IMAGE_FAULT": "hold:002.png", "CUTS3D_HOLD_UNTIL": str(go_on)}
    process = subprocess.Popen(
        [str(CUTS3D), "run", "--out", str(out), *words_of(launch), "--device", "cpu"],
        env=environment(**held),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(lambda: (out / "commits/00000.json").exists(), "the first shard", process)
        process.send_signal(sent)
        said, _ = process.communicate()
    finally:
        end(process)
    assert process.returncode == 130, said
    assert "interrupted; committed shards are safe, the same command resumes from here" in said
    assert not (out / LEASE_FILE).exists()
