"""The command that scores a run: evaluate."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands.options import Written, exit_by, min_score_option


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--truth",
    required=True,
    metavar="[FORMAT:]PATH",
    help="The true objects: a COCO instances JSON, path or URL, or the files of coco20k, lvis, uvo, sa1b, "
    "objects365, openimages, voc, clipart, watercolor, comic, kitti.",
)
@click.option("--truth-images", metavar="FOLDER", help="Its photos, if not beside it; kitti, openimages need them.")
@click.option("--compare", metavar="RUN2", help="A run to compare with: RUN minus RUN2, and RUN over RUN2.")
@click.option(
    "--scores", type=click.Choice(["own", "constant"]), default="own", show_default=True, help="Scores that rank masks."
)
@min_score_option
@click.option("--csv", "csv_file", type=Written(dir_okay=False), help="CSV file to write.")
@click.option("--json", "json_file", type=Written(dir_okay=False), help="JSON file to write.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=1000, show_default=True, help="Resamples of images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples.")
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
    from pipeline.evaluation.truth.formats import read_truth
    from pipeline.runs.run_folder import RunFolder

    run, other = RunFolder.open(run_folder), RunFolder.open(compare) if compare else None
    truths = read_truth(truth, truth_images)
    report = evaluate_runs(truths.truth, run, other, max_detections=truths.max_detections, **settings)
    print_report(report)
    for file, text in ((csv_file, report_csv), (json_file, report_json)):
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(text(report), encoding="utf-8")
            click.echo(f"written {file}")
    exit_by(*filter(None, (run, other)))
