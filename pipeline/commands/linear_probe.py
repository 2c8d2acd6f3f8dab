"""The command that measures codes with labels."""

import sys
from typing import Any

import click

from pipeline.commands.options import device_option, report_options, root_option, write_reports
from pipeline.exit_status import INCOMPLETE


@click.command("linear-probe")
@click.argument("model", metavar="MODEL")
@click.option("--images", required=True, help="Labelled photos; see `cuts3d run`.")
@root_option
@click.option("--truth", required=True, metavar="FORMAT:PATH", help="Their true classes; see `evaluate-semantic`.")
@click.option("--classes", type=click.IntRange(min=1), help="How many, of truths that have several lists.")
@click.option("--features", help="Where the model's features are, NAME=FILE, if not where they were.")
@click.option("--iterations", type=click.IntRange(min=1), default=1000, show_default=True, help="Batches of 16 images.")
@device_option
@report_options
def linear_probe(
    model: str,
    images: str,
    root: str | None,
    truth: str,
    classes: int | None,
    features: str | None,
    device: str,
    csv_file: str | None,
    json_file: str | None,
    **settings: Any,
) -> None:
    """Read true classes out of a semantic model's codes, with labels.

    A linear probe needs labels, unlike all else here: it learns from those of one half of the photos and is scored on
    the other, and the other way round. It says what codes hold, and labels no photo.

    Exits with 1 when one of the photos could not be read.
    """
    from pipeline.evaluation.class_report import report_csv
    from pipeline.evaluation.semantic_report import print_semantic_report, semantic_report_json
    from pipeline.evaluation.semantic_truth.formats import read_semantic_truth
    from pipeline.images.sources import list_images
    from pipeline.methods.depthg.settings import label_settings
    from pipeline.runs.launch import Launch

    overrides = (f"depthg.checkpoint={model}", "depthg.view=squeezed")
    launch = Launch(images, root, "depthg", {"features": features} if features else {}, overrides)
    label_settings(launch)  # a wrong model is refused before anything is loaded
    true = read_semantic_truth(truth, classes)
    refs = list_images(images, root).refs

    from pipeline.evaluation.linear_probe import probe_model
    from pipeline.methods.depthg.load import load_labels

    report = probe_model(load_labels(launch, device), refs, true, model=model, **settings)
    print_semantic_report(report)
    write_reports((csv_file, lambda: report_csv(report)), (json_file, lambda: semantic_report_json(report)))
    if report.runs[0].labels.images.set_aside:
        sys.exit(INCOMPLETE)
