"""The command that shows which classes of a run of panoptic labels are things: things."""

import json

import click

from pipeline.commands.options import Number, exit_by

assignment_option = click.option(
    "--assignment", metavar="FILE", help="Labels: show the classes that this file has for their clusters."
)
threshold_option = click.option(
    "--threshold",
    type=Number(min=0, max=1, max_open=True),
    metavar="PSI",
    help="Panoptic labels: classes with a larger share of all ratios are things. [0.08]",
)


@click.command()
@click.argument("run_folder", metavar="RUN")
@assignment_option
@threshold_option
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def things(run_folder: str, assignment: str | None, threshold: float | None, as_json: bool) -> None:
    """Which classes of a run of panoptic labels are things and which stuff.

    By the pixels of the whole run, from its commits: the ratio of a class is the part of its pixels that lies in
    instances; classes whose ratio has a large share of the sum of all are things. The same after any resume, and
    applied when labels are read: another threshold needs no new run. With an assignment, of evaluate-panoptic or
    evaluate-semantic, a class is a thing if one of its clusters is.
    """
    from pipeline.results.semantic_assignment import Assignment
    from pipeline.runs.panoptic_reader import open_panoptic
    from pipeline.runs.things import thing_lines, things_of

    reader = open_panoptic(run_folder, threshold, None if assignment is None else Assignment.read(assignment))
    found = things_of(reader)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n".join(thing_lines(found)))
    exit_by(reader.run)
