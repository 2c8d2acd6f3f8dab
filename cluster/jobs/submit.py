"""`cuts3d submit`: a cuts3d command as a job of a Ray cluster, with its code, its environment and what it asks for."""

import getpass
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from cluster.jobs.job_server import JobServer
from cluster.jobs.package import Package, pack
from pipeline.commands.options import Output
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[2]

_SECRET = re.compile(r"secret|tokens?(_|$)|passw|passphrase|credential|apikey|(^|_)(pwd|auth|key)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """A cuts3d command and how a cluster is to run it.

    command: the words after `cuts3d`.
    working_dir: folder with the code, sent along; None: the cluster has cuts3d installed.
    image: container image with cuts3d, for the whole job; not together with a working_dir.
    env: environment variables of the job and its workers.
    cpus, gpus, memory, resources: what the command itself takes of the cluster, beside its workers; memory in bytes;
        with nothing asked for it runs on the head node.
    metadata: shown with the job.
    job_id: the cluster's choice when None; an id is good for one job only.
    """

    command: tuple[str, ...]
    working_dir: Path | None = None
    image: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    job_id: str | None = None

    def __post_init__(self) -> None:
        if not self.command:
            raise ConfigError("say what the job is to run, after two dashes: `… -- run --out …`")
        if self.image and self.working_dir:
            raise ConfigError("a job has a container image or a working directory, not both: Ray does not combine them")
        for name in self.metadata:
            if is_secret(name):
                raise ConfigError(f"metadata is shown to everybody who sees the jobs: {name} looks like a secret")


def submit_job(server: JobServer, job: Job) -> tuple[str, Package | None]:
    """Submit a job; gives its id, and what went along. Raises ClusterError, and ConfigError for the working directory.

    The run resumes where an earlier job, or another machine, has left it.
    """
    with tempfile.TemporaryDirectory(prefix="cuts3d-") as folder:
        package = pack(job.working_dir, Path(folder) / "working_dir.zip") if job.working_dir else None
        runtime: dict[str, Any] = {"env_vars": dict(job.env)} if job.env else {}
        if package:
            runtime["working_dir"] = str(package.file)
        if job.image:
            runtime["image_uri"] = job.image
        job_id = server.submit(
            entrypoint=entrypoint(job),
            submission_id=job.job_id,
            runtime_env=runtime,
            metadata=dict(job.metadata),
            entrypoint_num_cpus=job.cpus,
            entrypoint_num_gpus=job.gpus,
            entrypoint_memory=job.memory,
            entrypoint_resources=dict(job.resources) or None,
        )
    return job_id, package


def entrypoint(job: Job) -> str:
    """The shell command of the job: the cuts3d that is sent along, or else the one installed where it runs."""
    ships_code = job.working_dir is not None and (job.working_dir / "cluster" / "__main__.py").is_file()
    return shlex.join([*(("python", "-m", "cluster") if ships_code else ("cuts3d",)), *job.command])


def checked_command(main: click.Group, words: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command that a job shall run and the metadata that it gets, from the words of the user.

    `run` is done by the cluster: `--ray auto` is added when there is no --ray. Mistakes show here rather than on the
    cluster: raises UsageError for what cuts3d does not take, ConfigError for results that would be lost.
    """
    from pipeline.storage.locations import is_url, refuse_secrets

    name, rest = words[0], list(words[1:])
    known = main.commands.get(name)
    if known is None:
        raise click.UsageError(f"{name} is no command of cuts3d; for any other command there is `ray job submit`")
    if name == "run" and not any(word.partition("=")[0] == "--ray" for word in rest):
        rest += ["--ray", "auto"]
    for word in rest:
        refuse_secrets(word.partition("=")[2] if word.startswith("--") else word)
    given = known.make_context(f"cuts3d {name}", list(rest)).params
    for said, place, may_be_url in _places(known, given):
        if not is_url(place) and not Path(place).is_absolute():
            url = "a URL such as s3://bucket/run, or " if may_be_url else ""
            raise ConfigError(
                f"{said}{place} is relative: in a job that is a temporary folder of one node. Give {url}an absolute "
                "path that all nodes of the cluster see"
            )
    return (name, *rest), _metadata(name, given, given.get("out") or given.get("run_folder"))


def _places(command: click.Command, given: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Where the command writes, and the run that it is about: what to call it, the place, whether it may be a URL."""
    if run := given.get("run_folder"):
        yield "", run, True
    for option in command.params:
        if isinstance(option.type, Output) and (place := given[str(option.name)] or option.type.unless_given):
            yield f"{option.opts[0]} ", str(place), option.type.kind == "run"


def own_checkout() -> Path | None:
    """The source that this cuts3d runs from, None when it is an installed package."""
    return ROOT if (ROOT / "setup.cfg").is_file() else None


def is_secret(name: str) -> bool:
    """Whether a variable of this name probably holds a secret."""
    return bool(_SECRET.search(name))


def shown(env: Mapping[str, str]) -> str:
    """An environment for people: secrets are ***."""
    from pipeline.storage.locations import redacted, secret_in

    values = {name: "***" if is_secret(name) else value for name, value in env.items()}
    return " ".join(f"{name}={redacted(value) if secret_in(value) else value}" for name, value in values.items())


def _metadata(name: str, given: Mapping[str, Any], out: str | None) -> dict[str, str]:
    facts = {"command": name, "user": _user(), "cuts3d": version("cuts3d")}
    if out:
        facts |= {"run": out.rstrip("/").rpartition("/")[2], "out": out}
    if name == "run":
        facts["recipe"] = given["recipe"] or "of the run's last launch"
    return facts


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"uid {os.getuid()}"
