"""Commands that train semantic models: train-semantic, semantic-recipes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.executing import ExecutingCommand, executor
from pipeline.commands.options import (
    OUTPUT_FOLDER,
    device_option,
    exit_with,
    launch_of,
    model_options,
    root_option,
    say,
)
from pipeline.exit_status import INTERRUPTED

if TYPE_CHECKING:
    from pipeline.methods.depthg.training import SemanticTraining

INPUTS = "inputs"  # in the folder of the model


@click.command("train-semantic", cls=ExecutingCommand)
@click.option("--out", required=True, type=OUTPUT_FOLDER, help="Folder of the model: its inputs, checkpoints and log.")
@click.option("--images", help="Folder, list (.txt, .parquet), COCO JSON, WebDataset tar(s); path or URL. No labels.")
@root_option
@click.option("--inputs", metavar="FOLDER", help="Inputs of another training, OTHER/inputs, in place of --images.")
@click.option("--recipe", default="depthg", show_default=True, help="See `cuts3d semantic-recipes`.")
@model_options
@click.option("--set", "overrides", multiple=True, metavar="GROUP.OPTION=VALUE", help="Override an option.")
@click.option("--clusters", type=click.IntRange(2, 255), help="How many clusters. [the recipe's, 27]")
@click.option("--iterations", type=click.IntRange(min=1), help="Batches to train for. [the recipe's]")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 32) - 1), default=0, show_default=True, help="Of everything drawn."
)
@click.option("--search", type=click.IntRange(min=2), metavar="N", help="Try N sets of weights and shifts first.")
@click.option("--resume", is_flag=True, help="Resume from the last checkpoint in the folder.")
@click.option("--amp", is_flag=True, help="Train in mixed precision, on a GPU.")
@device_option
def train_semantic(
    out: str, images: str | None, root: str | None, inputs: str | None, device: str, **settings: Any
) -> None:
    """Train semantic clusters on photos and their depth, without labels.

    Features and depth of every crop are computed once, as a run in OUT/inputs that resumes, and on Ray with --ray.
    Exits with 1 where photos were set aside.
    """
    from pipeline.methods.depthg.training_recipes import inputs_launch

    ...
