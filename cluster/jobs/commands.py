"""`cuts3d submit`, `jobs`, `logs` and `stop`: the jobs of a Ray cluster, through its job server."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.jobs.package import Package
from cluster.jobs.submit import Job, checked_command, is_secret, own_checkout, shown, submit_job
from pipeline.commands.options import Number
from pipeline.errors import ClusterError
from pipeline.exit_status import INTERRUPTED
from pipeline.wording import clock

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from cluster.jobs.job_server import JobServer

STOPPED_AFTER_SECONDS = 60.0

_address_option = click.option(
    "--address",
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    metavar="http://HEAD:8265",
    help="Job server of the cluster. [$RAY_API_SERVER_ADDRESS, $RAY_ADDRESS]",
)


def _server(address: str | None) -> "JobServer":
    from cluster.jobs.job_server import JobServer

    return JobServer(address)


def _pairs(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals and option.name == "env" and name in os.environ:
            equals, text = "=", os.environ[name]
        if not name or not equals:
            hint = ", or NAME alone for a variable that is set here" if option.name == "env" else ""
            raise click.BadParameter(f"{value}: give NAME=VALUE{hint}")
        pairs[name] = text
    return pairs


def _amounts(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    amount = Number(min=0)
    try:
        return {name: amount.convert(text, option, context) for name, text in _pairs(context, option, values).items()}
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message.rstrip('.')}: give NAME=NUMBER") from error


def _bytes(_: click.Context, __: click.Parameter, gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


@click.command("submit")
@_address_option
@click.option("--working-dir", metavar="DIR|none", help="Folder to send along. [this source, where run from source]")
@click.option("--image", metavar="CONTAINER", help="Container image that has cuts3d, for the job and its workers.")
@click.option("--env", multiple=True, callback=_pairs, metavar="NAME[=VALUE]", help="Environment of the job.")
@click.option("--num-cpus", "cpus", type=Number(min=0), help="CPU cores for the command itself, beside its workers.")
@click.option("--num-gpus", "gpus", type=Number(min=0), help="GPUs for the command itself.")
@click.option(
    "--memory",
    type=Number(min=0),
    callback=_bytes,
    metavar="GB",
    help="Memory for the command itself.",
)
@click.option(
    "--resource",
    "resources",
    multiple=True,
    callback=_amounts,
    metavar="NAME=AMOUNT",
    help="A custom resource for it.",
)
@click.option("--metadata", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Shown with the job.")
@click.option("--job-id", help="A name for the job, new to the cluster.")
@click.option("--wait", is_flag=True, help="Follow the log; exit with the job's exit status.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.pass_context
def submit(
    context: click.Context,
    address: str | None,
    working_dir: str | None,
    metadata: dict[str, str],
    wait: bool,
    command: tuple[str, ...],
    **asked: Any,
) -> None:
    """Run a cuts3d command as a job of a Ray cluster: cuts3d submit --address http://HEAD:8265 -- run --out s3://…

    Prints the job's id on stdout. The cluster needs cuts3d with all it depends on, or takes its code from
    --working-dir. A job that died may be submitted again: it resumes the run.
    """
    main = context.find_root().command
    assert isinstance(main, click.Group)
    if not command:
        raise click.UsageError("say what the job is to run, after two dashes: `… -- run --out …`")
    words, facts = checked_command(main, command)
    folder = _working_dir(working_dir, asked["image"])
    job = Job(words, working_dir=folder, metadata=facts | metadata, **asked)  # options have the names of its fields
    server = _server(address)
    job_id, package = submit_job(server, job)
    _say_submitted(server, job, job_id, package)
    click.echo(job_id)
    if wait:
        _follow_and_exit(server, job_id)


def _say_submitted(server: "JobServer", job: Job, job_id: str, package: Package | None) -> None:
    """What went where, and what can be done with it from now on."""
    code = package or (f"container image {job.image}" if job.image else "the cuts3d that the cluster has installed")
    _say(f"submitted to {server.address}: cuts3d {' '.join(job.command)}")
    _say(f"  with       {code}")
    if job.env:
        _say(f"  env        {shown(job.env)}")
    if any(is_secret(name) for name in job.env):
        _say("  careful    Ray shows --env to its users and logs it: prefer secrets or roles of the cluster itself")
    _say(f"  follow     cuts3d logs {job_id} --follow --address {server.address}")
    _say(f"  stop       cuts3d stop {job_id} --address {server.address}")
    _say("  again      should job or cluster die, submit the same command: it resumes the run")


@click.command("jobs")
@_address_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
def jobs(address: str | None, limit: int) -> None:
    """The jobs of a cluster, latest first."""
    found = _server(address).jobs()
    rows: list[tuple[str, ...]] = [("JOB", "STATUS", "STARTED", "TOOK", "RUN", "USER")]
    rows += [_row(job) for job in found[:limit]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(found) > limit:
        click.echo(f"and {len(found) - limit} older ones: --limit {len(found)}")


@click.command("logs")
@click.argument("job")
@_address_option
@click.option("--follow", is_flag=True, help="Print until the job ends; exit with its exit status.")
def logs(job: str, address: str | None, follow: bool) -> None:
    """What a job has printed."""
    server = _server(address)
    if follow:
        _follow_and_exit(server, job)
    click.echo(server.logs(job), nl=False)


@click.command("stop")
@click.argument("job")
@_address_option
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
def stop(job: str, address: str | None, wait: bool) -> None:
    """End a job. What it has committed stays; submitted again, it resumes from there."""
    server = _server(address)
    if not server.stop(job):
        click.echo(f"{job} had ended already: {server.info(job).status}")
        return
    info = server.info(job)
    if str(info.status) == "PENDING":
        _say(
            f"{job} has not started, and Ray stops a job only then; one that cannot start is given up after 15 minutes "
            "(RAY_JOB_START_TIMEOUT_SECONDS on the head node)"
        )
    deadline = time.monotonic() + STOPPED_AFTER_SECONDS
    while wait and not info.status.is_terminal():
        if time.monotonic() > deadline:
            raise ClusterError(f"{job} is {info.status} still, {STOPPED_AFTER_SECONDS:.0f} s after it was told to stop")
        time.sleep(0.5)
        info = server.info(job)
    click.echo(f"{job} has ended: {info.status}" if wait else f"{job} was told to stop")


def _working_dir(given: str | None, image: str | None) -> Path | None:
    if given is None:
        return None if image else own_checkout()
    return None if given == "none" else Path(given).resolve()


def _follow_and_exit(server: "JobServer", job: str) -> None:
    from cluster.jobs.follow import Follower, exit_status

    try:
        info = Follower(server, job, lambda text: click.echo(text, nl=False), _say).follow()
    except KeyboardInterrupt:
        _say(
            f"no longer following; the job continues. cuts3d logs {job} --follow --address {server.address} follows it "
            "again, cuts3d stop ends it"
        )
        sys.exit(INTERRUPTED)
    status = exit_status(info)
    _say(f"job {job} {info.status}" + (f", exit status {info.driver_exit_code}" if info.driver_exit_code else ""))
    if str(info.status) == "FAILED":
        if info.driver_exit_code is None and info.message:  # it never came to printing anything
            _say(info.message.strip())
        _say("submit the same command again when the cause is gone: it resumes the run")
    sys.exit(status)


def _row(job: "JobDetails") -> tuple[str, ...]:
    started = (job.start_time or 0) / 1000
    ended = (job.end_time or 0) / 1000 or time.time()
    status = f"{job.status} {job.driver_exit_code}" if job.driver_exit_code else str(job.status)
    facts = job.metadata or {}
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(started)) if started else "-"
    took = clock(ended - started) if started else "-"
    return job.submission_id or "-", status, when, took, facts.get("run", "-"), facts.get("user", "-")


def _say(line: str) -> None:
    """For people: stdout is for the job's id and its log."""
    click.echo(f"cuts3d: {line}" if not line.startswith(" ") else line, err=True)
