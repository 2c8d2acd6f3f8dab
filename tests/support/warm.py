"""Python processes that start in milliseconds: forked from one that has imported torch and all the rest before.

Like any other process they have a pid, an environment, an exit status, and share nothing with the test; they can be
killed. What a start costs and imports is not seen here: tests/test_startup.py looks at that.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO
from unittest import mock

from support import ROOT, environment

SLOW_TO_IMPORT = "support.warm_imports"


class WarmProcess:
    """`python WORDS…`, as a `subprocess.Popen` of which the output is kept, as text.

    words: -m MODULE, -c CODE or a FILE, and its arguments.
    env: its whole environment; None: that of this process, with the project in its path.
    merged: what goes to standard error is in the output, too.
    """

    def __init__(
        self, words: Sequence[object], env: Mapping[str, str] | None = None, cwd: Path = ROOT, *, merged: bool = False
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([SLOW_TO_IMPORT])
        self.args = [str(word) for word in words]
        stdout, its_stdout = context.Pipe(duplex=False)
        stderr, its_stderr = context.Pipe(duplex=False)
        env = dict(environment() if env is None else env)
        work = (self.args, env, str(cwd), its_stdout, its_stdout if merged else its_stderr)
        self._process = context.Process(target=_work, args=work, daemon=True)
        with mock.patch.dict(os.environ, environment()):  # for the server, which is started with the first of them
            self._process.start()
        self.pid, self.sentinel = self._process.pid, self._process.sentinel
        self.stdout, self.stderr = (_text_of(pipe, own) for pipe, own in ((stdout, its_stdout), (stderr, its_stderr)))

    @property
    def returncode(self) -> int | None:
        """Its exit status, -N when signal N ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        self.communicate()
        assert self.returncode is not None
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """All that it says, when it has ended; nothing the second time."""
        with ThreadPoolExecutor(2) as readers:
            out, err = readers.map(_rest_of, (self.stdout, self.stderr))
        self._process.join()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def run(words: Sequence[object], env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> CompletedProcess[str]:
    """The same, to its end."""
    process = WarmProcess(words, env, cwd)
    said = process.communicate()
    return CompletedProcess(process.args, process.wait(), *said)


def _rest_of(stream: IO[str]) -> str:
    if stream.closed:
        return ""
    with stream:
        return stream.read()


def _text_of(pipe: Connection, others: Connection) -> IO[str]:
    others.close()
    with pipe:
        return os.fdopen(os.dup(pipe.fileno()), encoding="utf-8")


def _work(words: list[str], env: dict[str, str], cwd: str, stdout: Connection, stderr: Connection) -> None:
    """What the process does."""
    assert SLOW_TO_IMPORT in sys.modules, "the server could not import it"
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    stdout.close()
    stderr.close()
    # a shell that runs the tests in the background has its children ignore the key
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [folder for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder not in sys.path]
    kind, *rest = words
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")
