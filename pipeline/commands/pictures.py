"""Commands that take pictures, pages and COCO files out of a run: export, gallery, inspect."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands.options import (
    OUTPUT_FILE,
    OUTPUT_FOLDER,
    OUTPUT_PAGE,
    Output,
    device_option,
    exit_by,
    method_options,
    min_score_option,
    taken_settings,
    with_recipe_file,
)
from pipeline.commands.things import assignment_option, threshold_option
from pipeline.wording import counted


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--coco", type=OUTPUT_FILE, help="COCO JSON file of instance masks to write.")
@click.option("--masks", type=OUTPUT_FOLDER, help="Folder for one PNG per image, pixel = mask number.")
@click.option(
    "--semantic", type=OUTPUT_FOLDER, help="Folder for one PNG per image, pixel = class, and COCO-Stuff JSON of them."
)
@click.option("--panoptic", type=OUTPUT_FOLDER, help="Folder for COCO panoptic JSON and PNGs.")
@click.option("--instance-ids", type=OUTPUT_FOLDER, help="Folder for one PNG per image as Cityscapes' instanceIds.")
@click.option("--overlays", type=OUTPUT_FOLDER, help="Folder for one picture per image, with its result.")
@click.option("--limit", type=click.IntRange(min=1), help="Overlays: at most this many.")
@assignment_option
@threshold_option
@min_score_option
def export(
    run_folder: str,
    coco: str | None,
    masks: str | None,
    semantic: str | None,
    panoptic: str | None,
    instance_ids: str | None,
    overlays: str | None,
    limit: int | None,
    assignment: str | None,
    threshold: float | None,
    min_score: float,
) -> None:
    """Write a run's pseudo-masks or labels as COCO JSON, map files or pictures."""
    from pipeline.runs.run_folder import RunFolder
    from pipeline.views.export import export_coco, export_masks, export_overlays, refuse_misfits
    from pipeline.views.semantic_export import SEGMENTS, export_semantic

    if not (coco or masks or semantic or panoptic or instance_ids or overlays):
        folders = "--masks, --semantic, --panoptic, --instance-ids or --overlays FOLDER"
        raise click.UsageError(f"say what to write: --coco FILE, {folders}")
    if limit and not overlays:
        raise click.UsageError("--limit is of overlays alone: add --overlays FOLDER, or leave it out")
    folder = RunFolder.open(run_folder)
    of_masks = {"--coco": coco, "--masks": masks, "--min-score": min_score}
    of_panoptic = {"--panoptic": panoptic, "--instance-ids": instance_ids, "--threshold": threshold is not None}
    refuse_misfits(folder, of_masks, {"--semantic": semantic, "--assignment": assignment}, of_panoptic)
    if threshold is not None and not (panoptic or instance_ids or overlays):
        raise click.UsageError("--threshold is of --panoptic, --instance-ids and --overlays: add one, or leave it out")
    classes = _assignment(assignment)
    if coco:
        click.echo(f"{counted(export_coco(folder, coco, min_score), 'annotation')} in {coco}")
    if masks:
        click.echo(f"{counted(export_masks(folder, masks, min_score), 'file')} in {masks}")
    if semantic:
        written = export_semantic(folder, semantic, classes)
        segments = f"{counted(written.segments, 'segment')} in {SEGMENTS}"
        click.echo(f"{counted(written.maps, 'map')} in {semantic}, {segments}")
    if panoptic or instance_ids:
        _export_panoptic(folder, threshold, classes, panoptic, instance_ids)
    if overlays:
        pictures = export_overlays(folder, overlays, limit, min_score, classes, threshold)
        click.echo(f"{counted(len(pictures), 'picture')} in {overlays}")
    exit_by(folder)


def _export_panoptic(
    run: Any, threshold: float | None, classes: Any, panoptic: str | None, instance_ids: str | None
) -> None:
    from pipeline.evaluation.semantic_truth.class_maps import cityscapes_ids
    from pipeline.runs.panoptic_reader import PanopticReader
    from pipeline.views.panoptic_export import PANOPTIC, export_instance_ids, export_panoptic

    reader = PanopticReader(run, threshold, classes)
    if panoptic:
        written = export_panoptic(reader, panoptic)
        segments = f"{counted(written.segments, 'segment')} in {PANOPTIC}"
        click.echo(f"{counted(written.maps, 'map')} in {panoptic}, {segments}")
    if instance_ids:
        written = export_instance_ids(reader, instance_ids, cityscapes_ids(reader.classes.names))
        click.echo(f"{counted(written.maps, 'map')} in {instance_ids}, {counted(written.segments, 'segment')}")


def _assignment(file: str | None) -> Any:
    from pipeline.results.semantic_assignment import Assignment

    return None if file is None else Assignment.read(file)


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--out",
    type=OUTPUT_PAGE,
    default="gallery.html",
    show_default=True,
    help="File to write, or a folder for gallery.html.",
)
@click.option("--limit", type=click.IntRange(min=1), default=2000, show_default=True, help="At most this many images.")
@click.option("--thumbnail", type=int, default=320, show_default=True, help="Longest side of the pictures, in pixels.")
@assignment_option
@threshold_option
def gallery(
    run_folder: str, out: str, limit: int, thumbnail: int, assignment: str | None, threshold: float | None
) -> None:
    """Write a page for a browser: every image with its masks, depth, eigenvectors and drops, or its classes,
    instances and confidence, to sort and filter.

    One file, nothing else is needed. Of a larger run it shows a sample, evenly spread.
    """
    from pipeline.runs.run_folder import RunFolder
    from pipeline.views.gallery.gallery import write_gallery

    folder = RunFolder.open(run_folder)
    page = write_gallery(folder, out, limit, thumbnail, _assignment(assignment), threshold)
    click.echo(f"{counted(page.images, 'image')}, {page.bytes / 1e6:.1f} MB in {page.file}")
    if page.without_photo:
        click.echo(f"{page.without_photo} of them without a photo: the page says why")
    exit_by(folder)


@click.command()
@click.argument("image")
@click.option("--out", type=Output("folder", "inspect-NAME"), help="Folder to write to. [inspect-NAME]")
@method_options
@device_option
def inspect(image: str, out: str | None, device: str, **settings: Any) -> None:
    """All stages of one image, run afresh: a panel, the cut point cloud as PLY, and as an interactive 3D page."""
    from pipeline.runs.launch import Launch
    from pipeline.views.inspect.checks import checked_image

    given = with_recipe_file({name: value for name, value in settings.items() if value is not None})
    launch = Launch(settings=taken_settings(given), **given)
    folder = out or f"inspect-{Path(image).stem}"
    checked_image(image, folder, launch, device)  # before torch is loaded
    from pipeline.views.inspect.writing import inspect as inspect_to

    for file in inspect_to(image, folder, launch, device):
        click.echo(str(file))
