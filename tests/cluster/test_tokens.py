"""Ray's token, found where Ray's own client finds it; and what is said of a cluster that wants another one."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import environment
from support.ray_processes import CUTS3D, end, words_of
from support.tiny_run import tiny_launch
from support.waiting import wait_for

from cluster import tokens
from pipeline.errors import ClusterError

TOKEN = "token-of-the-tests-91b2"
VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.mark.parametrize("place", ["variable", "file", "home", "nowhere"])
def test_a_token_that_is_there_is_used(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tokens.sys, "modules", {})  # Ray is not loaded yet
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / (".ray/auth_token" if place == "home" else "token")
    file.parent.mkdir(exist_ok=True)
    file.write_text(TOKEN)
    if place == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    if place == "file":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    tokens.use_token_that_is_there()
    assert os.environ.get("RAY_AUTH_MODE") == (None if place == "nowhere" else "token")


def test_a_mode_that_is_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": TOKEN})
    tokens.use_token_that_is_there()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """HOST:PORT of a Ray that asks for the token."""
    folder = Path(tempfile.mkdtemp(prefix="c3d", dir="/tmp"))  # a socket's path has room for 107 characters
    host = socket.gethostbyname(socket.gethostname())
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    command = [str(CUTS3D.with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    command += [f"--node-ip-address={host}", "--include-dashboard=false", "--disable-usage-stats"]
    command += ["--object-store-memory=80000000", f"--temp-dir={folder}", "--dashboard-agent-listen-port=0"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=variables(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN), cwd=folder, stdout=log, stderr=log
        )
        try:
            wait_for(lambda: asks(f"{host}:{port}"), f"Ray's head, see {log.name}", process)
            yield f"{host}:{port}"
        finally:
            end(process)


def variables(**more: str) -> dict[str, str]:
    return {name: value for name, value in environment().items() if not name.startswith("RAY_")} | more


def asks(address: str) -> bool:
    host, _, port = address.partition(":")
    with suppress(OSError):
        socket.create_connection((host, int(port)), 1).close()
        with suppress(ClusterError):
            tokens.check_token(address)
            return False
        return True
    return False


@pytest.mark.ray
@pytest.mark.slow(10)
def test_a_run_on_a_cluster_with_a_token(head: str, tmp_path: Path) -> None:
    """In a folder with files that are named like modules of others: workers see what is installed, and no more."""
    launch = tiny_launch(tmp_path, images=4, shard_size=2)
    for name in ("click", "fsspec", "pyarrow", "timm"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the present folder was imported')\n")
    (tmp_path / "token").write_text(TOKEN)

    def run(**more: str) -> tuple[int, str]:
        words = [str(CUTS3D), "run", "--out", "run", *words_of(launch), "--ray", head, "--device", "cpu"]
        done = subprocess.run(
            words, env=variables(**more), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode, done.stdout

    home = {"HOME": str(tmp_path)}
    for given, says in (
        (home, f"{head} asks for a token"),
        (home | {"RAY_AUTH_TOKEN": "another"}, f"{head} refuses the token"),
        (home | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, "token"),
    ):
        status, said = run(**given)
        assert (status, says in said.splitlines()[-1], TOKEN in said) == (2, True, False), said
    status, said = run(**home, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert (status, "4 of 4 done" in said) == (0, True), said
