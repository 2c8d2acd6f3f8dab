"""The command that takes in masks made by others: import-coco."""

from typing import Any

import click

from pipeline.commands.options import say


@click.command("import-coco")
@click.argument("coco", metavar="JSON")
@click.option("--images", help="Folder that the file's names are relative to. [the file's own, images/ in it, ...]")
@click.option("--out", required=True, help="Run folder, path or URL; an import is gone on with.")
@click.option("--images-of", metavar="JSON2", help="For a list of detections: the COCO file that lists its images.")
@click.option("--min-score", type=float, default=0.0, show_default=True, help="Drop masks with lower scores.")
@click.option("--shard-size", type=click.IntRange(min=1), help="Images a shard. [8..256, by their number]")
def import_coco_command(coco: str, out: str, **settings: Any) -> None:
    """Make a run of masks that others have made: a COCO instances file, CutLER's for instance.

    Their spatial confidence is 1. What reads runs reads it: export, gallery, evaluate, training.
    """
    from pipeline.commands.progress import ProgressReporter
    from pipeline.methods.coco_import.importing import import_coco

    say(import_coco(coco, out, reporter=ProgressReporter(), **settings))
