"""The command that holds predicted segments against true ones."""

from typing import Any

import click

from pipeline.commands.options import OUTPUT_FILE, exit_by, report_options, write_reports
from pipeline.commands.things import threshold_option


@click.command("evaluate-panoptic")
@click.argument("predictions", metavar="RUN|PREDICTIONS")
@click.option(
    "--truth",
    required=True,
    metavar="FORMAT:PATH",
    help="The true segments: folders cityscapes:DIR and kitti-semantics:DIR, or coco-panoptic:JSON. Path or URL.",
)
@click.option("--classes", type=click.IntRange(min=1), help="27, 19 or 7 of Cityscapes and KITTI; 133 or 27 of COCO.")
@click.option("--compare", metavar="RUN2", help="Predictions to compare with: the first minus these.")
@click.option("--assignment", metavar="FILE", help="Which cluster is which class, as saved. [found on these images]")
@click.option("--save-assignment", type=OUTPUT_FILE, help="File to write it to, for other runs and for export.")
@click.option(
    "--void",
    type=click.Choice(["panopticapi", "forgiven"]),
    default="panopticapi",
    show_default=True,
    help="Pixels without a prediction: missed, or forgiven as in the figures of CUPS.",
)
@threshold_option
@click.option(
    "--crop",
    type=click.IntRange(16, 8192),
    metavar="PIXELS",
    help="Accuracy and mIoU of the middle square, the short side made so long; papers: 320. [whole images]",
)
@report_options
def evaluate_panoptic(
    predictions: str,
    truth: str,
    classes: int | None,
    compare: str | None,
    assignment: str | None,
    save_assignment: str | None,
    threshold: float | None,
    csv_file: str | None,
    json_file: str | None,
    **settings: Any,
) -> None:
    """Score panoptic labels against true segments: PQ, SQ and RQ.

    RUN: panoptic labels of a run, or of a detector. PREDICTIONS: a folder of `cuts3d predict` or `cuts3d export
    --panoptic`, or a panoptic JSON[:FOLDER] as COCO has it.
    """
    from pipeline.evaluation.class_report import report_csv
    from pipeline.evaluation.panoptic_evaluation import evaluate_panoptic as evaluate
    from pipeline.evaluation.panoptic_report import panoptic_report_json, print_panoptic_report
    from pipeline.evaluation.panoptic_runs import open_predictions
    from pipeline.evaluation.panoptic_truth import read_panoptic_truth
    from pipeline.results.semantic_assignment import Assignment

    found = [open_predictions(place, threshold) for place in (predictions, compare) if place]
    given = Assignment.read(assignment) if assignment else None
    report = evaluate(read_panoptic_truth(truth, classes), *found, assignment=given, given=assignment or "", **settings)
    print_panoptic_report(report)
    own = report.runs[0].assignment
    write_reports(
        (save_assignment, own.to_json),
        (csv_file, lambda: report_csv(report)),
        (json_file, lambda: panoptic_report_json(report)),
    )
    if runs := [one.run for one in found if one.run is not None]:
        exit_by(*runs)
