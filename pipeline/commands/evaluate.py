"""Commands that hold a run against true objects: evaluate, scores."""

from typing import Any

import click

from pipeline.commands.options import (
    OUTPUT_FILE,
    Number,
    exit_by,
    given_truth,
    min_score_option,
    report_options,
    truth_options,
    write_reports,
)


@click.command()
@click.argument("run_folder", metavar="RUN")
@truth_options
@click.option("--compare", metavar="RUN2", help="A run to compare with: RUN minus RUN2, and RUN over RUN2.")
@click.option(
    "--scores", type=click.Choice(["own", "constant"]), default="own", show_default=True, help="Scores that rank masks."
)
@min_score_option
@report_options
def evaluate(
    run_folder: str,
    truth: str,
    truth_images: str | None,
    compare: str | None,
    csv_file: str | None,
    json_file: str | None,
    **settings: Any,
) -> None:
    """Score a run's pseudo-masks against true objects, all classes as one."""
    from pipeline.evaluation.report import evaluate_runs, print_report, report_csv, report_json

    run, other = _with_masks(run_folder), _with_masks(compare) if compare else None
    truths = given_truth(truth, truth_images)
    report = evaluate_runs(truths.truth, run, other, max_detections=truths.max_detections, **settings)
    print_report(report)
    write_reports((csv_file, lambda: report_csv(report)), (json_file, lambda: report_json(report)))
    exit_by(*filter(None, (run, other)))


@click.command()
@click.argument("run_folder", metavar="RUN")
@truth_options
@click.option(
    "--at", "thresholds", type=Number(), multiple=True, help="A threshold, repeatable. [about ten round ones]"
)
@click.option("--plot", type=OUTPUT_FILE, help="PNG file to write.")
@report_options
def scores(
    run_folder: str,
    truth: str,
    truth_images: str | None,
    plot: str | None,
    csv_file: str | None,
    json_file: str | None,
    **settings: Any,
) -> None:
    """Which masks of a run are good: how many score so much, and how many of those have an object."""
    from pipeline.evaluation.by_score import score_table, table_csv, table_json, table_lines
    from pipeline.evaluation.score_plot import write_score_plot

    run = _with_masks(run_folder)
    table = score_table(given_truth(truth, truth_images).truth, run, **settings)
    click.echo("\n".join(table_lines(table)))
    write_reports((csv_file, lambda: table_csv(table)), (json_file, lambda: table_json(table)))
    if plot:
        write_score_plot(table, plot)
        click.echo(f"written {plot}")
    exit_by(run)


def _with_masks(url: str) -> Any:
    """The run of instance masks at `url`: one of another kind is refused before the truth is read."""
    from pipeline.results.instance_kind import NAME
    from pipeline.runs.needed_kind import need_kind
    from pipeline.runs.run_folder import RunFolder

    run = RunFolder.open(url)
    need_kind(run, NAME)
    return run
