"""The cluster's part of the command line, without a cluster: what is added to `run`, what is checked before anything is
sent, and what is made of what a job server answers.
"""

import subprocess
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cluster.commands import extend
from cluster.jobs import commands as job_commands
from cluster.jobs import job_server, submit
from cluster.jobs.follow import Follower, exit_status
from cluster.jobs.job_server import JobServer, LostConnectionError
from cluster.jobs.submit import Job, checked_command, entrypoint, submit_job
from detector.commands import extend as load_detector
from pipeline.cli import command_line
from pipeline.commands.options import Output
from pipeline.engine import run as runner
from pipeline.errors import ClusterError, ConfigError, SourceError
from pipeline.runs.standing import Standing
from pipeline.runs.summary import RunSummary


@pytest.fixture(autouse=True)
def without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a token lies about on this machine: the mode is read once in a process, and other tests share it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def main() -> click.Group:
    """A command line of its own with the cluster's additions."""
    group = command_line([])
    extend(group)()
    return group


def call(main: click.Group, *arguments: object, **settings: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **settings)


# --- cuts3d run --ray -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeOptions:
    address: str | None
    workers: int | None = None
    cpus_per_worker: int | None = None
    cpu_workers: int = 0
    deadline: float | None = None


@pytest.fixture
def on_ray(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """In place of cluster.run: notes what it is called with."""
    calls: list[tuple[Any, ...]] = []

    def run_on_ray(out: str, launch: Any, **settings: Any) -> RunSummary:
        assert callable(settings.pop("reporter").add)
        calls.append((out, launch, settings))
        return RunSummary(out, until=settings["until"], standing=Standing(3, 6, 3, 6))

    module = types.ModuleType("cluster.run")
    module.__dict__.update(RayOptions=FakeOptions, run_on_ray=run_on_ray)
    monkeypatch.setitem(sys.modules, "cluster.run", module)
    return calls


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--ray"], FakeOptions(None)),
        (["--ray", "local"], FakeOptions(None)),
        (["--ray", "auto"], FakeOptions("auto")),
        (["--ray=10.0.0.1:6379"], FakeOptions("10.0.0.1:6379")),
        (["--ray", "--workers", "4", "--deadline", "90"], FakeOptions(None, workers=4, deadline=90.0)),
        (
            ["--cpus-per-worker", "2", "--cpu-workers", "3", "--ray", "ray://head:10001"],
            FakeOptions("ray://head:10001", cpus_per_worker=2, cpu_workers=3),
        ),
    ],
)
def test_run_on_ray(
    words: list[str], options: FakeOptions, main: click.Group, on_ray: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    result = call(main, "run", "--out", tmp_path, "--images", "photos", "--until", "ncut", "--device", "cpu", *words)
    assert result.exit_code == 0, result.output
    assert "shards     3 done, 0 missing" in result.output
    ((out, launch, settings),) = on_ray
    assert (out, launch.images) == (str(tmp_path), "photos")
    assert settings == {"until": "ncut", "device": "cpu", "batch_size": None, "options": options}


def test_without_ray_nothing_changes(
    main: click.Group, on_ray: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[str] = []
    monkeypatch.setattr(
        runner, "run", lambda out, launch, **_: here.append(out) or RunSummary(out, standing=Standing(1, 2))
    )
    assert call(main, "run", "--out", tmp_path, "--images", "photos").exit_code == 1
    assert (here, on_ray) == ([str(tmp_path)], [])


@pytest.mark.parametrize("words", [["--workers", "2"], ["--cpu-workers", "0"], ["--deadline", "9", "--workers", "1"]])
def test_options_of_ray_need_ray(words: list[str], main: click.Group, tmp_path: Path) -> None:
    result = call(main, "run", "--out", tmp_path, "--images", "photos", *words)
    assert result.exit_code == 2
    assert words[0] in result.output
    assert "of use with --ray only" in result.output


@pytest.mark.parametrize("words", [["run", "--out", "/r", "--images", "p", "--ray"], ["jobs", "--address", "http://h"]])
def test_ray_that_is_not_installed(words: list[str], main: click.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server.importlib.util, "find_spec", lambda name: None)
    result = call(main, *words)
    assert result.exit_code == 2
    assert "pip install 'cuts3d[cluster]'" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", [[], ["run"], ["submit"], ["jobs"], ["logs"], ["stop"]])
def test_help_loads_neither_ray_nor_torch(command: list[str]) -> None:
    """Through the installed entry point."""
    code = (
        "import sys; from pipeline.cli import main\n"
        f"try: main({[*command, '--help']!r})\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'ray', 'torch', 'fsspec'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("--ray [ADDRESS]" if command == ["run"] else "submit" if not command else "--address") in done.stdout


# --- what a job is ----------------------------------------------------------------------------------------------------


def test_a_run_in_a_job_is_done_by_its_cluster(main: click.Group) -> None:
    words, facts = checked_command(main, ["run", "--out", "s3://bucket/first/", "--images", "s3://bucket/photos"])
    assert words[-2:] == ("--ray", "auto")
    assert {"run": "first", "out": "s3://bucket/first/", "command": "run"}.items() <= facts.items()
    assert facts["user"]
    assert facts["recipe"] == "of the run's last launch"
    given = ["run", "--out", "/nfs/second", "--ray=local", "--recipe", "maskcut", "--workers", "2"]
    words, facts = checked_command(main, given)
    assert list(words) == given
    assert (facts["run"], facts["recipe"]) == ("second", "maskcut")
    words, facts = checked_command(main, ["status", "/nfs/second"])
    assert words == ("status", "/nfs/second")
    assert facts["run"] == "second"


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["python", "x.py"], click.UsageError, "python is no command of cuts3d"),
        (["run", "--images", "x"], click.UsageError, "[Mm]issing"),
        (["run", "--out", "/r", "--imgs", "x"], click.UsageError, "--imgs"),
        (["run", "--out", "/r", "--workers", "none"], click.UsageError, "not a valid integer"),
        (["run", "--out", "runs/first"], ConfigError, "runs/first is relative"),
        (["status", "runs/first"], ConfigError, "runs/first is relative"),
        (["import-coco", "/d/a.json", "--out", "runs/first"], ConfigError, "--out runs/first is relative"),
        (["export", "/d/run", "--coco", "/d/c.json", "--overlays", "o"], ConfigError, "--overlays o is relative"),
        (["evaluate", "/d/run", "--truth", "/d/t.json", "--csv", "s.csv"], ConfigError, "--csv s.csv is relative"),
        (["gallery", "/d/run"], ConfigError, "--out gallery.html is relative"),
        (["inspect", "/d/a.jpg"], ConfigError, "--out inspect-NAME is relative"),
        (["demo"], ConfigError, "--out demo is relative"),
        (["run", "--out", "s3://me:pass@bucket/x"], SourceError, "carries a password"),
        (["run", "--out", "/r", "--images=https://h/x.tar?X-Amz-Signature=12"], SourceError, "carries"),
    ],
)
def test_mistakes_show_before_anything_is_sent(
    words: list[str], error: type[Exception], says: str, main: click.Group, server: "FakeServer"
) -> None:
    with pytest.raises(error, match=says):
        checked_command(main, words)
    result = call(main, "submit", "--", *words)
    assert result.exit_code == 2
    assert server.submitted == []


def test_submit_knows_every_place_that_a_command_writes_to(main: click.Group) -> None:
    load_detector(main)
    options = [(name, option) for name, command in main.commands.items() for option in command.params]
    places = {(name, str(option.name)) for name, option in options if isinstance(option.type, Output)}
    assert not any(isinstance(option.type, click.Path | click.File) for _, option in options)
    named = {(name, str(option.name)) for name, option in options if option.name in ("out", "work_dir", "markdown")}
    assert named <= places


def test_the_shipped_code_runs_or_else_the_installed(tmp_path: Path) -> None:
    command = ("run", "--out", "/data/my run")
    assert entrypoint(Job(command)) == "cuts3d run --out '/data/my run'"
    assert entrypoint(Job(command, working_dir=tmp_path)) == "cuts3d run --out '/data/my run'", "a folder of lists, say"
    assert entrypoint(Job(command, working_dir=submit.ROOT)) == "python -m cluster run --out '/data/my run'"


def test_a_job_that_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        Job(("recipes",), working_dir=tmp_path, image="cuts3d:1")
    with pytest.raises(ConfigError, match="say what the job is to run"):
        Job(())
    with pytest.raises(ConfigError, match="API_TOKEN looks like a secret"):
        Job(("recipes",), metadata={"API_TOKEN": "1"})


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "PGPASSWORD", "api_key", "GITHUB_PAT_TOKEN", "AUTH", "PWD_X"],
)
def test_secrets_are_not_shown(name: str) -> None:
    assert submit.shown({name: "hunter2", "OMP_NUM_THREADS": "4"}) == f"{name}=*** OMP_NUM_THREADS=4"


def test_a_url_is_shown_without_its_password() -> None:
    shown = submit.shown({"AWS_ENDPOINT_URL": "http://me:hunter2@store:9000", "MONKEY": "1", "AUTHOR": "ada"})
    assert shown == "AWS_ENDPOINT_URL=http://store:9000 MONKEY=1 AUTHOR=ada"


# --- what a job server answers ----------------------------------------------------------------------------------------


@dataclass
class FakeInfo:
    status: Any = "RUNNING"
    driver_exit_code: int | None = None
    message: str = ""
    submission_id: str = "job-1"
    start_time: int | None = 1_700_000_000_000
    end_time: int | None = 1_700_000_065_000
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ray.job_submission import JobStatus

        self.status = JobStatus(self.status)


class FakeServer(JobServer):
    """A job server with one job; its connections break as `breaks` says, at these characters of the log."""

    address = "http://head:8265"

    def __init__(self, log: str = "", breaks: tuple[int, ...] = (), info: FakeInfo | None = None) -> None:
        self.log, self.breaks, self.answer = log, list(breaks), info or FakeInfo("SUCCEEDED", 0)
        self.submitted: list[dict[str, Any]] = []
        self.client: Any = self

    def submit(self, **job: Any) -> str:
        folder = job["runtime_env"].get("working_dir")
        assert folder is None or Path(folder).is_file(), "the package is there when it is submitted"
        self.submitted.append(job)
        return job["submission_id"] or "job-1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        end = self.breaks.pop(0) if self.breaks else None
        for start in range(0, len(self.log), 7):
            if end is not None and start >= end:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield self.log[start : start + 7]

    def info(self, job: str) -> Any:
        return FakeInfo("RUNNING") if self.breaks else self.answer

    def logs(self, job: str) -> str:
        return self.log

    def jobs(self) -> Any:
        return [self.answer]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    fake = FakeServer("one\ntwo\n")
    monkeypatch.setattr(job_commands, "_server", lambda address: fake)
    return fake


def test_submit_says_what_it_sent(main: click.Group, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    words = ["run", "--out", "s3://b/r", "--images", "s3://b/p"]
    options = ["--env", "HF_TOKEN", "--env", "A=1", "--num-cpus", "2", "--num-gpus", "0.5", "--memory", "1.5"]
    options += ["--resource", "head=0.01", "--metadata", "team=vision", "--job-id", "night-7"]
    result = call(main, "submit", "--address", "http://head:8265", *options, "--", *words)
    assert result.exit_code == 0, result.output
    assert result.stdout == "night-7\n", "for scripts"
    for part in ("MB of", "HF_TOKEN=*** A=1", "cuts3d logs night-7 --follow", "cuts3d stop night-7", "resumes the run"):
        assert part in result.stderr
    assert "prefer secrets or roles" in result.stderr
    assert "hunter2" not in result.output
    (job,) = server.submitted
    assert job["entrypoint"] == "python -m cluster run --out s3://b/r --images s3://b/p --ray auto"
    assert job["runtime_env"].pop("working_dir").endswith(".zip")
    assert job["runtime_env"] == {"env_vars": {"HF_TOKEN": "hunter2", "A": "1"}}
    assert (job["entrypoint_num_cpus"], job["entrypoint_num_gpus"]) == (2, 0.5)
    assert (job["entrypoint_memory"], job["entrypoint_resources"]) == (1_500_000_000, {"head": 0.01})
    assert {"team": "vision", "run": "r"}.items() <= job["metadata"].items()
    assert all(isinstance(value, str) for value in job["metadata"].values()), "or Ray refuses it"
    assert "hunter2" not in str(job["metadata"])


def test_submit_with_an_image_ships_nothing(main: click.Group, server: FakeServer) -> None:
    from ray.runtime_env import RuntimeEnv

    result = call(main, "submit", "--image", "registry/cuts3d:1", "--env", "A=1", "--", "recipes")
    assert result.exit_code == 0, result.output
    (job,) = server.submitted
    assert job["entrypoint"] == "cuts3d recipes"
    assert RuntimeEnv(**job["runtime_env"])["image_uri"] == "registry/cuts3d:1", "Ray takes it together"
    assert "container image registry/cuts3d:1" in result.stderr


def test_submit_with_what_the_cluster_has(main: click.Group, server: FakeServer) -> None:
    assert call(main, "submit", "--working-dir", "none", "--", "recipes").exit_code == 0
    assert server.submitted[0]["runtime_env"] == {}
    assert server.submitted[0]["entrypoint"] == "cuts3d recipes"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--env", "NOT_SET_ANYWHERE"], "NAME=VALUE, or NAME alone"),
        (["--env", "=1"], "NAME=VALUE"),
        (["--metadata", "A"], "NAME=VALUE"),
        (["--resource", "head=many"], "NAME=NUMBER"),
        (["--working-dir", "/nowhere"], "is no folder"),
        (["--working-dir", "/tmp", "--image", "x"], "not both"),
        (["--metadata", "MY_SECRET=1"], "looks like a secret"),
    ],
)
def test_options_of_submit(options: list[str], says: str, main: click.Group, server: FakeServer) -> None:
    result = call(main, "submit", *options, "--", "recipes")
    assert result.exit_code == 2
    assert says in result.output
    assert server.submitted == []


def test_submit_what(main: click.Group, server: FakeServer) -> None:
    result = call(main, "submit")
    assert result.exit_code == 2
    assert "… -- run --out …" in result.output


@pytest.mark.parametrize(
    ("info", "status"),
    [
        (FakeInfo("SUCCEEDED", 0), 0),
        (FakeInfo("FAILED", 1), 1),
        (FakeInfo("FAILED", 42), 42),
        (FakeInfo("FAILED", -9), 137),
        (FakeInfo("FAILED", None, "the runtime environment could not be set up"), 1),
        (FakeInfo("STOPPED"), 130),
        (FakeInfo("STOPPED", -15), 130),
    ],
)
def test_wait_exits_as_the_job_did(info: FakeInfo, status: int, main: click.Group, server: FakeServer) -> None:
    assert exit_status(info) == status  # type: ignore[arg-type]
    server.answer = info
    result = call(main, "submit", "--wait", "--", "recipes")
    assert result.exit_code == status
    assert result.stdout == "job-1\none\ntwo\n"
    assert f"job job-1 {info.status}" in result.stderr
    assert ("resumes the run" in result.stderr.split("job job-1 ")[-1]) == (str(info.status) == "FAILED")
    assert info.message in result.stderr
    assert call(main, "logs", "job-1", "--follow").exit_code == status


def test_an_interruption_leaves_the_job(main: click.Group, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "follow", interrupted)
    result = call(main, "submit", "--wait", "--", "recipes")
    assert result.exit_code == 130
    assert "the job continues. cuts3d logs job-1 --follow" in result.stderr


def test_stopping_takes_no_longer_than_a_minute(
    main: click.Group, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(server, "stop", lambda job: not asked.append(job))
    monkeypatch.setattr(server, "info", lambda job: FakeInfo("RUNNING"))
    monkeypatch.setattr(job_commands, "STOPPED_AFTER_SECONDS", 0.6)
    assert call(main, "stop", "job-1").stdout == "job-1 was told to stop\n"
    result = call(main, "stop", "job-1", "--wait")
    assert result.exit_code == 2
    assert "job-1 is RUNNING still" in result.stderr
    assert asked == ["job-1", "job-1"]


def test_jobs_are_listed(main: click.Group, server: FakeServer) -> None:
    server.answer = FakeInfo("FAILED", 1, metadata={"run": "first", "user": "ada"})
    head, row = call(main, "jobs").output.splitlines()
    assert head.split() == ["JOB", "STATUS", "STARTED", "TOOK", "RUN", "USER"]
    assert row.split()[:3] == ["job-1", "FAILED", "1"]
    assert row.split()[-3:] == ["0:01:05", "first", "ada"]


LOG = "".join(f"line {i}\n" for i in range(40))


@pytest.mark.parametrize("breaks", [(), (0,), (100,), (100, 0, 30, 200)])
def test_a_log_is_taken_up_where_it_broke_off(breaks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.follow.sleep", lambda seconds: None)
    text: list[str] = []
    said: list[str] = []
    info = Follower(FakeServer(LOG, breaks), "job-1", text.append, said.append).follow()
    assert str(info.status) == "SUCCEEDED"
    assert "".join(text) == LOG, "every line once"
    assert len(said) == len(breaks)
    assert all("trying again" in line for line in said)


def test_a_server_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("cluster.jobs.follow.sleep", waits.append)
    monkeypatch.setattr("cluster.jobs.follow.monotonic", lambda: sum(waits))
    server = FakeServer(LOG, (0,) * 1000)
    with pytest.raises(LostConnectionError, match="no job server can be reached at http://head:8265"):
        Follower(server, "job-1", lambda text: None, lambda line: None, patience=60).follow()
    assert waits == [1, 2, 4, 8, 15, 15, 15, 15][: len(waits)]
    assert 60 < sum(waits) <= 75


def test_a_stream_that_ends_too_early_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head node that goes away politely closes the stream as if the job had ended."""
    monkeypatch.setattr("cluster.jobs.follow.sleep", lambda seconds: None)
    answers = iter([FakeInfo("RUNNING"), FakeInfo("SUCCEEDED", 0)])
    server = FakeServer(LOG)
    monkeypatch.setattr(server, "info", lambda job: next(answers))
    text: list[str] = []
    Follower(server, "job-1", text.append, lambda line: None).follow()
    assert "".join(text) == LOG
    assert next(answers, None) is None


def silent(tells: Callable[[], None]) -> Any:
    async def stream(job: str) -> AsyncIterator[str]:
        import asyncio

        tells()
        await asyncio.sleep(60)
        yield "never"

    return stream


def test_a_silent_connection_is_questioned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head node is gone without a word, or the job has ended and nobody says so."""
    monkeypatch.setattr("cluster.jobs.follow.SILENCE_SECONDS", 0.05)
    server = FakeServer("all there is\n")
    opened: list[int] = []
    monkeypatch.setattr(server, "tail_job_logs", silent(lambda: opened.append(1)))
    text: list[str] = []
    Follower(server, "job-1", text.append, lambda line: None).follow()
    assert "".join(text) == "all there is\n"
    assert opened == [1]


def test_a_job_that_does_not_start_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.follow.SILENCE_SECONDS", 0.05)
    monkeypatch.setattr("cluster.jobs.follow.WAITING_SECONDS", 0.1)
    answers = [FakeInfo("PENDING", message="It may be waiting for resources.")] * 4 + [FakeInfo("STOPPED")] * 2
    server = FakeServer()
    monkeypatch.setattr(server, "info", lambda job: answers.pop(0))
    monkeypatch.setattr(server, "tail_job_logs", silent(lambda: None))
    said: list[str] = []
    Follower(server, "job-1", lambda text: None, said.append).follow()
    assert len(said) == 1, "once"
    assert "has not started after 0 s: It may be waiting for resources." in said[0]
    assert "--num-gpus" in said[0]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (None, "say where the cluster is"),
        ("10.0.0.1:6379", "not the address of a job server"),
        ("ray://head:10001", "not the address of a job server"),
        ("auto", "not the address of a job server"),
        ("http://127.0.0.1:9", r"no job server can be reached at http://127.0.0.1:9 \(Connection refused\)"),
        ("http://me:hunter2@127.0.0.1:9", r"reached at http://127.0.0.1:9 \(Connection refused\)"),
    ],
)
def test_addresses(address: str | None, says: str) -> None:
    with pytest.raises(ClusterError, match=says) as refused:
        JobServer(address)
    assert "hunter2" not in str(refused.value)
    assert ":8265" in str(refused.value) or "(8265)" in str(refused.value)


@pytest.mark.parametrize(
    ("status", "answer", "error", "says"),
    [
        (200, "{}", ClusterError, "is no job server of Ray: its answer lacks 'ray_version'"),
        (200, "<html>", ClusterError, "no job server can be reached"),
        (404, "", ClusterError, "refuses: Version check returned 404"),
        (503, "", LostConnectionError, "503 Server Error"),
        (401, "", ClusterError, "asks for a token"),
        (403, "", ClusterError, "refuses the token"),
    ],
)
def test_what_else_may_listen_there(status: int, answer: str, error: type[Exception], says: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        with pytest.raises(error, match=says):
            JobServer(f"http://127.0.0.1:{listener.server_port}/")
        listener.shutdown()


def test_a_proxy_whose_server_is_gone_is_a_lost_connection() -> None:
    server = FakeServer()
    assert isinstance(server.error(RuntimeError("Request failed with status code 502: .")), LostConnectionError)
    refused = server.error(RuntimeError("Request failed with status code 500: Traceback\nValueError: no such thing\n."))
    assert not isinstance(refused, LostConnectionError)
    agent = server.error(RuntimeError("Request failed with status code 500: No available agent to submit job, please."))
    assert "ray start --dashboard-agent-listen-port" in str(agent)
    assert str(refused) == "http://head:8265 refuses: ValueError: no such thing"


@pytest.mark.parametrize("variables", [{"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, {"RAY_ADDRESS": "10.9.8.7:1"}])
def test_the_address_may_come_from_the_environment(
    variables: dict[str, str], main: click.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = call(main, "jobs", env=variables)
    assert result.exit_code == 2
    assert next(iter(variables.values())) in result.output


def test_submitting_from_python(server: FakeServer) -> None:
    assert submit_job(server, Job(("recipes",), job_id="mine")) == ("mine", None)
