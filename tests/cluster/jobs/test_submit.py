"""Jobs on a real cluster: one Ray head that asks for a token, its job server on loopback, and cuts3d as its user."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.waiting import PATIENCE, wait_for

pytestmark = [pytest.mark.slow(70), pytest.mark.ray]

TOKEN = "token-of-the-tests-3f6c2a"
SECRET = "hunter2-4711"
FOR_EVER = 100_000  # lines: longer than any test

# Stands for the project's source: what a job runs is `python -m cluster`, with the folder as working directory.
PROGRAM = """
import os, sys, time
print("ran", *sys.argv[1:], "in", sorted(os.listdir()), flush=True)
print("variable", os.environ.get("COLOUR"), flush=True)
lines, status = os.environ.get("PLAY", "0 0").split()
for i in range(int(lines)):
    print("line", i, flush=True)
    while i == 5 and not os.path.exists(os.environ.get("GO", "/")):
        time.sleep(0.05)
    time.sleep(0.1)
sys.exit(int(status))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**changes: str | None) -> dict[str, str]:
    """That of a user on this machine with the token; None removes a variable."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    changes = {"PATH": path, "RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "token", **changes}
    return {name: value for name, value in (clean | changes).items() if value is not None}


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the job server; the head and all it started are killed at the end, by handle."""
    folder = Path(tempfile.mkdtemp(prefix="c3d", dir="/tmp"))  # a socket's path has room for 107 characters
    port = free_port()
    command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--temp-dir={folder}", "--num-cpus=2"]
    command += ["--dashboard-agent-listen-port=0"]  # 52365 otherwise, which another Ray on this machine may have
    command += ["--object-store-memory=80000000", "--include-log-monitor=false", "--disable-usage-stats"]
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment(), start_new_session=True)
    try:
        wait_for(lambda: asks_for_a_token(f"http://127.0.0.1:{port}"), f"an answer, see {log.name}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)  # what is left then is killed
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def asks_for_a_token(address: str) -> bool:
    """False while nobody answers."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=PATIENCE)
    except urllib.error.HTTPError as refusal:
        return refusal.code == 401
    except OSError:
        return False
    pytest.fail("the head does not ask for a token")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "cluster").mkdir()
    (folder / "cluster" / "__init__.py").touch()  # without it, the project of this environment comes first
    (folder / "cluster" / "__main__.py").write_text(PROGRAM)
    (folder / "runs").mkdir()
    (folder / "runs" / "large.bin").write_text("not for the cluster")
    return folder


def start(address: str, *words: object, **changes: str | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["cuts3d", str(words[0]), "--address", address, *map(str, words[1:])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**changes),
        # What starts tests in the background may have them ignore Ctrl-C, which is handed down.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = process.communicate()
    assert "Traceback" not in err
    return process.returncode, out, err


def cuts3d(address: str, *words: object, **changes: str | None) -> tuple[int, str, str]:
    return ended(start(address, *words, **changes))


def play(address: str, program: Path, lines: int, status: int, *options: str) -> subprocess.Popen[str]:
    """Submit a job that prints so many lines, ten a second, and exits so. Variable GO: a file to wait for at line 5."""
    options = ("--working-dir", str(program), "--env", f"PLAY={lines} {status}", *options)
    return start(address, "submit", *options, "--", "run", "--out", "/data/first", "--recipe", "maskcut")


def test_a_job_from_submission_to_its_log(head: str, program: Path) -> None:
    options = ("--env", "COLOUR=blue", "--env", "MY_TOKEN", "--job-id", "first-night", "--metadata", "team=vision")
    submit = start(
        head,
        *("submit", "--working-dir", program, *options, "--wait", "--", "run", "--out", "s3://bucket/first"),
        MY_TOKEN=SECRET,
    )
    status, out, err = ended(submit)
    assert status == 0, err
    job, log = out.split("\n", 1)
    assert job == "first-night"
    assert "ran run --out s3://bucket/first --ray auto in ['cluster']" in log, "with --ray, and without runs/"
    assert "variable blue" in log
    assert "job first-night SUCCEEDED" in err
    assert "MY_TOKEN=***" in err
    assert SECRET not in out + err

    status, again, _ = cuts3d(head, "logs", job)
    assert (status, again) == (0, log)

    status, out, _ = cuts3d(head, "jobs")
    (row,) = (line.split() for line in out.splitlines() if line.startswith(job))
    assert row[1] == "SUCCEEDED"
    assert row[-2] == "first"

    details = urllib.request.Request(f"{head}/api/jobs/{job}", headers={"Authorization": f"Bearer {TOKEN}"})
    text = urllib.request.urlopen(details).read().decode()
    assert '"out": "s3://bucket/first"' in text
    assert '"team": "vision"' in text
    metadata = text[text.index('"metadata"') : text.index('"runtime_env"')]
    assert SECRET not in metadata

    status, _, err = cuts3d(head, "submit", "--working-dir", "none", "--job-id", job, "--", "recipes")
    assert status == 2
    assert "the job id first-night is taken" in err
    status, out, _ = cuts3d(head, "stop", job)
    assert (status, out) == (0, f"{job} had ended already: SUCCEEDED\n")


def test_the_project_itself_as_a_job(head: str) -> None:
    """The checkout goes along and runs; what it exits with is what --wait exits with."""
    waits = [
        start(head, "submit", "--wait", "--", "recipes"),
        start(head, "submit", "--wait", "--", "status", "/nowhere/at/all"),
    ]
    (done, recipes, sent), (failed, said, remarks) = (ended(wait) for wait in waits)
    assert done == 0, sent
    assert "cuts3d_rounds" in recipes
    assert "files, " in sent
    assert failed == 2
    assert "is not a run" in said
    assert "FAILED, exit status 2" in remarks
    assert "resumes the run" in remarks


def test_exit_status_and_stop(head: str, program: Path) -> None:
    fails = play(head, program, 0, 7, "--wait")
    runs = play(head, program, FOR_EVER, 0, "--wait", "--job-id", "to-be-stopped")
    status, _, err = ended(fails)
    assert status == 7
    assert "exit status 7" in err
    assert runs.stdout is not None
    for line in runs.stdout:
        if line.startswith("line 3"):
            break
    status, out, _ = cuts3d(head, "stop", "to-be-stopped", "--wait")
    assert (status, out) == (0, "to-be-stopped has ended: STOPPED\n")
    status, _, err = ended(runs)
    assert status == 130
    assert "job to-be-stopped STOPPED" in err


def test_an_interruption_leaves_the_job_alone(head: str, program: Path) -> None:
    submit = play(head, program, FOR_EVER, 0, "--wait", "--job-id", "left-alone")
    assert submit.stdout is not None
    for line in submit.stdout:
        if line.startswith("line 1"):
            break
    submit.send_signal(signal.SIGINT)
    status, _, err = ended(submit)
    assert status == 130
    assert "the job continues" in err
    _, out, _ = cuts3d(head, "jobs")
    assert any(line.split()[:2] == ["left-alone", "RUNNING"] for line in out.splitlines())
    assert cuts3d(head, "stop", "left-alone")[0] == 0


def test_a_job_that_cannot_start(head: str, program: Path) -> None:
    """Ray does not stop a job that has not started (its issue 58353): that is said."""
    submit = play(head, program, 0, 0, "--num-gpus", "1", "--job-id", "waits")
    assert ended(submit)[0] == 0, "without --wait nothing is waited for"
    _, out, _ = cuts3d(head, "jobs")
    assert any(line.split()[:2] == ["waits", "PENDING"] for line in out.splitlines())
    status, out, err = cuts3d(head, "stop", "waits")
    assert (status, out) == (0, "waits was told to stop\n")
    assert "waits has not started, and Ray stops a job only then" in err


class Cable:
    """A connection to the head that can be cut: relays TCP, on a port of its own."""

    def __init__(self, address: str) -> None:
        self.target = address.rpartition(":")[2]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self.listener.accept()
                there = socket.create_connection(("127.0.0.1", int(self.target)))
                self.ends += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._relay, args=pair, daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Every connection there is; new ones can be made."""
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.ends.clear()


def test_a_lost_connection_is_taken_up_again(head: str, program: Path, tmp_path: Path) -> None:
    """It is cut while the job waits, and the job goes on when the loss is noticed."""
    go = tmp_path / "go"
    assert ended(play(head, program, 40, 5, "--job-id", "over-a-bad-line", "--env", f"GO={go}"))[0] == 0
    cable = Cable(head)
    follow = start(cable.address, "logs", "over-a-bad-line", "--follow")
    assert follow.stdout is not None
    seen = []
    for line in follow.stdout:
        seen.append(line)
        if line.startswith("line 5\n"):
            cable.cut()
            break
    assert follow.stderr is not None
    said = ""
    while "trying again in 1 s" not in said:
        line = follow.stderr.readline()
        assert line, said
        said += line
    go.touch()
    status, rest, _ = ended(follow)
    lines = [line for line in "".join([*seen, rest]).splitlines() if line.startswith("line ")]
    assert lines == [f"line {i}" for i in range(40)], "every line once"
    assert status == 5, "what the job exited with"


def test_what_is_wrong_is_said_in_a_line(head: str, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    nobody = f"http://127.0.0.1:{free_port()}"
    bare = {"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": None, "HOME": str(tmp_path)}
    asked = [
        (start(head, "jobs", **{**bare, "RAY_AUTH_TOKEN_PATH": str(token_file)}), 0, "JOB"),
        (start(head, "jobs", **{**bare, "RAY_AUTH_TOKEN": TOKEN}), 0, "JOB"),
        (start(head, "jobs", **bare), 2, f"{head} asks for a token: set RAY_AUTH_TOKEN"),
        (start(head, "jobs", RAY_AUTH_TOKEN="wrong"), 2, f"{head} refuses the token: RAY_AUTH_TOKEN"),
        (start(head, "submit", "--working-dir", "none", "--", "recipes", RAY_AUTH_TOKEN="wrong"), 2, "refuses the"),
        (start(nobody, "jobs"), 2, f"no job server can be reached at {nobody} (Connection refused)"),
        (start(head, "jobs", RAY_API_SERVER_ADDRESS=nobody), 0, "JOB"),  # --address counts for more
        (start(head, "logs", "job-x", "--follow"), 2, "knows no job job-x"),
        (start(head, "stop", "job-x"), 2, f"{head} knows no job job-x: `cuts3d jobs` lists"),
    ]
    for process, expected, says in asked:
        status, out, err = ended(process)
        assert status == expected, err
        assert says in out + err
        assert len(err.splitlines()) == (1 if expected else 0)
        assert TOKEN not in out + err
