"""What the cluster adds to the command line: --ray for `cuts3d run` and whatever else makes pseudo-masks, and the
commands submit, jobs, logs and stop.

Loaded by `pipeline.commands.extensions` whenever cuts3d starts: Ray is imported by the commands only.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import click

from cluster.jobs import commands as job_commands
from pipeline.commands.executing import ExecutingCommand, set_executor
from pipeline.commands.options import Number

LOCAL = "local"


def extend(main: click.Group) -> Callable[[], None]:
    """Add the cluster's commands; and its options, to all that can work on Ray, once they are there."""
    for command in (job_commands.submit, job_commands.jobs, job_commands.logs, job_commands.stop):
        main.add_command(command)
    return functools.partial(_add_options, main)


def _add_options(main: click.Group) -> None:
    for command in main.commands.values():
        if isinstance(command, ExecutingCommand):
            assert command.callback is not None  # a command of its own
            command.params += RAY_OPTIONS
            command.callback = _through_ray(command.callback)


RAY_OPTIONS: list[click.Parameter] = [
    click.Option(
        ["--ray"],
        is_flag=False,
        flag_value=LOCAL,
        metavar="[ADDRESS]",
        help="Work on Ray: started here when no address is given, else the cluster at HOST:6379 or ray://HOST:10001; "
        "auto is the cluster that this process belongs to.",
    ),
    click.Option(["--workers"], type=click.IntRange(min=1), help="With --ray: workers. [as there is room for]"),
    click.Option(["--cpus-per-worker"], type=click.IntRange(min=1), help="With --ray: cores of each worker."),
    click.Option(["--cpu-workers"], type=click.IntRange(min=0), help="With --ray: more workers, without a GPU. [0]"),
    click.Option(
        ["--deadline"],
        type=Number(min=0, min_open=True),
        help="With --ray: seconds that a shard may take. [learnt from the others]",
    ),
]


def _through_ray(local: Callable[..., None]) -> Callable[..., None]:
    """The callback of a command, whose work goes to Ray when --ray is given."""

    @functools.wraps(local)
    def run(
        ray: str | None,
        workers: int | None,
        cpus_per_worker: int | None,
        cpu_workers: int | None,
        deadline: float | None,
        **settings: Any,
    ) -> None:
        options = {
            "workers": workers,
            "cpus_per_worker": cpus_per_worker,
            "cpu_workers": cpu_workers,
            "deadline": deadline,
        }
        given = {name: value for name, value in options.items() if value is not None}
        if ray is not None:
            set_executor(_ray_executor(ray, given))
        elif given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise click.UsageError(f"{names} is of use with --ray only: add --ray, or leave it out")
        local(**settings)

    return run


def _ray_executor(address: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    from cluster.jobs.job_server import need_ray

    need_ray()
    logging.getLogger("cluster").setLevel(logging.getLogger("pipeline").level)  # as --verbose has it
    from cluster.run import RayOptions, run_on_ray

    return functools.partial(run_on_ray, options=RayOptions(address=None if address == LOCAL else address, **options))
