"""The command that shows panoptic labels of stereo video on a few clips: cups-demo."""

from pathlib import Path

import click

from pipeline.commands.options import (
    OUTPUT_FOLDER,
    device_option,
    exit_with,
    motion_option,
    refuse_root_alone,
    root_option,
    say,
)
from pipeline.commands.semantic_demo import train_demo

CLUSTERS = 8
# A head learns nothing from a few pictures of one street: all of it becomes one cluster. Features tell things apart.
MODEL = "kmeans"


@click.command("cups-demo")
@click.option(
    "--out",
    type=OUTPUT_FOLDER,
    default="cups-demo",
    show_default=True,
    help="Folder for clips, model, labels and pictures.",
)
@click.option(
    "--images",
    help="Clips of your own, cityscapes:FOLDER, kitti:FOLDER or clips:FILE; default: a street that is drawn.",
)
@root_option
@motion_option
@click.option("--clusters", type=click.IntRange(2, 255), default=CLUSTERS, show_default=True, help="How many clusters.")
@device_option
def cups_demo(
    out: str,
    images: str | None,
    root: str | None,
    motion: str | None,
    clusters: int,
    device: str,
) -> None:
    """Stereo video in, what moves and what all else is as pictures and a page out: clusters of these very pictures,
    moving objects of each clip, and both put together.
    """
    from pipeline.commands.progress import ProgressReporter
    from pipeline.engine.checks import check_settings
    from pipeline.images.drawn_street import draw_street
    from pipeline.methods.cups.recipe import CUPS
    from pipeline.methods.cups.settings import clips_of
    from pipeline.methods.depthg.inputs_settings import NAME as INPUTS
    from pipeline.models import weights
    from pipeline.models.specs import check_motion
    from pipeline.runs.launch import Launch

    refuse_root_alone(root, images)
    folder = Path(out)
    model, inputs, labels = folder / "model", folder / "model" / "inputs", folder / "labels"
    check_settings(inputs, Launch(images, root, INPUTS), None, device)
    if motion is not None:
        check_motion(motion)
    settings = {} if motion is None else {"motion": motion}
    images = images or draw_street(folder / "clips")
    launch = Launch(images, root, CUPS, settings, overrides=(f"{CUPS}.checkpoint={model}",))
    clips_of(launch)
    from pipeline.engine.run import run

    weights.fetch()
    say(run(inputs, Launch(images, root, INPUTS), device=device, reporter=ProgressReporter()))
    train_demo(inputs, model, MODEL, clusters, device)
    summary = run(labels, launch, device=device, reporter=ProgressReporter())
    say(summary)
    _show(labels, folder)
    exit_with(summary.standing)


def _show(labels: Path, folder: Path) -> None:
    """The pictures of a run of labels."""
    from pipeline.runs.run_folder import RunFolder
    from pipeline.views.export import export_overlays
    from pipeline.views.gallery.gallery import write_gallery

    run, pictures, page = RunFolder.open(labels), folder / "pictures", folder / "labels.html"
    export_overlays(run, pictures)
    write_gallery(run, page)
    click.echo(f"pictures   {pictures}/")
    click.echo(f"page       {page}")
    click.echo(f"run        {labels}: `cuts3d things {labels}` says which clusters are things")
