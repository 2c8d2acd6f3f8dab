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
from pipeline.wording import counted


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--coco", type=OUTPUT_FILE, help="COCO JSON file to write.")
@click.option("--masks", type=OUTPUT_FOLDER, help="Folder for one PNG per image, pixel = mask number.")
@click.option("--overlays", type=OUTPUT_FOLDER, help="Folder for one picture per image, with its masks.")
@click.option("--limit", type=click.IntRange(min=1), help="Overlays: at most this many.")
@min_score_option
def export(
    run_folder: str, coco: str | None, masks: str | None, overlays: str | None, limit: int | None, min_score: float
) -> None:
    """Write a run's pseudo-masks as COCO JSON, mask files or pictures."""
    from pipeline.runs.run_folder import RunFolder
    from pipeline.views.export import export_coco, export_masks, export_overlays

    if not (coco or masks or overlays):
        raise click.UsageError("say what to write: --coco FILE, --masks FOLDER or --overlays FOLDER")
    if limit and not overlays:
        raise click.UsageError("--limit is of overlays alone: add --overlays FOLDER, or leave it out")
    folder = RunFolder.open(run_folder)
    if coco:
        click.echo(f"{counted(export_coco(folder, coco, min_score), 'annotation')} in {coco}")
    if masks:
        click.echo(f"{counted(export_masks(folder, masks, min_score), 'file')} in {masks}")
    if overlays:
        click.echo(f"{counted(len(export_overlays(folder, overlays, limit, min_score)), 'picture')} in {overlays}")
    exit_by(folder)


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
def gallery(run_folder: str, out: str, limit: int, thumbnail: int) -> None:
    """Write a page for a browser: every image with its masks, depth, eigenvectors and drops, to sort and filter.

    One file, nothing else is needed. Of a larger run it shows a sample, evenly spread.
    """
    from pipeline.runs.run_folder import RunFolder
    from pipeline.views.gallery.gallery import write_gallery

    folder = RunFolder.open(run_folder)
    page = write_gallery(folder, out, limit, thumbnail)
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
