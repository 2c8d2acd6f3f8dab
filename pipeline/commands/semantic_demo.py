"""The command that shows semantic labels without labels on a few photos: semantic-demo."""

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.commands.options import OUTPUT_FOLDER, device_option, exit_with, refuse_root_alone, root_option, say

CLUSTERS, ITERATIONS = 12, 100
# For a few photos and a minute: many small steps, in which clusters go further; and shifts near the mean cosines of the
# default features within a photo, of neighbours and of any two. With published shifts each photo becomes one cluster.
SETTINGS = (
    "training.batch_size=8",
    "training.learning_rate=0.002",
    "training.cluster_learning_rate=0.05",
    "objective.own_shift=0.3",
    "objective.neighbour_shift=0.2",
    "objective.random_shift=0.3",
)


@click.command("semantic-demo")
@click.option(
    "--out",
    type=OUTPUT_FOLDER,
    default="semantic-demo",
    show_default=True,
    help="Folder for photos, model, labels and pictures.",
)
@click.option("--images", help="Photos of your own; default: photos that scikit-image and scikit-learn ship.")
@root_option
@click.option("--clusters", type=click.IntRange(2, 255), default=CLUSTERS, show_default=True, help="How many clusters.")
@click.option(
    "--iterations", type=click.IntRange(min=1), default=ITERATIONS, show_default=True, help="Batches to train for."
)
@device_option
def semantic_demo(
    out: str,
    images: str | None,
    root: str | None,
    clusters: int,
    iterations: int,
    device: str,
) -> None:
    """Sample photos in, their clusters as a picture and a page out: trained on these very photos, without labels."""
    from pipeline.commands.progress import ProgressReporter
    from pipeline.engine.checks import check_settings, checked_manifest
    from pipeline.images.samples import copy_samples
    from pipeline.methods.depthg.inputs_settings import NAME as INPUTS
    from pipeline.models import weights
    from pipeline.runs.launch import Launch

    refuse_root_alone(root, images)
    folder = Path(out)
    model, inputs, labels = folder / "model", folder / "model" / "inputs", folder / "labels"
    launch = Launch(images or str(folder / "photos"), root, INPUTS)
    check_settings(inputs, launch, None, device)
    if images is None:
        copy_samples(folder / "photos")
    manifest = checked_manifest(inputs, launch, None, device)
    from pipeline.engine.run import run

    weights.fetch()
    say(run(inputs, launch, manifest=manifest, device=device, reporter=ProgressReporter()))
    train_demo(inputs, model, "depthg", clusters, device, SETTINGS, iterations)
    launch = Launch(launch.images, root, "depthg", overrides=(f"depthg.checkpoint={model}",))
    summary = run(labels, launch, device=device, reporter=ProgressReporter())
    say(summary)
    _show(labels, folder)
    exit_with(summary.standing)


def train_demo(
    inputs: Path,
    model: Path,
    name: str,
    clusters: int,
    device: str,
    settings: Sequence[str] = (),
    iterations: int | None = None,
) -> None:
    """A model of these inputs by the recipe of this name, with these settings, unless it is there."""
    from pipeline.methods.depthg.inputs import TrainingInputs
    from pipeline.methods.depthg.inputs_settings import DEFAULT_FEATURES
    from pipeline.methods.depthg.training import SemanticTraining, train
    from pipeline.methods.depthg.training_recipes import get_recipe

    recipe = get_recipe(name, settings, clusters=clusters, iterations=iterations)
    training = SemanticTraining(recipe, model, DEFAULT_FEATURES, resume=None, device=device)
    train(training, TrainingInputs.open(inputs))


def _show(labels: Path, folder: Path) -> None:
    """The pictures of a run of labels."""
    from pipeline.runs.run_folder import RunFolder
    from pipeline.views.gallery.gallery import write_gallery
    from pipeline.views.semantic_sheet import write_sheet

    run, sheet, page = RunFolder.open(labels), folder / "labels.png", folder / "labels.html"
    write_sheet(run, sheet)
    write_gallery(run, page)
    click.echo(f"picture    {sheet}")
    click.echo(f"page       {page}")
