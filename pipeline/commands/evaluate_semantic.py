"""The command that holds semantic labels against true classes."""

from typing import Any

import click

from pipeline.commands.options import OUTPUT_FILE, exit_by, report_options, write_reports


@click.command("evaluate-semantic")
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--truth",
    required=True,
    metavar="FORMAT:PATH",
    help="The true classes: folders of maps of cityscapes, kitti-semantics, coco-stuff, ade20k, potsdam, or maps of "
    "your own; JSON files of coco-stuff, coco-things, coco-panoptic. Path or URL.",
)
@click.option("--classes", type=click.IntRange(min=1), help="27, 19 or 7 of Cityscapes; 133 or 27; 3 or 6 of Potsdam.")
@click.option("--compare", metavar="RUN2", help="A run to compare with: RUN minus RUN2.")
@click.option("--assignment", metavar="FILE", help="Which cluster is which class, as saved. [found on these images]")
@click.option("--save-assignment", type=OUTPUT_FILE, help="File to write RUN's to, for other runs and for export.")
@click.option(
    "--void",
    type=click.Choice(["wrong", "skipped"]),
    default="wrong",
    show_default=True,
    help="Pixels without a prediction: wrong, or left out as in released code.",
)
@click.option(
    "--crop",
    type=click.IntRange(16, 8192),
    metavar="PIXELS",
    help="Score the middle square, the short side made so long; papers: 320. [whole images]",
)
@report_options
def evaluate_semantic(
    run_folder: str,
    truth: str,
    classes: int | None,
    compare: str | None,
    assignment: str | None,
    save_assignment: str | None,
    csv_file: str | None,
    json_file: str | None,
    **settings: Any,
) -> None:
    """Score a run's semantic labels against true classes."""
    from pipeline.evaluation.class_report import report_csv
    from pipeline.evaluation.semantic_report import evaluate_semantic_runs, print_semantic_report, semantic_report_json
    from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
    from pipeline.results.semantic_assignment import Assignment
    from pipeline.runs.run_folder import RunFolder
    from pipeline.runs.semantic_reader import SemanticReader

    runs = [RunFolder.open(run) for run in (run_folder, compare) if run]
    for run in runs:
        SemanticReader(run)  # another kind is refused before the truth is read
    given = Assignment.read(assignment) if assignment else None
    report = evaluate_semantic_runs(
        read_semantic_truth(truth, classes), *runs, assignment=given, given=assignment or "", **settings
    )
    print_semantic_report(report)
    own = report.runs[0].assignment
    write_reports(
        (save_assignment, own.to_json),
        (csv_file, lambda: report_csv(report)),
        (json_file, lambda: semantic_report_json(report)),
    )
    exit_by(*runs)
