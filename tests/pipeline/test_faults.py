"""Faults on demand do what they say, to one process, and nothing without being asked."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import ROOT
from support.waiting import wait_for

from pipeline.faults import HOLD_VARIABLE, IMAGE_VARIABLE, ONCE_VARIABLE, VARIABLE, crash_point, image_fault

MEMORY = 512 << 20  # bytes of address space that a process may have which is told to eat


def started(code: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs the code, with little memory to take."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from pipeline.faults import crash_point, image_fault\n{code}\nprint('alive')"],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )


def status(process: subprocess.Popen[str]) -> int:
    process.communicate()
    return process.returncode


def ended(code: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    process = started(code, **environment)
    out, err = process.communicate()
    return process.returncode, out.strip(), err


def test_nothing_happens_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (VARIABLE, IMAGE_VARIABLE, ONCE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    crash_point("after_write", "00001")
    image_fault("a.png")
    monkeypatch.setenv(VARIABLE, "after_write:00001")
    monkeypatch.setenv(IMAGE_VARIABLE, "exit:a.png,hang:b.png")
    for point, subject in (("after_write", "00002"), ("after_write", ""), ("before_write", "00001"), ("", "")):
        crash_point(point, subject)
    image_fault("c.png")
    image_fault("a.png,hang:b.png")
    image_fault("")


@pytest.mark.parametrize("crash_at", ["after_write", "after_write:00001", "after_write:0000"])
def test_a_crash_point_kills_and_nothing_is_tidied_up(crash_at: str) -> None:
    code = "import atexit; atexit.register(print, 'no')\ntry: crash_point('after_write', '00001')\nfinally: print('no')"
    assert ended(code, **{VARIABLE: crash_at}) == (-signal.SIGKILL, "", "")


def test_with_a_folder_to_remember_it_by_one_process_alone_is_killed(tmp_path: Path) -> None:
    """Three at the same moment, and more later; a fault of another subject is another one."""

    def crash(crash_at: str) -> subprocess.Popen[str]:
        code = "crash_point('mid_write', '00001.json')"
        return started(code, **{VARIABLE: crash_at, ONCE_VARIABLE: str(tmp_path)})

    together = [crash("mid_write:00001") for _ in range(3)]
    assert sorted(status(process) for process in together) == [-signal.SIGKILL, 0, 0]
    assert status(crash("mid_write:00001")) == 0
    assert status(crash("mid_write:00002")) == 0
    assert status(crash("mid_write")) == -signal.SIGKILL
    assert status(crash("mid_write")) == 0


def test_an_image_that_ends_the_process() -> None:
    code = "import atexit; atexit.register(print, 'tidied up'); image_fault('0.png'); image_fault('a/b c.png')"
    assert ended(code, **{IMAGE_VARIABLE: "hang:x.png,exit:a/b c.png"}) == (1, "", "")


@pytest.mark.slow
def test_an_image_that_never_lets_go() -> None:
    process = started("print('at it', flush=True); image_fault('a.png')", **{IMAGE_VARIABLE: "hang:a.png"})
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "at it\n"
        rests = rests_of(process)
        wait_for(lambda: rests_of(process) > rests + 20, "more rounds", process)
        assert process.poll() is None
        assert int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize() < MEMORY / 4
    finally:
        process.kill()
        process.communicate()


def rests_of(process: subprocess.Popen[str]) -> int:
    """How often it has gone to sleep."""
    return psutil.Process(process.pid).num_ctx_switches().voluntary


def test_an_image_that_is_held_goes_on_when_the_file_is_there(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = "print('at it', flush=True); image_fault('a.png')"
    process = started(code, **{IMAGE_VARIABLE: "hold:a.png", HOLD_VARIABLE: str(go)})
    assert process.stdout is not None
    assert process.stdout.readline() == "at it\n"
    rests = rests_of(process)
    wait_for(lambda: rests_of(process) > rests + 5, "more rounds", process)
    go.touch()
    assert process.communicate()[0] == "alive\n"
    assert process.returncode == 0


def test_an_image_that_eats_memory_takes_all_there_is() -> None:
    """Here the system refuses more, which is an error like others; where it has a killer of processes, that comes."""
    code = "import sys\ntry: image_fault('a.png')\nexcept MemoryError: sys.exit(7)"
    assert ended(code, **{IMAGE_VARIABLE: "eat:a.png"})[0] == 7


def test_an_unknown_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "explode:a.png")
    image_fault("b.png")
    with pytest.raises(ValueError, match="unknown fault 'explode': use exit, hang, eat or hold"):
        image_fault("a.png")
