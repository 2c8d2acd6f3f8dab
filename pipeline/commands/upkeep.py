"""Commands that look after a run: status, info, verify, gc."""

import json
import sys

import click

from pipeline.commands.options import Number, exit_with
from pipeline.exit_status import INCOMPLETE, exit_status
from pipeline.wording import counted, printable


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--watch", is_flag=True, help="Refresh it every few seconds until the run is complete.")
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs; with --watch a line at every change.")
def status(run_folder: str, watch: bool, as_json: bool) -> None:
    """What is done and what is missing, how fast it goes and who does it, from the commits alone: nothing needs to be
    running. Exits with 1 while any image is missing or set aside.
    """
    from pipeline.runs.status import status_of

    if watch:
        from pipeline.commands.status_watch import watch as watch_until_complete

        exit_with(watch_until_complete(run_folder, as_json=as_json))
        return
    found = status_of(run_folder)
    click.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False) if as_json else "\n".join(found.lines()))
    exit_with(found)


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def info(run_folder: str, as_json: bool) -> None:
    """Schema, configuration, counts and histograms of a run, and what was set aside."""
    from pipeline.methods.registry import describe
    from pipeline.runs.info import info_lines, info_of

    found = info_of(run_folder)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n".join(info_lines(found, describe)))
    if status := exit_status(found["shards"] - found["committed_shards"], len(found["set_aside"])):
        sys.exit(status)


@click.command()
@click.argument("run_folder", metavar="RUN")
def verify(run_folder: str) -> None:
    """Check every checksum, every offset, every mask. Exits with 1 when anything is wrong, missing or set aside."""
    from pipeline.runs.run_folder import RunFolder
    from pipeline.runs.standing import standing_of
    from pipeline.runs.verify import verify_run

    folder = RunFolder.open(run_folder)
    problems = verify_run(folder)
    for problem in problems:
        click.echo(printable(f"{problem.severity}: {problem.where}: {problem.message}"))
    errors = sum(problem.severity == "error" for problem in problems)
    found = (
        f"{counted(folder.n_shards, 'shard')}, {counted(folder.n_images, 'image')}: "
        f"{counted(errors, 'error') if errors else 'no errors'}"
    )
    if errors:
        click.echo(found)
        sys.exit(INCOMPLETE)
    standing = standing_of(folder)
    click.echo("; ".join(filter(None, (found, standing.lacks()))))
    exit_with(standing)


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--min-age", type=Number(min=0), default=3600.0, show_default=True, help="Spare files younger than this (s)."
)
def gc(run_folder: str, min_age: float) -> None:
    """Delete what crashed attempts left behind."""
    from pipeline.runs.run_folder import RunFolder

    deleted = RunFolder.open(run_folder).gc(min_age)
    for name in deleted:
        click.echo(name)
    click.echo(f"{counted(len(deleted), 'file')}, {sum(deleted.values()) / 1e6:.1f} MB deleted")
